"""A model of ours as mteb's tasks see it: texts, pictures, or both, to features."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from mteb.models.abs_encoder import AbsEncoder
from PIL import Image
from tqdm.auto import tqdm

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip._precision import use_amp
from zhclip_openclip.features import _digests
from zhclip_openclip.features.finite import FiniteError
from zhclip_openclip.features.image_pass import IMAGES_AT_ONCE
from zhclip_openclip.features.linear import fast_linear
from zhclip_openclip.features.text_batches import TextBatches, tokens_on

#: What may be given to `mteb.get_model` beside a name and a device.
OPTIONS = ("pretrained", "amp")


def load(name: str, tag: str, device: Any = None, pretrained: str | None = None, amp: bool = False) -> Encoder:
    """A model by its name in open_clip, with the weights of `tag`, or with those that `pretrained` names.

    device: as torch names it; a number is a GPU's, None the first GPU or else the CPU. amp: mixed precision, on a CPU
    where it has units for it.

    Raises ZhclipError: no such device, or weights that cannot be had (see `checkpoints`).
    """
    import open_clip

    where = _device(device)
    weights = tag if pretrained is None else str(pretrained)
    model, _, transform = open_clip.create_model_and_transforms(name, pretrained=weights, device=where)
    tokenizer = open_clip.get_tokenizer(name, pretrained=weights)
    return Encoder(model, transform, tokenizer, where, use_amp(where, bool(amp)), published=weights == tag)


def _device(asked: Any) -> str:
    if asked is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device("cuda", asked) if isinstance(asked, int) else torch.device(asked)
    except (RuntimeError, TypeError) as error:
        raise ZhclipError(f"{asked!r} is no device: it is cpu, cuda, cuda:1, or the number of a GPU") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ZhclipError(f"there is no {device} that torch can use here; without a device the first GPU or the CPU is")
    return str(device)


class Encoder(AbsEncoder):
    """mteb's protocol of encoders over a model of open_clip's.

    Features are what `encode_text` and `encode_image` give, not normalised, and their sum where an item has both: as
    mteb's own adapter for open_clip does it. mteb compares them by their cosine.

    published: whether the weights are those that the registry's entry stands for.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        transform: Callable[[Image.Image], torch.Tensor],
        tokenizer: Callable[[list[str]], torch.Tensor],
        device: str,
        amp: bool = False,
        published: bool = True,
    ):
        self.model, self._transform, self._tokenizer = model.eval(), transform, tokenizer
        self.device, self.amp = device, amp
        self._revision = None if published else _content(model)
        self._meta = None

    @property
    def mteb_model_meta(self):
        """What mteb knows of the model. Weights of the user's own have their digest as revision: mteb finds a result
        that it has by name, revision and options, and a file may hold other weights tomorrow."""
        return self._meta

    @mteb_model_meta.setter
    def mteb_model_meta(self, meta) -> None:
        self._meta = meta if self._revision is None else meta.model_copy(update={"revision": self._revision})

    def encode(
        self,
        inputs,
        *,
        task_metadata,
        hf_split: str,
        hf_subset: str,
        prompt_type=None,
        show_progress_bar: bool = True,
        **kwargs,
    ) -> torch.Tensor:
        """(items, embed_dim) in fp32 on the CPU, in the order of the loader.

        inputs: a loader of batches `{"text": [...]}`, `{"image": [pictures]}` or both. What is encoded is what the
        data set has columns for.

        Raises ZhclipError: neither column, something that is no text or no picture. FiniteError: features that are not
        finite.
        """
        place = f"{task_metadata.name} ({hf_subset}, {hf_split})"
        columns = [column for column in ("text", "image") if column in inputs.dataset.features]
        if not columns:
            has = ", ".join(inputs.dataset.features)
            raise ZhclipError(f"{place} has neither texts nor pictures for {self._name}, but {has}")
        texts: list[str] = []
        images: list[torch.Tensor] = []
        count = 0
        for batch in tqdm(inputs, desc=" and ".join(columns), disable=not show_progress_bar):
            if "text" in columns:
                texts += _checked(batch["text"], str, f"text {{}} of {place}", len(texts))
            if "image" in columns:
                pictures = _checked(batch["image"], Image.Image, f"picture {{}} of {place}", count)
                images.append(self._images(pictures))
                count += len(pictures)
        parts = []
        if "text" in columns:
            parts.append(self._finite(self._texts(texts), f"text {{}} of {place}"))
        if "image" in columns:
            parts.append(self._finite(self._joined(images), f"picture {{}} of {place}"))
        return sum(parts[1:], parts[0])

    @property
    def _name(self) -> str:
        return getattr(self._meta, "name", None) or "this model"

    def _texts(self, texts: list[str]) -> torch.Tensor:
        """Sorted by their length and each different one once; mteb's own batches are of texts as they come."""
        if not texts:
            return self._joined([])
        batches = TextBatches(self.model, self._tokenizer, texts, tokens_on(self.device))
        encoded = []
        with self._as_asked():
            for start, stop in batches.bounds:
                encoded.append(self.model.encode_text(batches.tokens(start, stop).to(self.device)).float().cpu())
        return batches.of_texts(torch.cat(encoded))

    def _images(self, pictures: list[Image.Image]) -> torch.Tensor:
        pixels = torch.stack([self._transform(picture) for picture in pictures])
        at_once = IMAGES_AT_ONCE.get(torch.device(self.device).type, sys.maxsize)
        with self._as_asked():
            parts = [self.model.encode_image(part) for part in pixels.to(self.device).split(at_once)]
            return torch.cat(parts).float().cpu()

    def _joined(self, parts: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(parts) if parts else torch.zeros(0, self._meta.embed_dim)

    @contextlib.contextmanager
    def _as_asked(self) -> Iterator[None]:
        """Without gradients, in the precision that was asked for."""
        kind = torch.device(self.device).type
        linear = fast_linear(self.model, self.device, self.amp)
        with torch.no_grad(), torch.autocast(kind, enabled=self.amp), linear:
            yield

    def _finite(self, features: torch.Tensor, name: str) -> torch.Tensor:
        bad = (~torch.isfinite(features).all(dim=1)).nonzero().flatten().tolist()
        if bad:
            advice = "mixed precision overflows first: load it without amp" if self.amp else "look at the weights"
            more = f", and {len(bad) - 1} more beside it" if len(bad) > 1 else ""
            raise FiniteError(f"{name.format(bad[0] + 1)} has features that are not finite{more}; {advice}")
        return features


def _checked(items: Sequence, kind: type, name: str, before: int) -> list:
    """The items of a batch, all of one kind. name: of an item, with a place for its number. before: items before it.

    Raises ZhclipError: one of another kind.
    """
    for number, item in enumerate(items, before + 1):
        if not isinstance(item, kind):
            wanted = "a text" if kind is str else "a picture"
            raise ZhclipError(f"{name.format(number)} is of type {type(item).__name__}, and not {wanted}")
    return list(items)


def _content(model: torch.nn.Module) -> str:
    """A digest of all weights of a model."""
    return _digests.digest([[name, _digests.content(tensor)] for name, tensor in sorted(model.state_dict().items())])
