"""MUGE (Multimodal Retrieval): e-commerce queries and product pictures (valid: 5,008 queries, 29,806 pictures).

Source: https://tianchi.aliyun.com/dataset/107332, and preprocessed as MUGE.zip by Chinese-CLIP
(https://github.com/OFA-Sys/Chinese-CLIP, "Data Preparation"; for research). The answers of its test split are kept for
the leaderboard, so published numbers are on valid. A query has several right pictures; only text to image is scored.
"""

from __future__ import annotations

from zhclip_openclip.datasets import chinese_clip_lmdb, chinese_clip_tsv

NAME = "muge"
FOLDERS = ("MUGE", "Multimodal_Retrieval")
DEFAULT_SPLIT = "valid"
DIRECTIONS = ("image_retrieval",)
LAYOUTS = (chinese_clip_tsv, chinese_clip_lmdb)
