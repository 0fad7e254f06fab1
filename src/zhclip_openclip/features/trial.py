"""The image tower, tried out on two images of ours.

Weights and structure are compared by content (`_tower.py`); code is not: a hook, a replaced method, an edited class can
make other features of the same weights. So the features of two fixed images lie beside everything that is kept, and
nothing is taken out for a tower that gives others.

They are compared within a tolerance and not as part of a name. A rounded number can fall to either side of an edge when
another machine or another number of threads gives other last bits, and of 2 x 768 numbers one nearly always does.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

import torch

#: Largest distance of unit features that are the same: of one tower in float32 on several numbers of threads, with MKL
#: and oneDNN, ViT-B-32, ViT-S-16 and RN50 were up to 8e-7 apart.
TOLERANCE = 3e-5


def try_out(
    encoders: list[Callable[[torch.Tensor], torch.Tensor]],
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: str,
    once: bool = False,
) -> torch.Tensor | None:
    """(2, d) float32 on the CPU: what a tower gives for two fixed images; None if it gives something else the second
    time, or nothing that can be compared.

    encoders: see `image_pass.encoder`; the first that takes them counts. One without mixed precision comes first: its
    numbers are sharper, and what the precision is stands in the name of what is kept.
    shape, dtype: of an image, as the preprocessing gives it. once: whether it is the same the second time is not looked
    into.
    """
    images = probes(shape, dtype)
    for last, encode in enumerate(encoders, 1 - len(encoders)):
        try:
            with _aside(device):
                first = encode(images).float().cpu()
                second = first if once else encode(images).float().cpu()
            break
        except (RuntimeError, TypeError):  # weights in half precision take float32 images under autocast alone
            if last == 0:
                raise
    return first if same(first, second) else None


def same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    """Whether two trials are of one tower."""
    if one is None or other is None or one.shape != other.shape:
        return False
    apart = torch.linalg.vector_norm(one.double() - other.double(), dim=-1)
    return bool((apart <= TOLERANCE).all())  # false for what is not finite


def probes(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Two images (2, *shape): coarse patches and fine grain, as many bright as dark; the same on every machine."""
    random = torch.Generator().manual_seed(0)
    fine = torch.randn(2, *shape, generator=random)
    if len(shape) == 3:
        coarse = torch.randn(2, shape[0], 7, 7, generator=random)
        fine = 0.3 * fine + torch.nn.functional.interpolate(coarse, shape[1:], mode="nearest")
    return fine.to(dtype) if dtype.is_floating_point else (fine * 50 + 128).clamp(0, 255).to(dtype)


@contextlib.contextmanager
def _aside(device: str) -> Iterator[None]:
    """Without a trace: nothing is compiled for two images, and the random numbers stay as they were."""
    where = torch.device(device)
    gpus = [torch.cuda.current_device() if where.index is None else where.index] if where.type == "cuda" else []
    compiling = "torch._dynamo" in sys.modules  # which takes seconds to load
    eager = torch.compiler.set_stance("force_eager") if compiling else contextlib.nullcontext()
    with torch.random.fork_rng(devices=gpus), eager:
        yield
