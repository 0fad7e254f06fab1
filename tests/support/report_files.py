"""Writes results as clip_benchmark and this package write them, with outcomes that give metrics chosen beforehand.

Not a test.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from zhclip_openclip.families import find
from zhclip_openclip.metrics.per_query import save_per_query
from zhclip_openclip.metrics.per_sample import save_per_sample
from zhclip_openclip.metrics.recall import RetrievalScores
from zhclip_openclip.prompts import editions

#: So that a published share of two decimals is a whole number of hits.
SAMPLES = 10_000
KS = (1, 5, 10)
WAYS = ("image_retrieval", "text_retrieval")


def ranks_with(recalls: Sequence[float], samples: int = SAMPLES, seed: int = 0) -> np.ndarray:
    """(samples,) ranks with these percentages of 1, of 1 to 5, and of 1 to 10, in a random order; 0 is no answer."""
    ends = [round(share * samples / 100) for share in recalls]
    ranks = np.full(samples, 11)
    for start, end, rank in zip([0, *ends], ends, KS, strict=False):
        ranks[start:end] = rank
    ranks[ends[-1] :][::2] = 0
    return np.random.default_rng(seed).permutation(ranks)


def recalls_of(ranks: dict[str, np.ndarray]) -> dict[str, float]:
    """The metrics of ranks, counted here and not by the package."""
    metrics = {}
    for k in KS:
        for way, own in ranks.items():
            metrics[f"{way}_recall@{k}"] = sum(1 for rank in own.tolist() if 1 <= rank <= k) / len(own)
    for way in ranks:
        metrics[f"{way}_mean_recall"] = sum(metrics[f"{way}_recall@{k}"] for k in KS) / 3
    return metrics


def write_json(path: Path, **described) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")
    return path


def tag_of(model: str) -> str:
    found = find(model)
    return found[1].default_tag if found else "own"


def retrieval(
    folder: Path,
    model: str,
    dataset: str,
    ranks: dict[str, np.ndarray],
    pretrained: str | None = None,
    name: str = "",
    fingerprint: str = "f" * 64,
    split: str | None = None,
    **added,
) -> Path:
    """A retrieval result and its NPZ; the path of the JSON."""
    stem = name or f"{dataset}_{tag_of(model)}_{model}_zh_zeroshot_retrieval"
    meta = {"model": model, "pretrained": pretrained or tag_of(model), "dataset": dataset, "language": "zh"}
    queries, images = (len(ranks[way]) if way in ranks else 20 for way in WAYS)  # more than the worst rank
    metrics = recalls_of(ranks)
    save_per_query(
        folder / stem,
        RetrievalScores(ranks=ranks, counted={way: np.ones(len(own), dtype=bool) for way, own in ranks.items()}),
        image_ids=[f"image-{number}" for number in range(images)],
        text_ids=[f"text-{number}" for number in range(queries)],
        text_to_images=[[] for _ in range(queries)],
        meta={"fingerprint": fingerprint, "split": split, **meta, "metrics": metrics},
    )
    described = {**meta, "task": "zeroshot_retrieval", "metrics": metrics, "per_query": f"{stem}.npz", **added}
    return write_json(folder / f"{stem}.json", **described)


def answers_with(
    accuracy: float, samples: int = SAMPLES, classes: int = 10, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """(samples, classes) scores with this percentage of right answers, in a random order, and the labels."""
    rng = np.random.default_rng(seed)
    target = np.arange(samples) % classes
    right = rng.permutation(np.arange(samples) < round(accuracy * samples / 100))
    answer = np.where(right, target, (target + rng.integers(1, classes, samples)) % classes)
    logits = rng.random((samples, classes)).astype(np.float32)
    logits[np.arange(samples), answer] += 1
    return torch.from_numpy(logits), torch.from_numpy(target)


def classification(
    folder: Path,
    model: str,
    dataset: str,
    logits: torch.Tensor,
    target: torch.Tensor,
    pretrained: str | None = None,
    name: str = "",
    language: str = "zh",
    templates: str = "zh",
    split: str | None = None,
    **added,
) -> Path:
    """A classification result and its NPZ; the path of the JSON. Metrics are clip_benchmark's and scikit-learn's.

    It is of the newest version of our prompts, unless `prompts_version` is given; None for a result that says none.
    """
    stem = name or f"{dataset.replace('/', '_')}_{tag_of(model)}_{model}_{language}_zeroshot_classification"
    meta = {"model": model, "pretrained": pretrained or tag_of(model), "dataset": dataset, "language": language}
    metrics = classification_metrics(logits, target)
    save_per_sample(folder / stem, logits, target, {**meta, **({"split": split} if split else {}), "metrics": metrics})
    described = {**meta, "task": "zeroshot_classification", "metrics": metrics, "template_set": templates}
    made = editions.made_with(dataset, templates, added)
    version = {"prompts_version": added.pop("prompts_version", made.newest if made else None)}
    described |= {key: value for key, value in version.items() if value is not None}
    return write_json(folder / f"{stem}.json", **described, per_sample=f"{stem}.npz", **added)


def classification_metrics(logits: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    """As clip_benchmark's evaluate defines them; its `accuracy` itself fails with NumPy 2.4."""
    from clip_benchmark.metrics.zeroshot_classification import average_precision_per_class
    from sklearn.metrics import balanced_accuracy_score

    if target.ndim == 2:
        return {"mean_average_precision": average_precision_per_class(logits, target).mean().item()}
    best = logits.topk(5 if logits.shape[1] >= 5 else 1, 1, True, True)[1]
    metrics = {"acc1": float((best[:, 0] == target).sum()) / len(target)}
    metrics["acc5"] = float((best == target[:, None]).sum()) / len(target) if best.shape[1] == 5 else float("nan")
    return {**metrics, "mean_per_class_recall": float(balanced_accuracy_score(target, logits.argmax(1)))}


def published_results(folder: Path, source, seed: int = 0) -> list[Path]:
    """A result for every model and data set that a source has, with exactly the published shares of hits."""
    paths = []
    for dataset in dict.fromkeys(dataset for dataset, _ in source.values):
        for number, key in enumerate(source.models):
            model, here = key[0], seed + 100 * number
            ways = [way for way in WAYS if source.value(key, dataset, f"{way}_recall@1") is not None]
            if ways:
                ranks = {
                    way: ranks_with([source.value(key, dataset, f"{way}_recall@{k}") for k in KS], seed=here + place)
                    for place, way in enumerate(ways)
                }
                paths.append(retrieval(folder, model, dataset, ranks))
            else:
                answers = answers_with(source.value(key, dataset, "acc1"), seed=here)
                paths.append(classification(folder, model, dataset, *answers))
    return paths
