"""Folders of somebody's own pictures, as people have them, for tests."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image


def picture(path: Path, number: int, size: int = 8) -> Path:
    """A picture of its own for each number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def folders(root: Path, **classes: int) -> Path:
    """root/CLASS/0.png, 1.png, ...: so many pictures of each class."""
    number = 0
    for name, count in classes.items():
        for index in range(count):
            picture(root / name / f"{index}.png", number)
            number += 1
    return root


def table(
    path: Path, header: list[str] | None, rows: list[list[str]], encoding="utf-8", end="\n", delimiter=","
) -> Path:
    """A CSV as a program writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator=end)
        writer.writerows([header, *rows] if header else rows)
    return path


def lines(path: Path, entries: list[object]) -> Path:
    """JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")
    return path
