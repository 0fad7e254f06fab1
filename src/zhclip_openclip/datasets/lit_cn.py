"""LIT-CN: 33,010 pictures of AI Challenger, MUGE and the web, captions by Qwen2.5-VL of 131 tokens on average.

Paper: FG-CLIP 2, arXiv:2510.10921. Source: https://huggingface.co/datasets/qihoo360/LIT-CN. Its file is
image_caption_long_cn.txt, one line a pair; see `_long_captions.py`.
"""

from __future__ import annotations

from pathlib import Path

from zhclip_openclip.datasets import _long_captions, chinese_clip_lmdb, chinese_clip_tsv
from zhclip_openclip.datasets._layout import Loaded, ReadOptions

NAME = "lit-cn"
FOLDERS = ("LIT-CN",)
DEFAULT_SPLIT = _long_captions.SPLIT
DIRECTIONS = ("image_retrieval", "text_retrieval")
LAYOUTS = (chinese_clip_tsv, chinese_clip_lmdb)
_FILES = ("image_caption_long_cn.txt",)
LOOKS_FOR = _long_captions.looks_for(_FILES)


def load(folder: Path, split: str, options: ReadOptions) -> Loaded | None:
    return _long_captions.read(folder, split, options, _FILES, "LIT-CN")
