"""How fast training data is read, a training step is done and a run begins: ours, cn_clip's own code, open_clip's CSV.

    python benchmarks/training.py             cnclip-vit-b-16 in full, a table of pictures of 2 GB (several minutes)
    python benchmarks/training.py --small     a minute's check that it runs: two layers a tower, 20 MB

All sides read the same pictures with the same transform, in 2 workers, and step the same weights' sizes on the same
images and texts, alternating; medians are printed. Of interest:

    reading     pairs a second, from a table (TSV) and from an LMDB, against the faster of cn_clip's LMDBDataset and
                open_clip's CSV of picture files
    step        forward, loss and backward in float32, texts of MUGE's lengths (about 10 tokens): ours cuts a batch to
                its longest text, cn_clip pads to 52
    start       seconds until the first batch is known, with the index of the table to be made, and with it there
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import random
import runpy
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
from _report import Report, Row, begin, finish

WORKERS = 2
CONTEXT = 52
WORDS = "红色连衣裙女夏季新款宽松大码高腰显瘦长袖外套男士运动鞋真皮手提包儿童玩具小型家用电器"


def picture(rng: np.random.Generator, size: int = 256) -> bytes:
    """A JPEG of about 20 KB: soft shapes with grain, as a product picture has."""
    from PIL import Image

    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((size, size), Image.BICUBIC)
    grain = rng.integers(0, 24, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(coarse) // 2 + grain).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def query(number: int) -> str:
    """A text of 8 Chinese characters, 10 tokens with those at its ends, as MUGE's queries have in the mean."""
    return "".join(random.Random(number).choices(WORDS, k=8))


def write(folder: Path, pictures: int) -> None:
    """The same set as Chinese-CLIP's tables, as its LMDB, and as files with open_clip's CSV."""
    rng = np.random.default_rng(0)
    (folder / "files").mkdir(parents=True)
    with (
        open(folder / "train_imgs.tsv", "w") as table,
        open(folder / "train_texts.jsonl", "w") as texts,
        open(folder / "table.csv", "w", encoding="utf-8") as csv,
    ):
        csv.write("filepath\ttitle\n")
        for number in range(pictures):
            data = picture(rng)
            (folder / "files" / f"{number}.jpg").write_bytes(data)
            table.write(f"{number}\t{base64.b64encode(data).decode()}\n")
            entry = {"text_id": number, "text": query(number), "image_ids": [number]}
            texts.write(json.dumps(entry, ensure_ascii=False) + "\n")
            csv.write(f"{folder / 'files' / f'{number}.jpg'}\t{query(number)}\n")
    before = sys.argv
    sys.argv = ["build_lmdb_dataset", "--data_dir", str(folder), "--splits", "train"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        runpy.run_module("cn_clip.preprocess.build_lmdb_dataset", run_name="__main__")
    sys.argv = before
    (folder / "only_lmdb").mkdir()
    (folder / "lmdb").rename(folder / "only_lmdb" / "lmdb")


def our_tokenizer(folder: Path):
    import cn_clip.clip

    from zhclip_openclip.towers.tokenizer import ChineseTokenizer

    (folder / "tokenizer").mkdir(exist_ok=True)
    vocabulary = (Path(cn_clip.clip.__file__).parent / "vocab.txt").read_text("utf-8")
    (folder / "tokenizer" / "vocab.txt").write_text(vocabulary, "utf-8")
    return ChineseTokenizer(folder / "tokenizer", "BertTokenizerFast", CONTEXT)


def reading(folder: Path, turns: int, batch: int) -> tuple[list[Row], dict]:
    """Pairs a second of reading, decoding, transforming and tokenizing, by each side in turn."""
    from cn_clip.training.data import LMDBDataset
    from open_clip import image_transform
    from open_clip_train.data import CsvDataset
    from torch.utils.data import DataLoader

    from zhclip_openclip.integrations.open_clip_train.data import TrainingData
    from zhclip_openclip.training import PairBatches, Pairs
    from zhclip_openclip.training.sources import open_sets

    transform = image_transform(224, is_train=False, resize_mode="squash")
    tokenizer = our_tokenizer(folder)

    def ours(place: Path):
        pairs = Pairs(open_sets(str(place), train=True), transform, tokenizer)
        return TrainingData(pairs, PairBatches(pairs.image, pairs.text, batch), WORKERS, False)

    def theirs(dataset):
        return DataLoader(dataset, batch, shuffle=True, num_workers=WORKERS, drop_last=True)

    csv = CsvDataset(str(folder / "table.csv"), transform, "filepath", "title", tokenizer=tokenizer)
    sides = {
        "tsv": ours(folder),
        "lmdb": ours(folder / "only_lmdb"),
        "cn_clip": theirs(LMDBDataset(str(folder / "only_lmdb" / "lmdb" / "train"), "train", CONTEXT)),
        "csv": theirs(csv),
    }
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns + 1):
        for name, loader in sides.items():
            start, count = time.perf_counter(), 0
            for images, *_ in loader:
                count += len(images)
            if turn:  # the first turn brings the files into memory
                speeds[name].append(count / (time.perf_counter() - start))
    faster = max(("cn_clip", "csv"), key=lambda name: float(np.median(speeds[name])))
    peer = {"cn_clip": "cn_clip's LMDBDataset", "csv": "open_clip's CSV of files"}[faster]
    rows = [
        Row(
            f"reading_{name}",
            f"reading pairs from {title}, {WORKERS} workers",
            "pairs/s",
            speeds[name],
            peer=peer,
            theirs=speeds[faster],
            ratio_is="ours / theirs",
            at_least=1.0,
        )
        for name, title in (("tsv", "a table"), ("lmdb", "an LMDB"))
    ]
    return rows, speeds


def step(folder: Path, turns: int, batch: int, layers: int | None) -> Row:
    """Seconds of one training step, by each side in turn. layers: of both towers, None for all."""
    import cn_clip.clip
    import cn_clip.clip.model as code
    import open_clip
    import torch
    from open_clip.loss import ClipLoss

    configs = Path(code.__file__).parent / "model_configs"
    info = {}
    for name in ("ViT-B-16", "RoBERTa-wwm-ext-base-chinese"):
        info.update(json.loads((configs / f"{name}.json").read_text()))
    if layers:
        info["vision_layers"] = info["text_num_hidden_layers"] = layers
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = code.CLIP(**info).train()
    ours = open_clip.create_model("cnclip-vit-b-16", pretrained_text=False, output_dict=True).train()
    if layers:
        del ours.visual.transformer.resblocks[layers:], ours.text.transformer.encoder.layer[layers:]
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in (ours, theirs)]
    if abs(sizes[0] / sizes[1] - 1) > 0.01:
        raise SystemExit(f"not the same model: {sizes[0]:,} and {sizes[1]:,} parameters")
    texts = [query(number) for number in range(batch)]
    images = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    our_ids, their_ids = our_tokenizer(folder)(texts), cn_clip.clip.tokenize(texts, context_length=CONTEXT)
    if not torch.equal(our_ids, their_ids):
        raise SystemExit("the two tokenizers disagree")
    loss = ClipLoss()

    def run(model, ids) -> float:
        start = time.perf_counter()
        if model is ours:
            out = model(images, ids)
            value = loss(out["image_features"], out["text_features"], out["logit_scale"])
        else:
            value = loss(*model(images, ids))
        value.backward()
        taken = time.perf_counter() - start
        model.zero_grad()
        return taken

    spent: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns + 1):
        for place, (model, ids) in enumerate(((ours, our_ids), (theirs, their_ids))):
            taken = run(model, ids)
            if turn:
                spent[place].append(taken)
    what = "cnclip-vit-b-16" + (f" with {layers} layers a tower" if layers else "")
    return Row(
        "step",
        f"a training step of {what}, batch {batch}, fp32",
        "s",
        spent[0],
        peer="cn_clip's own model",
        theirs=spent[1],
        at_least=1.15,
    )


def start(folder: Path, rows: int) -> list[Row]:
    """Seconds until the first batch is known, from a table of that many pictures of 1.5 KB each."""
    from zhclip_openclip.integrations.open_clip_train.data import get_dataset_fn
    from zhclip_openclip.training import PairBatches

    folder.mkdir()
    encoded = base64.b64encode(np.random.default_rng(0).bytes(1500)).decode()
    with open(folder / "train_imgs.tsv", "w") as table, open(folder / "train_texts.jsonl", "w") as texts:
        for number in range(rows):
            table.write(f"{number}\t{encoded}\n")
            texts.write(json.dumps({"text_id": number, "text": f"商品{number}", "image_ids": [number]}) + "\n")

    args = Namespace(
        train_data=str(folder), batch_size=128, accum_freq=1, rank=0, world_size=1, seed=0, train_num_samples=None,
        train_data_upsampling_factors=None, workers=0, distributed=False,
    )  # fmt: skip
    found = []
    for what in ("with the index to be made", "with the index there"):
        began = time.perf_counter()
        info = get_dataset_fn(None)(args.train_data, "auto")(args, None, is_train=True, tokenizer=lambda texts: texts)
        assert isinstance(info.shared_epoch, PairBatches)
        next(iter(info.shared_epoch))
        taken = time.perf_counter() - began
        size = (folder / "train_imgs.tsv").stat().st_size / 1e9
        title = f"until the first batch of {rows:,} pictures in {size:.3g} GB, {what}"
        found.append(Row(f"start_{len(found)}", title, "s", [taken], at_most=120 if not found else 60))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16, help="of the training step")
    parser.add_argument("--only", choices=("reading", "step", "start"), nargs="+", default=["reading", "step", "start"])
    parser.add_argument("--scratch", type=Path, help="a folder with 4 GB of room")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    facts = begin("open_clip_torch", "cn_clip", "torch", "transformers")
    rows, notes, details = [], [], {}
    with tempfile.TemporaryDirectory(dir=args.scratch) as name:
        folder = Path(name)
        if "reading" in args.only:
            write(folder / "set", 256 if args.small else 4000)
            found, speeds = reading(folder / "set", args.turns, 32)
            rows += found
            details["pairs_a_second"] = speeds
        if "step" in args.only:
            rows.append(step(folder, args.turns, args.batch, 2 if args.small else None))
        if "start" in args.only:
            rows += start(folder / "large", 10_000 if args.small else 1_000_000)
    settings = {"small": args.small, "turns": args.turns, "batch": args.batch, "workers": WORKERS}
    finish(Report(rows, settings, notes=notes, details=details), facts, args.json)


if __name__ == "__main__":
    main()
