"""What a score means: the share of mismatched pairs that score lower.

The cosine of a text and a picture has no scale of its own: with one model pairs that belong together score 0.45, with
another 0.18. A softmax over the texts that were asked for is no answer, as over one text it is always 1. So a score is
held against those of pairs that do not belong together, by the same model and over the same pictures:

    share(s) = |{(t, p) : cos(t, p) < s}| / |{(t, p)}|

For a text t runs over the captions of our own bank (`data/caption_bank.json`) and p over pictures of the folder, for a
label t runs over the bank's names in the same templates, and for a picture over pairs of two pictures of the folder.
Some of these pairs do belong together (a folder of beaches, and the bank's beach): that makes a share smaller and never
larger. A share says how rare such a score is by chance. It is no probability that the picture shows what was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from zhclip_openclip.features import fingerprint
from zhclip_openclip.features.cache import FeatureCache, Place, Stored, describe
from zhclip_openclip.features.settings import current, using
from zhclip_openclip.folders._model import Opened
from zhclip_openclip.prompts._files import packaged
from zhclip_openclip.prompts.classifier import zero_shot_classifier

#: Pictures of the folder that are paired with the texts; of two pictures that are paired with each other.
PICTURES, PICTURES_IN_PAIRS = 1000, 600
#: Each so many-th name of the bank stands for a label: each of them is written into all templates.
_EACH = 3
#: Texts that are encoded each time, to know that what is kept of the others is of the same text tower.
_TRIED = 2


@dataclass(frozen=True)
class Mismatched:
    """Scores of pairs that do not belong together, in rising order."""

    scores: np.ndarray

    def share(self, score: float) -> float | None:
        """Of the pairs that score lower; None if there are no pairs."""
        if not len(self.scores):
            return None
        return float(np.searchsorted(self.scores, np.float32(score), side="left") / len(self.scores))

    def __len__(self) -> int:
        return len(self.scores)


@cache
def bank() -> tuple[tuple[str, str], ...]:
    """(name, caption) of ordinary pictures."""
    return tuple((name, caption) for name, caption in packaged("caption_bank.json")["captions"])


def names() -> list[str]:
    """Those of the bank that stand for labels."""
    return [name for name, _ in bank()][::_EACH]


def with_texts(pictures: torch.Tensor, texts: torch.Tensor) -> Mismatched:
    """pictures: (n, d), of which some are drawn. texts: (m, d)."""
    drawn = _drawn(pictures, PICTURES)
    return Mismatched(np.sort((drawn @ texts.T).flatten().numpy()))


def of_pictures(pictures: torch.Tensor) -> Mismatched:
    """Each two of the pictures that are drawn."""
    drawn = _drawn(pictures, PICTURES_IN_PAIRS)
    first, second = torch.triu_indices(len(drawn), len(drawn), offset=1)
    return Mismatched(np.sort((drawn @ drawn.T)[first, second].numpy()))


def _drawn(pictures: torch.Tensor, number: int) -> torch.Tensor:
    """A fixed choice of so many rows, in float32."""
    if len(pictures) > number:
        order = np.random.default_rng(0).permutation(len(pictures))[:number]
        pictures = pictures[torch.from_numpy(np.sort(order))]
    return pictures.float()


def captions_of(opened: Opened) -> torch.Tensor:
    """(n, d): the bank's captions as a model encodes them."""
    texts = [caption for _, caption in bank()]
    return _kept(opened, ["captions", texts], "the bank of captions", texts, opened.texts)


def names_of(opened: Opened, templates: Sequence[str]) -> torch.Tensor:
    """(n, d): the bank's names as a model's zero-shot classifier has them with these templates."""

    other = "other names, to compare with"

    def classes(some: list[str]) -> torch.Tensor:
        columns = zero_shot_classifier(
            opened.module, opened.tokenizer, some, list(templates), opened.device, opened.amp, what=other
        )
        return columns.T.float().cpu().contiguous()

    return _kept(opened, ["names", names(), list(templates)], "the bank of names", names(), classes)


def _kept(opened: Opened, of: list, what: str, texts: list[str], encode) -> torch.Tensor:
    """`encode(texts)`, from the feature cache where it is there for the same text tower: it gives the same of the
    first few texts, as `features/trial.py` compares image towers."""
    settings = current()
    if settings.cache is None:
        return encode(texts)
    with using(quiet=True):
        trial = encode(texts[:_TRIED])
    length = getattr(opened.tokenizer, "context_length", None)
    name = fingerprint.digest([of, length, fingerprint.precision(opened.device, opened.amp)])
    cache = FeatureCache(settings.cache, settings.limit)
    about = describe(dataset=what, device=opened.device, amp=opened.amp)
    place = Place(cache, cache.place(name, trial), trial, about)
    stored = place.read()
    if stored is not None and len(stored.features) == len(texts):
        return stored.features
    features = encode(texts)
    place.write(Stored(features, None, 0.0))
    return features
