"""The tensors of files into the parameters of a model: which rows of which key, how they lie there, and whether other
processes have them too."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zhclip_openclip.checkpoints import _shared, _transfer
from zhclip_openclip.checkpoints._read import Weights
from zhclip_openclip.families import Layout

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """A file of weights and the form that it is in. A model comes from one, or from two where its towers are apart."""

    weights: Weights
    layout: Layout


@dataclass(frozen=True, order=True)
class Source:
    """Where (a part of) a parameter is: `place` among the parts of it, the key, and which of the key's rows: a share
    of them, or those from `start` to `stop`."""

    place: int
    key: str
    share: int = 0
    shares: int = 1
    start: int = 0
    stop: int = 0

    @property
    def is_a_part(self) -> bool:
        return self.shares > 1 or bool(self.stop)

    def within(self, rows: int) -> tuple[int, int]:
        """First row and the one after the last, of a tensor that is stored with so many."""
        if self.stop:
            return self.start, self.stop
        return self.share * rows // self.shares, (self.share + 1) * rows // self.shares


def as_stored(layout: Layout, target: str, shape: Shape) -> Shape:
    """The shape of what a key holds, as its parameter `target` has it."""
    shape = tuple(shape)
    if any(re.search(pattern, target) for pattern in layout.square) and shape:
        side = math.isqrt(shape[0])
        return (side, side, *shape[1:]) if side * side == shape[0] else shape
    transposed = any(re.search(pattern, target) for pattern in layout.transpose)
    return tuple(reversed(shape)) if transposed else shape


def share(model, state: Mapping[str, torch.Tensor], pieces: Sequence[Piece], fill) -> bool:
    """Give the parameters of `state` memory that other processes share. False: it cannot be, and nothing was done."""
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}  # without those that are one another
    if not state.keys() <= own.keys() or any(tensor.device.type != "cpu" for tensor in state.values()):
        return False
    identity = [(list(p.weights.stamps.values()), p.layout, p.weights.places) for p in pieces]
    held = _shared.take(identity, {t: (tuple(v.shape), v.dtype) for t, v in state.items()}, fill)
    for target, tensor in (held or {}).items():
        own[target].data = tensor
    return held is not None


def copy(piece: Piece, parts: Mapping[str, list[Source]], state: Mapping[str, torch.Tensor]) -> None:
    """Write the tensors of one file into those of `state`."""
    weights = piece.weights
    jobs: dict[str, list[tuple[torch.Tensor, Source, bool]]] = {}
    for target, sources in parts.items():
        transposed = any(re.search(pattern, target) for pattern in piece.layout.transpose)
        at = 0  # the row of the parameter at which a part begins
        for source in sources:
            destination = state[target]
            if len(sources) > 1:
                start, stop = source.within((as_stored(piece.layout, target, weights.shapes[source.key]) or (1,))[0])
                destination, at = destination.narrow(0, at, stop - start), at + stop - start
            jobs.setdefault(source.key, []).append((destination, source, transposed))
    placed = [key for key in jobs if key in weights.offsets]
    with weights.sources(placed) as files:
        _transfer.carry_out(_move(weights, files[weights.owner[key]], *job) for key in placed for job in jobs.pop(key))
    for key, tensor in weights.stream(jobs):
        for destination, source, transposed in jobs[key]:
            part = tensor
            if source.is_a_part:
                start, stop = source.within(tensor.shape[0])
                part = part[start:stop]
            if transposed:
                part = part.permute(*reversed(range(part.ndim)))
            destination.copy_(part.reshape(destination.shape))
        del tensor, part


def _move(weights: Weights, file: _transfer.Source, destination: torch.Tensor, source: Source, transposed: bool):
    """Which bytes of the file a tensor (of `destination`) is."""
    import torch

    shape, dtype = weights.shapes[source.key], getattr(torch, weights.dtypes[source.key])
    offset = weights.offsets[source.key]
    if source.is_a_part:
        start, stop = source.within(shape[0])
        shape = (stop - start, *shape[1:])
        offset += start * math.prod(shape[1:]) * dtype.itemsize
    return _transfer.Move(file, destination, offset, dtype, shape, transposed and len(shape) > 1)
