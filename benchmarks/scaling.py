"""How time and memory of scoring grow with the number of images, from a thousand on.

    python benchmarks/scaling.py [--million] [--texts 1000] [--dim 256] [--json out.json]

Each size in a process of its own, over features in a file: retrieval (both directions, ranks and ten best of every
query), and the metrics of a classification with 100 classes. Memory is the peak over that of the process before. The
exponent is that of time ~ images^e between the two largest sizes; 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _machine import peak_rss_mib, reset_peak_rss
from _report import Report, Row, Table, begin, finish, number

SIZES = (1_000, 10_000, 100_000)
CLASSES = 100


def retrieval(images: int, texts: int, dim: int, folder: Path) -> tuple[float, float]:
    """(seconds, MiB) of scoring `texts` queries against so many images and back."""
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
    score_retrieval(features[:1000], queries[:10], right[:10])  # the first call warms up
    before = peak_rss_mib() if reset_peak_rss() else peak_rss_mib()
    start = time.perf_counter()
    score_retrieval(features, queries, right)
    seconds = time.perf_counter() - start
    # Pages of the file that the system has mapped count as resident, so the features are taken off.
    memory = peak_rss_mib() - before - images * dim * 4 / 2**20
    path.unlink()
    return seconds, memory


def classification(images: int) -> tuple[float, float]:
    """(seconds, MiB) of all metrics of so many images; the scores are there already."""
    import torch

    from zhclip_openclip.metrics.classification import evaluate

    torch.manual_seed(0)
    scores, labels = torch.randn(images, CLASSES), torch.randint(0, CLASSES, (images,))
    names = [str(index) for index in range(CLASSES)]
    evaluate(scores[:1000], labels[:1000], names, "some")
    before = peak_rss_mib() if reset_peak_rss() else peak_rss_mib()
    start = time.perf_counter()
    evaluate(scores, labels, names, "some")
    return time.perf_counter() - start, peak_rss_mib() - before


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
            found = {
                "retrieval": retrieval(args.one, args.texts, args.dim, Path(name)),
                "classification": classification(args.one),
            }
        print(json.dumps(found))
        return
    facts = begin()
    sizes = [*SIZES, 1_000_000] if args.million else list(SIZES)
    found: dict[int, dict] = {}
    for size in sizes:
        command = [sys.executable, __file__, "--one", str(size), "--texts", str(args.texts), "--dim", str(args.dim)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[size] = json.loads(done.stdout.strip().splitlines()[-1])
        print(size, found[size], flush=True)
    rows = []
    for what in ("retrieval", "classification"):
        last, before = sizes[-1], sizes[-2]
        exponent = math.log(found[last][what][0] / found[before][what][0]) / math.log(last / before)
        words = f"exponent of the time of {what} scoring, {before:,} to {last:,} images"
        rows.append(Row(f"scaling_{what}", words, "", [round(exponent, 3)], at_most=1.1))
    growth = found[sizes[-1]]["retrieval"][1] - found[sizes[-2]]["retrieval"][1]
    grown = (
        f"memory beyond the features that retrieval scoring takes more for {sizes[-1]:,} than for {sizes[-2]:,} images"
    )
    rows.append(Row("scaling_memory", f"{grown}, a query or image", "bytes", [round(growth * 2**20 / sizes[-1], 1)]))
    head = ["images", "retrieval, s", "beyond the features, MiB", "classification metrics, s", "MiB"]
    table = Table(
        f"{args.texts:,} texts x {args.dim} dimensions; {CLASSES} classes",
        head,
        [
            [f"{size:,}", *(number(value) for what in ("retrieval", "classification") for value in found[size][what])]
            for size in sizes
        ],
    )
    finish(Report(rows, settings={"texts": args.texts, "dim": args.dim}, tables=[table]), facts, args.json)


if __name__ == "__main__":
    main()
