"""`recall.score_retrieval` where each process has a part of the images: scored in place, to the same result.

Every score is the one of `_exact.py`, whichever process computes it, and the order of equal ones that of the positions
in the whole. So the parts come together exactly:

    rank of a text      its best right item is the best of the processes' best; each counts what stands before it among
                        its own images, and the counts add up
    best images         of the processes' k best, with their scores, the k best
    rank, best texts    of an image concern one process alone

What travels is a few numbers a query, and no image feature.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from zhclip_openclip.features import ranks
from zhclip_openclip.metrics._errors import MetricError
from zhclip_openclip.metrics._exact import full_float32, one_thread_each
from zhclip_openclip.metrics._features import Features
from zhclip_openclip.metrics.rank import FirstHitRank
from zhclip_openclip.metrics.recall import DIRECTIONS, Pass, Relations, RetrievalScores, invert
from zhclip_openclip.metrics.topk import StreamingTopK


def score_parts(
    images: Features,
    texts: Features,
    text_to_images: Relations,
    *,
    directions: Sequence[str] = DIRECTIONS,
    top: int = 10,
    block: tuple[int, int] | None = None,
    device: torch.device | str = "cpu",
) -> RetrievalScores:
    """What `score_retrieval` gives, on rank 0.

    Args:
        images: those of this process, any number; the whole is that of rank 0, then rank 1, and so on.
        texts: all of them, on every process.
        text_to_images: for each text the positions of its right images in the whole.
        directions, top, block, device: as there.

    Raises:
        ranks.Elsewhere: on all other processes.
        MetricError: sizes that do not fit, a position out of range.
        FiniteError: features that are not finite.
    """
    counts = ranks.everyones(len(images))
    first, total = sum(counts[: ranks.rank()]), sum(counts)
    if len(text_to_images) != len(texts) or not len(texts) or not total:
        raise MetricError(f"{len(text_to_images)} entries of text_to_images, {len(texts)} texts, {total} images")
    for text, right in enumerate(text_to_images):
        if any(not 0 <= image < total for image in right):
            raise MetricError(f"text_to_images[{text}] = {list(right)}: there are only {total} images")
    here = [[image - first for image in right if 0 <= image - first < len(images)] for right in text_to_images]
    right_texts = invert(here, len(images))

    forward, backward = "image_retrieval" in directions, "text_retrieval" in directions
    with full_float32(), one_thread_each() as threads:
        a_pass = Pass(texts, images, block, top if forward else 0, top if backward else 0, device)
        image_rank = FirstHitRank(here, a_pass.score) if forward else None
        text_rank = FirstHitRank(right_texts, lambda q, i: a_pass.score(i, q)) if backward else None
        if image_rank:
            best, best_item = _best_of_all(image_rank, first)
            image_rank.count_before(best, best_item - first)
        image_top, text_top = a_pass.run_all(threads, image_rank, text_rank)
        found = _best_with_scores(image_top, a_pass, first) if image_top else None

    result = RetrievalScores()
    before = ranks.gather(image_rank.before.unsqueeze(0) if image_rank else None)
    text_ranks = ranks.gather(text_rank.ranks() if text_rank else None)
    text_tops = ranks.gather(text_top)
    scores, items = ranks.gather(found[0] if found else None), ranks.gather(found[1] if found else None)
    ranks.only_first()
    if image_rank:
        right = torch.tensor([len(images) > 0 for images in text_to_images])
        result.ranks["image_retrieval"] = torch.where(right, torch.cat(before).sum(dim=0) + 1, 0).numpy()
        result.counted["image_retrieval"] = np.ones(len(texts), dtype=bool)
    if text_rank:
        result.ranks["text_retrieval"] = torch.cat(text_ranks).numpy()
        result.counted["text_retrieval"] = np.array([len(right) > 0 for right in invert(text_to_images, total)])
    if found:
        # The processes' lists stand in the order of the images, so that a stable sort leaves equal scores in it.
        order = torch.sort(torch.cat(scores, dim=1), dim=1, descending=True, stable=True).indices[:, :top]
        result.top["image_retrieval"] = torch.cat(items, dim=1).gather(1, order).numpy()
    if text_top is not None:
        result.top["text_retrieval"] = torch.cat(text_tops).numpy()
    return result


def _best_of_all(rank: FirstHitRank, first: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Score and position in the whole of each text's best right image; infinity and -1 without any."""
    best, item = rank.best
    none, last = item < 0, torch.iinfo(torch.int64).max
    bests = torch.stack(ranks.everyones_rows(best.masked_fill(none, -torch.inf)))
    items = torch.stack(ranks.everyones_rows((item + first).masked_fill(none, last)))
    best = bests.amax(dim=0)
    item = items.masked_fill(bests != best, last).amin(dim=0)
    return best.masked_fill(item == last, torch.inf), item.masked_fill(item == last, -1)


def _best_with_scores(image_top: StreamingTopK, a_pass: Pass, first: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(texts, k) scores and positions in the whole of this process's best images; -infinity and -1 for none."""
    items = image_top.finish()
    text, place = (items >= 0).nonzero(as_tuple=True)
    scores = torch.full(items.shape, -torch.inf)
    scores[text, place] = a_pass.score(text, items[text, place])
    return scores, torch.where(items >= 0, items + first, -1)
