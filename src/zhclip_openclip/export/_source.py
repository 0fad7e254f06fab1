"""The model that is written: loaded as everybody loads it, and what the formats ask about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zhclip_openclip.export._export_error import ExportError
from zhclip_openclip.families import Family, Model, Tag, find
from zhclip_openclip.towers import text_configs

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


@dataclass
class Source:
    """A model with its weights.

    module: open_clip's, in fp32 and evaluation mode. tokenizer: texts -> (texts, context length) ids. transform: a
    picture -> (3, size, size), as open_clip preprocesses for it. given: what was given as `pretrained`.
    """

    module: torch.nn.Module
    tokenizer: Callable
    transform: Callable
    family: Family
    model: Model
    given: str

    @property
    def pad(self) -> int:
        """The padding token."""
        return self.tokenizer.pad_token_id

    @property
    def image_size(self) -> int:
        """In pixels a side."""
        size = self.module.visual.image_size
        return size[0] if isinstance(size, (tuple, list)) else size

    @property
    def context_length(self) -> int:
        """In tokens, as the tokenizer pads."""
        return self.tokenizer.context_length

    @property
    def one_length(self) -> bool:
        """Whether the text tower takes texts of the context length alone."""
        return text_configs.only(text_configs.of(self.model))

    @property
    def preprocess(self) -> dict:
        """open_clip's `preprocess_cfg`, with the size of the model."""
        return {**self.module.visual.preprocess_cfg, "size": self.image_size}

    @property
    def embed_dim(self) -> int:
        return self.model.config()["embed_dim"]

    @property
    def tag(self) -> Tag | None:
        """The published weights that `given` names, if it names any."""
        from zhclip_openclip.checkpoints._resolve import find_tag

        return find_tag(self.model, self.given)

    def ids(self, texts: Sequence[str]) -> torch.Tensor:
        """Token ids (texts, context length)."""
        return self.tokenizer(list(texts))

    def pixels(self, pictures: Sequence[Image]) -> torch.Tensor:
        """Preprocessed pictures (pictures, 3, size, size)."""
        import torch

        return torch.stack([self.transform(picture) for picture in pictures])

    def text(self, ids: torch.Tensor) -> torch.Tensor:
        """Features (texts, embed_dim), as long as they come."""
        import torch

        with torch.no_grad():
            return self.module.encode_text(ids)

    def image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features (pictures, embed_dim), as long as they come."""
        import torch

        with torch.no_grad():
            return self.module.encode_image(pixels)


def load(given: str, name: str) -> Source:
    """The checkpoint `given`, anything that `pretrained` takes, as a checkpoint of model `name`.

    Raises ExportError: no model of ours has that name; and what `open_clip.create_model` raises.
    """
    import open_clip

    if find(name) is None:
        raise ExportError(f"there is no model {name!r}: see `zhclip models`")
    module, _, transform = open_clip.create_model_and_transforms(name, pretrained=given)
    tokenizer = open_clip.get_tokenizer(name, pretrained=given)
    family, model = find(module.zhclip_model)  # the twin, where a config.json asked for it
    return Source(module.eval(), tokenizer, transform, family, model, str(given))
