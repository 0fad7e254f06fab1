"""How fast this machine multiplies in each of the ways that a tower can be computed in.

The layers are real ones, with few rows so that all of it takes a fraction of a second: those after the attention of
ViT-L/14 on two pictures, and of RoBERTa-base on 32 captions of 16 tokens.

On one thread, in the processor time of that thread: on a machine with other work to do that is about as long as on an
idle one, which the time on the clock is not (two cores under a load of 7: the ratio of two ways lay between 0.81 and
1.06 in single turns, and between 0.45 and 1.46 on the clock). And it does not depend on how many threads a run has.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from zhclip_openclip.features.memory import keep_freed
from zhclip_openclip.features.threads import one_thread

#: Layers: (rows, width in, width out).
LAYERS = {"image tower": (514, 1024, 1024), "text tower": (512, 768, 768)}
PYTORCH, ONEDNN, BF16 = "fp32 as PyTorch computes it", "fp32 by oneDNN", "bf16"
TURNS = 9
Turns = dict[str, dict[str, list[float]]]


def measure(onednn: Callable | None, bf16: bool, turns: int = TURNS) -> Turns:
    """layer -> way -> seconds of each turn; in every turn all ways follow one another.

    onednn: its operation, see `linear.operation`; None to leave it out. bf16: whether to try that too.
    """
    found: Turns = {}
    keep_freed()
    with torch.no_grad(), one_thread():
        for name, (rows, wide, out) in LAYERS.items():
            generator = torch.Generator().manual_seed(0)
            given = torch.randn(rows, wide, generator=generator)
            weight, bias = torch.randn(out, wide, generator=generator) / 32, torch.randn(out, generator=generator)
            ways = _ways(onednn, bf16, given, weight, bias)
            for way in ways.values():
                way()
            found[name] = {way: [] for way in ways}
            for _ in range(turns):
                for way, compute in ways.items():
                    begun = _clock()
                    compute()
                    found[name][way].append(_clock() - begun)
    return found


def _ways(onednn: Callable | None, bf16: bool, *given: torch.Tensor) -> dict[str, Callable]:
    def low():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.linear(*given)

    def plain():
        with torch.autocast("cpu", enabled=False):
            return F.linear(*given)

    ways = {PYTORCH: plain}
    if onednn is not None:
        ways[ONEDNN] = lambda: onednn(*given, "none", [], "")
    if bf16:
        ways[BF16] = low
    return ways


# Windows counts a thread's time in steps of 16 ms.
_clock = time.thread_time if time.get_clock_info("thread_time").resolution < 1e-4 else time.perf_counter
