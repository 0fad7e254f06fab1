"""About how long an evaluation takes on this machine: operations of the model over operations a second.

    image    floating-point operations of the image tower for one image, counted by PyTorch on the meta device
    text     2 x 16 tokens x parameters of the text tower's layers: a Chinese caption has about 16 tokens
    both     of a model of open_clip's own as measured once (`benchmarks/open_clip_facts.py`), its texts of full length
    machine  a matrix product of a second or less, in the precision that the evaluation will use
    reading  one JPEG of 500 x 375 pixels, decoded and made smaller, by one process

A tower is taken to reach 80% of the rate of a bare matrix product on a CPU (measured: 84% with ViT-L/14) and 40% on a
GPU (a guess). That, and all that is not counted here, is what "about" is said for.
"""

from __future__ import annotations

import io
import logging
import os
import time
from dataclasses import dataclass
from functools import cache

from zhclip_openclip.checkpoints import _load, _open_clip_models
from zhclip_openclip.families import find

_TOKENS = 16
_SHARE = {"cpu": 0.8, "cuda": 0.4}


@dataclass(frozen=True)
class Machine:
    """device: 'cpu' or 'cuda'. rate: operations a second of a matrix product. reading: seconds a picture and reader.
    readers: processes that can read at once."""

    device: str
    rate: float
    reading: float
    readers: int

    def seconds(self, operations: float, images: int) -> float:
        """Of so many operations while so many images are read."""
        computing = operations / (self.rate * _SHARE[self.device])
        return max(computing, images * self.reading / max(1, self.readers))


def measure(workers: int, amp: bool) -> Machine:
    """Takes about a second. workers: that read images. amp: mixed precision is asked for."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Machine(device, _products(device, amp), _reading(), min(workers or 1, os.cpu_count() or 1))


def _products(device: str, amp: bool) -> float:
    import torch

    from zhclip_openclip._precision import use_amp

    lower = torch.float16 if device == "cuda" else torch.bfloat16
    dtype = lower if use_amp(device, amp) else torch.float32
    size = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    a @ b
    wait()
    begun, products = time.perf_counter(), 0
    while time.perf_counter() - begun < 0.4:
        a @ b
        wait()
        products += 1
    return 2 * size**3 * products / (time.perf_counter() - begun)


def _reading() -> float:
    import numpy as np
    from PIL import Image

    # Noise on a slope: as many bytes as a photograph of this size has.
    slope = np.linspace(0, 180, 375 * 500 * 3).reshape(375, 500, 3)
    noise = np.random.default_rng(0).normal(30, 12, slope.shape)
    buffer = io.BytesIO()
    Image.fromarray((slope + noise).clip(0, 255).astype("uint8")).save(buffer, "JPEG", quality=90)
    begun = time.perf_counter()
    for _ in range(10):
        picture = Image.open(io.BytesIO(buffer.getvalue())).convert("RGB").resize((299, 224), Image.BICUBIC)
        np.asarray(picture, dtype="float32")
    return (time.perf_counter() - begun) / 10


@cache
def image_operations(model: str) -> int:
    """Of one image, for the name of a model of ours or of open_clip's own; 0 for a newer one of the latter."""
    if find(model) is None:
        return _open_clip_models.facts().get(model, {}).get("image_operations", 0)
    import open_clip
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # open_clip says that this model has no weights
    try:
        with torch.device("meta"):
            built = open_clip.create_model(model, pretrained_text=False, device="meta").eval()
            size = built.visual.image_size
            height, width = size if isinstance(size, (tuple, list)) else (size, size)
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                built.encode_image(torch.empty(1, 3, height, width))
    finally:
        logging.disable(level)
    return counter.get_total_flops()


def text_operations(model: str) -> float:
    """Of one text, likewise; 0 where its sizes are not known (a family from elsewhere)."""
    if find(model) is None:
        return _open_clip_models.facts().get(model, {}).get("text_operations", 0)
    tower = _load.model_facts().get(model, {}).get("text_tower")
    if not tower:
        return 0.0
    width, inner = tower["hidden_size"], tower["intermediate_size"]
    return 2 * _TOKENS * tower["num_hidden_layers"] * (4 * width**2 + 2 * width * inner)
