"""The loss in recall of what was written, on data of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zhclip_openclip.export._check import Difference, Written
from zhclip_openclip.export._export_error import ExportError
from zhclip_openclip.export._source import Source

if TYPE_CHECKING:
    import torch

_BATCH = 32


def loss(source: Source, written: Written, named: str) -> list[Difference]:
    """Recall at 1, 5 and 10 of the model and of what was written, in the directions of the data set.

    named: `NAME` or `NAME:FOLDER`, a retrieval data set as `clip_benchmark eval` takes it; its default split.
    Returns a line for each figure: what was lost, a share of the queries (negative where it was gained).
    Raises DatasetError: no such data set, or not in that folder.
    """
    import torch

    from zhclip_openclip.datasets.retrieval import build_retrieval_dataset
    from zhclip_openclip.metrics.recall import retrieval_metrics

    name, _, folder = named.partition(":")
    dataset = build_retrieval_dataset(name, folder or ".")
    sides: tuple[list, list] = ([], [])
    for start in range(0, len(dataset), _BATCH):
        pictures = [dataset[index][0] for index in range(start, min(start + _BATCH, len(dataset)))]
        sides[0].append(_unit(source.image(source.pixels(pictures))))
        sides[1].append(_unit(torch.as_tensor(written.image(torch.as_tensor(written.pixels(pictures))))))
    images = [torch.cat(side) for side in sides]
    sides = ([], [])
    for start in range(0, len(dataset.texts), _BATCH):
        texts = [entry.text for entry in dataset.texts[start : start + _BATCH]]
        sides[0].append(_unit(source.text(source.ids(texts))))
        sides[1].append(_unit(torch.as_tensor(written.text(torch.as_tensor(written.ids(texts))))))
    texts = [torch.cat(side) for side in sides]
    ours, theirs = (
        retrieval_metrics(image, text, dataset.text_to_images, dataset.image_to_texts, directions=dataset.directions)
        for image, text in zip(images, texts, strict=True)
    )
    return [
        Difference(
            f"loss in {key} on {dataset.name} {dataset.split}",
            ours[key] - theirs[key],
            None,
            f"{100 * ours[key]:.2f} % before, {100 * theirs[key]:.2f} % as written",
        )
        for key in ours
    ]


def refuse_unknown(named: str) -> None:
    """Raises ExportError: no retrieval data set of that name, or no such folder, before anything is written."""
    from zhclip_openclip.datasets.retrieval import DATASETS, dataset_name

    name, _, folder = named.partition(":")
    if dataset_name(name) is None:
        raise ExportError(f"--check-data {name!r} is no retrieval data set; there are {', '.join(DATASETS)}")
    if folder and not Path(folder).is_dir():
        raise ExportError(f"--check-data: {folder} is no folder")


def _unit(features: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.nn.functional.normalize(features.float(), dim=-1)
