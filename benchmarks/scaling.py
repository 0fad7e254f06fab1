"""How time and memory of scoring grow with the number of images, from a thousand on.

    python benchmarks/scaling.py [--million] [--texts 1000] [--dim 256] [--json out.json]

Each size in a process of its own, over features in a file: retrieval (both directions; recalls alone, and with the ten
best of every query), and the metrics of a classification with 100 classes. Memory is the highest of what the process
holds itself (Linux: RssAnon, looked at a thousand times a second) over that of before, so features, which are a mapped
file, and scores, which are there before, do not count. The exponent is that of time ~ images^e between the two largest
sizes; 1 is linear.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _machine import anonymous_mib
from _report import Report, Row, Table, begin, finish, number

SIZES = (1_000, 10_000, 100_000)
CLASSES = 100
#: Bytes of an image's features in 768 dimensions, and the share of them that its rank, its relations and its best texts
#: may take beside them. (Constant would be nothing at all, but every query has a rank.)
FEATURES, SHARE = 768 * 4, 0.05
#: name -> what it is in words.
WORK = {
    "recalls": "recalls in both directions",
    "ten best": "recalls and the ten best of every query",
    "classification": "all metrics of a classification",
}


@contextlib.contextmanager
def measured() -> Iterator[dict[str, float]]:
    """Seconds and MiB of the block, there when it has ended."""
    found: dict[str, float] = {}
    before = highest = anonymous_mib()
    ended = threading.Event()

    def look() -> None:
        nonlocal highest
        while not ended.wait(0.001):
            highest = max(highest, anonymous_mib())

    looking = threading.Thread(target=look)
    looking.start()
    start = time.perf_counter()
    try:
        yield found
    finally:
        found["seconds"] = time.perf_counter() - start
        ended.set()
        looking.join()
        found["mib"] = max(highest, anonymous_mib()) - before


def retrieval(images: int, texts: int, dim: int, folder: Path) -> dict[str, dict[str, float]]:
    """Scoring `texts` queries against so many images and back: recalls alone, and with the ten best."""
    import numpy as np
    import torch

    from zhclip_openclip.metrics.recall import score_retrieval

    path = folder / f"{images}.f32"
    random = np.random.default_rng(0)
    features = np.memmap(path, np.float32, "w+", shape=(images, dim))
    for start in range(0, images, 50_000):
        block = random.standard_normal((min(50_000, images - start), dim), np.float32)
        features[start : start + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    features.flush()
    queries = torch.from_numpy(random.standard_normal((texts, dim), np.float32))
    queries /= queries.norm(dim=1, keepdim=True)
    right = [[text % images] for text in range(texts)]
    features = np.memmap(path, np.float32, "r", shape=(images, dim))
    found = {}
    for name, top in (("recalls", 0), ("ten best", 10)):
        score_retrieval(features[:1000], queries[:10], right[:10], top=top)  # the first call warms up
        with measured() as found[name]:
            scores = score_retrieval(features, queries, right, top=top)
        del scores
    path.unlink()
    return found


def classification(images: int) -> dict[str, float]:
    """All metrics of so many images; the scores are there already."""
    import torch

    from zhclip_openclip.metrics.classification import evaluate

    torch.manual_seed(0)
    scores, labels = torch.randn(images, CLASSES), torch.randint(0, CLASSES, (images,))
    names = [str(index) for index in range(CLASSES)]
    evaluate(scores[:1000], labels[:1000], names, "some")
    with measured() as found:
        evaluate(scores, labels, names, "some")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--million", action="store_true", help="up to 1,000,000 images")
    parser.add_argument("--texts", type=int, default=1_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--json", type=Path, help="write the result there")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        with tempfile.TemporaryDirectory(prefix="zhclip-scaling-") as name:
            found = retrieval(args.one, args.texts, args.dim, Path(name))
        print(json.dumps({**found, "classification": classification(args.one)}))
        return
    facts = begin()
    sizes = [*SIZES, 1_000_000] if args.million else list(SIZES)
    found: dict[int, dict] = {}
    for size in sizes:
        command = [sys.executable, __file__, "--one", str(size), "--texts", str(args.texts), "--dim", str(args.dim)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[size] = json.loads(done.stdout.strip().splitlines()[-1])
        print(size, found[size], flush=True)
    before, last = sizes[-2:]
    rows = []
    for name, words in WORK.items():
        exponent = math.log(found[last][name]["seconds"] / found[before][name]["seconds"]) / math.log(last / before)
        what = f"exponent of the time of {words}, {before:,} to {last:,} images"
        rows.append(Row(f"scaling_{name}", what, "", [round(exponent, 3)], at_most=1.1))
    for name in ("recalls", "ten best"):
        grown = found[last][name]["mib"] - found[before][name]["mib"]
        each = round(grown * 2**20 / (last - before), 1)
        what = f"memory for every further image, of {WORK[name]}; its features take {FEATURES:,} in 768 dimensions"
        limit = round(FEATURES * SHARE) if name == "recalls" else None
        rows.append(Row(f"scaling_memory_{name}", what, "bytes", [each], at_most=limit))
    head = ["images"] + [f"{name}, {unit}" for name in WORK for unit in ("s", "MiB")]
    table = Table(
        f"{args.texts:,} texts x {args.dim} dimensions; {CLASSES} classes",
        head,
        [
            [f"{size:,}", *(number(found[size][name][key]) for name in WORK for key in ("seconds", "mib"))]
            for size in sizes
        ],
    )
    finish(Report(rows, settings={"texts": args.texts, "dim": args.dim}, tables=[table]), facts, args.json)


if __name__ == "__main__":
    main()
