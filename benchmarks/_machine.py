"""What a benchmark says about where it ran, and how it measures memory. Standard library, but for torch's own facts."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
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
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in ("torch", "numpy", *packages)},
    }


def print_facts(facts: dict[str, Any]) -> None:
    """One line on the machine, one on the versions."""
    print(
        f"{facts['cpu']}, {facts['cores']} cores ({facts['torch_threads']} threads, {facts['cpu_capability']}), "
        f"{facts['memory_gib']} GiB, GPU: {facts['gpu'] or 'none'}, load {facts['load_average']}"
    )
    versions = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    print(f"Python {facts['python']}, {versions}")


def peak_rss_mib() -> float:
    """Highest resident memory of this process so far, in MiB."""
    status = _field("/proc/self/status", r"VmHWM:\s*(\d+) kB")
    if status:
        return int(status) / 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 1024)


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
