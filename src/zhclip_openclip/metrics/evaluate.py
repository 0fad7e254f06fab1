"""Encoding a retrieval dataset with a model and scoring it: `evaluate` has the signature of CLIP_benchmark's.

CLIP_benchmark's own keeps one image a text and the full score matrix. Here relations are exact when the loader's
dataset has them (`RetrievalDataset`); of any other dataset each text belongs to the image it came with, as there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from zhclip_openclip.features.image_pass import ImagePass
from zhclip_openclip.metrics._features import Features
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
        text-to-image ones alone.
    """
    dataset = exact_dataset(dataloader)
    captions: list[str] = []
    text_to_images: list[Sequence[int]] = []
    text_blocks: list[torch.Tensor] = []

    def encode_texts(texts: list[str]) -> torch.Tensor:
        with torch.no_grad(), torch.autocast(torch.device(device).type, enabled=amp):
            encoded = model.encode_text(tokenizer(texts).to(device))
            return torch.nn.functional.normalize(encoded, dim=-1).float().cpu()

    def images() -> Iterator[torch.Tensor]:
        seen = 0
        what = dataset.name if dataset is not None else ""
        for features, batch_texts in ImagePass(model, dataloader, device, amp, what, keep=dataset is not None):
            if dataset is None:
                for offset, texts in enumerate(batch_texts):
                    captions.extend(texts)
                    text_to_images.extend([[seen + offset]] * len(texts))
                flat = [text for texts in batch_texts for text in texts]
                if flat:
                    text_blocks.append(encode_texts(flat))
            seen += len(features)
            yield features.float().cpu()

    image_features = Features(images(), "image features")
    if dataset is not None:
        captions = [entry.text for entry in dataset.texts]
        text_to_images = dataset.text_to_images
        size = max(1, getattr(dataloader, "batch_size", None) or 64)
        # Each text once, however many images it has.
        text_blocks = [encode_texts(captions[start : start + size]) for start in range(0, len(captions), size)]
        if len(image_features) != len(dataset):
            raise ValueError(
                f"the loader gave {len(image_features)} of the dataset's {len(dataset)} images; "
                "use shuffle=False and drop_last=False"
            )
    scores = score_retrieval(
        image_features,
        torch.cat(text_blocks),
        text_to_images,
        directions=dataset.directions if dataset is not None else DIRECTIONS,
        top=10 if per_query else 0,
    )
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
            image_ids=dataset.image_ids if dataset is not None else range(len(image_features)),
            text_ids=[entry.id for entry in dataset.texts] if dataset is not None else range(len(captions)),
            text_to_images=text_to_images,
            meta=described,
        )
    return metrics


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
