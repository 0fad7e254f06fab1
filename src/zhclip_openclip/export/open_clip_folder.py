"""Writing a model as an open_clip folder: `open_clip_config.json`, `open_clip_model.safetensors`, tokenizer files.

open_clip reads such a folder as `local-dir:DIR`. Models whose text tower stock open_clip can build load there without
this package; for the others the folder names, where stock open_clip looks for an encoder, the package that is missing.
"""

from __future__ import annotations

import importlib
import json
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

from zhclip_openclip._errors import shorten
from zhclip_openclip.checkpoints import _beside, _own
from zhclip_openclip.export import _check
from zhclip_openclip.export._check import Bounds, Difference
from zhclip_openclip.export._export_error import ExportError
from zhclip_openclip.export._folder import new_folder
from zhclip_openclip.export._options import Options
from zhclip_openclip.export._source import Source
from zhclip_openclip.families import Model, find
from zhclip_openclip.towers import text_configs

if TYPE_CHECKING:
    import torch

CONFIG = _beside.OPEN_CLIP_CONFIG
WEIGHTS = "open_clip_model.safetensors"
#: Projection heads that stock open_clip has.
_STOCK_HEADS = ("linear", "mlp")


def loads_without_us(model: Model) -> bool:
    """Whether stock open_clip can build the model: its own or timm's towers; or it has the projection head, and the
    hub knows the encoder's name as one of that architecture."""
    text = model.config()["text_cfg"]
    if (name := text.get("hf_model_name")) is None:
        return not _tower_of_ours(model)
    return text["hf_proj_type"] in _STOCK_HEADS and text_configs.base(name) == name


def _tower_of_ours(model: Model) -> bool:
    """Whether the image tower is one that this package brings to timm."""
    import timm

    found = find(model.name)
    if found and found[0].towers:
        importlib.import_module(found[0].towers)
    name = model.config()["vision_cfg"].get("timm_model_name")
    return bool(name) and timm.models.model_entrypoint(name).__module__.split(".")[0] == __package__.split(".")[0]


def config(model: Model, preprocess: dict, source: str, context_length: int | None = None) -> dict:
    """What `open_clip_config.json` holds: open_clip's `model_cfg` and `preprocess_cfg`, and where it came from.

    The image size is that of `preprocess`, the context length the one that is given: a checkpoint may have been trained
    with others than the model's.
    """
    model_cfg = deepcopy(model.config())
    text = model_cfg["text_cfg"]
    size = preprocess.get("size")
    size = size[0] if isinstance(size, (tuple, list)) and len(set(size)) == 1 else size
    if size is not None:
        model_cfg["vision_cfg"]["image_size"] = size
    if context_length is not None:
        text["context_length"] = context_length
    if text.get("hf_model_name"):
        if not loads_without_us(model):
            text["hf_model_name"] = _beside.MISSING + text["hf_model_name"].replace("/", "--")
        # With `local-dir:` open_clip takes the tokenizer from the folder if any name stands here.
        text["hf_tokenizer_name"] = text["hf_model_name"]
    return {
        "model_cfg": model_cfg,
        "preprocess_cfg": preprocess,
        _beside.OWN: {"model": model.name, "source": source},
    }


def write(module: torch.nn.Module, tokenizer, model: Model, source: str, output: Path) -> Path:
    """Write a loaded model and its tokenizer into the new folder `output`, which appears when it is complete.

    Raises ExportError: the folder exists and is not empty.
    """
    with new_folder(output) as folder:
        _fill(folder, module, tokenizer, model, source)
    return Path(output)


def fill(source: Source, folder: Path, options: Options) -> None:
    """Fill the empty `folder`."""
    _fill(folder, source.module, source.tokenizer, source.model, source.given)


def _fill(folder: Path, module: torch.nn.Module, tokenizer, model: Model, source: str) -> None:
    from safetensors.torch import save_file

    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    # One entry only: safetensors writes several in any order, and the same model is to give the same bytes.
    save_file(state, folder / WEIGHTS, metadata={_beside.OWN: _own.description(module)})
    length = getattr(module, "zhclip_context_length", None)
    content = config(model, dict(module.visual.preprocess_cfg), source, length)
    (folder / CONFIG).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    tokenizer.tokenizer.save_pretrained(folder)


def check(source: Source, folder: Path, options: Options) -> list[Difference]:
    """Load the folder with open_clip and compare. Raises ExportError: it is not the same model, bit for bit."""
    import open_clip
    import torch

    module, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    written = Source(module.eval(), tokenizer, transform, source.family, source.model, str(folder))
    ours, theirs = source.module.state_dict(), module.state_dict()
    unlike = [key for key in ours if key not in theirs or not torch.equal(ours[key], theirs[key])]
    unlike += [key for key in theirs if key not in ours]
    if unlike:
        raise ExportError(f"what was written is not the same model: {shorten(unlike)} differ: our bug")
    found = [Difference(f"open_clip, {len(ours)} weights, bit for bit", 0.0, 0.0)]
    return found + _check.compare(source, written, Bounds(0.0, 0.0, 0.0), "open_clip")
