"""Which of two sets of one name some captions are.

"COCO-CN" is 1,053 captions that people wrote or 5,000 that people translated, of the same 1,000 pictures;
"Flickr30K-CN" and "Flickr30K-CNA" have the same pictures too, and other captions; Chinese-CLIP calls the files of all
its sets alike, and FG-CLIP 2 those of DCI-CN and DOCCI-CN. A score on the one says nothing about the other, so what the
captions are decides, not what a folder or an option is called.

`data/known_captions.json` has a sketch of each set whose captions are public: of the digests of all its captions the
smallest. A folder holds a set as far as the digests of its own captions contain the sketch; nothing else of the
captions is in the table. `benchmarks/known_captions.py` makes it.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zhclip_openclip.datasets._dataset_error import OtherSet
from zhclip_openclip.datasets._relations import Resolved
from zhclip_openclip.datasets.captions import clean_caption
from zhclip_openclip.prompts._files import packaged

#: What a sketch holds: so many digests of so many hexadecimal digits.
SKETCH, DIGITS = 128, 12
#: Share of a sketch from which on captions are that set's, and up to which they are not. The sets that are known have
#: less than 1 % in common; a file that lost a part of its lines still has most.
_IS, _IS_NOT = 0.5, 0.1
#: Fewer digests than this are chance; so many are expected of a part of a set.
_FEWEST = 6
#: With more captions than this a set is none of those in the table, whatever else it holds.
_MOST = 12_000


@dataclass(frozen=True)
class Held:
    """What some captions are.

    set: name of the set whose captions they are, or None where that is not known. both: names of all sets whose
    captions they are, where they are of several. other_captions: name of a set whose pictures these are, with other
    captions than its own.
    """

    set: str | None = None
    both: tuple[str, ...] = ()
    other_captions: str | None = None


def is_known(name: str) -> bool:
    """Whether it is a retrieval set of this package, in its canonical name."""
    from zhclip_openclip.datasets import retrieval

    return name in retrieval.DATASETS


def digest(text: str) -> str:
    """Of a caption, whatever was done to its blanks, signs and part-of-speech tags on the way through files."""
    plain = unicodedata.normalize("NFKC", clean_caption(text)).lower()
    return hashlib.sha256("".join(filter(str.isalnum, plain)).encode("utf-8")).hexdigest()[:DIGITS]


def sketch(digests: Iterable[str]) -> list[str]:
    """The smallest of some digests."""
    return sorted(set(digests))[:SKETCH]


def held(image_ids: Sequence[str], texts: Sequence[str]) -> Held:
    """What the captions of a test split are, and whose pictures they are said of."""
    known = packaged("known_captions.json")
    if not texts or len(texts) > _MOST:
        return Held()
    found = {digest(text) for text in texts}
    shares = {name: _share(one["captions"], found, len(texts), one["texts"]) for name, one in known["captions"].items()}
    are = tuple(name for name, share in shares.items() if share >= _IS)
    if len(are) > 1:
        return Held(both=are)
    if are:
        return Held(set=are[0])
    stems = [_stem(key) for key in image_ids]
    for name, one in known["pictures"].items():
        digests = {digest(stem) for stem in stems}
        whole = 2 * len(texts) > known["captions"][name]["texts"]
        if whole and shares[name] <= _IS_NOT and _share(one["images"], digests, len(stems), one["count"]) >= _IS:
            return Held(other_captions=name)
    for name, pattern in known["picture_names"].items():
        if stems and all(re.fullmatch(pattern, stem) for stem in stems):
            return Held(set=name)
    return Held()


def check(name: str, split: str, resolved: Resolved, where: object, named: str = "") -> tuple[str | None, list[str]]:
    """The set whose captions these are, or None where that is not known, and notes for a reader of the numbers.

    name: the set that was asked for, whose default split is the one that published figures are on; a name of the
    user's own is told what they are. where: for the error. named: the set that the file is called after.

    Raises OtherSet: they are those of another set, or of two at once.
    """
    from zhclip_openclip.datasets import retrieval

    module = retrieval.DATASETS.get(name)
    if module is None:
        return held(resolved.images.ids, [entry.text for entry in resolved.texts]).set, []
    if getattr(module, "EMBEDDED", False):
        return name, []
    alike = getattr(module, "ALIKE", ())
    judged = split == module.DEFAULT_SPLIT
    found = held(resolved.images.ids, [entry.text for entry in resolved.texts]) if judged else Held()
    if found.both:
        raise OtherSet(
            f"{where}: holds the captions of {' and of '.join(found.both)} in one, on which there are no published "
            "scores; give a file that holds one of them"
        )
    if found.set == name:
        published = packaged("known_captions.json")["captions"].get(name, {}).get("texts")
        if published and published != len(resolved.texts):
            return name, [f"{len(resolved.texts):,} captions, and the published {name} has {published:,}"]
        return name, []
    if found.set:
        raise OtherSet(f"{where}: what is here is {found.set} ({_title(found.set)}), not {name}: {_use(found.set)}")
    if found.other_captions == name:
        raise OtherSet(
            f"{where}: the pictures are those of {name} and the captions are not; {alike[0]} ({_title(alike[0])}) has "
            f"such: {_use(alike[0])}; captions of your own are read under another --split"
        )
    if named in alike and found.other_captions is None:
        raise OtherSet(f"{where}: is called after {named} and not {name}: {_use(named)}, or rename it")
    return None, []


def _share(table: Sequence[str], found: set[str], count: int, published: int) -> float:
    """How much of a sketch is there, of a part of the set in proportion."""
    expected = len(table) * min(1.0, count / published)
    return sum(key in found for key in table) / expected if expected >= min(_FEWEST, len(table)) else 0.0


def _stem(key: str) -> str:
    """An id or a path of a picture without folders and suffix."""
    return Path(key.replace("\\", "/")).stem if re.search(r"\.[A-Za-z]{3,4}$", key) else key.rpartition("/")[2]


def _title(name: str) -> str:
    entry = packaged("datasets.json")["datasets"].get(name, {})
    texts = f", {entry['texts']:,} captions" if entry.get("texts") else ""
    return f"{entry.get('title', name)}{texts}"


def _use(name: str) -> str:
    """What to do, wherever the name of the set was given: --dataset, --name, an argument."""
    return f"use {name} as the name of the data set"
