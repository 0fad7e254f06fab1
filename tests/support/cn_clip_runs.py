"""Chinese-CLIP's own evaluation scripts, run on folders of feature files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "metrics" / "cn_clip_scripts.py"


def run_scripts(folders: Iterable[Path]) -> None:
    """One process for all folders; see `cn_clip_scripts.py` for what it reads and writes in each."""
    subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, folders)],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def write_jsonl(path: Path, entries: Iterable[dict]) -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
