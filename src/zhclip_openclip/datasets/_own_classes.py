"""What the classes of somebody's own data are called: by the folders or labels themselves, or by lists beside them.

    label_cn.txt      Chinese names, one a line
    classnames.txt    names in any language, one a line; label.txt is read in its place where it is there

A folder or label finds its class by name in one of the lists, or by number where it is one: 0 or 000 is the first line.
Nothing is matched by place: that `bird` comes first in the alphabet does not say that it is 鸟.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zhclip_openclip._errors import printable, shorten
from zhclip_openclip._reading import reading
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._own_tables import read_text
from zhclip_openclip.prompts import own_names
from zhclip_openclip.prompts.classnames import key as plain
from zhclip_openclip.prompts.languages import SIMPLIFIED, TRADITIONAL, normalise, write

#: File -> what language its names are in; None for any.
LISTS = {"label_cn.txt": "zh", "classnames.txt": None, "label.txt": None}
_CHINESE = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|[\U00020000-\U0003ffff]")


@dataclass
class Classes:
    """names: of the classes, in the order of their labels. index: folder or label -> number. english: names in another
    language that the lists have, or None. source: for the result. why: for people. language: of the prompts."""

    names: list[str]
    index: dict[str, int]
    english: list[str] | None
    source: str
    why: str
    language: str
    notes: list[str] = field(default_factory=list)


def name_classes(
    dataset_name: str,
    keys: Sequence[str],
    folder: Path,
    what: str,
    places: Mapping[str, str],
    language: str | None = None,
    classname_file: str | None = None,
) -> Classes:
    """The classes of a data set.

    keys: the folders or labels that there are, each once, sorted. folder: where the lists are looked for. what:
    'folder' or 'label'. places: key -> its first place, for errors. language: None for that of the names: Chinese where
    one of them is, English otherwise.

    Raises DatasetError: one class alone; numbers without a list; a folder or label that is in no list; two lists that
    do not fit each other. PromptError: names of the user's own that do not fit.
    """
    lists = {file: _list(folder / file) for file in LISTS if (folder / file).is_file()}
    order, index, source = _order(list(keys), lists, folder, what, places, classname_file)
    if len(order) < 2:
        raise DatasetError(
            f"{folder}: there is one class alone ({shorten(order)}), so that every answer is right; "
            f"{_one_class(keys, what)}"
        )
    odd = [file for file, names in lists.items() if source and len(names) != len(order)]
    if odd:
        raise DatasetError(
            f"{folder / odd[0]} has {len(lists[odd[0]])} names, and {source} has {len(order)}: line by line they are "
            "the same classes; mend one, or take it away"
        )
    notes = []
    seen = set(index.values())
    unseen = [name for number, name in enumerate(order) if number not in seen]
    if unseen:
        notes.append(f"{len(unseen)} of {len(order)} classes have no pictures: {shorten(unseen)}")
    chinese = next((lists[file] for file, its in LISTS.items() if its and len(lists.get(file, ())) == len(order)), None)
    other = next((names for names in lists.values() if names is not chinese and len(names) == len(order)), None)
    if other is None and source == "":
        other = order
    if language is None:
        wanted = order if classname_file is None else [*order, *_given(classname_file, dataset_name, order)]
        language = SIMPLIFIED if chinese or any(map(_CHINESE.search, wanted)) else "en"
    normal = normalise(language)
    in_chinese = normal in (SIMPLIFIED, TRADITIONAL)
    if classname_file:
        names, source = own_names(classname_file, dataset_name, order)
        why = f"class names from {source}: {_shown(order, names)}"
    elif in_chinese and chinese:
        names, source, why = chinese, "label_cn.txt", "class names from label_cn.txt"
    elif not in_chinese and other:
        names = other
        file = next((file for file in lists if lists[file] is other), "")
        source, why = file or f"{what}s", f"class names from {file}" if file else f"the {what}s are the class names"
    else:
        names, why = order, f"class names from {source}" if source else f"the {what}s are the class names"
        source = source or f"{what}s"
    if in_chinese:
        names = write(list(names), normal)
        if not any(map(_CHINESE.search, names)):
            notes.append(f"no class name is Chinese ({shorten(names)}): write label_cn.txt, or use --language en")
    elif any(map(_CHINESE.search, names)):
        notes.append(f"class names are Chinese ({shorten(names)}) in {normal} templates: use --language zh")
    english = other if other and list(other) != list(names) else None
    return Classes(list(names), index, english, source, why, normal, [printable(note) for note in notes])


def _order(
    keys: list[str],
    lists: Mapping[str, list[str]],
    folder: Path,
    what: str,
    places: Mapping[str, str],
    classname_file: str | None,
) -> tuple[list[str], dict[str, int], str]:
    """The classes in their order under the names that the data has for them, the number of each key, and the list that
    says so ('' for none)."""
    best: tuple[int, str, dict[str, int]] | None = None
    for file, names in lists.items():
        index = _by_name(keys, names)
        if len(index) == len(keys):
            return list(names), index, file
        if best is None or len(index) > best[0]:
            best = len(index), file, index
    numbers = all(key.isascii() and key.isdigit() and len(key) < 10 for key in keys)
    if numbers and lists:
        return _by_number(keys, lists, folder, what, places)
    if best is not None and (best[0] or not classname_file):
        raise DatasetError(_not_in_list(keys, lists, best, folder, what, places))
    if numbers and not classname_file:
        raise DatasetError(
            f"{places[keys[0]]}: the {what}s are numbers ({shorten(keys)}): write the names of the classes into "
            f"{folder / 'label_cn.txt'}, one a line, that of 0 first"
        )
    shown = [key if _CHINESE.search(key) else key.replace("_", " ").strip() or key for key in keys]
    names = shown if len(set(shown)) == len(keys) else keys
    return names, {key: number for number, key in enumerate(keys)}, ""


def _by_name(keys: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """The number of each key that is one of the names, however it is spelt."""
    exact = {name: number for number, name in enumerate(names)}
    alike: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        alike.setdefault(plain(name), []).append(number)
    found = {}
    for key in keys:
        numbers = [exact[key]] if key in exact else alike.get(plain(key), [])
        if len(numbers) == 1:
            found[key] = numbers[0]
    return found if len(set(found.values())) == len(found) else {}


def _by_number(
    keys: Sequence[str], lists: Mapping[str, list[str]], folder: Path, what: str, places: Mapping[str, str]
) -> tuple[list[str], dict[str, int], str]:
    lengths = {file: len(names) for file, names in lists.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{file} has {count} names" for file, count in lengths.items())
        raise DatasetError(f"{folder}: {told}; take away the one that does not belong to the {what}s")
    file, names = next(iter(lists.items()))
    outside = [key for key in keys if int(key) >= len(names)]
    if outside:
        from_one = min(map(int, keys)) == 1 and max(map(int, keys)) == len(names)
        way_out = "they are counted from 0, and these from 1" if from_one else "add its name, or look at the data"
        raise DatasetError(
            f"{places[outside[0]]}: there is no class {outside[0]}: {folder / file} has {len(names)} names, 0 to "
            f"{len(names) - 1}; {way_out}"
        )
    twice = {int(key) for key in keys}
    if len(twice) < len(keys):
        raise DatasetError(f"{folder}: two {what}s are one number ({shorten(keys)}); put them together")
    other = next((names for file, names in lists.items() if not LISTS[file]), names)
    return list(other), {key: int(key) for key in keys}, next(f for f, n in lists.items() if n is other)


def _not_in_list(
    keys: Sequence[str],
    lists: Mapping[str, list[str]],
    best: tuple[int, str, dict[str, int]],
    folder: Path,
    what: str,
    places: Mapping[str, str],
) -> str:
    found, file, index = best
    missing = [key for key in keys if key not in index]
    if not found:
        return (
            f"{folder / file}: its names ({shorten(lists[file])}) are none of the {what}s ({shorten(keys)}), so that "
            f"nobody can tell which is which; write the {what}s into {folder / 'classnames.txt'}, in the same order, "
            "or take the list away"
        )
    close = difflib.get_close_matches(missing[0], lists[file], n=1)
    hint = f"did you mean {close[0]}?" if close else f"it has {shorten(lists[file], 8)}"
    more = f"; so are {len(missing) - 1} more" if len(missing) > 1 else ""
    return f"{places[missing[0]]}: the {what} {missing[0]!r} is not in {folder / file}{more}; {hint}"


def _list(path: Path) -> list[str]:
    """Raises DatasetError: an empty file or line, a name twice."""
    with reading(path, DatasetError):
        text, _ = read_text(path)
    names = [line.strip() for line in text.splitlines()]
    while names and not names[-1]:
        names.pop()
    seen: set[str] = set()
    for number, name in enumerate(names, 1):
        if not name:
            raise DatasetError(f"{path}:{number}: there is no class name; each line is one class")
        if name in seen:
            raise DatasetError(f"{path}:{number}: the class {name!r} is there twice; name each apart")
        seen.add(name)
    return names


def _given(classname_file: str, dataset_name: str, order: Sequence[str]) -> list[str]:
    return own_names(classname_file, dataset_name, order)[0]


def _shown(order: Sequence[str], names: Sequence[str]) -> str:
    return shorten([f"{one} = {other}" for one, other in zip(order, names, strict=True)], 3)


def _one_class(keys: Sequence[str], what: str) -> str:
    if what == "folder":
        return f"if the folders of the classes are in it, give that folder as --dataset_root: .../{keys[0]}"
    return "give pictures of another one, or its name in classnames.txt"
