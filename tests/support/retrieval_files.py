"""Writes one small retrieval set in every layout that circulates. Not a test."""

from __future__ import annotations

import base64
import io
import json
import runpy
import sys
from pathlib import Path

from PIL import Image

IMAGES = 14
WORDS = [
    ["一个:m", "男人:n", "穿着:v", "红色:n", "T恤:n"],
    ["两:m", "只:q", "狗:n", "在:p", "草地:s", "上:f", "奔跑:v"],
]


def picture(number: int) -> bytes:
    """A small picture that differs from all others; a JPEG, each fifth a PNG with transparency."""
    image = Image.new("RGB", (20, 12), (17 * number % 256, 101 * number % 256, 53 * number % 256))
    image.paste((255 - 9 * number, 30, 13 * number % 256), (number % 10, 0, number % 10 + 8, 6))
    buffer = io.BytesIO()
    if number % 5 == 4:
        image.convert("RGBA").save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def tagged(number: int) -> str:
    return " ".join([*WORDS[number % 2], f"第{number}:m", "张:q"])


def clean(number: int) -> str:
    return "".join(word.rpartition(":")[0] for word in tagged(number).split())


def relations(several: bool) -> list[tuple[int, str, list[int]]]:
    """(text id, text, image numbers): two texts an image, or 20 texts with one to three images each."""
    if several:
        return [(500 + t, clean(t), sorted({t % IMAGES, (5 * t + 3) % IMAGES, 7 % (t + 1)})) for t in range(20)]
    return [(500 + t, clean(t), [t // 2]) for t in range(2 * IMAGES)]


def write_tsv(
    folder: Path, split: str, several: bool, muge_names: bool = False, end: str = "\n", bom: bool = False
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    start = "\ufeff" if bom else ""
    lines = [f"{1000 + n}\t{base64.b64encode(picture(n)).decode()}" for n in range(IMAGES)]
    texts = []
    for key, text, images in relations(several):
        names = [1000 + image for image in images]
        entry = {"text_id": key, "text": text, "image_ids": names}
        if muge_names:
            entry = {"query_id": key, "query_text": text, "item_ids": names}
        texts.append(json.dumps(entry, ensure_ascii=False))
    image_file, text_file = f"{split}_imgs.tsv", f"{split}_texts.jsonl"
    if muge_names:
        image_file, text_file = f"MR_{split}_imgs.tsv", f"MR_{split}_queries.jsonl"
    (folder / image_file).write_text(start + end.join(lines) + end, encoding="utf-8", newline="")
    (folder / text_file).write_text(start + end.join(texts) + end, encoding="utf-8", newline="")
    return folder


def write_lmdb(folder: Path, split: str, several: bool, monkeypatch) -> Path:
    """Made from the TSV by Chinese-CLIP's own script; the TSV is removed."""
    write_tsv(folder, split, several)
    monkeypatch.setattr(sys, "argv", ["build_lmdb_dataset", "--data_dir", str(folder), "--splits", split])
    runpy.run_module("cn_clip.preprocess.build_lmdb_dataset", run_name="__main__")
    (folder / f"{split}_imgs.tsv").unlink()
    (folder / f"{split}_texts.jsonl").unlink()
    return folder


def coco_id(number: int) -> str:
    return f"COCO_{'train' if number % 3 == 0 else 'val'}2014_{number + 71:012d}"


def write_coco_release(folder: Path, year: int = 2014) -> Path:
    """The release as it unpacks, with MSCOCO's two folders beside it, and what must not be used."""
    release = folder / "coco-cn-version1805v1.1"
    release.mkdir(parents=True)
    (release / "coco-cn_test.txt").write_text("".join(coco_id(n) + "\n" for n in range(IMAGES)))
    written = [f"{coco_id(images[0])}#{t % 2}\t{text}" for t, (_, text, images) in enumerate(relations(False))]
    other_split = "COCO_train2014_000000999999#0\t别的图片"
    (release / "imageid.human-written-caption.txt").write_text(
        "\n".join([other_split, *written]) + "\n", encoding="utf-8"
    )
    translated = [f"{coco_id(n)}#zhm#{k}\t翻译{k}" for n in range(IMAGES) for k in range(5)]
    (release / "imageid.manually-translated-caption.txt").write_text("\n".join(translated) + "\n", encoding="utf-8")
    for n in range(IMAGES):
        part = "train" if n % 3 == 0 else "val"
        path = folder / "images" / f"{part}{year}" / (f"{coco_id(n)}.jpg" if year == 2014 else f"{n + 71:012d}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(n))
    return folder


def write_flickr(folder: Path, form: str) -> Path:
    """form: cna (`.jpg#k<tab>`), tagged (the release), csv (CLIP_benchmark's), segmented (spaces, no tags)."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for t, (_, text, (image,)) in enumerate(relations(False)):
        name, number = 4385058960 + image, t % 2
        segmented = " ".join(word.rpartition(":")[0] for word in tagged(t).split())
        lines.append(
            {
                "cna": f"{name}.jpg#{number}\t{text}",
                "segmented": f"{name}.jpg#zhb#{number} {segmented}",
                "tagged": f"{name}#zhm#{number} {tagged(t)}",
                "csv": f"{name}.jpg,{tagged(t)}",
            }[form]
        )
    path = folder / "flickr30k_cn_test.txt"
    if form == "tagged":
        path = folder / "flickr30kzhmbosontest" / "TextData" / "seg.flickr30kzhmbosontest.caption.txt"
        path.parent.mkdir(parents=True)
    elif form == "csv":
        path = folder / "flickr30k_test_zh.txt"
        lines.insert(0, "image,caption")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    pictures = folder / ("Images" if form == "csv" else "flickr30k-images")
    pictures.mkdir()
    for n in range(IMAGES):
        (pictures / f"{4385058960 + n}.jpg").write_bytes(picture(n))
    return folder
