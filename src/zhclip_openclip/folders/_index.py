"""Which file of a folder has which content: kept, so that a file is read again only where it was touched.

One NPZ beside the features of the folder: names, their facts (`_seen.facts_of`) and SHA-256, and the files that are no
pictures with what is wrong. It is a shortcut and never the truth: features are found by the SHA-256 alone, and a file
that is not in here is read.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

import numpy as np

from zhclip_openclip._errors import printable
from zhclip_openclip._files import whole_file

FILE = "files.npz"
_FORM = "1"


class FileIndex:
    """names -> what was read of each. path: None for one that is not kept. reader: see `_seen.reader`; what another one
    could not read is forgotten."""

    def __init__(self, path: Path | None, reader: str):
        self._path, self._reader = path, reader
        self.names: list[str] = []
        self.facts = np.zeros((0, 4), np.int64)
        self.digests = np.zeros((0, 32), np.uint8)
        self.reasons: dict[str, str] = {}
        if path is not None and path.is_file():
            try:
                self._load()
            except Exception as error:  # of zip, of NumPy, of JSON: a damaged file can raise anything
                print(
                    f"Note: {printable(str(path))} is damaged ({printable(str(error))[:100]}); files are read again",
                    file=sys.stderr,
                )
                with contextlib.suppress(OSError):
                    path.unlink()

    def _load(self) -> None:
        with np.load(self._path, allow_pickle=False) as file:
            about = json.loads(bytes(file["about"]))
            names, facts, digests = _texts(file["names"]), file["facts"], file["digests"]
        if about["form"] != _FORM:
            return
        n = len(names)
        if facts.shape != (n, 4) or facts.dtype != np.int64 or digests.shape != (n, 32) or digests.dtype != np.uint8:
            raise ValueError("its parts do not belong together")
        reasons = dict(zip(names, about["reasons"], strict=False))
        self.names, self.facts, self.digests = names, facts, digests
        self.reasons = {name: why for name, why in reasons.items() if why} if about["reasons"] else {}
        if about["reader"] != self._reader and self.reasons:
            keep = [number for number, name in enumerate(names) if name not in self.reasons]
            self.names, self.facts, self.digests = [names[number] for number in keep], facts[keep], digests[keep]
            self.reasons = {}

    def known(self, names: list[str], facts: np.ndarray) -> np.ndarray:
        """(n,) where each of these files stands here, -1 for those that are new or were touched. facts: (n, 4)."""
        if names == self.names:
            place = np.arange(len(names))
        else:
            places = {name: number for number, name in enumerate(self.names)}
            place = np.array([places.get(name, -1) for name in names], np.int64)
        there = place >= 0
        there[there] = (self.facts[place[there]] == facts[there]).all(axis=1)
        return np.where(there, place, -1)

    def save(self, names: list[str], facts: np.ndarray, digests: np.ndarray, reasons: dict[str, str]) -> None:
        """Keep this instead, in one step; without a word if that cannot be, as it is only a shortcut."""
        if self._path is None or not self._path.parent.is_dir():  # nothing was kept that it could stand beside
            return
        about = {
            "form": _FORM,
            "reader": self._reader,
            "reasons": [reasons.get(name, "") for name in names] if reasons else [],
        }
        with contextlib.suppress(OSError), whole_file(self._path) as part, part.open("wb") as file:
            raw = np.frombuffer(json.dumps(about).encode(), np.uint8)
            np.savez(file, about=raw, names=_bytes(names), facts=facts, digests=digests)


def _bytes(names: list[str]) -> np.ndarray:
    return np.frombuffer(b"\0".join(map(os.fsencode, names)), np.uint8)


def _texts(raw: np.ndarray) -> list[str]:
    return os.fsdecode(raw.tobytes()).split("\0") if raw.size else []
