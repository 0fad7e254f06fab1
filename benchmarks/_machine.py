"""What a benchmark says about where it ran, how it measures memory, and how it does without bf16 units. Standard
library, but for torch's own facts."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any


def machine_facts(*packages: str) -> dict[str, Any]:
    """Processor, cores, memory, load, Python, torch's threads and GPU, and versions of these packages."""
    import torch

    cpu = _field("/proc/cpuinfo", r"model name\s*: (.+)") or platform.processor() or platform.machine()
    memory = _field("/proc/meminfo", r"MemTotal:\s*(\d+) kB")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory) / 2**20, 1) if memory else None,
        "load_average": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "onednn_limit": onednn_limit(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in ("torch", "numpy", *packages)},
    }


def print_facts(facts: dict[str, Any]) -> None:
    """One line on the machine, one on the versions."""
    print(f"{describe_machine(facts)}, load {facts['load_average']}")
    print(describe_versions(facts))


def describe_machine(facts: dict[str, Any]) -> str:
    limit = f", oneDNN limited to {facts['onednn_limit']}" if facts["onednn_limit"] else ""
    return (
        f"{facts['cpu']}, {facts['cores']} cores ({facts['torch_threads']} threads, {facts['cpu_capability']}{limit}), "
        f"{facts['memory_gib']} GiB, GPU: {facts['gpu'] or 'none'}"
    )


def describe_versions(facts: dict[str, Any]) -> str:
    versions = (f"{name} {version}" for name, version in facts["packages"].items())
    return ", ".join([f"Python {facts['python']}", *versions])


# ---------------------------------------------------------------- a CPU without bf16 units


def add_isa_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--isa",
        choices=["avx2"],
        help="limit both sides to these instructions, as on a CPU without AVX-512 and without bf16 units",
    )


def limit_isa(isa: str | None) -> None:
    """Start this script again with PyTorch and oneDNN limited to `isa`, unless they are. Both read the variables once,
    when they are loaded. MKL, which multiplies in fp32, has no such limit on every CPU; both sides share it."""
    if isa and any(os.environ.get(name) != value for name, value in isa_variables(isa).items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **isa_variables(isa)})


def isa_variables(isa: str | None) -> dict[str, str]:
    """The first is oneDNN's (CPU Dispatcher Control in its developer guide), the second PyTorch's for its own loops,
    which `torch.backends.cpu.get_cpu_capability` then gives."""
    return {"ONEDNN_MAX_CPU_ISA": isa.upper(), "ATEN_CPU_CAPABILITY": isa} if isa else {}


def onednn_limit() -> str | None:
    from zhclip_openclip._precision import onednn_limit

    return onednn_limit()


def product_rates(rows: int = 1024, turns: int = 7) -> dict[str, float]:
    """GFLOP/s of a linear layer of 1024 x 4096 in fp32 and in bf16, medians: whether bf16 is in hardware here."""
    import torch

    flops, rates = 2 * rows * 1024 * 4096, {"fp32": [], "bf16": []}
    with torch.inference_mode():
        x, layer = torch.randn(rows, 1024), torch.nn.Linear(1024, 4096)
        sides = {"fp32": (x, layer), "bf16": (x.bfloat16(), torch.nn.Linear(1024, 4096, dtype=torch.bfloat16))}
        for given, module in sides.values():
            module(given)  # the first call warms up
        for _ in range(turns):
            for name, (given, module) in sides.items():
                start = time.perf_counter()
                module(given)
                rates[name].append(flops / (time.perf_counter() - start) / 1e9)
    return {name: round(statistics.median(values), 1) for name, values in rates.items()}


def peak_rss_mib() -> float:
    """Highest resident memory of this process so far, in MiB."""
    status = _field("/proc/self/status", r"VmHWM:\s*(\d+) kB")
    if status:
        return int(status) / 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 1024)


def anonymous_mib() -> float:
    """Memory that this process holds now and that is no mapped file (Linux; elsewhere all that is resident), in MiB."""
    status = _field("/proc/self/status", r"RssAnon:\s*(\d+) kB")
    return int(status) / 1024 if status else peak_rss_mib()


def reset_peak_rss() -> bool:
    """Starts the peak anew (Linux), so that it is of what follows; False where that can't be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _field(path: str, pattern: str) -> str | None:
    try:
        match = re.search(pattern, Path(path).read_text(errors="replace"))
    except OSError:
        return None
    return match.group(1).strip() if match else None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
