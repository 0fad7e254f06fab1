"""Several processes as torchrun starts them. Not a test."""

from __future__ import annotations

import os
import subprocess
import sys

ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def torchrun(count: int, *words: str, cwd=None, timeout: int = 240, **environment: str) -> subprocess.CompletedProcess:
    """`words` after torchrun's own options; `count` processes on this machine, each with one thread."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    return subprocess.run(
        [*command, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        env={**os.environ, **ENVIRONMENT, **environment},
    )
