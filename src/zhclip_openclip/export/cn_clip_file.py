"""The `.pt` that Chinese-CLIP's own scripts read: `{"state_dict": {"module.visual...": ...}}`, RN50 too."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zhclip_openclip._reading import read_json
from zhclip_openclip.export import _check, _published
from zhclip_openclip.export._check import Bounds, Difference
from zhclip_openclip.export._export_error import ExportError
from zhclip_openclip.export._options import Options
from zhclip_openclip.export._source import Source
from zhclip_openclip.families import Family, Model

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

#: Model -> what Chinese-CLIP calls it: --vision-model and --text-model of its scripts.
NAMES = {
    "cnclip-vit-b-16": ("ViT-B-16", "RoBERTa-wwm-ext-base-chinese"),
    "cnclip-vit-l-14": ("ViT-L-14", "RoBERTa-wwm-ext-base-chinese"),
    "cnclip-vit-l-14-336": ("ViT-L-14-336", "RoBERTa-wwm-ext-base-chinese"),
    "cnclip-vit-h-14": ("ViT-H-14", "RoBERTa-wwm-ext-large-chinese"),
    "cnclip-rn50": ("RN50", "RBT3-chinese"),
}
#: Its scripts evaluate in fp32 with these weights; `cn_clip.clip.load_from_name` rounds them to fp16 first.
BOUNDS = Bounds(text=1e-5, image=1e-5, pictures=1e-5)


def refused(family: Family, model: Model) -> str:
    """Why there is no such file for a model; "" where there is one."""
    return "" if model.name in NAMES else f"cn_clip's code builds Chinese-CLIP's models, not {family.title}'s"


def file_name(model: Model) -> str:
    """As on the hub: `clip_cn_vit-b-16.pt`."""
    return f"clip_cn_{model.name.removeprefix('cnclip-')}.pt"


def write(source: Source, folder: Path, options: Options) -> None:
    """Fill the empty `folder`. Raises ExportError: another family, or an image size that cn_clip has no config for."""
    import torch

    if reason := refused(source.family, source.model):
        raise ExportError(f"{source.model.name} has no home there: {reason}")
    expected = _info(*NAMES[source.model.name])["image_resolution"]
    if source.image_size != expected:
        raise ExportError(
            f"{source.given} is for pictures of {source.image_size} pixels, and cn_clip builds {source.model.name} for "
            f"{expected} alone"
        )
    state = _published.state_dict(source, _published.CN_CLIP)
    content = {"epoch": 0, "step": 0, "name": source.model.name}
    torch.save(
        {**content, "state_dict": {f"module.{key}": state[key] for key in state}}, folder / file_name(source.model)
    )


def check(source: Source, folder: Path, options: Options) -> list[Difference]:
    """Read the file as Chinese-CLIP's evaluation does and compare. Raises ExportError: it is not the same model."""
    return _check.compare(source, Written(source, folder / file_name(source.model)), BOUNDS, "cn_clip")


def _info(vision: str, text: str) -> dict:
    """The arguments of cn_clip's model, from the two configs that it carries."""
    spec = importlib.util.find_spec("cn_clip")
    folder = Path(spec.origin).parent / "clip" / "model_configs"
    info = {**read_json(folder / f"{vision}.json", ExportError), **read_json(folder / f"{text}.json", ExportError)}
    if isinstance(info["vision_layers"], str):
        info["vision_layers"] = json.loads(info["vision_layers"])
    return info


class Written:
    """The file, read by cn_clip."""

    def __init__(self, source: Source, path: Path):
        import torch
        from cn_clip.clip import image_transform
        from cn_clip.clip.model import CLIP

        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
            self._model = CLIP(**_info(*NAMES[source.model.name])).eval().float()
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        try:
            self._model.load_state_dict({key.removeprefix("module."): tensor for key, tensor in state.items()})
        except RuntimeError as error:
            raise ExportError(
                f"cn_clip does not take what was written: {' '.join(str(error).split())[:200]}"
            ) from error
        self._transform = image_transform(source.image_size)
        self._length = source.context_length

    def ids(self, texts: Sequence[str]) -> torch.Tensor:
        from cn_clip.clip import tokenize

        # What its evaluation does to a text first (cn_clip/eval/data.py).
        quotes = {ord("\N{LEFT DOUBLE QUOTATION MARK}"): '"', ord("\N{RIGHT DOUBLE QUOTATION MARK}"): '"'}
        return tokenize([text.lower().translate(quotes) for text in texts], context_length=self._length)

    def pixels(self, pictures: Sequence[Image]) -> torch.Tensor:
        import torch

        return torch.stack([self._transform(picture) for picture in pictures])

    def text(self, ids: torch.Tensor) -> torch.Tensor:
        import torch

        with torch.no_grad():
            return self._model.encode_text(ids)

    def image(self, pixels: torch.Tensor) -> torch.Tensor:
        import torch

        with torch.no_grad():
            return self._model.encode_image(pixels)
