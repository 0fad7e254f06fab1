"""Recall at k as image-text retrieval reports it, in both directions.

In words: the share of queries for which any right item is among the k best. A text may have several right images and
an image several right texts; one of them is enough.

    R@k = |{q : rank(q) <= k}| / |Q|          rank(q): see `rank.py`, ties in the order of the items
    mean recall = (R@1 + R@5 + R@10) / 3

Q is every text for image retrieval, and every image that has a text for text retrieval (other images are only there
to be confused with). Source: the evaluation scripts of Chinese-CLIP, `cn_clip/eval/evaluation.py` and
`evaluation_tr.py` (Yang et al. 2022, arXiv:2211.01335), which MUGE's leaderboard scores with; the numbers are theirs to
the last digit. Where each text has one image and nothing ties, they are also those of CLIP_benchmark's
`zeroshot_retrieval` (which rounds them to float32), whose names are kept.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from zhclip_openclip.metrics._errors import MetricError
from zhclip_openclip.metrics._exact import error_bound, full_float32, one_thread_each
from zhclip_openclip.metrics._features import Features, FeatureSource, score_pairs
from zhclip_openclip.metrics._tile import Tile, TileBuffers, block_size
from zhclip_openclip.metrics.rank import FirstHitRank
from zhclip_openclip.metrics.topk import StreamingTopK

DIRECTIONS = ("image_retrieval", "text_retrieval")
MEAN_RECALL_KS = (1, 5, 10)
Relations = Sequence[Sequence[int]]


def recall_at_k(ranks: np.ndarray, k: int) -> float:
    """Share of the (queries,) ranks that are 1..k; 0 stands for "has no right item" and counts as a miss."""
    return int(((ranks >= 1) & (ranks <= k)).sum()) * 1.0 / len(ranks)


def mean_recall(ranks: np.ndarray) -> float:
    """Mean of recall at 1, 5 and 10 of the (queries,) ranks, whatever other k is reported."""
    total = 0.0
    for k in MEAN_RECALL_KS:  # not sum(): from Python 3.12 on it rounds differently from the original's r1 + r5 + r10
        total += recall_at_k(ranks, k)
    return total / len(MEAN_RECALL_KS)


@dataclass
class RetrievalScores:
    """What one pass over the features gives.

    ranks: direction -> (queries,) int64, counted from 1, 0 without any right item.
    top: direction -> (queries, m) int64 positions of the best items, -1 where there are fewer; empty if not asked for.
    counted: direction -> (queries,) bool, which queries the recall is taken over.
    """

    ranks: dict[str, np.ndarray] = field(default_factory=dict)
    top: dict[str, np.ndarray] = field(default_factory=dict)
    counted: dict[str, np.ndarray] = field(default_factory=dict)

    def metrics(self, ks: Iterable[int] = (1, 5, 10)) -> dict[str, float]:
        """`{direction}_recall@{k}` for each k and `{direction}_mean_recall`, for each direction."""
        result: dict[str, float] = {}
        for k in ks:
            for direction in self.ranks:
                result[f"{direction}_recall@{k}"] = recall_at_k(self._over(direction), k)
        for direction in self.ranks:
            result[f"{direction}_mean_recall"] = mean_recall(self._over(direction))
        return result

    def _over(self, direction: str) -> np.ndarray:
        return self.ranks[direction][self.counted[direction]]


def score_retrieval(
    image_features: FeatureSource,
    text_features: FeatureSource,
    text_to_images: Relations,
    image_to_texts: Relations | None = None,
    *,
    directions: Sequence[str] = DIRECTIONS,
    top: int = 10,
    block: tuple[int, int] | None = None,
    device: torch.device | str = "cpu",
) -> RetrievalScores:
    """Ranks and best items in all directions, in one pass over the image features.

    Args:
        image_features: (n, d): a tensor, an array, a np.memmap, or an iterable of (m, d) blocks.
        text_features: (t, d), the same.
        text_to_images: for each text the positions of its right images.
        image_to_texts: for each image the positions of its right texts; by default `text_to_images` read backwards.
        directions: 'image_retrieval' (texts ask for images), 'text_retrieval' (images ask for texts), or both.
        top: how many best items to keep for each query; 0 keeps none and is a little faster.
        block: texts and images a tile, by default what suits the device; changes memory and speed, never the result.
        device: where the products are made; changes speed, never the result.

    Raises:
        MetricError: an unknown direction, sizes that do not fit, a position out of range.
        FiniteError: features that are not finite.
    """
    texts, images = Features(text_features, "text features"), Features(image_features, "image features")
    if image_to_texts is None:
        image_to_texts = invert(text_to_images, len(images))
    _check(texts, images, text_to_images, image_to_texts, directions)

    forward, backward = "image_retrieval" in directions, "text_retrieval" in directions
    with full_float32(), one_thread_each() as threads:
        a_pass = Pass(texts, images, block, top if forward else 0, top if backward else 0, device)
        image_rank = FirstHitRank(text_to_images, a_pass.score) if forward else None
        text_rank = FirstHitRank(image_to_texts, lambda q, i: a_pass.score(i, q)) if backward else None
        image_top, text_top = a_pass.run_all(threads, image_rank, text_rank)
        result = RetrievalScores()
        if image_rank:
            result.ranks["image_retrieval"] = image_rank.ranks().numpy()
            result.counted["image_retrieval"] = np.ones(len(texts), dtype=bool)
        if text_rank:
            result.ranks["text_retrieval"] = text_rank.ranks().numpy()
            result.counted["text_retrieval"] = np.array([len(right) > 0 for right in image_to_texts])
        if image_top:
            result.top["image_retrieval"] = image_top.finish().numpy()
        if text_top is not None:
            result.top["text_retrieval"] = text_top.numpy()
    return result


class Pass:
    """The loop over tiles, for a run of images."""

    def __init__(
        self,
        texts: Features,
        images: Features,
        block: tuple[int, int] | None,
        image_top: int,
        text_top: int,
        device: torch.device | str,
    ) -> None:
        self.texts, self.images, self.device = texts, images, torch.device(device)
        self.rows, self.columns = rows, _ = block or block_size(device)
        self.image_top, self.text_top = image_top, text_top
        self.bound = error_bound(texts.dim)
        self.text_norms = torch.cat([texts.norms(t, t + rows) for t in range(0, len(texts), rows)])

    def score(self, text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Pair scores of (n,) texts and (n,) images."""
        return score_pairs(self.texts, self.images, text, image)

    def run_all(
        self, threads: int, image_rank: FirstHitRank | None, text_rank: FirstHitRank | None
    ) -> tuple[StreamingTopK | None, torch.Tensor | None]:
        """All images against all texts, counted by the two ranks.

        Returns:
            What the texts have found; (images, text_top) the best texts of the images. None where none are kept.
        """
        # Each thread takes a run of image blocks of its own and meets the others at the end only: splitting every
        # small step between threads makes them wait for each other, for ever where others use the machine too.
        # A GPU is one for all of them.
        blocks = -(-len(self.images) // self.columns)
        workers = max(1, min(threads if self.device.type == "cpu" else 1, blocks))
        bounds = [blocks * worker // workers * self.columns for worker in range(workers)] + [len(self.images)]
        forks = [image_rank.fork() if image_rank else None for _ in range(workers)]
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            parts = list(pool.map(self.run, bounds[:-1], bounds[1:], forks, [text_rank] * workers))
        if image_rank:
            for fork in forks:
                image_rank.join(fork)
        image_top = parts[0][0]
        if image_top:
            for later, _ in parts[1:]:
                image_top.join(later)
        found = [block for _, part in parts for block in part]
        none = torch.empty(0, self.text_top, dtype=torch.int64)
        return image_top, torch.cat([none, *found]) if self.text_top else None

    def run(
        self, start: int, stop: int, image_rank: FirstHitRank | None, text_rank: FirstHitRank | None
    ) -> tuple[StreamingTopK | None, list[torch.Tensor]]:
        """Images start..stop against all texts. `image_rank` is this run's own; `text_rank` may be shared, as runs
        have no image in common.

        Returns:
            What the texts have found among these images; the best texts of the images, block by block.
        """
        buffers, columns = TileBuffers(self.device), self.columns
        image_top = StreamingTopK(len(self.texts), self.image_top, self.score) if self.image_top else None
        found: list[torch.Tensor] = []
        for image0 in range(start, stop, columns):
            images = self.images.block(image0, min(stop, image0 + columns))
            image_norms = self.images.norms(image0, min(stop, image0 + columns))
            images = images.to(self.device)
            text_top = None
            if self.text_top:
                text_top = StreamingTopK(len(images), self.text_top, lambda q, i, at=image0: self.score(i, q + at))
            for text0 in range(0, len(self.texts), self.rows):
                tile = Tile(self.texts.block(text0, text0 + self.rows), images, buffers)
                text_norms = self.text_norms[text0 : text0 + self.rows]
                text_margin = self.bound * text_norms * image_norms.max()
                image_margin = self.bound * image_norms * text_norms.max()
                if image_rank:
                    image_rank.update(tile, 0, text0, image0, text_margin)
                if text_rank:
                    text_rank.update(tile, 1, image0, text0, image_margin)
                if image_top:
                    image_top.update(tile, 0, text0, image0, text_margin)
                if text_top:
                    text_top.update(tile, 1, 0, text0, image_margin)
            if text_top:
                found.append(text_top.finish())
        return image_top, found


def retrieval_metrics(
    image_features: FeatureSource,
    text_features: FeatureSource,
    text_to_images: Relations,
    image_to_texts: Relations | None = None,
    ks: Iterable[int] = (1, 5, 10),
    directions: Sequence[str] = DIRECTIONS,
) -> dict[str, float]:
    """Recall at each k and mean recall for each direction, under CLIP_benchmark's names. See `score_retrieval`."""
    scores = score_retrieval(
        image_features, text_features, text_to_images, image_to_texts, directions=directions, top=0
    )
    return scores.metrics(ks)


def invert(text_to_images: Relations, images: int) -> list[list[int]]:
    """For each of the images the texts that name it, in the order of the texts."""
    image_to_texts: list[list[int]] = [[] for _ in range(images)]
    for text, right in enumerate(text_to_images):
        for image in right:
            image_to_texts[image].append(text)
    return image_to_texts


def _check(
    texts: Features, images: Features, text_to_images: Relations, image_to_texts: Relations, directions: Sequence[str]
) -> None:
    unknown = [direction for direction in directions if direction not in DIRECTIONS]
    if unknown or not directions:
        raise MetricError(f"directions {list(directions)}: use {' and/or '.join(DIRECTIONS)}")
    if texts.dim != images.dim:
        raise MetricError(
            f"text features have {texts.dim} dimensions and image features {images.dim}; take both from the same model"
        )
    for what, relations, queries, items in (
        ("text_to_images", text_to_images, texts, images),
        ("image_to_texts", image_to_texts, images, texts),
    ):
        if len(relations) != len(queries) or not len(queries):
            raise MetricError(f"{what} has {len(relations)} entries, but there are {len(queries)} {queries.name}")
        for query, right in enumerate(relations):
            if any(not 0 <= item < len(items) for item in right):
                raise MetricError(f"{what}[{query}] = {list(right)}: there are only {len(items)} {items.name}")
