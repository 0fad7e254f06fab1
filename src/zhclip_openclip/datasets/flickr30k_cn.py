"""Flickr30K-CN: Flickr30K with captions in Chinese (test: 1,000 pictures, 5,000 captions translated by people).

Paper: Lan, Li and Dong, Fluency-Guided Cross-Lingual Image Captioning, ACM MM 2017, arXiv:1708.04390.
Source: https://github.com/li-xirong/cross-lingual-cap; the pictures are Flickr30K's (for research, on request).

Caption files that circulate for it, segmented into words or not, with part-of-speech tags or without:

    flickr30k_cn_test.txt (InternVL), flickr30k_test_zh.txt (CLIP_benchmark)
    flickr30kzhmbosontest/TextData/seg.flickr30kzhmbosontest.caption.txt (the original release)

The pictures lie as <id>.jpg, or as the captions name them, beside these or in a folder (flickr30k-images, Images, ...).
Captions come out clean (see `captions.py`); as people use the raw ones by mistake, they are an option.

Flickr30K-CNA (`flickr30k_cna.py`) has the same pictures and other captions, and its release calls its test file after
this set. So each of the two reads files under either name, its own first, and what the captions are decides which of
the two it has (see `_which_set.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from zhclip_openclip.datasets import chinese_clip_lmdb, chinese_clip_tsv
from zhclip_openclip.datasets._caption_file import CaptionLine, caption_lines
from zhclip_openclip.datasets._layout import Loaded, ReadOptions, split_spellings
from zhclip_openclip.datasets._picture_folder import find_pictures
from zhclip_openclip.datasets._relations import TextRecord
from zhclip_openclip.datasets.captions import clean_caption

NAME, CNA = "flickr30k-cn", "flickr30k-cna"
FOLDERS = ("Flickr30k-CN", "flickr30k", "Flickr30k-CNA")
DEFAULT_SPLIT = "test"
DIRECTIONS = ("image_retrieval", "text_retrieval")
LOOKS_FOR = (
    "flickr30k_cn_{split}.txt (or flickr30k_{split}_zh.txt, seg.flickr30kzhmboson{split}.caption.txt) with <id>.jpg"
)
ALIKE = (CNA,)

#: Caption files by the set that they are called after.
CAPTIONS = {
    NAME: (
        "flickr30k_cn_{split}.txt",
        "{split}/flickr30k_cn_{split}.txt",
        "flickr30k_{split}_zh.txt",
        *(
            f"flickr30k{made}boson{{split}}/TextData/seg.flickr30k{made}boson{{split}}.caption.txt"
            for made in ("zhm", "zhb")
        ),
        *(f"seg.flickr30k{made}boson{{split}}.caption.txt" for made in ("zhm", "zhb")),
    ),
    CNA: ("flickr30k_cna_{split}.txt", "{split}/flickr30k_cna_{split}.txt"),
}
_PICTURES = (
    "",
    "flickr30k-images",
    "Flickr30k-images",
    "flickr30k_images",
    "flickr30k_images/flickr30k_images",
    "Images",
    "images",
    "ImageData",
    "flickr30k",
    "flickr30k/images",
    "flickr30k/flickr30k-images",
)


def load(folder: Path, split: str, options: ReadOptions) -> Loaded | None:
    return read(NAME, folder, split, options)


def caption_files(folder: Path, split: str) -> dict[str, Path]:
    """The set that a caption file of this split is called after -> the file."""
    found: dict[str, Path] = {}
    for name, patterns in CAPTIONS.items():
        for spelling in split_spellings(split):
            for pattern in patterns:
                path = folder / pattern.format(split=spelling)
                if path.is_file():
                    found.setdefault(name, path)
    return found


def read(name: str, folder: Path, split: str, options: ReadOptions) -> Loaded | None:
    """The captions of one of the two sets: from a file that is called after it, or else after the other."""
    files = caption_files(folder, split)
    if not files:
        return None
    named = name if name in files else next(iter(files))
    path = files[named]
    captions = list(caption_lines(path))
    called = {caption.image: caption.file for caption in captions}
    bases = [options.image_folder] if options.image_folder else [folder, path.parent, folder.parent]
    images = find_pictures(
        list(called),
        [base / part for base in bases for part in _PICTURES],
        lambda image_id: list(dict.fromkeys([called[image_id], f"{image_id}.jpg"])),
        options.skip,
        "put Flickr30K's flickr30k-images/ beside the captions, or name it as image_folder",
    )
    layout = "Flickr30K-CN release" if named == NAME else "Flickr30K-CNA release"
    return Loaded(layout, images, _records(captions, options), file=path, named=named)


def _records(captions: Sequence[CaptionLine], options: ReadOptions) -> Iterator[TextRecord]:
    for caption in captions:
        text = caption.text if options.raw_captions else clean_caption(caption.text)
        yield TextRecord(caption.id, text, [caption.image], caption.where)


LAYOUTS = (chinese_clip_tsv, chinese_clip_lmdb)
