"""Whether the image features of a pass are kept, and under which name: the same answer in all processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from zhclip_openclip._errors import printable
from zhclip_openclip.features import fingerprint, ranks, trial
from zhclip_openclip.features.cache import FeatureCache, Place, describe
from zhclip_openclip.features.progress import note
from zhclip_openclip.features.settings import Settings
from zhclip_openclip.features.spent import READING, timed

_RANDOM_PICTURES = "a preprocessing that differs from time to time"
_RANDOM_TOWER = "a model that gives other features of the same images the second time, or none that are finite"


@dataclass
class _Facts:
    """What one process has found out. reason: why nothing can be kept, or ""."""

    reason: str = ""
    made_with: str = ""
    tower: str = ""
    trial: torch.Tensor | None = None


def place_of(
    model: torch.nn.Module,
    loader: torch.utils.data.DataLoader,
    encoders: list[Callable[[torch.Tensor], torch.Tensor]],
    device: str,
    amp: bool,
    what: str,
    settings: Settings,
) -> tuple[Place | None, str]:
    """The place of these features, None where they are not kept; and the name that all processes have to agree on.

    encoders: see `trial.try_out`. what: the data set, for people. A line says why features are not kept.
    """
    if not all(ranks.everyones(settings.cache is not None)):
        return None, ""
    facts = _look(model, loader.dataset, encoders, device)
    told = ranks.everyones((facts.reason, facts.trial))
    reason = next((reason for reason, _ in told if reason), "")
    first = told[0][1]
    if not reason and not all(trial.same(theirs, first) for _, theirs in told):
        reason = "a tower that gives other features in another process"
    if not reason:
        with timed(READING):
            data = fingerprint.data(loader, loader.num_workers)
        reason = "" if data else "images, or an order of them, that cannot be told by content"
    if reason:
        note(f"Note: {printable(what) or 'this data set'} has {reason}: its image features are not kept")
        return None, ""
    name = fingerprint.digest([facts.tower, facts.made_with, fingerprint.precision(device, amp), data])
    cache = FeatureCache(settings.cache, settings.limit)
    beside = ranks.everyones(cache.place(name, first) if ranks.rank() == 0 else "")[0]
    return Place(cache, beside, first, describe(dataset=what, device=str(device), amp=amp), data), name


def place_by_rows(
    model: torch.nn.Module,
    dataset: Any,
    encoders: list[Callable[[torch.Tensor], torch.Tensor]],
    device: str,
    amp: bool,
    rows: Any,
    what: str,
    settings: Settings,
) -> tuple[Place | None, str]:
    """The place of features each of which says itself what it is of, such as those of a folder that changes; or None
    and the reason. One process alone asks for it.

    dataset: some pictures with the transform, to try it out. rows: what the name tells of them, as JSON.
    """
    if settings.cache is None:
        return None, "no feature cache"
    facts = _look(model, dataset, encoders, device, once=True)
    if facts.reason:
        return None, facts.reason
    name = fingerprint.digest([facts.tower, facts.made_with, fingerprint.precision(device, amp), rows])
    cache = FeatureCache(settings.cache, settings.limit)
    place = cache.place(name, facts.trial)
    # What lies there was tried out twice before it was written, and this is the same once more.
    if not cache.held(place, facts.trial) and (reason := _differs(facts, dataset, encoders, device)):
        return None, reason
    return Place(cache, place, facts.trial, describe(dataset=what, device=str(device), amp=amp)), ""


def _look(model: Any, dataset: Any, encoders: list, device: str, once: bool = False) -> _Facts:
    """once: whether all is the same the second time is left to `_differs`."""
    if part := fingerprint.part_in_training(model):
        return _Facts(f"a model of which {part} is in training mode")
    tried = fingerprint.preprocessing(dataset, once)
    if tried is None:
        return _Facts(_RANDOM_PICTURES)
    if tried.shape is None:
        return _Facts("a preprocessing that gives no tensors")
    try:
        tower = fingerprint.tower(model)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        return _Facts(f"a model with weights that are no plain numbers ({' '.join(str(error).split())[:100]})")
    given = trial.try_out(encoders, tried.shape, tried.dtype, device, once)
    if given is None:
        return _Facts(_RANDOM_TOWER)
    return _Facts("", tried.digest, tower, given)


def _differs(facts: _Facts, dataset: Any, encoders: list, device: str) -> str:
    """What is not the same every time, or "". Both are tried twice here: two calls get the same random numbers."""
    tried = fingerprint.preprocessing(dataset)
    if tried is None or tried.digest != facts.made_with:
        return _RANDOM_PICTURES
    given = trial.try_out(encoders, tried.shape, tried.dtype, device)
    return "" if trial.same(given, facts.trial) else _RANDOM_TOWER
