"""DCI-CN: the pictures of Densely Captioned Images (Urbanek et al. 2024) with its long captions in Chinese.

Paper: FG-CLIP 2, arXiv:2510.10921. Source: https://huggingface.co/datasets/qihoo360/DCI-CN. Its file is
image_caption_trans.txt, one line a pair; see `_long_captions.py`. DCI-CN and DOCCI-CN call it alike: the names of the
pictures decide (see `_which_set.py`).
"""

from __future__ import annotations

from pathlib import Path

from zhclip_openclip.datasets import _long_captions, chinese_clip_lmdb, chinese_clip_tsv
from zhclip_openclip.datasets._layout import Loaded, ReadOptions

NAME = "dci-cn"
FOLDERS = ("DCI-CN", "dci")
DEFAULT_SPLIT = _long_captions.SPLIT
DIRECTIONS = ("image_retrieval", "text_retrieval")
ALIKE = ("docci-cn",)
LAYOUTS = (chinese_clip_tsv, chinese_clip_lmdb)
_FILES = ("image_caption_trans.txt",)
LOOKS_FOR = _long_captions.looks_for(_FILES)


def load(folder: Path, split: str, options: ReadOptions) -> Loaded | None:
    return _long_captions.read(folder, split, options, _FILES, "DCI-CN")
