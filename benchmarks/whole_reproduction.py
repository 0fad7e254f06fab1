"""Is the time that `zhclip reproduce` predicts the time that it takes? On pictures of real size, with the share of each
stage.

    python benchmarks/whole_reproduction.py                         # 10,000 JPEG pictures, zhclip-tiny: some minutes
    python benchmarks/whole_reproduction.py --pictures 200          # does it run?
    python benchmarks/whole_reproduction.py --model cnclip-vit-b-16 --pretrained FILE --pictures 1000

A folder shaped as MUGE's is drawn: JPEG pictures of 500 x 375 (200 different ones, each with a corner of its own) and a
query for every fifth of them.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _report import Report, Row, Table, begin, finish
from gpu import jpeg

WORDS = "红色连衣裙女夏季新款宽松大码高腰显瘦长袖外套男士运动鞋真皮手提包儿童玩具小型家用电器"


def write(folder: Path, pictures: int) -> None:
    """`valid_imgs.tsv` and `valid_texts.jsonl`."""
    import numpy as np
    from PIL import Image

    drawn = [np.array(Image.open(io.BytesIO(jpeg(seed)))) for seed in range(min(200, pictures))]
    rng = np.random.default_rng(0)
    with (
        open(folder / "valid_imgs.tsv", "w") as table,
        open(folder / "valid_texts.jsonl", "w", encoding="utf-8") as file,
    ):
        for number in range(pictures):
            pixels = drawn[number % len(drawn)].copy()
            pixels[:16, :16] = rng.integers(0, 256, (16, 16, 3))
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=88)
            table.write(f"{number}\t{base64.b64encode(buffer.getvalue()).decode()}\n")
            if number % 5 == 0:
                text = "".join(rng.choice(list(WORDS), 8))
                entry = {"query_id": number, "query_text": text, "item_ids": [number]}
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--model", default="zhclip-tiny")
    parser.add_argument("--pretrained", default="", help="a tag or a file")
    parser.add_argument("--num-workers", default="2")
    parser.add_argument("--json", type=Path, help="write the result there")
    args = parser.parse_args()
    facts = begin("open_clip_torch", "clip_benchmark", "pillow")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "MUGE").mkdir()
        write(folder / "MUGE", args.pictures)
        model = f"{args.model},{args.pretrained}" if args.pretrained else args.model
        words = [sys.executable, "-m", "zhclip_openclip", "reproduce", "--models", model, "--datasets", "muge"]
        words += ["--data-root", name, "--output", str(folder / "results"), "--num-workers", args.num_workers]
        words += ["--no-galleries", "--no-report", "--profile"]
        told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    # The prediction is that of the run itself, measured just before it.
    lines = told[told.index("where the time went") :].splitlines()[1:]
    rows = [re.split(r"  +", line.strip()) for line in lines if re.search(r"\d$", line.strip())]
    *rows, (_, taken, predicted) = rows
    taken, predicted = (float(number.replace(",", "")) for number in (taken, predicted))
    what = f"{args.pictures:,} JPEG pictures of 500 x 375, {args.model}, {args.num_workers} workers"
    row = Row(
        "predicted", what, "s", [taken], "what was predicted", [predicted], "theirs / ours", at_least=0.75, at_most=1.25
    )
    report = Report([row], tables=[Table("Where the time went", ["stage", "seconds", "share", "predicted, s"], rows)])
    finish(report, facts, args.json)


if __name__ == "__main__":
    main()
