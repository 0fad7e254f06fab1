"""Image towers whose layers find memory that the process has kept, against memory that the system gives out anew.

    python benchmarks/freed_memory.py [--turns 3] [--json out.json]

Each side is a process of its own, as what it is about (`features/memory.py`) cannot be taken back: a batch of 64 images
to warm up, and three that count. Weights are random, which changes no time; both sides give the same bits.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _report import Report, Row, begin, finish

MODELS = {"cnclip-vit-b-16": "ViT-B/16", "taiyiclip-vit-b-32": "ViT-B/32", "cnclip-rn50": "ResNet-50"}
BATCH, BATCHES = 64, 3


def measure(model: str, precision: str, side: str) -> dict:
    """Seconds of the batches, and a sum of the features to the last bit."""
    import open_clip
    import torch

    from zhclip_openclip.features import linear
    from zhclip_openclip.features.image_pass import encoder

    if side == "theirs":
        linear.keep_freed = lambda: None
    torch.manual_seed(0)
    built = open_clip.create_model(model, pretrained_text=False).eval()
    images = torch.randn(BATCH, 3, 224, 224)
    encode = encoder(built, "cpu", precision == "bf16")
    encode(images)
    start = time.perf_counter()
    for _ in range(BATCHES):
        features = encode(images)
    return {"seconds": time.perf_counter() - start, "sum": features.double().sum().item().hex()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the result there")
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "PRECISION", "SIDE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one)))
        return
    from zhclip_openclip._precision import use_amp

    facts = begin("open_clip_torch", "timm")
    rows = []
    for model, title in MODELS.items():
        for precision in ("bf16", "fp32") if use_amp("cpu", True) else ("fp32",):
            speeds: dict[str, list[float]] = {"ours": [], "theirs": []}
            sums = set()
            for turn in range(args.turns):
                for side in list(speeds) if turn % 2 else reversed(speeds):
                    words = [sys.executable, __file__, "--one", model, precision, side]
                    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
                    found = json.loads(done.stdout.splitlines()[-1])
                    speeds[side].append(BATCH * BATCHES / found["seconds"])
                    sums.add(found["sum"])
            if len(sums) > 1:
                sys.exit(f"{model}, {precision}: the sides give other features")
            peer = "memory given out anew"
            rows.append(
                Row(f"{model}_{precision}", f"{title}, {precision}", "images/s", speeds["ours"], peer, speeds["theirs"],
                    "ours / theirs")
            )  # fmt: skip
    finish(Report(rows, settings={"turns": args.turns, "batch": BATCH}), facts, args.json)


if __name__ == "__main__":
    main()
