"""How long retrieval scoring takes and how much memory: ours, CLIP_benchmark's functions, Chinese-CLIP's script.

    python benchmarks/retrieval_scoring.py            MUGE's size, CLIP_benchmark on 512 queries a direction, scaled up
    python benchmarks/retrieval_scoring.py --full     the same, nothing scaled (several minutes)
    python benchmarks/retrieval_scoring.py --small    a minute's check that it runs
    python benchmarks/retrieval_scoring.py --million  ours alone: 1,000,000 images x 10,000 texts x 768 from a file

All sides get the same features and, where they answer the same queries, have to give the same hits. Every run is a
process of its own (peak memory), the sides alternate, and medians are printed. Two ratios are of interest:

    functions     CLIP_benchmark's `recall_at_k` for k = 1, 5, 10 in both directions, from a finished score matrix,
                  against all that ours does but the matrix products
    whole         from features to recalls, matrix products included on both sides
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _machine import peak_rss_mib, reset_peak_rss
from _report import Report, Row, begin, finish

KS = (1, 5, 10)
BATCH = 64  # CLIP_benchmark's default


def features(images: int, texts: int, dim: int):
    """Images in random directions; each text near one of them, with noise that makes recall@1 about two thirds."""
    import torch

    rng = np.random.default_rng(0)
    image = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((images, dim), dtype=np.float32)), dim=1)
    right = torch.from_numpy(rng.integers(0, images, texts))
    noise = torch.from_numpy(rng.standard_normal((texts, dim), dtype=np.float32))
    text = torch.nn.functional.normalize(image[right] * 5.0 + noise, dim=1)
    return image, text, right


def run_ours(args: argparse.Namespace) -> dict:
    import torch

    from zhclip_openclip.metrics import _tile
    from zhclip_openclip.metrics.recall import score_retrieval

    image, text, right = features(args.images, args.texts, args.dim)
    relations = [[int(position)] for position in right]
    product, spent = torch.mm, []

    class Timed:  # measures the matrix products apart
        def __getattr__(self, name):
            return getattr(torch, name)

        @staticmethod
        def mm(*given, **named):
            start = time.perf_counter()
            result = product(*given, **named)
            spent.append(time.perf_counter() - start)
            return result

    _tile.torch = Timed()
    score_retrieval(image[:200], text[:100], [[0]] * 100)  # warm up threads and code, with next to no memory
    spent.clear()
    result = {}
    reset_peak_rss()
    before = peak_rss_mib()
    for label, top in (("recalls", 0), ("recalls_and_top10", 10)):
        start, products = time.perf_counter(), len(spent)
        scores = score_retrieval(image, text, relations, top=top)
        result[label] = time.perf_counter() - start
        # each thread multiplies for itself, so that the sum over all is this many times the time that passed
        result[f"{label}_products"] = sum(spent[products:]) / torch.get_num_threads()
        result[f"{label}_mib"] = peak_rss_mib() - before
    result["metrics"] = scores.metrics(KS)
    checked = _checked(args)
    result["hits"] = {
        "image_retrieval": [[bool(0 < r <= k) for r in scores.ranks["image_retrieval"][: checked[0]]] for k in KS],
        "text_retrieval": [[bool(0 < r <= k) for r in scores.ranks["text_retrieval"][: checked[1]]] for k in KS],
    }
    return result


def run_clip_benchmark(args: argparse.Namespace) -> dict:
    import torch
    from clip_benchmark.metrics.zeroshot_retrieval import batchify, recall_at_k

    image, text, right = features(args.images, args.texts, args.dim)
    torch.topk(torch.randn(10, 10), 2)
    reset_peak_rss()
    before = peak_rss_mib()
    start = time.perf_counter()
    scores = text @ image.t()
    positive = torch.zeros_like(scores, dtype=bool)
    positive[torch.arange(len(scores)), right] = True
    result = {"products": time.perf_counter() - start, "functions": 0.0, "hits": {}}
    checked = _checked(args)
    for direction, x, y, count in (
        ("image_retrieval", scores, positive, checked[0]),
        ("text_retrieval", scores.T, positive.T, checked[1]),
    ):
        result["hits"][direction] = []
        for k in KS:
            start = time.perf_counter()
            recall = batchify(recall_at_k, x[:count], y[:count], BATCH, "cpu", k=k)
            result["functions"] += (time.perf_counter() - start) * len(x) / count
            result["hits"][direction].append((recall > 0).tolist())
    result["mib"] = peak_rss_mib() - before
    return result


def run_cn_clip(args: argparse.Namespace) -> dict:
    """Seconds a query of make_topk_predictions.py, from two runs that differ in their number of queries."""
    rng = np.random.default_rng(0)
    per_query = {}
    with tempfile.TemporaryDirectory() as folder:
        # its time goes into sorting Python tuples, whatever the dimensions; few make small feature files
        for name, count in (("image", args.images), ("text", args.texts)):
            with open(Path(folder) / name, "w") as file:
                for index, feature in enumerate(rng.standard_normal((count, 4))):
                    file.write(json.dumps({f"{name}_id": index, "feature": feature.tolist()}) + "\n")
        for script, asks in (("make_topk_predictions", "text"), ("make_topk_predictions_tr", "image")):
            taken = []
            for queries in (8, 72):
                lines = (Path(folder) / asks).read_text().splitlines(keepends=True)[:queries]
                (Path(folder) / "queries").write_text("".join(lines))
                other = "image" if asks == "text" else "text"
                run = (
                    "import runpy, sys, torch\n"
                    "if not torch.cuda.is_available(): torch.Tensor.cuda = lambda self, *a, **k: self\n"
                    f"runpy.run_module('cn_clip.eval.{script}', run_name='__main__')\n"
                )
                start = time.perf_counter()
                subprocess.run(
                    [sys.executable, "-c", run, f"--{asks}-feats", f"{folder}/queries", f"--{other}-feats"]
                    + [f"{folder}/{other}", "--output", f"{folder}/out"],
                    check=True,
                    capture_output=True,
                )
                taken.append(time.perf_counter() - start)
            per_query[asks] = max(0.0, (taken[1] - taken[0]) / 64)
    return {"functions": per_query["text"] * args.texts + per_query["image"] * args.images}


def run_million(args: argparse.Namespace) -> dict:
    from zhclip_openclip.metrics.recall import score_retrieval

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        path = Path(folder) / "images.npy"
        image = np.lib.format.open_memmap(path, "w+", np.float32, (args.images, args.dim))
        for start in range(0, args.images, 10_000):
            block = rng.standard_normal((min(10_000, args.images - start), args.dim), dtype=np.float32)
            image[start : start + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
        image.flush()
        image = np.load(path, mmap_mode="r")
        right = np.sort(rng.integers(0, args.images, args.texts))
        text = 5.0 * image[right] + rng.standard_normal((args.texts, args.dim), dtype=np.float32)
        reset_peak_rss()
        start = time.perf_counter()
        scores = score_retrieval(image, text, [[int(position)] for position in right])
        seconds = time.perf_counter() - start
        return {"recalls_and_top10": seconds, "peak_mib": peak_rss_mib(), "metrics": scores.metrics()}


SIDES = {"ours": run_ours, "clip_benchmark": run_clip_benchmark, "cn_clip": run_cn_clip, "million": run_million}


def _checked(args: argparse.Namespace) -> tuple[int, int]:
    """Queries a direction that CLIP_benchmark answers."""
    return (args.texts, args.images) if args.full else (min(args.queries, args.texts), min(args.queries, args.images))


def in_process(side: str, args: argparse.Namespace) -> dict:
    """Runs one side in a fresh process and returns what it measured."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, __file__, "--side", side, "--output", file.name]
        for name in ("images", "texts", "dim", "queries", "scratch"):
            command += [f"--{name}", str(getattr(args, name))]
        subprocess.run(command + ["--full"] * args.full, check=True)
        return json.load(open(file.name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=29_806)
    parser.add_argument("--texts", type=int, default=5_008)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--queries", type=int, default=512, help="that CLIP_benchmark answers, a direction")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="CLIP_benchmark answers all queries")
    parser.add_argument("--small", action="store_true", help="3,000 images x 500 texts x 64, once")
    parser.add_argument("--million", action="store_true", help="ours alone at 1,000,000 x 10,000 x 768 (or as given)")
    parser.add_argument("--json", type=Path, help="write the result there")
    parser.add_argument("--scratch", default=tempfile.gettempdir(), help="folder for the 3 GB of --million")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        Path(args.output).write_text(json.dumps(SIDES[args.side](args)))
        return
    if args.small:
        args.images, args.texts, args.dim, args.queries, args.repeat = 3_000, 500, 64, 128, 1
    facts = begin("clip_benchmark", "cn_clip")
    finish(million(args) if args.million else compare(args), facts, args.json)


def million(args: argparse.Namespace) -> Report:
    if (args.images, args.texts) == (29_806, 5_008):
        args.images, args.texts = 1_000_000, 10_000
    result = in_process("million", args)
    what = f"{args.images:,} images x {args.texts:,} texts x {args.dim}, both directions, recalls and top 10"
    rows = [
        Row("million", what, "s", [result["recalls_and_top10"]]),
        Row("million_memory", "its peak memory, mapped pages of the features included", "GiB",
            [result["peak_mib"] / 1024], at_most=6),
    ]  # fmt: skip
    return Report(rows, settings=sizes(args), details=result)


def sizes(args: argparse.Namespace) -> dict:
    return {name: getattr(args, name) for name in ("images", "texts", "dim", "full")}


def compare(args: argparse.Namespace) -> Report:
    runs: dict[str, list[dict]] = {side: [] for side in ("ours", "clip_benchmark", "cn_clip")}
    for turn in range(args.repeat):
        for side in ("ours", "clip_benchmark"):
            runs[side].append(in_process(side, args))
            print(f"turn {turn + 1}: {side} done", flush=True)
    runs["cn_clip"].append(in_process("cn_clip", args))
    ours, theirs = runs["ours"][0], runs["clip_benchmark"][0]
    differing = sum(
        left != right
        for direction in theirs["hits"]
        for k in range(len(KS))
        for left, right in zip(ours["hits"][direction][k], theirs["hits"][direction][k], strict=True)
    )
    for run in runs["ours"] + runs["clip_benchmark"]:
        del run["hits"]

    def each(side: str, value) -> list[float]:
        return [value(run) for run in runs[side]]

    def own(label: str):
        return lambda run: run[label] - run[f"{label}_products"]

    theirs_alone = each("clip_benchmark", lambda run: run["functions"])
    theirs_whole = each("clip_benchmark", lambda run: run["functions"] + run["products"])
    mib = each("clip_benchmark", lambda run: run["mib"])
    rows = [
        Row("retrieval", "functions: recalls at 1, 5, 10", "s", each("ours", own("recalls")), "clip_benchmark",
            theirs_alone, at_least=50),
        Row("retrieval_whole", "with the matrix products", "s", each("ours", lambda run: run["recalls"]),
            "clip_benchmark", theirs_whole, at_least=20),
        Row("retrieval_top", "recalls and the ten best of every query", "s",
            each("ours", lambda run: run["recalls_and_top10"]), "clip_benchmark, recalls alone", theirs_whole),
        Row("retrieval_cn_clip", "functions", "s", each("ours", own("recalls")), "cn_clip.eval",
            each("cn_clip", lambda run: run["functions"])),
        Row("retrieval_memory", "memory", "MiB", each("ours", lambda run: run["recalls_mib"]), "clip_benchmark", mib,
            at_least=10),
    ]  # fmt: skip
    checked = _checked(args)
    how = "all queries" if args.full else f"{checked[0]} and {checked[1]} queries, scaled up linearly"
    note = (
        f"{args.images:,} images x {args.texts:,} texts x {args.dim}, both directions. clip_benchmark answered {how}; "
        f"{differing} of {len(KS) * sum(checked):,} hits differ. cn_clip's script: scaled up from 64 each way."
    )
    return Report(rows, settings=sizes(args), notes=[note], details={"runs": runs, "hits_that_differ": differing})


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
