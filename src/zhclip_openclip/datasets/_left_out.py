"""What a stream leaves out, told by whatever process reads it to the one that asks."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

from zhclip_openclip.datasets._images import Skipped


class Listed(list):
    """What one process leaves out, for itself."""

    add = list.append

    def ended(self) -> None:
        pass

    def told(self) -> list[Skipped]:
        return list(self)


class LeftOut(Sequence):
    """The images that a stream has left out, in the order of their places.

    A DataLoader reads a stream in processes of its own, which can hand batches back and nothing else. So each of them
    writes what it leaves out into a file of its own, in a folder that goes away with this object: nothing waits for
    anything, whatever the number of images, and it survives pickling and forking.

    read_all: reads the whole stream in this process. Called when somebody asks what was left out and nobody has read
    the stream to its end: then the features of its images came from a cache.
    """

    def __init__(self, read_all: Callable[[], None] | None = None):
        self._folder = Path(tempfile.mkdtemp(prefix="zhclip-left-out-"))
        self._read_all = read_all
        weakref.finalize(self, _remove, str(self._folder), os.getpid())

    def __getstate__(self):  # the process that gets it adds to it; the folder is not its own
        return {"_folder": self._folder, "_read_all": None}

    def add(self, entry: Skipped) -> None:
        """Tell of an image. Twice is once."""
        self._write({"left_out": list(entry)})

    def ended(self) -> None:
        """Tell that this process has read its part of the stream to the end."""
        from torch.utils.data import get_worker_info

        worker = get_worker_info()
        self._write({"ended": [worker.id, worker.num_workers] if worker else [0, 1]})

    def told(self) -> list[Skipped]:
        """What has been told until now, by all processes."""
        entries = {Skipped(*line["left_out"]) for line in self._lines() if "left_out" in line}
        return sorted(entries, key=lambda entry: (_by_number(entry.where), _by_number(entry.key)))

    def __len__(self) -> int:
        return len(self._all())

    def __getitem__(self, index):
        return self._all()[index]

    def _all(self) -> list[Skipped]:
        if self._read_all is not None and not self._complete():
            self._read_all()
        return self.told()

    def _complete(self) -> bool:
        """Whether all parts of one reading have come to their end."""
        parts = {tuple(line["ended"]) for line in self._lines() if "ended" in line}
        return any(all((worker, count) in parts for worker in range(count)) for _, count in parts)

    def _write(self, line: dict) -> None:
        with open(self._folder / f"{os.getpid()}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _lines(self) -> list[dict]:
        # A process that was killed has not written the end of its last line.
        texts = [path.read_text(encoding="utf-8") for path in sorted(self._folder.glob("*.jsonl"))]
        return [json.loads(line) for text in texts for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _by_number(text: str) -> list:
    """Sorts `2.tar` before `10.tar`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def _remove(folder: str, made_by: int) -> None:
    if os.getpid() == made_by:  # and not in a process that was forked from it
        shutil.rmtree(folder, ignore_errors=True)
