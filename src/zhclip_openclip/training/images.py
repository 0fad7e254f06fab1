"""Pictures of a batch as one tensor, without a tensor for each.

The last two steps of open_clip's transforms, torchvision's ToTensor and Normalize, make six copies of a picture before
it is stacked. Here they are done in its place in the batch, by the same operations in the same order: the result is the
same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import default_collate, get_worker_info
from torchvision.transforms import Compose, Normalize, ToTensor


class InOneTensor:
    """A transform in two parts.

    first: what is done with each picture. Call it with a list of what `first` gives, for what `default_collate` gives
    of the results of the whole transform.
    """

    def __init__(self, transform: Callable[[Any], Any]) -> None:
        steps = list(transform.transforms) if type(transform) is Compose else []
        ends = len(steps) > 1 and _to_tensor(steps[-2]) and type(steps[-1]) is Normalize
        self.first: Callable[[Any], Any] = Compose(steps[:-2]) if ends else transform
        self._rest = Compose(steps[-2:]) if ends else None
        if ends:
            # as torchvision's `normalize` has them
            mean, std = (torch.as_tensor(value).view(-1, 1, 1) for value in (steps[-1].mean, steps[-1].std))
            self._mean, self._std = mean, std
            if not (mean.shape == std.shape == (3, 1, 1) and mean.dtype == std.dtype == torch.float32 and std.all()):
                self._mean = self._std = None

    def __call__(self, pictures: Sequence[Any]) -> torch.Tensor:
        if self._rest is None:
            return default_collate(list(pictures))
        if self._mean is None or torch.get_default_dtype() != torch.float32 or not _alike(pictures):
            return default_collate([self._rest(picture) for picture in pictures])
        result = _empty(len(pictures), 3, pictures[0].height, pictures[0].width)
        for place, picture in zip(result, pictures, strict=True):
            place.copy_(torch.from_numpy(np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))))
            place.div_(255).sub_(self._mean).div_(self._std)
        return result


def _to_tensor(step: object) -> bool:
    """Whether a step makes tensors of pictures: torchvision's, or open_clip's and timm's, which lets tensors pass."""
    return isinstance(step, ToTensor) and type(step).__name__ in ("ToTensor", "MaybeToTensor")


def _alike(pictures: Sequence[Any]) -> bool:
    first = pictures[0]
    return isinstance(first, Image.Image) and all(
        isinstance(one, Image.Image) and (one.mode, one.size) == ("RGB", first.size) for one in pictures
    )


def _empty(*shape: int) -> torch.Tensor:
    """A float32 tensor with no content yet; of a loader's worker in memory that is shared, as `default_collate` has it,
    so that it is not copied once more on its way."""
    shared = getattr(torch.UntypedStorage, "_new_shared", None)
    if get_worker_info() is None or shared is None:
        return torch.empty(*shape)
    return torch.empty(0).set_(shared(4 * int(np.prod(shape)), device="cpu"), 0, shape)
