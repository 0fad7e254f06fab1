"""Sets of long captions: one line a picture, `path of the picture<TAB>caption`, one to one.

So FG-CLIP 2's three sets are written and read (fgclip2/eval/long_trans_cn.py): captions are as they stand there, not
lower-cased, and a picture has one. The paths are those of its authors' machine or relative to the folder; of each the
longest end that is there counts, so that `a/b/1.jpg` is found as `a/b/1.jpg`, `b/1.jpg` or `1.jpg` below the folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._layout import Loaded, ReadOptions
from zhclip_openclip.datasets._picture_folder import find_pictures
from zhclip_openclip.datasets._relations import TextRecord
from zhclip_openclip.datasets._text_lines import text_lines

SPLIT = "test"
_PICTURES = ("", "images", "Images", "photos", "image", "data")


def read(folder: Path, split: str, options: ReadOptions, files: Sequence[str], title: str) -> Loaded | None:
    """The set in a folder, from the first of `files` that is there; there is no other split than `SPLIT`.

    Raises DatasetError: a line of another form; two lines whose pictures are one file.
    """
    path = next((folder / name for name in files if (folder / name).is_file()), None)
    if path is None or split != SPLIT:
        return None
    pairs = list(_pairs(path))
    names = list(dict.fromkeys(name for name, _, _ in pairs))
    bases = [options.image_folder] if options.image_folder else [folder, folder.parent]
    images = find_pictures(
        names,
        [base / part for base in bases for part in _PICTURES],
        _ends,
        options.skip,
        f"unpack the pictures beside {path.name}, or name their folder as image_folder",
    )
    _refuse_one_file_twice(images, path)
    counts: dict[str, int] = {}
    records = []
    for name, text, place in pairs:
        number = counts[name] = counts.get(name, -1) + 1
        records.append(TextRecord(f"{name}#{number}", text, [name], place))
    again = len(pairs) - len(names)
    notes = [f"{again} of {len(pairs)} captions are of a picture that has one already; either counts as right"]
    return Loaded(f"{title} release", images, records, notes if again else [], file=path)


def _pairs(path: Path):
    for place, line, complete in text_lines(path):
        name, tab, text = line.partition("\t")
        if not name.strip() or not text.strip() or "\t" in text:
            if not complete:
                raise DatasetError(f"{place}: the last line is cut off: copy the file again")
            what = f"{line.count(chr(9))} tabs" if tab else "no tab"
            raise DatasetError(f"{place}: {what} ({line[:40]!r}); needed: path of the picture, one tab, caption")
        yield name.strip().replace("\\", "/"), text.strip(), place


def _ends(name: str) -> list[str]:
    """`a/b/1.jpg`, `b/1.jpg`, `1.jpg`."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..", ".") and ":" not in part]
    return ["/".join(parts[start:]) for start in range(len(parts))] or [name]


def _refuse_one_file_twice(images, path: Path) -> None:
    seen: dict[str, str] = {}
    for index, name in enumerate(images.ids):
        where = images.where(index)
        if where in seen:
            raise DatasetError(
                f"{path}: {seen[where]} and {name} are one file here ({where}); unpack the pictures with their folders"
            )
        seen[where] = name


def looks_for(files: Sequence[str]) -> str:
    """For an error."""
    return f"{' or '.join(files)} (path of the picture, tab, caption) with its pictures"
