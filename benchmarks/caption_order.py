"""Encoding the captions of a retrieval set in the order of their length, against the order of the data.

    python benchmarks/caption_order.py                 # cnclip-vit-b-16's text tower, some minutes
    python benchmarks/caption_order.py --layers 1 --captions 128 --turns 1      # does it run?

Ours is `metrics.evaluate.encode_texts`: all captions sorted once by their length, in batches of about the same number
of tokens, each different one once. The other side encodes batches of 64 in the order of the data, each cut to its
longest text, as this package did before. Lengths are drawn as those of MUGE's queries (about 10 tokens) and of LIT-CN's
captions (131 on average, FG-CLIP 2's paper), which a model with 512 positions takes whole. Weights are random, which
changes no time; both sides have to give the same features.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _report import Report, Row, begin, finish
from gpu import made_up_tokenizer, text_tower

MODEL, TOLERANCE = "cnclip-vit-b-16", 1e-4
WORDS = "红色连衣裙女夏季新款宽松大码高腰显瘦长袖外套男士运动鞋真皮手提包儿童玩具小型家用电器"
#: name -> (mean and spread of the number of characters, smallest, context length)
LENGTHS = {"MUGE's": (8, 3, 2, 52), "LIT-CN's": (129, 45, 20, 256)}


def captions(count: int, mean: float, spread: float, least: int, most: int) -> list[str]:
    import numpy as np

    rng = np.random.default_rng(0)
    lengths = np.clip(np.rint(rng.normal(mean, spread, count)), least, most).astype(int)
    return ["".join(rng.choice(list(WORDS), length)) for length in lengths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=512)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the result there")
    args = parser.parse_args()
    import torch

    from zhclip_openclip.features import using
    from zhclip_openclip.features.linear import fast_linear
    from zhclip_openclip.metrics.evaluate import encode_texts
    from zhclip_openclip.towers.text import ChineseTextEncoder

    facts = begin("open_clip_torch", "transformers")
    text, config, arguments = text_tower(MODEL, args.layers)
    tower = ChineseTextEncoder(text["hf_model_name"], 512, config=config, **arguments).eval()
    model = SimpleNamespace(text=tower, encode_text=tower, zhclip_model=MODEL)
    rows = []
    for name, (mean, spread, least, length) in LENGTHS.items():
        texts = captions(args.captions, mean, spread, least, length - 2)
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = made_up_tokenizer(Path(folder), [WORDS], length)

        def ours(texts=texts, tokenizer=tokenizer):
            return encode_texts(model, tokenizer, texts, "cpu", False)

        def in_order(texts=texts, tokenizer=tokenizer):
            found = []
            for at in range(0, len(texts), 64):
                with torch.no_grad(), fast_linear(model, "cpu", False):
                    found.append(torch.nn.functional.normalize(tower(tokenizer(texts[at : at + 64])), dim=-1))
            return torch.cat(found)

        taken: dict = {ours: [], in_order: []}
        with using(progress=lambda *_: None):
            for turn in range(args.turns + 1):
                results = {}
                for side in taken if turn % 2 else reversed(taken):
                    start = time.perf_counter()
                    results[side] = side()
                    if turn:  # the first one warms up
                        taken[side].append(time.perf_counter() - start)
        difference = (results[ours] - results[in_order]).abs().max().item()
        if difference > TOLERANCE:
            sys.exit(f"the features differ by {difference:.1e}: no comparison")
        key = f"captions_{least}"
        what = f"{args.captions:,} captions with {name} lengths"
        rows.append(Row(key, what, "s", taken[ours], "the order of the data", taken[in_order]))
    finish(Report(rows, settings={"model": MODEL, "layers": args.layers}), facts, args.json)


if __name__ == "__main__":
    main()
