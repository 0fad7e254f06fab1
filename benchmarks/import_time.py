"""What the plugin adds to `import torch`: with it and without it, by `python -X importtime` and by the clock.

    python benchmarks/import_time.py [--repeat 5]

The plugin's modules are compiled first, as an installed package's are.
"""

from __future__ import annotations

import argparse
import compileall
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import zhclip_openclip

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _machine import machine_facts, print_facts

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
    args = parser.parse_args()
    print_facts(machine_facts("zhclip-openclip"))
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
    print(f"importtime's lines of the plugin: {statistics.median(traced):.2f} ms")
    print(f"finding, loading and calling it:  {statistics.median(alone):.2f} ms")


if __name__ == "__main__":
    main()
