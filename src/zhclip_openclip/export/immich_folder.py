"""A folder for Immich's machine learning service: `config.json`, `visual/`, `textual/`.

It goes where that service keeps its models, `/cache/clip/NAME/`, under the name that Immich is told: one that it
knows, whose place this model then takes, or a new one, for which Immich has to be changed.
Layout and processing as read in https://github.com/immich-app/immich, machine-learning/immich_ml/models/clip.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

from zhclip_openclip import _paths
from zhclip_openclip._errors import shorten
from zhclip_openclip._reading import read_json
from zhclip_openclip.export import _check, _onnx_export, _text_files, onnx_pair
from zhclip_openclip.export._check import Bounds, Difference
from zhclip_openclip.export._export_error import ExportError
from zhclip_openclip.export._options import Options
from zhclip_openclip.export._source import Source
from zhclip_openclip.export.onnx_pair import BOUNDS, session
from zhclip_openclip.families import Family, Model

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

_RGB_FIRST = dict.fromkeys(("palette", "CMYK", "transparent"), "Immich converts to RGB first, open_clip afterwards")
_ODD_MARGIN = {"odd margin": "of two middles Immich takes the left one, open_clip the even one"}


def refused(family: Family, model: Model) -> str:
    """Why there is no such folder for a model; "" where there is one."""
    if (model.tokenizer or family.tokenizer) == "GLMChineseTokenizer":
        return "Immich reads a tokenizer.json, and its tokenizer is sentencepiece's sp.model; --format onnx writes it"
    if not (reason := onnx_pair.refused(family, model)) and family.name == "fgclip2":
        return "Immich folds white space in a text, which Gemma's tokenizer tells apart; --format onnx writes it"
    return reason


def known_names(width: int) -> list[str]:
    """The names on Immich's list whose features have this width, and which this form fits."""
    return [name for name, found in _list()["widths"].items() if found == width]


def _list() -> dict:
    return json.loads((_paths.DATA / "immich_models.json").read_text(encoding="utf-8"))


def refuse_name(name: str, width: int) -> None:
    """Raises ExportError: Immich knows the name as that of a model with other features or inputs."""
    listed = _list()
    if name in listed["other_inputs"]:
        raise ExportError(
            f"{name} is a model that in Immich {listed['other_inputs'][name]}: name the folder "
            f"{shorten(known_names(width))}"
        )
    found = listed["widths"].get(name)
    if found not in (None, width):
        raise ExportError(
            f"Immich knows {name} as a model with features of {found} channels, and these have {width}: name the "
            f"folder {shorten(known_names(width)) or 'otherwise, none on its list has as many'}"
        )


def write(source: Source, folder: Path, options: Options) -> None:
    """Fill the empty `folder`, which is to have the name `options.name`. Raises ExportError: see `refuse_name`."""
    refuse_name(options.name, source.embed_dim)
    visual, textual = folder / "visual", folder / "textual"
    visual.mkdir()
    textual.mkdir()
    _text_files.write_json(folder / "config.json", config(source))
    preprocess = {**source.preprocess, "size": [source.image_size] * 2}
    _text_files.write_json(visual / "preprocess_cfg.json", preprocess)
    _text_files.write_tokenizer(source, textual)
    form = _onnx_export.Form(True, options.precision, options.opset, "embedding", "int32")
    _onnx_export.write(source, visual / "model.onnx", textual / "model.onnx", form)


def config(source: Source) -> dict:
    """open_clip's model config, with the sizes of this checkpoint."""
    result = deepcopy(source.model.config())
    result["vision_cfg"]["image_size"] = source.image_size
    result["text_cfg"]["context_length"] = source.context_length
    return result


def check(source: Source, folder: Path, options: Options) -> list[Difference]:
    """Do with the folder what Immich does and compare. Raises ExportError: it is not the same model."""
    bound, unlike = BOUNDS[options.precision], {}
    if source.family.image_processor != "transformers":
        unlike = _RGB_FIRST | ({} if source.preprocess.get("resize_mode") == "squash" else _ODD_MARGIN)
    found = _check.compare(
        source, Written(source, folder), Bounds(bound, bound, bound, unlike), f"as Immich reads it, {options.precision}"
    )
    return found


def told(source: Source, options: Options) -> str:
    """What to do with the folder, for the terminal."""
    names = known_names(source.embed_dim)
    if options.name in names:
        return (
            f"Immich knows this name: put the folder in place of /cache/clip/{options.name} of immich-machine-learning"
        )
    known = f"; on its list, with features of {source.embed_dim}: {shorten(names)}" if names else ""
    return f"{options.name} is not on Immich's list of models, so that it takes it only when it is changed{known}"


class Written:
    """The folder, as Immich's service uses it: one picture or text at a time, texts padded to the context length."""

    def __init__(self, source: Source, folder: Path):
        from tokenizers import Tokenizer

        self._source = source
        self._visual, self._textual = (session(folder / part / "model.onnx") for part in ("visual", "textual"))
        self._told = read_json(folder / "visual" / "preprocess_cfg.json", ExportError)
        length = read_json(folder / "config.json", ExportError)["text_cfg"]["context_length"]
        pad = read_json(folder / "textual" / "tokenizer_config.json", ExportError)["pad_token"]
        self._tokenizer = Tokenizer.from_file(str(folder / "textual" / "tokenizer.json"))
        self._tokenizer.enable_padding(length=length, pad_token=pad, pad_id=self._tokenizer.token_to_id(pad))
        self._tokenizer.enable_truncation(max_length=length)

    def ids(self, texts: Sequence[str]) -> np.ndarray:
        import numpy as np

        return np.array([self._tokenizer.encode(" ".join(text.split())).ids for text in texts])

    def pixels(self, pictures: Sequence[Image]) -> np.ndarray:
        import numpy as np
        from PIL.Image import Resampling

        size, filter_ = self._told["size"][0], Resampling[self._told["interpolation"].upper()]
        mean, std = np.float32(self._told["mean"]), np.float32(self._told["std"])
        result = []
        for picture in pictures:
            picture = picture.convert("RGB")
            if self._told["resize_mode"] == "squash":
                picture = picture.resize((size, size), filter_)
            else:
                scale = min(picture.size)
                picture = picture.resize(tuple(int(side / scale * size) for side in picture.size), filter_)
                left, top = (int(side / 2 - size / 2) for side in picture.size)
                picture = picture.crop((left, top, left + size, top + size))
            result.append(((np.asarray(picture, np.float32) / 255 - mean) / std).transpose(2, 0, 1))
        return np.stack(result)

    def text(self, ids: torch.Tensor) -> torch.Tensor:
        return self._one_by_one(self._textual, "text", ids.int(), self._source.text(ids))

    def image(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._one_by_one(self._visual, "image", pixels, self._source.image(pixels))

    def _one_by_one(self, model, name: str, given: torch.Tensor, ours: torch.Tensor) -> torch.Tensor:
        """Features, of unit length, times the length of ours, so that both are compared as they are."""
        import torch

        rows = [torch.as_tensor(model.run(None, {name: given[row : row + 1].numpy()})[0]) for row in range(len(given))]
        return torch.cat(rows) * ours.norm(dim=-1, keepdim=True)
