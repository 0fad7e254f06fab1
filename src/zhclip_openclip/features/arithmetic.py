"""In which arithmetic the towers run on a CPU: oneDNN's products in fp32 or PyTorch's own, and bf16 or not.

A rule says what to expect. What this machine does is measured once (`_speeds.py`, a fraction of a second, before the
first tower runs) and kept in the user's cache folder. What the rule expects stands unless the other way is faster
without a doubt: at least `CLEAR` times in the median of the turns and in two thirds of them.

    rule    oneDNN on AMD's processors with AVX-512, where MKL, PyTorch's own, does not use all that they can: the
            passes of an evaluation were 1.1 to 1.4 times as fast. Not where it is limited to older instructions.
            bf16 where the processor has units for it. Without them it took 2 to 7 times as long, and is not tried.

Results of the ways differ in their last digits, so that two runs on one machine have to take the same one. What is
kept therefore stands until the machine, PyTorch or a limit on its instructions is another, which has a decision of its
own. The number of threads is no part of that: runs with more or fewer of them give the same bits, and so do one process
and several. Processes that measure at once wait for the first of them and take what it found; those of one evaluation
(`ranks.py`) take rank 0's. Where nothing can be kept nothing is measured, and the rule decides.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime
import functools
import hashlib
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from zhclip_openclip import _precision
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip._files import whole_file
from zhclip_openclip._reading import read_json
from zhclip_openclip._workplace import locked
from zhclip_openclip.features import _speeds
from zhclip_openclip.features._speeds import BF16, ONEDNN, PYTORCH, Turns
from zhclip_openclip.features.settings import users_folder

#: "0": nothing is measured or read, the rule decides.
VARIABLE = "ZHCLIP_MEASURE"
#: How many times as fast is faster without a doubt.
CLEAR = 1.1
#: Number of what is measured and how it is judged; a later one has decisions of its own.
_VERSION = 1
#: What tells PyTorch's libraries which instructions to use, beside `_precision.onednn_limit`.
_LIMITS = ("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR", "ONEDNN_DEFAULT_FPMATH_MODE")
#: Seconds that another process is waited for which measures.
_PATIENCE = 60.0


@dataclass(frozen=True)
class Arithmetic:
    """onednn: linear layers in fp32 are oneDNN's. bf16: mixed precision where it is asked for. why: for people."""

    onednn: bool
    bf16: bool
    why: str = ""


_HOMELESS = "by rule, not measured: there is no home folder to keep it in"
_taken: contextvars.ContextVar[Arithmetic | None] = contextvars.ContextVar("zhclip_arithmetic", default=None)
_measuring = threading.Lock()


def chosen() -> Arithmetic:
    """The arithmetic of this machine; the first call of all measures it.

    Raises ZhclipError: the variable is neither 0 nor 1.
    """
    if (taken := _taken.get()) is not None:
        return taken
    if not _wanted():
        return rule(f"by rule, not measured: {VARIABLE}=0")
    place = kept_at()
    return _kept_or_measured(place) if place else rule(_HOMELESS)


@contextlib.contextmanager
def taken(decision: Arithmetic | None) -> Iterator[None]:
    """`chosen` gives this until the end of the block; None for no change."""
    token = _taken.set(decision or _taken.get())
    try:
        yield
    finally:
        _taken.reset(token)


def known() -> tuple[Arithmetic, bool]:
    """What `chosen` would give without measuring, and whether it has been measured."""
    if not _wanted():
        return chosen(), False
    place = kept_at()
    if place is None:
        return rule(_HOMELESS), False
    if (found := _read(place)) is not None:
        return found, True
    if reason := _unwritable(place.parent):
        return rule(f"by rule, not measured: {reason}"), False
    return rule("by rule until the first evaluation on the CPU measures it"), False


def measure_again() -> Arithmetic:
    """Measure, and keep that from now on, for other processes and for those to come.

    Raises ZhclipError: it cannot be kept.
    """
    place = kept_at()
    if place is None:
        raise ZhclipError("there is no home folder to keep a measurement in; set XDG_CACHE_HOME")
    try:
        with _measuring:
            return _measured(place)
    except OSError as error:
        raise ZhclipError(f"{place.parent}: cannot be written ({error.strerror}), so nothing was measured") from None
    finally:
        _kept_or_measured.cache_clear()


def offered(first: bool) -> tuple[Arithmetic | None, bool]:
    """What a process of several tells the others: the decision of the first, and whether it has units for bf16."""
    return chosen() if first and not torch.cuda.is_available() else None, _precision.cpu_has_bf16()


def agreed(told: Sequence[tuple[Arithmetic | None, bool]]) -> Arithmetic | None:
    """The arithmetic of all: the first one's, whose features and theirs go into one result; bf16 only if each has
    units for it. None where the towers run on GPUs. told: `offered` of each."""
    first = told[0][0]
    return first and replace(first, bf16=first.bf16 and all(units for _, units in told))


def described(device: str, amp: bool, onednn: bool) -> str:
    """In words, for results: 'fp32 on cpu, linear layers by oneDNN'. onednn: see `linear.used`."""
    kind = torch.device(device).type
    if amp:
        return f"{str(torch.get_autocast_dtype(kind)).removeprefix('torch.')} autocast on {kind}"
    return f"fp32 on {kind}{', linear layers by oneDNN' if onednn else ''}"


# ---------------------------------------------------------------- deciding


def rule(why: str = "by rule") -> Arithmetic:
    """What to expect of this machine."""
    return Arithmetic(_amd_with_avx512() and _precision.onednn_limit() is None, _precision.cpu_has_bf16(), why)


def decide(expected: Arithmetic, turns: Turns) -> tuple[bool, bool]:
    """oneDNN and bf16, yes or no. turns: see `_speeds.measure`."""
    # A turn goes through all layers.
    total = {way: [sum(parts) for parts in zip(*(layer[way] for layer in turns.values()), strict=True)]
             for way in next(iter(turns.values()))}  # fmt: skip
    onednn = ONEDNN in total and expected.onednn
    if ONEDNN in total and _is_faster(total[PYTORCH if onednn else ONEDNN], total[ONEDNN if onednn else PYTORCH]):
        onednn = not onednn
    bf16 = expected.bf16
    if bf16 and BF16 in total:
        bf16 = not _is_faster(total[ONEDNN if onednn else PYTORCH], total[BF16])
    return onednn, bf16


def _is_faster(one: list[float], other: list[float]) -> bool:
    """Without a doubt. Seconds of the same turns."""
    ratios = [theirs / ours for ours, theirs in zip(one, other, strict=True)]
    return statistics.median(ratios) >= CLEAR and 3 * sum(ratio >= CLEAR for ratio in ratios) >= 2 * len(ratios)


@functools.lru_cache(maxsize=1)
def _amd_with_avx512() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and "AuthenticAMD" in _processor()


# ---------------------------------------------------------------- keeping


def kept_at() -> Path | None:
    """The file with the decision for this machine as it is now; None for a user without a home folder."""
    name = hashlib.sha256(json.dumps(_facts(), sort_keys=True).encode()).hexdigest()[:16]
    try:
        return users_folder().parent / "arithmetic" / f"{name}.json"
    except RuntimeError:
        return None


@functools.lru_cache(maxsize=8)
def _kept_or_measured(place: Path) -> Arithmetic:
    """One decision for as long as this process lives."""
    end = time.monotonic() + _PATIENCE
    try:
        with _measuring:
            while True:
                if (found := _read(place)) is not None:
                    return found
                place.parent.mkdir(parents=True, exist_ok=True)
                with locked(place.with_suffix(".lock")) as mine:
                    if mine:
                        # Another process may have finished since.
                        return _read(place) or _measured(place)
                if time.monotonic() > end:
                    return rule(f"by rule: another process was at {place.with_suffix('.lock')} for too long")
                time.sleep(0.05)
    except OSError as error:
        return rule(f"by rule, not measured: {place.parent} cannot be written ({error.strerror})")


def _measured(place: Path) -> Arithmetic:
    """Raises OSError: it cannot be kept, which is found out before anything is measured."""
    from zhclip_openclip.features import linear

    expected = rule()
    with whole_file(place) as file:
        turns = _speeds.measure(linear.operation(), expected.bf16)
        onednn, bf16 = decide(expected, turns)
        kept = {
            "onednn": onednn,
            "bf16": bf16,
            "expected": {"onednn": expected.onednn, "bf16": expected.bf16},
            "speeds": {layer: _relative(ways) for layer, ways in turns.items()},
            "measured": datetime.date.today().isoformat(),
            "of": _facts(),
        }
        file.write_text(json.dumps(kept, indent=2), encoding="utf-8")
    return _read(place) or expected


def _relative(ways: dict[str, list[float]]) -> dict[str, float]:
    """Speed of each way as a multiple of PyTorch's own, the median of the turns."""
    base = ways[PYTORCH]
    return {
        way: round(statistics.median(theirs / ours for ours, theirs in zip(seconds, base, strict=True)), 3)
        for way, seconds in ways.items()
        if way != PYTORCH
    }


def _read(place: Path) -> Arithmetic | None:
    """None where there is none, or one that this program did not write."""
    try:
        kept = read_json(place)
        onednn, bf16, speeds = kept["onednn"], kept["bf16"], kept["speeds"]
        told = [f"{way} {speed:.2f} x in the {layer}" for layer, ways in speeds.items() for way, speed in ways.items()]
        why = f"measured on {kept['measured']}: {', '.join(told) or 'there is one way alone'}"
    except (ZhclipError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return None
    return Arithmetic(onednn, bf16, why) if isinstance(onednn, bool) and isinstance(bf16, bool) else None


def _unwritable(folder: Path) -> str:
    """Why a file cannot be put there; "" where it can."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return "" if there.is_dir() and os.access(there, os.W_OK) else f"{folder} cannot be written"


def _facts() -> dict[str, object]:
    """All that a decision depends on."""
    return {
        "version": _VERSION,
        **_machine(),
        "precision": torch.get_float32_matmul_precision(),
        "limit": _precision.onednn_limit(),
        **{name: os.environ.get(name) or None for name in _LIMITS},
    }


@functools.lru_cache(maxsize=1)
def _machine() -> dict[str, str]:
    capabilities: Callable = getattr(torch.cpu, "get_capabilities", dict)
    instructions = sorted(name for name, has in capabilities().items() if has is True)
    return {
        "processor": _processor(),
        "instructions": f"{torch.backends.cpu.get_cpu_capability()} {' '.join(instructions)}",
        "torch": torch.__version__,
        "build": hashlib.sha256(torch.__config__.show().encode()).hexdigest()[:16],  # names its MKL and its oneDNN
    }


@functools.lru_cache(maxsize=1)
def _processor() -> str:
    """Maker, model and its numbers, as far as this system tells them."""
    facts = Path("/proc/cpuinfo")
    if not facts.is_file():
        return f"{platform.machine()} {platform.processor()}"
    told = dict.fromkeys(
        line.replace("\t", "").strip()
        for line in facts.read_text("utf-8", "replace").partition("\n\n")[0].splitlines()
        if line.partition("\t")[0].strip().lower() in _TOLD
    )
    return "; ".join(told) or platform.machine()


#: Lines of /proc/cpuinfo that say which processor it is, on x86 and on ARM.
_TOLD = {"vendor_id", "cpu family", "model", "model name", "stepping", "cpu implementer", "cpu architecture",
         "cpu variant", "cpu part", "cpu revision"}  # fmt: skip


def _wanted() -> bool:
    asked = os.environ.get(VARIABLE, "").strip()
    if asked not in ("", "0", "1"):
        raise ZhclipError(f"{VARIABLE}={asked}: neither 0 nor 1; without it this machine is measured once")
    return asked != "0"
