"""A trained probe: its weights and classes, and what features it is for, in one safetensors file.

    weight   (rows, d)   float32 or float64, as it was trained
    bias     (rows,)
    labels   (rows,)     int64: the class of each row; classes that were never trained on have none
    trial    (3, d)      float32: what the model that it was trained with gives for three pictures of ours

and in the metadata, under `zhclip_probe`, a JSON object: format, classes, english_classes, and what the probe was
trained with: model, pretrained, dataset, train_split, fingerprint of the data, preprocessing, classifier, versions.

Scores are weight @ x + bias of the unit features x. The trial goes through preprocessing and tower, so that a model
with another preprocessing is another model too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from zhclip_openclip._errors import shorten
from zhclip_openclip._files import whole_file
from zhclip_openclip._reading import kind_of, parse_json, reading
from zhclip_openclip.features import finite
from zhclip_openclip.features.image_pass import encoder
from zhclip_openclip.probes._errors import ProbeError

FORMAT = 1
_KEY = "zhclip_probe"
#: Largest distance of the unit features of one model. Of bfloat16 weights, the lowest precision that there is, those
#: of zhclip-tiny, RN50 and ViT-B-32 were up to 0.010 away from those of float32; those of two models 1.2 at least.
TOLERANCE = 0.02
#: Width and height of the pictures of a trial: a wide one, a high one, and one that is smaller than any crop.
_PICTURES = ((500, 375), (333, 512), (97, 61))


@dataclass(frozen=True)
class Probe:
    """See the module. path: of its file, for messages; "" for one that was just trained."""

    weight: torch.Tensor
    bias: torch.Tensor
    labels: torch.Tensor
    classes: list[str]
    english: list[str] | None = None
    trial: torch.Tensor | None = None
    about: dict[str, Any] = field(default_factory=dict)
    path: str = ""

    @property
    def called(self) -> str:
        return self.path or "this probe"

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """(n, classes) float32 on the CPU of unit features (n, d); a class that was never trained on has the lowest
        number there is.

        Raises ProbeError: features of another width. FiniteError: features that are not finite.
        """
        if features.ndim != 2 or features.shape[1] != self.weight.shape[1]:
            raise ProbeError(
                f"{self.called} is for features of {self.weight.shape[1]} dimensions{self._of()}, and these have the "
                f"shape {tuple(features.shape)}"
            )
        features = features.detach().cpu().to(self.weight.dtype)
        finite.check(features, lambda row: f"image {row + 1}", "cpu", False)
        rows = features @ self.weight.T + self.bias
        result = torch.full((len(features), len(self.classes)), torch.finfo(torch.float32).min)
        result[:, self.labels] = rows.float()
        return result

    def check(self, model: torch.nn.Module, preprocess: Callable, device: str = "cpu", name: str = "") -> None:
        """Whether the probe is for features of this model, behind this preprocessing.

        name: of the model, for the message.

        Raises ProbeError: it is for another's.
        """
        trial = make_trial(model, preprocess, device)
        if self.trial is None:
            raise ProbeError(f"{self.called} does not say which features it is for")
        if trial.shape != self.trial.shape:
            told = f"of {self.trial.shape[1]} dimensions, and these have {trial.shape[1]}"
        else:
            apart = float(torch.linalg.vector_norm(trial.double() - self.trial.double(), dim=1).max())
            if apart <= TOLERANCE:
                return
            told = f"and of one picture these are {apart:.2f} away from them"
        whose = f"{name} gives others" if name else "this model gives others"
        raise ProbeError(f"{self.called} is for features{self._of()}; {whose} ({told})")

    def check_classes(self, classes: Sequence[str], english: Sequence[str] | None, dataset: str) -> None:
        """Whether the classes of a data set are those of the probe, in their order; in Chinese or in English.

        Raises ProbeError: they are others.
        """
        ours = [names for names in (self.classes, self.english) if names]
        theirs = [list(names) for names in (classes, english) if names]
        if any(one == other for one in ours for other in theirs):
            return
        if len(theirs[0]) != len(self.classes):
            told = f"{len(self.classes)} classes, and {dataset} has {len(theirs[0])}"
        else:
            place = next(at for at, (a, b) in enumerate(zip(self.classes, theirs[0], strict=True)) if a != b)
            told = (
                f"other classes than {dataset}: class {place} is {self.classes[place]!r} and here {theirs[0][place]!r}"
            )
        raise ProbeError(f"{self.called} has {told}; give the --language, or the names, that it was trained with")

    def classify(
        self, model: torch.nn.Module, preprocess: Callable, images: Sequence[Image.Image], device: str = "cpu"
    ) -> list[tuple[str, float]]:
        """(class, probability by the softmax over all classes) of each picture.

        Raises ProbeError: the probe is for another model's features.
        """
        self.check(model, preprocess, device)
        if not images:
            return []
        with torch.no_grad():
            features = _encode(model, torch.stack([preprocess(image) for image in images]), device)
        best = self.scores(features).double().softmax(dim=1).max(dim=1)
        return [
            (self.classes[at], share) for at, share in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def _of(self) -> str:
        model, pretrained = self.about.get("model"), self.about.get("pretrained")
        return (f" of {model}" + (f" ({pretrained})" if pretrained else "")) if model else ""


def make_trial(model: torch.nn.Module, preprocess: Callable, device: str = "cpu") -> torch.Tensor:
    """(3, d) float32 on the CPU: unit features of three pictures of ours."""
    random = np.random.default_rng(0)
    pictures = []
    for size in _PICTURES:
        coarse = Image.fromarray(random.integers(0, 256, (7, 9, 3), dtype=np.uint8))
        pictures.append(coarse.resize(size, Image.Resampling.BICUBIC))
    return _encode(model, torch.stack([preprocess(picture) for picture in pictures]), device)


def _encode(model: torch.nn.Module, images: torch.Tensor, device: str) -> torch.Tensor:
    """Unit features in the best precision that the weights have."""
    try:
        return encoder(model, device, False)(images).float().cpu()
    except (RuntimeError, TypeError):  # weights in half precision take float32 images under autocast alone
        return encoder(model, device, True)(images).float().cpu()


# ---------------------------------------------------------------- files


def save_probe(path: str | os.PathLike[str], probe: Probe) -> Path:
    """Writes the file whole or not at all. Raises ProbeError: it cannot be written."""
    tensors = {"weight": probe.weight, "bias": probe.bias, "labels": probe.labels}
    if probe.trial is not None:
        tensors["trial"] = probe.trial
    described = {"format": FORMAT, "classes": probe.classes, "english_classes": probe.english, **probe.about}
    path = Path(path)
    try:
        with whole_file(path) as part:
            held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            save_file(held, part, {_KEY: json.dumps(described, ensure_ascii=False)})
    except OSError as error:
        raise ProbeError(f"{path}: the probe cannot be written ({error.strerror or error})") from error
    return path


def load_probe(path: str | os.PathLike[str]) -> Probe:
    """Raises ProbeError: no such file, or one that is no whole probe."""
    path = Path(path)
    advice = "give a file that --save-probe has written"
    with reading(path, ProbeError, advice):
        kind = kind_of(path)
        if kind != "a safetensors file":
            raise ProbeError(f"{path} is no probe{f' but {kind}' if kind else ''}; {advice}")
        with safetensors.safe_open(path, framework="pt") as file:
            described = (file.metadata() or {}).get(_KEY)
        if described is None:
            raise ProbeError(f"{path} is a safetensors file, but no probe; {advice}")
        about = parse_json(described, path, ProbeError)
        tensors = load_file(path)
        wrong = _wrong(about, tensors)
        if wrong:
            raise ProbeError(f"{path}: {wrong}; {advice}")
        classes, english = about.pop("classes"), about.pop("english_classes", None)
        return Probe(
            *(tensors[name] for name in ("weight", "bias", "labels")),
            *(classes, english, tensors.get("trial"), about, str(path)),
        )


def _wrong(about: Any, tensors: dict[str, torch.Tensor]) -> str:
    """What does not fit in a file, "" if all does."""
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        written = repr(about.get("format"))[:40] if isinstance(about, dict) else "none"
        return f"a probe of format {written}, and this version reads {FORMAT}"
    classes, english = about.get("classes"), about.get("english_classes")
    for names in (classes, english):
        if names is not None and not (isinstance(names, list) and all(isinstance(one, str) for one in names)):
            return "its classes are no list of names"
    if not classes or (english is not None and len(english) != len(classes)):
        return "it has no classes, or other English ones"
    missing = [name for name in ("weight", "bias", "labels") if name not in tensors]
    if missing:
        return f"it has no {shorten(missing)}"
    weight, bias, labels, trial = (tensors.get(name) for name in ("weight", "bias", "labels", "trial"))
    if weight.ndim != 2 or bias.shape != weight.shape[:1] or labels.shape != bias.shape or labels.dtype != torch.int64:
        return "its tensors do not fit each other"
    if trial is not None and (trial.ndim != 2 or trial.shape[1] != weight.shape[1] or not trial.isfinite().all()):
        return "its trial does not fit its weights"
    if weight.dtype not in (torch.float32, torch.float64) or bias.dtype != weight.dtype:
        return f"its weights are {str(weight.dtype).removeprefix('torch.')}"
    if not (weight.isfinite().all() and bias.isfinite().all()):
        return "its weights are not finite"
    if not len(labels) or labels.min() < 0 or labels.max() >= len(classes) or len(labels.unique()) != len(labels):
        return "its rows are of other classes than it has"
    return ""
