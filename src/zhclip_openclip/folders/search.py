"""Queries against the pictures of a folder: the best of each, and what their scores mean."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from zhclip_openclip._errors import printable
from zhclip_openclip._reading import reading
from zhclip_openclip.folders import _seen, mismatched
from zhclip_openclip.folders._errors import FolderError
from zhclip_openclip.folders._model import Opened
from zhclip_openclip.folders.mismatched import Mismatched
from zhclip_openclip.folders.queries import PICTURE, TEXT, Query
from zhclip_openclip.folders.shelf import Shelf
from zhclip_openclip.metrics._features import Features, score_pairs
from zhclip_openclip.metrics.topk import blocked_topk


@dataclass(frozen=True)
class Hit:
    """A picture that was found. place: from 1. number: of the picture on the shelf. score: cosine. share: of mismatched
    pairs that score lower, None where there are none. copies: other files with the same content."""

    place: int
    number: int
    name: str
    score: float
    share: float | None
    copies: tuple[str, ...] = ()


@dataclass
class Answer:
    """What was found for a query. kind: `TEXT` or `PICTURE`. pairs: how many mismatched ones the shares are of."""

    query: str
    kind: str
    hits: list[Hit]
    pairs: int
    notes: list[str] = field(default_factory=list)


def search(shelf: Shelf, opened: Opened, queries: Sequence[Query], number: int = 10) -> list[Answer]:
    """The `number` best pictures of each query; equal scores in the order of the names.

    A picture whose file has the very content of the query is left out of its answer, which says so.

    Raises FolderError: a query picture that cannot be read. FiniteError: features that are not finite.
    """
    features, own, notes = _encoded(shelf, opened, queries)
    found = blocked_topk(features, shelf.features, min(number + 1, len(shelf)))  # one more: for the query itself
    references = {kind: _reference(kind, shelf, opened) for kind in dict.fromkeys(map(_kind, queries))}
    pictures = Features(shelf.features, "pictures")
    answers = []
    for row, query in enumerate(queries):
        items = found[row][found[row] >= 0]
        items = items[items != own[row]][:number]
        scores = score_pairs(Features(features, "queries"), pictures, torch.full_like(items, row), items).tolist()
        reference = references[_kind(query)]
        hits = [
            Hit(place, item, shelf.names[item], score, reference.share(score), tuple(shelf.copies.get(item, ())))
            for place, (item, score) in enumerate(zip(items.tolist(), scores, strict=True), start=1)
        ]
        answers.append(Answer(query.text, _kind(query), hits, len(reference), notes[row]))
    return answers


def _kind(query: Query) -> str:
    return TEXT if query.path is None else PICTURE


def _reference(kind: str, shelf: Shelf, opened: Opened) -> Mismatched:
    if kind == PICTURE:
        return mismatched.of_pictures(shelf.features)
    return mismatched.with_texts(shelf.features, mismatched.captions_of(opened))


def _encoded(shelf: Shelf, opened: Opened, queries: Sequence[Query]) -> tuple[torch.Tensor, list[int], list[list[str]]]:
    """(queries, d); of each the picture of the shelf with its very content, or -1; and notes."""
    texts = opened.texts([query.text for query in queries if query.path is None]) if _any_text(queries) else None
    rows, own, notes, next_text = [], [], [], 0
    for query in queries:
        if query.path is None:
            rows.append(texts[next_text])
            next_text += 1
            own.append(-1)
            notes.append(_too_long(opened, query.text))
            continue
        with reading(query.path, FolderError):
            data = query.path.read_bytes()
        try:
            image = opened.transform(_seen.as_seen(data)).unsqueeze(0)
        except Exception as error:
            raise FolderError(f"{query.path}: the query picture cannot be read ({_seen._why(data, error)})") from error
        rows.append(opened.encoders()[-1](image)[0].float().cpu())
        same = (shelf.digests == np.frombuffer(hashlib.sha256(data).digest(), np.uint8)).all(axis=1)
        at = int(same.argmax()) if same.any() else -1
        own.append(at)
        notes.append([printable(f"the query itself, {shelf.names[at]}, is left out")] if at >= 0 else [])
    return torch.stack(rows), own, notes


def _any_text(queries: Sequence[Query]) -> bool:
    return any(query.path is None for query in queries)


def _too_long(opened: Opened, text: str) -> list[str]:
    read = opened.read_of(text)
    if read is None:
        return []
    return [
        printable(
            f"the query is longer than {opened.name} reads: only its first {read} of {len(text)} characters count, up "
            f"to {text[max(0, read - 8) : read]!r}"
        )
    ]


def name_of(folder: str | os.PathLike[str]) -> str:
    """What a folder is called, also where it was given as `.`."""
    return os.path.basename(os.path.realpath(folder)) or str(folder)
