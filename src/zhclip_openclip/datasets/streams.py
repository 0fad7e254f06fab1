"""Classification data sets that come as streams: WebDataset shards (`wds/`), and TFDS as CLIP_benchmark reads it
(`vtab/`, `tfds/`).

What `unreadable.Guarded` and `prompts.check` do for data sets that give samples by number is done here while the
samples come, in whatever process reads them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from zhclip_openclip._errors import shorten
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._images import Skipped
from zhclip_openclip.datasets._left_out import LeftOut, Listed
from zhclip_openclip.datasets._shards import COUNT, shard_paths
from zhclip_openclip.prompts import checks
from zhclip_openclip.prompts._errors import PromptError


@dataclass
class Rules:
    """What is done about a sample that cannot be used, wherever it is read.

    place: data set and split, for errors. classes: names that a label may mean. skip: leave out images that cannot be
    read.
    """

    place: str
    classes: list[str]
    skip: bool
    left_out: LeftOut | Listed = field(default_factory=Listed)

    def bad_image(self, key: str, where: str, reason: str) -> None:
        """Note an image that is left out.

        Raises DatasetError: it is not to be left out.
        """
        if not self.skip:
            raise DatasetError(
                f"{where}: image {key} does not decode ({reason}); fetch the file again, or use --skip-bad-images"
            )
        self.left_out.add(Skipped(key, where, reason).printable())

    def label(self, label, key: str, where: str) -> None:
        """Raise PromptError if the label has no class."""
        checks.label(label, self.classes, f"{self.place}: sample {key} of {where}")

    def refuse_nothing(self, every: int | None = None) -> None:
        """Raise DatasetError if as many images are left out as there are (None: no other was found)."""
        found = self.left_out.told()
        if found and (every is None or len(found) >= every):
            raise DatasetError(f"{self.place}: none of {len(found)} images can be read: {found[0].reason}")


def guard(dataset, name: str, split: str = "test", skip: bool = False):
    """A copy of a stream, of the same class and with the same attributes, of which every unreadable image and every
    label without a class is an error of one line with its key and its place.

    Meant for the end of the patch of `build_dataset`, after `prompts.localise`. What is no stream that CLIP_benchmark
    builds is given back as it is.

    skip: leave out images that cannot be read; `.skipped` names them afterwards, for the main process too when others
        have read them. Batches are made of the samples that are left.

    Raises DatasetError: when its turn comes, an unreadable image, a sample without label, a shard that is missing or
        cut off; now, none of the shards' images can be read. PromptError: when its turn comes, a label outside the
        list; now, shards without a sample.
    """
    from zhclip_openclip.datasets import _tfds_stream, _wds_stream

    for kind in (_wds_stream, _tfds_stream):
        if kind.is_one(dataset):
            return kind.guard(dataset, Rules(f"{name}, split {split}", list(dataset.classes or ()), skip))
    return dataset


def check_shards(name: str, root: str | os.PathLike[str], split: str = "test") -> None:
    """Look whether shards are there, complete by their count, before anything is loaded for them. Shards behind a URL
    are left to CLIP_benchmark.

    Raises DatasetError: no folder of the split, no nshards.txt or no number in it, a shard that is missing, no
        classnames.txt. PromptError: an empty split.
    """
    if "://" in str(root):
        return
    folder = Path(root) / split
    if not folder.is_dir():
        beside = sorted(path.parent.name for path in Path(root).glob("*/nshards.txt"))
        there = f"; --split is one of {shorten(beside)}" if beside else "; --dataset_root is the folder above it"
        raise DatasetError(f"{folder} is missing, which should have the shards of {name}{there}")
    if not shard_paths(folder):
        raise PromptError(f"{name}, split {split} is empty: {folder / COUNT} counts no shards; look at --split")
    if not (Path(root) / "classnames.txt").is_file():
        raise DatasetError(f"{Path(root) / 'classnames.txt'} is missing, which has the class names, one a line")
