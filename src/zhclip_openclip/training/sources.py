"""From what people write after `--train-data` to retrieval sets: folders, tables of pictures, names, several of them.

    FOLDER            a set in any layout that `datasets/retrieval.py` knows, or the folder above it
    FOLDER:SPLIT      another split than the one that is taken by itself
    X_imgs.tsv        the table of pictures of split X, or the X_texts.jsonl beside it
    digits-retrieval  a set that comes with the package
    A::B              two sets joined

What people have of their own in one of Chinese-CLIP's layouts is a set as well; it is named after its folder.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from zhclip_openclip._errors import shorten
from zhclip_openclip._reading import read_json
from zhclip_openclip.datasets import chinese_clip_lmdb, chinese_clip_tsv, flickr30k_cn, retrieval
from zhclip_openclip.datasets._dataset_error import DatasetError, OtherSet
from zhclip_openclip.datasets._layout import Loaded, ReadOptions, plain_name
from zhclip_openclip.datasets._retrieval import RetrievalDataset
from zhclip_openclip.datasets.wds_export import PAIRS
from zhclip_openclip.datasets.wds_open import open_wds

JOINED = "::"
_BOTH = ("image_retrieval", "text_retrieval")
_TABLE = re.compile(r"(?P<muge>MR_)?(?P<split>.+)_(?P<half>imgs\.tsv|texts\.jsonl|queries\.jsonl)")
#: The splits that a set is judged on, if nobody names one: the first that is there.
_JUDGED = ("valid", "val", "test")


@dataclass(frozen=True)
class Place:
    """Where a set is. split: as given, "" where none is. embedded: the name of a set that needs no files."""

    path: Path
    split: str = ""
    embedded: str = ""

    def __str__(self) -> str:
        return f"{self.embedded or self.path}{':' + self.split if self.split else ''}"


def place(text: str) -> Place | None:
    """What one name means, or None if it is none of ours: a file of open_clip_train's own, or nothing that is there."""
    for name, split in ((text, ""), text.rpartition(":")[::2]):
        path = Path(name)
        if not name or not _is_there(path):
            known = retrieval.dataset_name(name) if name and "/" not in name else None
            if known and getattr(retrieval.DATASETS[known], "EMBEDDED", False):
                return Place(path, split, known)
            continue
        if path.is_dir():
            return Place(path, split)
        table = _TABLE.fullmatch(path.name)
        if table and not split and _is_table(path):
            return Place(path, table["split"])
    return None


def is_ours(data: str | None) -> bool:
    """Whether `data`, the value of --train-data or --val-data, is for this package to read."""
    names = (data or "").split(JOINED)
    return any(place(name) is not None for name in names) or any(_names_a_set(name) for name in names)


def _names_a_set(name: str) -> bool:
    """`MUGE` or `MUGE:train` where there is no such folder: what is meant is known, and what is wrong too."""
    bare = plain_name(name.partition(":")[0])
    return "/" not in name and bare in {
        plain_name(known) for module in retrieval.DATASETS.values() for known in (module.NAME, *module.FOLDERS)
    }


def _is_there(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return path.exists()
    return False


def _is_table(path: Path) -> bool:
    """Whether a file named like a half of a set is one; a table of file names for open_clip_train may be called so."""
    if path.suffix == ".jsonl" or any(_halves(path.parent)):
        return True
    with contextlib.suppress(OSError), path.open("rb") as file:
        key, tab, value = file.readline(2**16).partition(b"\t")
        return bool(tab) and len(value) > 200 and not re.search(rb"[\s.\t]", value.strip())
    return False


def _halves(folder: Path) -> Iterable[tuple[str, bool]]:
    """(split, whether the names are MUGE's) of Chinese-CLIP's tables in a folder with both halves of them."""
    found: dict[tuple[str, bool], set[str]] = {}
    for path in folder.iterdir():
        if (match := _TABLE.fullmatch(path.name)) and path.is_file():
            found.setdefault((match["split"], bool(match["muge"])), set()).add(match["half"][:4])
    return sorted(key for key, halves in found.items() if len(halves) > 1)


def open_sets(
    data: str,
    train: bool,
    *,
    skip_bad_images: bool = False,
    raw_captions: bool = False,
    image_folder: str | None = None,
) -> list[RetrievalDataset]:
    """The sets that `data` names, without a transform.

    train: take the split `train` where none is named; otherwise the one that published numbers are on, of one's own
    data valid, or else test.

    Raises DatasetError: something of `data` is not there or not a set; no such split; a folder that holds two sets; bad
    data. One line.
    """
    options = ReadOptions(raw_captions, Path(image_folder) if image_folder else None, skip_bad_images)
    found = []
    for name in data.split(JOINED):
        where = place(name)
        if where is None:
            other = "" if JOINED not in data else "; sets and files of open_clip_train's own cannot be joined"
            raise DatasetError(f"{name or '(nothing)'}: no such folder, and no set of this package{other}")
        found.append(_open(where, train, options))
    return found


def _open(where: Place, train: bool, options: ReadOptions) -> RetrievalDataset:
    if where.embedded:
        split = where.split or ("train" if train else retrieval.default_split(where.embedded))
        return retrieval.build_retrieval_dataset(where.embedded, where.path, None, split)
    root = where.path if where.path.is_dir() else where.path.parent
    holders = _holders(root)
    if len(holders) > 1:
        raise DatasetError(f"{root} holds {len(holders)} sets ({shorten(map(str, holders), 4)}); name one of them")
    holder = holders[0] if holders else _Holder(root, _known(root))
    split = where.split or ("train" if train else holder.judged_on())
    dataset = holder.open(split, options)
    if dataset is None:
        there = holder.splits()
        advice = f"there is {shorten(there)}; name one as {root}:{there[0]}" if there else _wanted(holder, split)
        raise DatasetError(f"{holder.folder}: no split {split} here; {advice}")
    return dataset


def _wanted(holder: _Holder, split: str) -> str:
    layouts = holder.module.LAYOUTS if holder.module else (chinese_clip_tsv, chinese_clip_lmdb)
    looked_for = " or ".join(layout.LOOKS_FOR.format(split=split) for layout in layouts)
    there = sorted(path.name for path in holder.folder.iterdir())
    return f"looked for {looked_for}; found {shorten(there, 6) or 'nothing'}"


def _known(folder: Path):
    """The module of the official set that a folder is called after, or None."""
    name = retrieval.called(folder)
    return retrieval.DATASETS[name] if name else None


@dataclass(frozen=True)
class _Holder:
    """A folder with a set in it. module: the official set that it is, if it is one. muge_names: see `_halves`."""

    folder: Path
    module: object = None
    muge_names: bool | None = None

    def __str__(self) -> str:
        return self.folder.name + {None: "", True: " (MR_*_imgs.tsv)", False: " (*_imgs.tsv)"}[self.muge_names]

    def splits(self) -> list[str]:
        """The splits in Chinese-CLIP's layouts and in shards; releases name theirs in their errors."""
        found = [split for split, muge in _halves(self.folder) if self.muge_names in (None, muge)]
        for base in (self.folder, self.folder / "lmdb"):
            if base.is_dir():
                found += [path.parent.parent.name for path in sorted(base.glob("*/pairs/data.mdb"))]
        return list(dict.fromkeys([*found, *self._shards()]))

    def _shards(self) -> dict[str, str]:
        """split -> folder of its shards, which an export calls `test` as CLIP_benchmark does, whatever is in it."""
        found = {}
        for path in sorted(self.folder.glob("*/nshards.txt")):
            sidecar = path.parent / PAIRS
            told = read_json(sidecar, DatasetError).get("split") if sidecar.is_file() else None
            found[str(told or path.parent.name)] = path.parent.name
        return found

    def judged_on(self) -> str:
        there = self.splits()
        own = next((split for split in _JUDGED if split in there), _JUDGED[0])
        default = self.module.DEFAULT_SPLIT if self.module else own
        return default if default in there or not there else own

    def open(self, split: str, options: ReadOptions) -> RetrievalDataset | None:
        if (self.folder / "dataset_type.txt").is_file():
            shards = self._shards()
            if split not in shards:
                return None
            return open_wds(self.folder, None, shards[split], options.skip, name=self.folder.name)
        self._refuse_half_an_lmdb(split)
        other = None
        for module in self._may_be(split):
            own = [module] if module is not None and hasattr(module, "load") else []
            for layout in [chinese_clip_tsv, chinese_clip_lmdb, *own]:
                try:
                    loaded = layout.load(self.folder, split, options)
                    if loaded is not None:
                        return self._dataset(module, split, loaded, options)
                except OtherSet as error:
                    other = other or error
        if other:
            raise other
        return None

    def _may_be(self, split: str) -> list:
        """The modules of the sets that this one may be, whatever its folder is called: what the captions are decides.

        Raises DatasetError: of two such sets each has a caption file of this split here.
        """
        if self.module is None:
            return [None]
        names = [self.module.NAME, *getattr(self.module, "ALIKE", ())]
        if flickr30k_cn.NAME in names:
            files = flickr30k_cn.caption_files(self.folder, split)
            if len(files) > 1:
                told = " and ".join(f"{path.name} is {name}" for name, path in files.items())
                raise DatasetError(f"{self.folder} holds two sets: {told}; put one of them into a folder of its own")
            names.sort(key=lambda name: name not in files)
        return [retrieval.DATASETS[name] for name in names]

    def _dataset(self, module, split: str, loaded: Loaded, options: ReadOptions) -> RetrievalDataset:
        name = module.NAME if module else self.folder.resolve().name
        resolved, captions_of = retrieval.tie(name, split, loaded, self.folder, options.skip)
        return RetrievalDataset(
            name,
            split,
            resolved,
            directions=module.DIRECTIONS if module else _BOTH,
            layout=loaded.layout,
            notes=loaded.notes,
            skip_bad_images=options.skip,
            captions_of=captions_of,
        )

    def _refuse_half_an_lmdb(self, split: str) -> None:
        for base in (self.folder / "lmdb" / split, self.folder / split, self.folder):
            if (base / "imgs" / "data.mdb").is_file() and not (base / "pairs" / "data.mdb").is_file():
                raise DatasetError(
                    f"{base}: an LMDB of pictures without its pairs/: put {split}_texts.jsonl where "
                    "build_lmdb_dataset.py looks for it and run that again"
                )


def _holders(root: Path) -> list[_Holder]:
    """The sets in a folder: in itself, or else in the folders in it."""
    here = _sets_of(root)
    if here:
        return here
    below = []
    for child in sorted(path for path in root.iterdir() if path.is_dir()):
        nested = [path for path in child.iterdir() if path.is_dir() and plain_name(path.name) == plain_name(child.name)]
        below += _sets_of(child) or [holder for folder in nested for holder in _sets_of(folder)]
    return below


def _sets_of(folder: Path) -> list[_Holder]:
    module = _known(folder)
    if (folder / "dataset_type.txt").is_file():
        return [_Holder(folder, module)]
    named = {muge for _, muge in _halves(folder)}
    if len(named) > 1:
        return [_Holder(folder, retrieval.DATASETS["muge"], True), _Holder(folder, module, False)]
    holder = _Holder(folder, retrieval.DATASETS["muge"] if named == {True} else module)
    if named or holder.splits() or (folder / "imgs" / "data.mdb").is_file() or any(folder.glob("lmdb/*/imgs/data.mdb")):
        return [holder]
    found = [
        retrieval.DATASETS[name]
        for name, patterns in _RELEASES.items()
        if any(any(folder.glob(pattern)) for pattern in patterns)
    ]
    # Of sets whose files are called alike the folder's name says where to begin.
    return [
        _Holder(folder, module if module and found_one.NAME in _alike(module) else found_one) for found_one in found
    ]


def _alike(module) -> tuple[str, ...]:
    return (module.NAME, *getattr(module, "ALIKE", ()))


#: Caption files of the releases, as the modules of the sets list them; of sets whose files are called alike the first.
_RELEASES = {
    "coco-cn": ("coco-cn_*.txt", "coco-cn-version*/coco-cn_*.txt", "annotations/coco-cn_*.txt"),
    "lit-cn": ("image_caption_long_cn.txt",),
    "dci-cn": ("image_caption_trans.txt",),
    "flickr30k-cn": (
        "flickr30k_*.txt",
        "seg.flickr30k*.txt",
        "flickr30k*boson*/TextData/seg.flickr30k*.txt",
        *(f"{split}/flickr30k_*.txt" for split in ("train", "val", "valid", "test")),
    ),
}
