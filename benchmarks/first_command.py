"""The first command of the README after its installation, against the imports that it cannot do without.

    python benchmarks/first_command.py [--repeat 5] [--json out.json]

Ours is `clip_benchmark eval --model zhclip-tiny --dataset digits --language zh`, from start to end of the process. The
other side is a process that imports the same modules in the same order and ends: those that were there when the
command ended, told by itself in a run before the first turn.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _report import Report, Row, begin, finish

COMMAND = ["eval", "--model", "zhclip-tiny", "--dataset", "digits", "--language", "zh"]
TELL = """
import json, sys
before = set(sys.modules)
from clip_benchmark import cli
cli.main()
with open("modules.json", "w") as file:
    json.dump([name for name in sys.modules if name not in before], file)
"""
IMPORT = """
import importlib, json
with open("modules.json") as file:
    names = json.load(file)
missed = 0
for name in names:
    try:
        importlib.import_module(name)
    except Exception:  # what somebody has put there by hand, under a name of its own
        missed += 1
print(len(names) - missed, missed)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the result there")
    args = parser.parse_args()
    facts = begin("open_clip_torch", "clip_benchmark", "transformers", "scikit-learn")
    with tempfile.TemporaryDirectory(prefix="zhclip-first-") as folder:

        def run(*words: str) -> tuple[float, str]:
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, *words], cwd=folder, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True,
                text=True,
            )  # fmt: skip
            taken = time.perf_counter() - start
            if done.returncode:
                raise SystemExit(f"{' '.join(words[:2])} failed:\n{done.stderr[-3000:]}")
            return taken, done.stdout

        run("-c", TELL, *COMMAND)
        whole, imports = [], []
        for _ in range(args.repeat):
            whole.append(run("-m", "clip_benchmark.cli", *COMMAND)[0])
            taken, told = run("-c", IMPORT)
            imports.append(taken)
    imported, missed = map(int, told.split())
    row = Row(
        "first_command",
        "`clip_benchmark eval --model zhclip-tiny --dataset digits --language zh`",
        "s",
        whole,
        "its imports alone",
        imports,
        "ours / theirs",
        at_most=1.3,
    )
    note = f"{imported:,} modules" + (f"; {missed} more are no files that could be imported." if missed else ".")
    finish(Report([row], settings={"repeat": args.repeat}, notes=[note]), facts, args.json)


if __name__ == "__main__":
    main()
