"""The model that a folder is searched with: opened as everybody opens it, and what it makes of texts."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import open_clip
import torch
import torch.nn.functional as F

from zhclip_openclip._errors import ZhclipError, shorten
from zhclip_openclip._precision import use_amp
from zhclip_openclip._reading import reason_of
from zhclip_openclip.checkpoints import _names, _resolve
from zhclip_openclip.families import all_names
from zhclip_openclip.features import finite
from zhclip_openclip.features.image_pass import encoder
from zhclip_openclip.features.linear import fast_linear
from zhclip_openclip.folders._errors import FolderError

#: Names that say themselves where the weights are.
_PLACES = ("hf-hub:", "local-dir:")


@dataclass
class Opened:
    """A model with its weights, in evaluation mode.

    name, pretrained: what it was opened as. transform: PIL picture -> (3, size, size). tokenizer: texts -> ids.
    amp: mixed precision. ours: whether it is a Chinese model of this package. note: what its makers say of it.
    """

    module: torch.nn.Module
    transform: Callable
    tokenizer: Callable
    name: str
    pretrained: str
    device: str
    amp: bool
    ours: bool = True
    note: str = ""

    def encoders(self) -> list[Callable[[torch.Tensor], torch.Tensor]]:
        """For `trial.try_out`: the one without mixed precision first."""
        return [encoder(self.module, self.device, amp) for amp in dict.fromkeys([False, self.amp])]

    def texts(self, texts: Sequence[str], batch: int = 64) -> torch.Tensor:
        """(n, d) unit features in float32 on the CPU. Raises FiniteError."""
        kind, found = torch.device(self.device).type, []
        for start in range(0, len(texts), batch):
            part = list(texts[start : start + batch])
            with (
                torch.no_grad(),
                torch.autocast(kind, enabled=self.amp),
                fast_linear(self.module, self.device, self.amp),
            ):
                features = F.normalize(self.module.encode_text(self.tokenizer(part).to(self.device)), dim=-1)
            finite.check(features, lambda row, part=part: f"the text {part[row]!r}", self.device, self.amp)
            found.append(features.float().cpu())
        return torch.cat(found)

    def read_of(self, text: str) -> int | None:
        """How many characters of a text the model reads, where those are not all; else None."""
        ids = self._ids(text)
        if ids is None or not _same(self._ids(f"{text} 狗 1"), ids) or not _same(self._ids(text[:-1]), ids):
            return None
        low, high = 0, len(text)  # what is longer than what is read gives the same ids
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if _same(self._ids(text[:middle]), ids) else (middle + 1, high)
        return low

    def _ids(self, text: str) -> torch.Tensor | None:
        ids = self.tokenizer([text])
        return ids if isinstance(ids, torch.Tensor) else None


def _same(one: torch.Tensor | None, other: torch.Tensor) -> bool:
    return one is not None and torch.equal(one, other)


def open_model(name: str, pretrained: str | None = None, device: str | None = None, amp: bool | None = None) -> Opened:
    """A model of ours or of open_clip with its weights.

    pretrained: anything that `create_model` takes; of a model of ours by default its published weights. device: by
    default the GPU, if there is one. amp: mixed precision, on a CPU only where it is the faster way; None for GPUs
    alone, so that all CPUs find the same.

    Raises ZhclipError: no such model, weights or device; no weights asked for where the name says none.
    """
    device = _device(device)
    if not name.startswith(_PLACES) and name not in (known := {*open_clip.list_models(), *all_names()}):
        close = difflib.get_close_matches(name, sorted(known), 3) or all_names()
        raise FolderError(f"there is no model {name!r}; did you mean {shorten(close, 3)}? `zhclip models` lists ours")
    named = _names.named(name)
    tag = None
    if named is not None and named.place is None:
        pretrained = pretrained or named.tag or next(iter(named.model.tags), None)
        tag = _resolve.find_tag(named.model, pretrained) if pretrained else None
    if not pretrained and not name.startswith(_PLACES):
        raise FolderError(_no_weights(name))
    amp = use_amp(device, torch.device(device).type == "cuda" if amp is None else amp)
    try:
        module, _, transform = open_clip.create_model_and_transforms(name, pretrained=pretrained or None, device=device)
        tokenizer = open_clip.get_tokenizer(name, **({"pretrained": pretrained} if named is not None else {}))
    except ZhclipError:
        raise
    except Exception as error:  # open_clip and the hub raise almost anything
        raise FolderError(f"{name} cannot be loaded with --pretrained {pretrained}: {reason_of(error)}") from error
    return Opened(
        module.eval(),
        transform,
        tokenizer,
        name,
        pretrained or "",
        device,
        amp,
        named is not None,
        tag.note if tag else "",
    )


def _device(device: str | None) -> str:
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except Exception as error:
        raise FolderError(f"--device {device}: {' '.join(str(error).split())[:120]}; cpu always works") from None
    return device


def _no_weights(name: str) -> str:
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tags:
        return f"--model {name} needs --pretrained: {shorten(tags, 8)}"
    return f"--model {name} has no published weights: give a file or folder as --pretrained"
