"""COCO-CN: 20,341 MSCOCO pictures with captions written in Chinese (test: 1,000 pictures, 1,053 captions).

Paper: Li et al., COCO-CN for Cross-Lingual Image Tagging, Captioning and Retrieval, IEEE TMM 2019, arXiv:1805.08661.
Source: https://github.com/li-xirong/coco-cn, coco-cn-version1805v1.1.tar.gz (MIT); the pictures are MSCOCO's.

The release's own layout:

    coco-cn_{train,val,test}.txt                    the image ids of a split, as COCO_val2014_000000324313
    imageid.human-written-caption.txt               id#number, tab, caption: written by people. Published scores use it
    imageid.human-written-caption.bosonseg.txt      the same, segmented and tagged; read if the other is missing
    imageid.manually-translated-caption.txt         5,000 translations for the test split: `coco_cn_translated.py`
    COCO_train2014_*.jpg, COCO_val2014_*.jpg        in train2014/ and val2014/, of 2017 as well, or in one folder

Of "COCO-CN test" two sets circulate: 1,000 + 1,053 (Wukong, Chinese-CLIP and what follows them; see issue 175 of
Chinese-CLIP) and the 5,000 translations (FG-CLIP 2), on which scores are not comparable. A file that holds both is read
as the one that was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from zhclip_openclip.datasets import chinese_clip_lmdb, chinese_clip_tsv
from zhclip_openclip.datasets._caption_file import CaptionLine, caption_lines, has_captions
from zhclip_openclip.datasets._dataset_error import DatasetError, Incomplete, OtherSet
from zhclip_openclip.datasets._layout import Loaded, ReadOptions, split_spellings
from zhclip_openclip.datasets._picture_folder import find_pictures
from zhclip_openclip.datasets._relations import TextRecord
from zhclip_openclip.datasets._text_lines import text_lines
from zhclip_openclip.datasets.captions import clean_caption

NAME, TRANSLATED = "coco-cn", "coco-cn-translated"
FOLDERS = ("COCO-CN", "coco-cn-version1805v1.1")
DEFAULT_SPLIT = "test"
DIRECTIONS = ("image_retrieval", "text_retrieval")
LOOKS_FOR = "imageid.human-written-caption.txt with coco-cn_{split}.txt and MSCOCO's pictures (train2014/, val2014/)"
ALIKE = (TRANSLATED,)

#: Files with the captions of all splits, by set.
_CAPTIONS = {
    NAME: ("imageid.human-written-caption.txt", "imageid.human-written-caption.bosonseg.txt"),
    TRANSLATED: ("imageid.manually-translated-caption.txt", "imageid.manually-translated-caption.bosonseg.txt"),
}
#: What a line says of how its caption was made, by set; translations by a machine are of neither.
_KIND = {NAME: "", TRANSLATED: "zhm"}
#: FG-CLIP 2's list of the translations.
_PAIRS = "pair.txt"
_PICTURES = ("", "images", "Images", "ImageData", "coco", "COCO", "mscoco", "MSCOCO", "coco2014", "coco2017")
_PARTS = ("", "train2014", "val2014", "train2017", "val2017")


def load(folder: Path, split: str, options: ReadOptions) -> Loaded | None:
    return read(NAME, folder, split, options)


def read(name: str, folder: Path, split: str, options: ReadOptions) -> Loaded | None:
    """The captions of one of the two sets. Raises OtherSet: only those of the other are there."""
    for base in (folder, *(folder / sub for sub in FOLDERS), folder / "annotations"):
        found = _captions(name, base, split)
        if found is None:
            continue
        captions, ids, path = found
        images = find_pictures(
            list(dict.fromkeys(ids)),
            _picture_folders(folder, base, options),
            _file_names,
            options.skip,
            "put MSCOCO's train2014/ and val2014/ beside the captions, or name their folder as image_folder",
        )
        return Loaded("COCO-CN release", images, _records(captions, options), file=path)
    return None


def _captions(name: str, base: Path, split: str) -> tuple[list[CaptionLine], list[str], Path] | None:
    """The captions in a folder, the ids of the split's pictures, and the file that the captions are in."""
    other = TRANSLATED if name == NAME else NAME
    for spelling in split_spellings(split):
        listed = base / f"coco-cn_{spelling}.txt"
        if not listed.is_file():
            continue
        beside = {one: _first(base, files) for one, files in _CAPTIONS.items()}
        path = beside[name]
        if has_captions(listed):
            ids = [caption.image for caption in caption_lines(listed)]
            if path is None or any(caption.kind == _KIND[name] for caption in caption_lines(listed)):
                return _of_kind(name, listed)
        elif path is None and beside[other]:
            raise OtherSet(
                f"{base}: has {beside[other].name} and no {_CAPTIONS[name][0]}, which is {other} and not {name}: use "
                f"{other} as the name of the data set, or put that file there"
            )
        elif path is None:
            raise Incomplete(f"{listed}: {_CAPTIONS[name][0]} is not beside it; unpack the whole release there")
        else:
            ids = [line.strip() for _, line, _ in text_lines(listed)]
        wanted = set(ids)
        captions = [caption for caption in caption_lines(path) if caption.image in wanted]
        if not captions:
            raise DatasetError(f"{path}: no caption for any image of {listed}; get both of one release")
        return captions, ids, path
    if split == DEFAULT_SPLIT and name == TRANSLATED and (base / _PAIRS).is_file() and has_captions(base / _PAIRS):
        return _of_kind(name, base / _PAIRS)
    return None


def _of_kind(name: str, path: Path) -> tuple[list[CaptionLine], list[str], Path]:
    """The captions in a file that says of each how it was made."""
    everything = list(caption_lines(path))
    captions = [caption for caption in everything if caption.kind == _KIND[name]]
    if not captions:
        kinds = {caption.kind for caption in everything}
        if kinds == {"zhb"}:
            raise OtherSet(
                f"{path}: holds translations by a machine alone, on which there are no published scores; get "
                f"{_CAPTIONS[name][0]} of the release"
            )
        other = TRANSLATED if name == NAME else NAME
        what = "translated" if other == TRANSLATED else "written by people"
        raise OtherSet(
            f"{path}: its captions are {what}, which is {other} and not {name}: use {other} as the name of the data set"
        )
    return captions, [caption.image for caption in captions], path


def _first(base: Path, names: Sequence[str]) -> Path | None:
    return next((base / name for name in names if (base / name).is_file()), None)


def _records(captions: Sequence[CaptionLine], options: ReadOptions) -> Iterator[TextRecord]:
    for caption in captions:
        # Only captions with tags or from translations are segmented; what people wrote stays as they wrote it.
        text = caption.text
        if not options.raw_captions and (caption.kind or "bosonseg" in caption.where):
            text = clean_caption(text)
        yield TextRecord(caption.id, text, [caption.image], caption.where)


def _picture_folders(folder: Path, annotations: Path, options: ReadOptions) -> list[Path]:
    bases = [options.image_folder] if options.image_folder else [folder, annotations, folder.parent]
    return [base / name / part for base in bases for name in _PICTURES for part in _PARTS]


def _file_names(image_id: str) -> list[str]:
    # MSCOCO 2017 is the same pictures under their bare number.
    return [f"{image_id}.jpg", f"{image_id.rpartition('_')[2]}.jpg"]


LAYOUTS = (chinese_clip_tsv, chinese_clip_lmdb)
