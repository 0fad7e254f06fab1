"""Handwritten digits as a folder of Chinese-CLIP's files, which zhclip-tiny reads and learns in seconds. Not a test."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path

from zhclip_openclip.datasets.digits import Digits
from zhclip_openclip.datasets.digits_retrieval import NUMERALS

CAPTIONS = (
    "图片中是一个手写的{n}",
    "数字{n}的手写体图片",
    "图片上手写着数字{n}",
    "纸上的数字是{n}",
    "图中手写的数字很像{n}",
)


def write_digits(folder: Path, splits: dict[str, Sequence[int]], captions: int = 2, shared: bool = True) -> Path:
    """`{split}_imgs.tsv` and `{split}_texts.jsonl` of the digits with these numbers, a split.

    captions: how many there are of a digit. shared: each belongs to all pictures of its digit; otherwise to the one
    picture that it is written for, so that the same text stands there under several ids.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for split, numbers in splits.items():
        digits = Digits("test" if split == "valid" else "train")
        images, texts = [], []
        for number in numbers:
            buffer = io.BytesIO()
            digits[number][0].save(buffer, "PNG")
            images.append(f"{9000 + number}\t{base64.b64encode(buffer.getvalue()).decode()}\n")
        chosen = {digit: [n for n in numbers if digits.targets[n] == digit] for digit in range(10)}
        for digit, members in chosen.items():
            for group in [members] if shared else [[n] for n in members]:
                for caption in CAPTIONS[:captions]:
                    entry = {
                        "text_id": len(texts),
                        "text": caption.format(n=NUMERALS[digit]),
                        "image_ids": [9000 + n for n in group],
                    }
                    if group:
                        texts.append(json.dumps(entry, ensure_ascii=False) + "\n")
        (folder / f"{split}_imgs.tsv").write_text("".join(images), encoding="utf-8")
        (folder / f"{split}_texts.jsonl").write_text("".join(texts), encoding="utf-8")
    return folder
