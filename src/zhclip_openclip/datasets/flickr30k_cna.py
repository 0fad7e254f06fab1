"""Flickr30K-CNA: Flickr30K's pictures with captions that people translated anew (test: 1,000 pictures, 5,000 captions).

Paper: Xie et al., CCMB: A Large-scale Chinese Cross-modal Benchmark, ACM MM 2023, arXiv:2205.03860.
Source: https://github.com/yuxie11/R2D2; the pictures are Flickr30K's (for research, on request).

    train/flickr30k_cna_train.txt, val/flickr30k_cna_val.txt, test/flickr30k_cna_test.txt

with `<id>#number`, tab, caption, or the files without their folders (FG-CLIP 2). A release that circulates has
test/flickr30k_cn_test.txt, which is called after Flickr30K-CN: what its captions are decides (see `flickr30k_cn.py`).
"""

from __future__ import annotations

from pathlib import Path

from zhclip_openclip.datasets import chinese_clip_lmdb, chinese_clip_tsv, flickr30k_cn
from zhclip_openclip.datasets._layout import Loaded, ReadOptions

NAME = flickr30k_cn.CNA
FOLDERS = ("Flickr30k-CNA", "flickr30k", "Flickr30k-CN")
DEFAULT_SPLIT = "test"
DIRECTIONS = ("image_retrieval", "text_retrieval")
LOOKS_FOR = "flickr30k_cna_{split}.txt with <id>.jpg"
ALIKE = (flickr30k_cn.NAME,)
LAYOUTS = (chinese_clip_tsv, chinese_clip_lmdb)


def load(folder: Path, split: str, options: ReadOptions) -> Loaded | None:
    return flickr30k_cn.read(NAME, folder, split, options)
