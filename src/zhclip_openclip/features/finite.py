"""Features that are not finite never become a metric: they have no rank, and comparing them is silently false."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from zhclip_openclip._errors import ZhclipError


class FiniteError(ZhclipError, ValueError):
    """Features or scores with NaN or infinity."""


def check(features: torch.Tensor, name_of: Callable[[int], str], device: str, amp: bool) -> None:
    """features: (n, d) or (n,). name_of: what row i is of.

    Raises FiniteError: it names the first row that is not finite, and the precision.
    """
    finite = torch.isfinite(features)
    if bool(finite.all()):
        return
    bad = (~finite.reshape(len(finite), -1).all(dim=1)).nonzero().flatten().tolist()
    more = f", and {len(bad) - 1} more beside it" if len(bad) > 1 else ""
    raise FiniteError(f"{name_of(bad[0])} has features that are not finite{more} ({precision_of(device, amp)})")


def precision_of(device: str, amp: bool) -> str:
    """The precision in words, with what can be done about it."""
    kind = torch.device(device).type
    if amp:
        low = str(torch.get_autocast_dtype(kind)).removeprefix("torch.")
        return f"mixed precision, {low} on {kind}, which overflows first: try --no_amp"
    return f"without mixed precision on {kind}: look at the weights"


def check_images(features: torch.Tensor, start: int, loader: Any, what: str, device: str, amp: bool) -> None:
    """`check` for the images start.. of a loader. what: the data set."""
    check(features, lambda row: _image(getattr(loader, "dataset", None), start + row, what), device, amp)


def _image(dataset: Any, index: int, what: str) -> str:
    where = f" of {what}" if what else ""
    for _ in range(4):
        ids = getattr(dataset, "image_ids", None)
        if ids is None and not hasattr(dataset, "indices") and not getattr(dataset, "_kept", None):
            ids = getattr(dataset, "samples", None)  # of torchvision's folders: (path, label)
        if isinstance(ids, (list, tuple)) and index < len(ids):
            name = ids[index][0] if isinstance(ids[index], (list, tuple)) else ids[index]
            return f"image {index + 1}{where} ({name})"
        dataset = getattr(dataset, "dataset", None)
    return f"image {index + 1}{where}"
