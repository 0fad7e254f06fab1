"""Encoding a retrieval dataset with a model and scoring it: `evaluate` has the signature of CLIP_benchmark's.

CLIP_benchmark's own keeps one image a text and the full score matrix. Here relations are exact when the loader's
dataset has them (`RetrievalDataset`); of any other dataset each text belongs to the image it came with, as there.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.features import finite, ranks
from zhclip_openclip.features.image_pass import ImagePass
from zhclip_openclip.features.linear import fast_linear
from zhclip_openclip.features.progress import Progress
from zhclip_openclip.features.spent import SCORING, TEXTS, timed
from zhclip_openclip.features.text_batches import TextBatches, tokens_on
from zhclip_openclip.metrics._errors import MetricError
from zhclip_openclip.metrics._features import Features
from zhclip_openclip.metrics._tile import scoring_device
from zhclip_openclip.metrics.parts import score_parts
from zhclip_openclip.metrics.per_query import save_per_query
from zhclip_openclip.metrics.recall import DIRECTIONS, score_retrieval


def evaluate(
    model: Any,
    dataloader: Iterable,
    tokenizer: Callable[[list[str]], torch.Tensor],
    device: str,
    amp: bool = True,
    recall_k_list: Sequence[int] = (1, 5, 10),
    *,
    per_query: str | os.PathLike[str] | None = None,
    meta: dict[str, Any] | None = None,
) -> dict[str, float]:
    """Recall of a model with `encode_image` and `encode_text` on a retrieval dataset.

    Args:
        model, dataloader, tokenizer, device, amp, recall_k_list: as in `clip_benchmark.metrics.zeroshot_retrieval`;
            the loader yields (images, list of caption lists) in the order of the dataset.
        per_query: also write each query's rank and ten best ids here (see `per_query.py`).
        meta: goes into that file.

    Returns:
        `image_retrieval_recall@k`, `text_retrieval_recall@k` for each k, and the two `_mean_recall`; of MUGE the
        text-to-image ones alone. Of several processes rank 0 returns, and the others raise Elsewhere.

    Raises:
        FiniteError: features that are not finite; it names the image or the text, and the precision.
        MetricError: the loader gives other images than its dataset has.
    """
    dataset = exact_dataset(dataloader)
    what = dataset.name if dataset is not None else ""
    captions_of: list[Sequence[str]] = []  # of each image, where they come with it

    def image_blocks() -> Iterator[torch.Tensor]:
        for features, batch_texts in images:
            if dataset is None:
                captions_of.extend(batch_texts)
            yield features.float().cpu()

    images = ImagePass(model, dataloader, device, amp, what, keep=dataset is not None)
    if ranks.size() > 1 and images.total is None:
        raise ZhclipError(
            f"{what or 'this data set'} cannot be cut into parts in its order; evaluate it in one process"
        )
    blocks = image_blocks()
    first = next(blocks, None)
    image_features = None  # of this process; of several one can have no images
    if first is not None or ranks.size() == 1:
        image_features = Features(itertools.chain([] if first is None else [first], blocks), "image features")
    if dataset is not None:
        captions = [entry.text for entry in dataset.texts]
        text_to_images = dataset.text_to_images  # each text once, however many images it has
    else:
        captions_of = [texts for part in ranks.everyones(captions_of) for texts in part]
        captions = [text for texts in captions_of for text in texts]
        text_to_images = [[image] for image, texts in enumerate(captions_of) for _ in texts]
    if not captions:
        raise MetricError(f"{what or 'this data set'} has no captions")
    text_features = encode_texts(model, tokenizer, captions, device, amp, what)
    if image_features is None:
        image_features = Features(text_features[:0], "image features")
    image_count = sum(ranks.everyones(len(image_features)))
    if dataset is not None and image_count != len(dataset):
        raise MetricError(
            f"the loader gave {image_count} of the dataset's {len(dataset)} images; use shuffle=False and "
            "drop_last=False"
        )
    directions = dataset.directions if dataset is not None else DIRECTIONS
    top = ranks.everyones(10 if per_query else 0)[0]  # of several processes the first writes the file
    how = {"directions": directions, "top": top, "device": scoring_device(device)}
    with timed(SCORING):
        if ranks.size() == 1:
            scores = score_retrieval(image_features, text_features, text_to_images, **how)
        else:
            scores = score_parts(image_features, Features(text_features, "text features"), text_to_images, **how)
    metrics = scores.metrics(recall_k_list)
    if per_query:
        described = {"metrics": metrics, **(meta or {})}
        if dataset is not None:
            described = {
                "dataset": dataset.name,
                "split": dataset.split,
                "fingerprint": dataset.fingerprint(),
                **described,
            }
        save_per_query(
            per_query,
            scores,
            image_ids=dataset.image_ids if dataset is not None else range(image_count),
            text_ids=[entry.id for entry in dataset.texts] if dataset is not None else range(len(captions)),
            text_to_images=text_to_images,
            meta=described,
        )
    return metrics


def encode_texts(
    model: Any, tokenizer: Callable[[list[str]], torch.Tensor], texts: list[str], device: str, amp: bool, what: str = ""
) -> torch.Tensor:
    """(texts, d) unit features in float32 on the CPU, in the order of the texts.

    They are encoded in the order of their length, each different one once; of several processes each encodes a part and
    gets the others', and the batches are those of one process.

    Raises FiniteError: features of a text that are not finite.
    """
    batches = TextBatches(model, tokenizer, texts, tokens_on(device))
    found = []
    with Progress("texts", what, len(batches.order)) as progress:
        for index in ranks.part(len(batches.bounds)):
            start, stop = batches.bounds[index]
            autocast = torch.autocast(torch.device(device).type, enabled=amp)
            with timed(TEXTS), torch.no_grad(), autocast, fast_linear(model, device, amp):
                encoded = model.encode_text(batches.tokens(start, stop).to(device))
                features = torch.nn.functional.normalize(encoded, dim=-1).float().cpu()
            finite.check(features, lambda row, at=start: f"the text {batches.text_at(texts, at + row)!r}", device, amp)
            found.append(features)
            progress.add(len(features))
        progress.wait()
    return batches.of_texts(torch.cat(ranks.everyones_rows(torch.cat(found) if found else None)))


def exact_dataset(dataloader: Any) -> Any:
    """The dataset with exact relations behind a loader (through Subset-like wrappers with `.dataset`), or None."""
    dataset = getattr(dataloader, "dataset", None)
    for _ in range(4):
        if dataset is None or (hasattr(dataset, "text_to_images") and hasattr(dataset, "directions")):
            return dataset
        # A Subset holds other images than its dataset: its relations would be wrong, so it doesn't count as exact.
        if hasattr(dataset, "indices"):
            return None
        dataset = getattr(dataset, "dataset", None)
    return None
