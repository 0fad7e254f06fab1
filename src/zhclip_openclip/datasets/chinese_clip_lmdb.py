"""Chinese-CLIP's LMDB layout, as `cn_clip/preprocess/build_lmdb_dataset.py` writes it.

    lmdb/{split}/imgs     id -> base64 of the picture file; num_images -> their number
    lmdb/{split}/pairs    0, 1, ... -> pickle of (image id, text id, text); num_samples -> their number

It is self-contained: the texts are those of the pairs. Images come in the order of their keys, as Chinese-CLIP's own
evaluation reads them.
"""

from __future__ import annotations

import binascii
import pickletools
from collections.abc import Iterator
from pathlib import Path

from zhclip_openclip._errors import printable
from zhclip_openclip._reading import reading
from zhclip_openclip.datasets._dataset_error import DatasetError, Incomplete
from zhclip_openclip.datasets._images import ImageSource, Skipped
from zhclip_openclip.datasets._layout import Loaded, ReadOptions, split_spellings
from zhclip_openclip.datasets._lmdb_file import LmdbFile, Value
from zhclip_openclip.datasets._relations import TextRecord
from zhclip_openclip.datasets._tsv_index import decode_base64, decoded_size, problem

LOOKS_FOR = "lmdb/{split}/imgs and lmdb/{split}/pairs"
_ADVICE = "copy it again, or run build_lmdb_dataset.py again"
#: Bytes of a pickled pair; a query and two numbers have less than a thousand.
_LONGEST_PAIR = 2**20


def load(folder: Path, split: str, options: ReadOptions) -> Loaded | None:
    half: Incomplete | None = None
    for spelling in split_spellings(split):
        for base in (folder / "lmdb" / spelling, folder / spelling, folder):
            there = [name for name in ("imgs", "pairs") if (base / name / "data.mdb").is_file()]
            if len(there) == 2:
                return Loaded("Chinese-CLIP LMDB", LmdbImages(base / "imgs"), _pairs(base / "pairs"))
            if there and half is None:
                missing = "pairs" if there == ["imgs"] else "imgs"
                half = Incomplete(
                    f"{base / missing}: has no data.mdb ({there[0]} beside it has one); copy it too, or run "
                    "build_lmdb_dataset.py again"
                )
    if half is not None:
        raise half
    return None


def splits(folder: Path) -> list[str]:
    """The splits that a folder has in this layout, by name; 'test' for a pair in the folder itself."""
    found = []
    for base in (folder / "lmdb", folder):
        if base.is_dir():
            children = sorted(path for path in base.iterdir() if path.is_dir())
            found += [path.name for path in children if _is_whole(path)]
    if not found and _is_whole(folder):
        return ["test"]
    return list(dict.fromkeys(found))


def _is_whole(base: Path) -> bool:
    return all((base / name / "data.mdb").is_file() for name in ("imgs", "pairs"))


class LmdbImages(ImageSource):
    """Pictures of `lmdb/{split}/imgs`."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._file = LmdbFile(path, _ADVICE)
        self.ids: list[str] = []
        self.problems: list[Skipped] = []
        self._values: list[Value] = []
        self._sizes: list[int] = []
        count = None
        for key, value, encoded in self._file.items():
            if key == b"num_images":
                count = _count(encoded)
                continue
            name = printable(key.decode("utf-8", errors="surrogateescape"))
            reason = problem(b"\t", encoded, cut_off=False)
            if reason:
                self.problems.append(Skipped(name, f"{path}[{name}]", reason))
                continue
            self.ids.append(name)
            self._values.append(value)
            self._sizes.append(decoded_size(encoded.strip()))
        there = len(self.ids) + len(self.problems)
        if count != there:
            says = "num_images is missing" if count is None else f"num_images is {count}, and there are {there}"
            raise DatasetError(f"{path}: incomplete: {says}; {_ADVICE}")

    def read(self, index: int) -> bytes:
        try:
            return decode_base64(self._file.read(self._values[index]).strip())
        except (binascii.Error, ValueError):
            raise DatasetError(f"{self.where(index)}: bad base64; {_ADVICE}") from None

    def size(self, index: int) -> int:
        return self._sizes[index]

    def where(self, index: int) -> str:
        return f"{self.path}[{self.ids[index]}]"


def _pairs(path: Path) -> Iterator[TextRecord]:
    """The texts in the order of their first pair, with all their images."""
    pickles = {key: raw for key, _, raw in LmdbFile(path, _ADVICE).items(_LONGEST_PAIR)}
    count = _count(pickles.get(b"num_samples", b""))
    if count is None:
        raise DatasetError(f"{path}: incomplete: num_samples is missing; {_ADVICE}")
    found: dict[str, tuple[str, list[str], str]] = {}
    for number in range(count):
        place = f"{path}[{number}]"
        raw = pickles.get(str(number).encode())
        if raw is None:
            raise DatasetError(f"{place}: incomplete: the pair is missing, one of {count}; {_ADVICE}")
        image, key, text = map(str, unpickle_pair(raw, place))
        entry = found.setdefault(key, (text, [], place))
        if entry[0] != text:
            raise DatasetError(f"{place}: text {key} is there twice, differently (first: {entry[2]}); remove one")
        entry[1].append(image)
    for key, (text, images, place) in found.items():
        yield TextRecord(key, text, images, place)


def _count(raw: bytes) -> int | None:
    """A number of entries; None for what is none."""
    return int(raw) if raw.isdigit() and len(raw) < 12 else None


#: What a pickle of a tuple of texts and numbers is made of; nothing else is followed.
_NOTHING = {"PROTO", "FRAME"}
_VALUES = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"}
_KEEP = {"PUT", "BINPUT", "LONG_BINPUT"}
_AGAIN = {"GET", "BINGET", "LONG_BINGET"}


def unpickle_pair(raw: bytes, place: str) -> tuple[int | str, int | str, int | str]:
    """(image id, text id, text) of a pickle, which is not run but read: a pickle is a program.

    Raises DatasetError: it holds anything but a tuple of three texts or whole numbers.
    """
    with reading(place, DatasetError, "it is no pickled (image id, text id, text): build it again"):
        stack: list = []
        kept: dict[int, int | str] = {}
        mark = object()
        for operation, argument, _ in pickletools.genops(raw):
            name = operation.name
            if name in _NOTHING:
                continue
            if name in _VALUES and type(argument) in (int, str):
                stack.append(argument)
            elif name == "MARK":
                stack.append(mark)
            elif name == "MEMOIZE":
                kept[len(kept)] = stack[-1]
            elif name in _KEEP:
                kept[argument] = stack[-1]
            elif name in _AGAIN:
                stack.append(kept[argument])
            elif name in ("TUPLE", "TUPLE3"):
                first = stack.index(mark) + 1 if name == "TUPLE" else len(stack) - 3
                pair = tuple(stack[first:])
                if len(pair) != 3 or not all(type(entry) in (int, str) for entry in pair):
                    break
                stack[max(0, first - (name == "TUPLE")) :] = [pair]
            elif name == "STOP":
                if len(stack) == 1 and type(stack[0]) is tuple:
                    _encodable(stack[0])
                    return stack[0]
                break
            else:
                refused = f"refuses to load {argument or name}" if name in _RUN else f"holds {name}"
                raise DatasetError(f"{place}: no pickled (image id, text id, text): {refused}; build it again")
        raise DatasetError(f"{place}: no pickled (image id, text id, text); build it again")


#: What a pickle runs code with.
_RUN = {"GLOBAL", "STACK_GLOBAL", "REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD", "EXT1", "EXT2", "EXT4"}


def _encodable(pair: tuple) -> None:
    """Raise UnicodeEncodeError: a text with half a surrogate pair, which no file can hold."""
    for entry in pair:
        if isinstance(entry, str):
            entry.encode("utf-8")
