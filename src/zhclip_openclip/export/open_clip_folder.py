"""Writing a model as an open_clip folder: `open_clip_config.json`, `open_clip_model.safetensors`, tokenizer files.

open_clip reads such a folder as `local-dir:DIR`. Models whose text tower stock open_clip can build load there without
this package; for the others the folder names, where stock open_clip looks for an encoder, the package that is missing.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

from zhclip_openclip._errors import CheckpointError
from zhclip_openclip._files import umask
from zhclip_openclip.checkpoints import _beside, _own
from zhclip_openclip.families import Model
from zhclip_openclip.towers import text_configs

if TYPE_CHECKING:
    import torch

CONFIG = _beside.OPEN_CLIP_CONFIG
WEIGHTS = "open_clip_model.safetensors"
#: Projection heads that stock open_clip has.
_STOCK_HEADS = ("linear", "mlp")


def loads_without_us(model: Model) -> bool:
    """Whether stock open_clip can build the model: it has the projection head, and the encoder's name is one that the
    hub knows as an encoder of that architecture."""
    text = model.config()["text_cfg"]
    name = text["hf_model_name"]
    return text["hf_proj_type"] in _STOCK_HEADS and text_configs.base(name) == name


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

    Raises CheckpointError: the folder exists and is not empty.
    """
    from safetensors.torch import save_file

    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CheckpointError(f"{output} exists and is not an empty folder: name another one")
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
        # One entry only: safetensors writes several in any order, and the same model is to give the same bytes.
        save_file(state, temporary / WEIGHTS, metadata={_beside.OWN: _own.description(module)})
        length = getattr(module, "zhclip_context_length", None)
        content = config(model, dict(module.visual.preprocess_cfg), source, length)
        (temporary / CONFIG).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        tokenizer.tokenizer.save_pretrained(temporary)
        temporary.chmod(0o777 & ~umask())
        if output.exists():
            output.rmdir()
        temporary.rename(output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return output
