"""Pictures as patches that keep their shape, in one tensor of a fixed size: SigLIP 2's NaFlex preprocessing.

A picture is resized so that it divides into at most a number of square patches, with its proportions kept as well as
whole patches allow (https://arxiv.org/abs/2502.14786, 2.4). The patches lie one under another, row by row of the
picture, each with its flag; a data loader puts such tensors together like any others.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.towers.images import to_rgb

#: Side of a patch in pixels, and its values: rows of pixels, each with its three colours.
PATCH = 16
VALUES = PATCH * PATCH * 3
#: What the last column says of a patch. Small whole numbers, which every precision holds exactly.
NONE, WITHIN, BEGINS_ROW = 0.0, 1.0, 2.0
#: FG-CLIP 2's budgets: the number of whole patches in the picture as it is -> the most it is made of
#: (https://github.com/360CVGroup/FG-CLIP, fgclip2/model/strcs/image_processing_fgclip2.py, _determine_max_value).
BUDGETS = ((784, 1024), (576, 784), (256, 576), (128, 256), (-1, 128))
MOST = BUDGETS[0][1]


def budget(width: int, height: int) -> int:
    """How many patches FG-CLIP 2's authors make of a picture at most, by its size in pixels."""
    whole = (width // PATCH) * (height // PATCH)
    return next(most for more_than, most in BUDGETS if whole > more_than)


def grid(width: int, height: int, most: int) -> tuple[int, int]:
    """Rows and columns of patches of a picture of this size: as many as fit into `most` at one scale.

    The scale is found by halving between 1e-6 and 100 down to 1e-5, as transformers' Siglip2ImageProcessor does it:
    another way of finding it gives other grids now and then.
    """

    def at(scale: float) -> tuple[int, int]:
        return tuple(max(1, math.ceil(side * scale / PATCH)) for side in (height, width))

    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        middle = (low + high) / 2
        if math.prod(at(middle)) <= most:
            low = middle
        else:
            high = middle
    return at(low)


class ToPatches:
    """A PIL image to its patches: (MOST, VALUES + 1) float32, normalised, the flag last; zeros below its own patches.

    mean, std: of the three colours, of values between 0 and 1. interpolation: "bilinear" or "bicubic".
    """

    def __init__(self, mean, std, interpolation: str = "bilinear"):
        self.mean, self.std = tuple(mean), tuple(std)
        self.interpolation = interpolation

    def __call__(self, image: Image.Image) -> torch.Tensor:
        if not isinstance(image, Image.Image):
            raise ZhclipError(f"a picture is a PIL image here, and a {type(image).__name__} was given")
        image = to_rgb(image)
        rows, columns = grid(*image.size, budget(*image.size))
        image = image.resize((columns * PATCH, rows * PATCH), Image.Resampling[self.interpolation.upper()])
        pixels = np.asarray(image, np.float32) / np.float32(255)
        pixels = (pixels - np.float32(self.mean)) / np.float32(self.std)
        cells = pixels.reshape(rows, PATCH, columns, PATCH, 3).swapaxes(1, 2).reshape(rows * columns, VALUES)
        result = torch.zeros(MOST, VALUES + 1)
        result[: rows * columns, :VALUES] = torch.from_numpy(cells)
        result[: rows * columns, VALUES] = WITHIN
        result[: rows * columns : columns, VALUES] = BEGINS_ROW
        return result

    def __repr__(self) -> str:
        return f"ToPatches(mean={self.mean}, std={self.std}, interpolation={self.interpolation!r})"


def unpack(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The patches of a batch, where each is in its picture, and which there are.

    packed: (batch, length, VALUES + 1), as :class:`ToPatches` makes them. Rows that no picture of the batch has are
    left out, since they cost as much as any other and change nothing.

    Returns patches (batch, shorter, VALUES), row and column (batch, shorter, 2) and (batch, shorter) booleans.
    """
    flags = packed[..., VALUES].float()
    # A compiled or traced graph cannot have a length that depends on the data.
    if not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
        used = (flags > 0.5).any(dim=0)
        length = int(torch.where(used, torch.arange(1, len(used) + 1, device=used.device), 0).max()) if len(used) else 0
        packed, flags = packed[:, : max(length, 1)], flags[:, : max(length, 1)]
    valid, begins = flags > 0.5, flags > 1.5
    place = torch.arange(flags.shape[1], device=flags.device).expand_as(flags)
    row = (begins.cumsum(dim=1) - 1).clamp(min=0)
    column = place - torch.where(begins, place, 0).cummax(dim=1).values
    coordinates = torch.stack([row, column], dim=-1) * valid.unsqueeze(-1)
    return packed[..., :VALUES], coordinates, valid
