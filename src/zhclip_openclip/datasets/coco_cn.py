"""COCO-CN: 20,341 MSCOCO pictures with captions written in Chinese (test: 1,000 pictures, 1,053 captions).

Paper: Li et al., COCO-CN for Cross-Lingual Image Tagging, Captioning and Retrieval, IEEE TMM 2019, arXiv:1805.08661.
Source: https://github.com/li-xirong/coco-cn, coco-cn-version1805v1.1.tar.gz (MIT); the pictures are MSCOCO's.

The release's own layout:

    coco-cn_{train,val,test}.txt                    the image ids of a split, as COCO_val2014_000000324313
    imageid.human-written-caption.txt               id#number, tab, caption: written by people. Published scores use it
    imageid.human-written-caption.bosonseg.txt      the same, segmented and tagged; read if the other is missing
    imageid.manually-translated-caption.txt         5,000 translations for the test split: used only where neither of
                                                    the others is there, with a note
    COCO_train2014_*.jpg, COCO_val2014_*.jpg        in train2014/ and val2014/, of 2017 as well, or in one folder

Of "COCO-CN test" two forms circulate: 1,000 + 1,053 (Wukong, Chinese-CLIP and what follows them; see issue 175 of
Chinese-CLIP) and the 5,000 or 6,000 with the translations, on which scores are not comparable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from zhclip_openclip.datasets import chinese_clip_lmdb, chinese_clip_tsv
from zhclip_openclip.datasets._caption_file import CaptionLine, caption_lines, has_captions
from zhclip_openclip.datasets._dataset_error import DatasetError, Incomplete
from zhclip_openclip.datasets._layout import Loaded, ReadOptions, split_spellings
from zhclip_openclip.datasets._picture_folder import find_pictures
from zhclip_openclip.datasets._relations import TextRecord
from zhclip_openclip.datasets._text_lines import text_lines
from zhclip_openclip.datasets.captions import clean_caption

NAME = "coco-cn"
FOLDERS = ("COCO-CN", "coco-cn-version1805v1.1")
DEFAULT_SPLIT = "test"
DIRECTIONS = ("image_retrieval", "text_retrieval")
LOOKS_FOR = "imageid.human-written-caption.txt with coco-cn_{split}.txt and MSCOCO's pictures (train2014/, val2014/)"

_WRITTEN = ("imageid.human-written-caption.txt", "imageid.human-written-caption.bosonseg.txt")
_TRANSLATED = ("imageid.manually-translated-caption.txt", "imageid.manually-translated-caption.bosonseg.txt")
_PICTURES = ("", "images", "Images", "ImageData", "coco", "COCO", "mscoco", "MSCOCO", "coco2014", "coco2017")
_PARTS = ("", "train2014", "val2014", "train2017", "val2017")


def load(folder: Path, split: str, options: ReadOptions) -> Loaded | None:
    notes: list[str] = []
    for base in (folder, *(folder / name for name in FOLDERS), folder / "annotations"):
        for spelling in split_spellings(split):
            listed = base / f"coco-cn_{spelling}.txt"
            if not listed.is_file():
                continue
            beside = next((base / name for name in (*_WRITTEN, *_TRANSLATED) if (base / name).is_file()), None)
            if has_captions(listed):
                captions, notes = _written_by_people(list(caption_lines(listed)), listed)
                ids = list(dict.fromkeys(caption.image for caption in captions))
            elif beside:
                ids = [line.strip() for _, line, _ in text_lines(listed)]
                captions = _of(caption_lines(beside), set(ids))
                if not captions:
                    raise DatasetError(f"{beside}: no caption for any image of {listed}; get both of one release")
                if beside.name in _TRANSLATED:
                    notes = [_translated(beside, "people")]
            else:
                raise Incomplete(f"{listed}: {_WRITTEN[0]} is not beside it; unpack the whole release there")
            images = find_pictures(
                list(dict.fromkeys(ids)),
                _picture_folders(folder, base, options),
                _file_names,
                options.skip,
                "put MSCOCO's train2014/ and val2014/ beside the captions, or name their folder as image_folder",
            )
            return Loaded("COCO-CN release", images, _records(captions, options), notes)
    return None


def _of(captions: Iterator[CaptionLine], ids: set[str]) -> list[CaptionLine]:
    return [caption for caption in captions if caption.image in ids]


def _written_by_people(captions: list[CaptionLine], path: Path) -> tuple[list[CaptionLine], list[str]]:
    """The captions without `zhm` or `zhb`; if all are translations, these, and a note that says so."""
    written = [caption for caption in captions if not caption.kind]
    if written:
        return written, []
    kinds = {caption.kind for caption in captions}
    makers = "people" if kinds == {"zhm"} else "a machine" if kinds == {"zhb"} else "people and a machine"
    return captions, [_translated(path, makers)]


def _translated(path: Path, makers: str) -> str:
    return f"{path.name} holds translations by {makers}, not the captions that published COCO-CN scores are taken on"


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
