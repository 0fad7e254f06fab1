"""About how long an evaluation takes on this machine, by stage: what the model computes over what the machine does.

Of the model, counted by PyTorch on the meta device for one image: floating-point operations of products; bytes that all
else reads and writes; calls, which cost what they cost however little they compute. A text is 2 x 16 tokens x
parameters of the text tower's layers: a Chinese caption has about 16 tokens. Of a model of open_clip's own the
operations alone are known, measured once (`benchmarks/open_clip_facts.py`), its texts of full length.

Of the machine, in about two seconds: a linear layer of a tower's size in the precision that the evaluation will use,
and in fp32; a convolution; blocks of two transformers, of which a small one gives the time of a call, and one of
ViT-B/16 the rate of what is no product; a copy into fresh memory; one JPEG of 500 x 375 pixels as it goes through
open_clip's preprocessing, and its digest, by one process; a source file compiled, for what is Python's own.

    loading models     weights copied, where they are here; fetching depends on the network and is not counted
    reading pictures   the pass over all files for the name of their features, and what the image tower waits: readers
                       go on beside it, and on a CPU take their time from the same cores
    image tower        products, bytes and calls of each image that is not there from an earlier cell
    text tower         operations at 80% of the rate
    scoring            of retrieval, one product of all images and all texts
    the rest           imports, once; of each cell the digest of the weights, the trial of the tower and files

On a GPU, and where bytes and calls are not known, 40% and 80% of the rate stand for them: the former a guess, the
latter measured with ViT-L/14. That, and all that is not counted here, is what "about" is said for.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import copy
import hashlib
import inspect
import io
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from zhclip_openclip._cores import cores
from zhclip_openclip.checkpoints import _load, _open_clip_models
from zhclip_openclip.families import find
from zhclip_openclip.features import fingerprint
from zhclip_openclip.features.image_pass import IMAGES_AT_ONCE
from zhclip_openclip.features.memory import keep_freed
from zhclip_openclip.features.spent import IMAGES, LOADING, READING, REST, SCORING, TEXTS
from zhclip_openclip.features.threads import crowded, is_small

if TYPE_CHECKING:
    import torch

_TOKENS = 16
_SHARE = {"cpu": 0.8, "cuda": 0.4}
#: The imports of clip_benchmark, and a cell of the embedded model that has next to nothing to do, in times of compiling
#: the source of `argparse`: that is work of the same kind, and as fast as the machine. Measured: 98 to 104 in processor
#: time for the former; about 20 for the latter.
_IMPORTS, _CELL = 100, 20
#: Images that go through the tower before the pass, in fp32 (`features/trial.py`).
_TRIAL = 4


@dataclass(frozen=True)
class Work:
    """Of one image, or of some. operations: of products and convolutions. moved: bytes of everything else. calls: of
    operators, of one image a share of those of a batch. small: see `features/threads.py`. convolved: those operations
    that are convolutions'."""

    operations: float
    moved: float = 0.0
    calls: float = 0.0
    small: bool = False
    convolved: float = 0.0


@dataclass(frozen=True)
class Machine:
    """device: 'cpu' or 'cuda'. rate: operations a second of a product, in the precision of the evaluation. reading:
    seconds a picture and reader. readers: processes that can read at once; 0 where the evaluation itself reads. exact:
    as rate, in fp32. convolving: as rate, of a convolution. moving, loading, hashing: bytes a second. call: seconds.
    digest: seconds a picture and reader. threads, cores: that compute, that there are. compiling: seconds, see
    `_IMPORTS`."""

    device: str
    rate: float
    reading: float
    readers: int
    exact: float = float("inf")
    convolving: float = float("inf")
    moving: float = float("inf")
    call: float = 0.0
    loading: float = float("inf")
    hashing: float = float("inf")
    digest: float = 0.0
    threads: int = 1
    cores: int = 1
    compiling: float = 0.0

    def computing(self, work: Work, images: float = 1, exact: bool = False) -> float:
        """Seconds of the image tower."""
        rate = min(self.rate, self.exact) if exact else self.rate
        if self.device == "cpu" and work.calls:
            products = (work.operations - work.convolved) / rate + work.convolved / min(rate, self.convolving)
            one = products + work.moved / self.moving + work.calls * self.call
        else:
            one = work.operations / (rate * _SHARE[self.device])
        return images * one

    def starting(self) -> float:
        """Seconds before the first cell."""
        return 0.0 if "clip_benchmark.cli" in sys.modules else _IMPORTS * self.compiling

    def texts(self, operations: float) -> float:
        return operations / (self.rate * _SHARE[self.device])

    def waiting(self, computing: float, images: int, small: bool = False) -> float:
        """Seconds that a tower which computes for so long waits for its images."""
        reading = images * self.reading
        if not self.readers:
            return reading
        whole = max(computing, reading / self.readers)
        if self.device == "cpu" and crowded(self.readers, self.threads, self.cores):
            # The readers' share, and a tower that is done with them has all cores again.
            threads = 1 if small else min(self.threads, self.cores)
            whole = max(whole, (computing * threads + reading) / self.cores)
        return whole - computing

    def stages(
        self, work: Work, images: int, texts: int, text_operations: float, dimensions: int, weights: int
    ) -> dict[str, float]:
        """Seconds of one cell by stage. dimensions: of features that are scored, 0 for none to speak of. weights:
        bytes to load, 0 where they are loaded."""
        computing = self.computing(work, images)
        rest = _CELL * self.compiling + (weights / self.hashing + self.computing(work, _TRIAL, exact=True)) * bool(
            images
        )
        return {
            LOADING: weights / self.loading,
            READING: images * self.digest / max(1, self.readers) + self.waiting(computing, images, work.small),
            IMAGES: computing,
            TEXTS: texts * self.texts(text_operations),
            SCORING: 2 * images * texts * dimensions / self.exact,
            REST: rest,
        }


def measure(workers: int, amp: bool) -> Machine:
    """Takes about two seconds. workers: that read images. amp: mixed precision is asked for."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    keep_freed()  # as in a pass
    rate = _products(device, amp)
    exact = _products(device, False) if amp else rate
    reading, digest, hashing = _reading()
    moving, call = _around_products(rate, amp) if device == "cpu" else (float("inf"), 0.0)
    convolving = _convolutions(amp) if device == "cpu" else float("inf")
    loading = _copying()
    source = inspect.getsource(argparse)
    compiling = _mean(lambda: compile(source, argparse.__file__, "exec"), 0.1)
    return Machine(
        device, rate, reading, min(workers, cores()), exact, convolving, moving, call, loading, hashing, digest,
        torch.get_num_threads(), cores(), compiling,
    )  # fmt: skip


def _products(device: str, amp: bool) -> float:
    """Operations a second of a linear layer."""
    import torch

    rows, size = (16384, 4096) if device == "cuda" else (2056, 1024)
    given, layer = torch.randn(rows, size, device=device), torch.nn.Linear(size, size).to(device)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def compute():
        layer(given)
        wait()

    with _as_in_the_pass(device, amp):
        return 2 * rows * size**2 / _mean(compute, 0.25)


def _convolutions(amp: bool) -> float:
    """Operations a second on the CPU of a layer in the middle of a ResNet, with what normalises and cuts it."""
    from torch.nn import BatchNorm2d, Conv2d, ReLU, Sequential

    layer = Sequential(Conv2d(128, 128, 3, padding=1, bias=False), BatchNorm2d(128), ReLU())
    taken, work = _layer(layer, (128, 28, 28), amp)
    return work.operations / taken


def _around_products(rate: float, amp: bool) -> tuple[float, float]:
    """(bytes a second of all that is no product, seconds of a call) in a transformer's blocks on the CPU. rate: of
    products."""
    from open_clip.transformer import ResidualAttentionBlock

    # A small one, whose products come nowhere near the rate of large ones, and one of ViT-B/16.
    small, small_work = _layer(ResidualAttentionBlock(64, 1), (64, 64), amp)
    taken, work = _layer(ResidualAttentionBlock(768, 12), (197, 768), amp)
    call = small / small_work.calls
    rest = taken - work.operations / rate - work.calls * call
    return work.moved / max(rest, 0.05 * taken), call


def _layer(layer: torch.nn.Module, shape: Sequence[int], amp: bool) -> tuple[float, Work]:
    """(seconds on the CPU, work) of a layer with as many images as a pass takes. shape: of what it is given of one."""
    import torch

    layer, given = layer.eval(), torch.randn(IMAGES_AT_ONCE["cpu"], *shape)
    with torch.no_grad():
        work = _counted(copy.deepcopy(layer).to("meta"), given.to("meta"))
    with _as_in_the_pass("cpu", amp):
        return _mean(lambda: layer(given), 0.15), work


def _copying() -> float:
    """Bytes a second, to where nothing was yet."""
    import torch

    large = torch.randn(2056, 2048)
    return 4 * large.nbytes / _mean(lambda: torch.cat([large] * 4), 0.1)


@contextlib.contextmanager
def _as_in_the_pass(device: str, amp: bool) -> Iterator[None]:
    """The image pass computes in such a context."""
    import torch

    from zhclip_openclip._precision import use_amp
    from zhclip_openclip.features import linear

    amp = use_amp(device, amp)
    fast = linear.OneDnnLinear() if not amp and linear.used(device) else linear.RowsInOrder()
    with torch.no_grad(), torch.autocast(device, enabled=amp), fast:
        yield


def _reading() -> tuple[float, float, float]:
    """Seconds of a picture, seconds of its digest, bytes a second of digests."""
    import numpy as np
    from open_clip.transform import image_transform
    from PIL import Image

    # Noise on a slope: as many bytes as a photograph of this size has.
    slope = np.linspace(0, 180, 375 * 500 * 3).reshape(375, 500, 3)
    noise = np.random.default_rng(0).normal(30, 12, slope.shape)
    buffer = io.BytesIO()
    Image.fromarray((slope + noise).clip(0, 255).astype("uint8")).save(buffer, "JPEG", quality=90)
    kept = base64.b64encode(buffer.getvalue())
    transform = image_transform(224, is_train=False)

    def read():
        transform(Image.open(io.BytesIO(base64.b64decode(kept))).convert("RGB"))

    digest = _mean(lambda: hashlib.sha256(base64.b64decode(kept)), 0.1)
    block = b"0" * 2**22
    return _mean(read, 0.1), digest, len(block) / _mean(lambda: hashlib.sha256(block), 0.1)


def _mean(compute: Callable[[], object], seconds: float) -> float:
    """Seconds that a call takes, of as many as fit, at least 3, after one that does not count. What other programs take
    of the machine falls between short calls rather than into them, which a median would not see."""
    compute()
    begun, calls = time.perf_counter(), 0
    while calls < 3 or time.perf_counter() - begun < seconds:
        compute()
        calls += 1
    return (time.perf_counter() - begun) / calls


@cache
def image_work(model: str) -> Work:
    """Of one image, for the name of a model of ours or of open_clip's own; nothing for a newer one of the latter."""
    if find(model) is None:
        return Work(_open_clip_models.facts().get(model, {}).get("image_operations", 0))
    import open_clip
    import torch

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # open_clip says that this model has no weights
    at_once = IMAGES_AT_ONCE["cpu"]
    try:
        with torch.device("meta"):
            built = open_clip.create_model(model, pretrained_text=False, device="meta").eval()
            size = built.visual.image_size
            height, width = size if isinstance(size, (tuple, list)) else (size, size)
            images = torch.empty(at_once, 3, height, width)
            with torch.no_grad():
                work = _counted(built.encode_image, images)
    finally:
        logging.disable(level)
    small = is_small(fingerprint.image_tower(built))
    figures = work.operations, work.moved, work.calls
    return Work(*(figure / at_once for figure in figures), small, work.convolved / at_once)


def _counted(compute: Callable[[torch.Tensor], object], images: torch.Tensor) -> Work:
    """Of all images together; nothing is computed if they are on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    counter, others = FlopCounterMode(display=False), _others()
    with counter, others:
        compute(images)
    flops = counter.get_flop_counts()["Global"]
    convolved = sum(count for operator, count in flops.items() if "convolution" in str(operator))
    return Work(sum(flops.values()), others.moved, others.calls, convolved=convolved)


def _others():
    """A mode that counts calls, and the bytes of those that are no products."""
    from torch import Tensor
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import flop_registry

    class Others(TorchDispatchMode):
        calls, moved = 0, 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if not func.is_view:
                self.calls += 1
                if func.overloadpacket not in flop_registry:
                    self.moved += sum(one.nbytes for one in tree_leaves((args, kwargs, out)) if isinstance(one, Tensor))
            return out

    return Others()


def image_operations(model: str) -> float:
    """Those of `image_work`."""
    return image_work(model).operations


def dimensions(model: str) -> int:
    """Of its features; those of most models where they are not known."""
    return _load.model_facts().get(model, {}).get("embed_dim", 768)


def text_operations(model: str) -> float:
    """Of one text, likewise; 0 where its sizes are not known (a family from elsewhere)."""
    if find(model) is None:
        return _open_clip_models.facts().get(model, {}).get("text_operations", 0)
    tower = _load.model_facts().get(model, {}).get("text_tower")
    if not tower:
        return 0.0
    width, inner = tower["hidden_size"], tower["intermediate_size"]
    return 2 * _TOKENS * tower["num_hidden_layers"] * (4 * width**2 + 2 * width * inner)
