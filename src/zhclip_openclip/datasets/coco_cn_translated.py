"""COCO-CN's 5,000 translated captions: five for each of the 1,000 test pictures, translated by people from MSCOCO's.

They come with COCO-CN (`coco_cn.py`, which has paper and source) and are another set: 6 of them are among the 1,053
that people wrote. FG-CLIP 2 and what is compared with it report on these and call them COCO-CN.

    imageid.manually-translated-caption.txt         id#zhm#number, tab, caption, beside coco-cn_test.txt
    pair.txt                                        the same lines, as FG-CLIP 2's repository has them
"""

from __future__ import annotations

from pathlib import Path

from zhclip_openclip.datasets import chinese_clip_lmdb, chinese_clip_tsv, coco_cn
from zhclip_openclip.datasets._layout import Loaded, ReadOptions

NAME = coco_cn.TRANSLATED
FOLDERS = ("COCO-CN-translated", *coco_cn.FOLDERS)
DEFAULT_SPLIT = "test"
DIRECTIONS = ("image_retrieval", "text_retrieval")
LOOKS_FOR = (
    "imageid.manually-translated-caption.txt with coco-cn_{split}.txt (or pair.txt of FG-CLIP 2) and MSCOCO's pictures "
    "(train2014/, val2014/)"
)
ALIKE = (coco_cn.NAME,)
LAYOUTS = (chinese_clip_tsv, chinese_clip_lmdb)


def load(folder: Path, split: str, options: ReadOptions) -> Loaded | None:
    return coco_cn.read(NAME, folder, split, options)
