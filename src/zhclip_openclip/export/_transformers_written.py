"""A folder for transformers, read back by transformers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zhclip_openclip._errors import shorten
from zhclip_openclip._reading import read_json
from zhclip_openclip.export import _published
from zhclip_openclip.export._export_error import ExportError
from zhclip_openclip.export._source import Source

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

WEIGHTS = "model.safetensors"


class Written:
    """What was written, read by transformers."""

    def __init__(self, source: Source, folder: Path):
        from transformers import AutoTokenizer

        self._family, self._source = source.family.name, source
        self._plain_bert = _published.is_plain_bert(source.model)
        self._apart = self._family in _published.TEXT
        self._text_folder = folder / "text" if self._apart else folder
        self._image_folder = folder / "image" if self._apart else folder
        self.tokenizer = AutoTokenizer.from_pretrained(self._text_folder)
        self.use_backend("pil")
        read = {
            "taiyiclip": self._read_taiyi,
            "mclip": self._read_mclip,
            "zhclip": self._read_zhclip,
            "metaclip2": self._read_metaclip2,
        }
        self.what, self._encode_text, self._encode_image = read.get(self._family, self._read_one_class)()

    def use_backend(self, backend: str) -> None:
        """Preprocess pictures with "pil" or "torchvision"."""
        from transformers import AutoImageProcessor

        self.processor = AutoImageProcessor.from_pretrained(self._image_folder, backend=backend)

    def ids(self, texts: Sequence[str]) -> torch.Tensor:
        told = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        return told["input_ids"]

    def pixels(self, pictures: Sequence[Image]) -> torch.Tensor:
        return self.processor(list(pictures), return_tensors="pt")["pixel_values"]

    def text(self, ids: torch.Tensor) -> torch.Tensor:
        import torch

        with torch.no_grad():
            return self._encode_text(ids, mask_of(ids, self._source))

    def image(self, pixels: torch.Tensor) -> torch.Tensor:
        import torch

        with torch.no_grad():
            return self._encode_image(pixels)

    def _read_one_class(self):
        from transformers import AutoModel

        model = _loaded(AutoModel, self._text_folder)

        def text(ids, mask):
            return _features(model.get_text_features(input_ids=ids, attention_mask=mask))

        return type(model).__name__, text, lambda pixels: _features(model.get_image_features(pixel_values=pixels))

    def _read_metaclip2(self):
        """Padded to the longest text, as `padding=True` does: nothing after a text's end reaches its features."""
        what, encode, image = self._read_one_class()

        def text(ids, mask):
            longest = int(mask.sum(dim=1).max())
            return encode(ids[:, :longest], mask[:, :longest])

        return what, text, image

    def _read_taiyi(self):
        from transformers import BertForSequenceClassification, BertModel

        if self._plain_bert:
            bert = _loaded(BertModel, self._text_folder)
            what, image = self._read_image()
            return f"BertModel, {what}", lambda ids, mask: bert(ids, attention_mask=mask).pooler_output, image
        model = _loaded(BertForSequenceClassification, self._text_folder)
        what, image = self._read_image()
        return f"{type(model).__name__}, {what}", lambda ids, mask: model(ids, attention_mask=mask).logits, image

    def _read_image(self):
        from transformers import CLIPVisionModelWithProjection

        model = _loaded(CLIPVisionModelWithProjection, self._image_folder, besides={"logit_scale"})
        return type(model).__name__, lambda pixels: model(pixels).image_embeds

    def _read_mclip(self):
        """As multilingual_clip/pt_multilingual_clip.py puts it together, which itself fetches `modelBase` first."""
        state, config = _state(self._text_folder), _config(self._text_folder)
        encoder = _module("transformer.", state, config["text_config"])
        linear = _linear("LinearTransformation.", state)
        what, image = self._read_image()
        return (
            f"{type(encoder).__name__} and a linear layer, {what}",
            lambda ids, mask: linear(_mean(encoder(ids, attention_mask=mask)[0], mask)),
            image,
        )

    def _read_zhclip(self):
        """As thu-ml's code puts it together."""
        from torch.nn.functional import gelu

        state, config = _state(self._text_folder), _config(self._text_folder)
        image = _module("vision_model.", state, {"model_type": "clip_vision_model", **config["vision_config"]})
        text = _module("text_model.", state, config["text_config"])
        image_head, first, last = (
            _linear(name, state) for name in ("visual_projection.", "text_projection.0.", "text_projection.2.")
        )
        return (
            f"{type(image).__name__} and {type(text).__name__}, put together as thu-ml's code does",
            lambda ids, mask: last(gelu(first(_mean(text(ids, attention_mask=mask)[0], mask)))),
            lambda pixels: image_head(image(pixels).pooler_output),
        )


def mask_of(ids: torch.Tensor, source: Source) -> torch.Tensor:
    """As a tokenizer of transformers makes it: ones for a text and its end, which may be the id of the padding."""
    import torch

    mask = (ids != source.pad).long()
    if source.tokenizer.eot_token_id != source.pad:
        return mask
    return torch.cat([torch.ones_like(mask[:, :1]), mask[:, :-1]], dim=1) | mask


def _config(folder: Path) -> dict:
    return read_json(folder / "config.json", ExportError)


def _state(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / WEIGHTS)


def _loaded(auto, folder: Path, besides: frozenset[str] | set[str] = frozenset()):
    """A class of transformers with the weights in `folder`: all of its parameters, and nothing left over but `besides`.

    Raises ExportError: which keys are missing or left over.
    """
    with quiet():
        model, told = auto.from_pretrained(folder, output_loading_info=True)
    wrong = {
        str(key) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in told[kind]
    } - besides
    if wrong:
        raise ExportError(f"{type(model).__name__} does not take what was written: {shorten(sorted(wrong))}: our bug")
    return model.eval()


def _module(prefix: str, state: Mapping[str, torch.Tensor], config: Mapping):
    """A module of transformers with the weights whose names begin with `prefix`; a pooler may be left out."""
    from transformers import AutoConfig, AutoModel

    model = AutoModel.from_config(AutoConfig.for_model(**config))
    held = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    told = model.load_state_dict(held, strict=False)
    wrong = [key for key in told.missing_keys if not key.startswith("pooler.")] + told.unexpected_keys
    if wrong:
        raise ExportError(f"{type(model).__name__} does not take what was written: {shorten(wrong)}: our bug")
    return model.eval()


def _linear(prefix: str, state: Mapping[str, torch.Tensor]):
    from torch.nn.functional import linear

    return lambda x: linear(x, state[prefix + "weight"], state.get(prefix + "bias"))


def _mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(-1, keepdim=True)


def _features(told) -> torch.Tensor:
    """transformers 5 gives an output whose `pooler_output` is the features, earlier versions the features."""
    return getattr(told, "pooler_output", told)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and load reports of transformers."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
