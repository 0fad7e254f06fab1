"""What the plugin adds to `import torch`, by `python -X importtime` and by the clock.

    python benchmarks/import_time.py [--repeat 5] [--json out.json]

The plugin's modules are compiled first, as an installed package's are.
"""

from __future__ import annotations

import argparse
import compileall
import os
import re
import subprocess
import sys
from pathlib import Path

import zhclip_openclip

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _report import Report, Row, begin, finish

# The plugin alone, in a process that has what `import torch` has loaded by then.
PART = """
import argparse, ast, importlib.metadata, inspect, json, logging, tempfile, time, typing, warnings
start = time.perf_counter()
from zhclip_openclip.autoload import autoload
autoload()
print((time.perf_counter() - start) * 1e3)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the result there")
    args = parser.parse_args()
    facts = begin()
    package = Path(zhclip_openclip.__file__).parent
    compileall.compile_dir(package, maxlevels=0, quiet=1)
    traced, alone = [], []
    for _ in range(args.repeat):
        trace = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", "import torch"], capture_output=True, text=True, env=os.environ
        )
        times = re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+zhclip_openclip\S*$", trace.stderr, flags=re.MULTILINE)
        traced.append(sum(map(int, times)) / 1e3)
        alone.append(float(subprocess.run([sys.executable, "-c", PART], capture_output=True, text=True).stdout))
    rows = [
        Row("import", "finding, loading and calling the plugin", "ms", alone, at_most=2),
        Row("import_traced", "its lines of -X importtime", "ms", traced, at_most=2),
    ]
    notes = ["Compiled, as an installed package is. Where Python may not write its compiled files it takes longer."]
    finish(Report(rows, settings={"repeat": args.repeat}, notes=notes), facts, args.json)


if __name__ == "__main__":
    main()
