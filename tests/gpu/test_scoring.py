"""Retrieval is scored on a GPU to the same ranks as on the CPU, to the last digit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.metrics.test_recall import KINDS, _features, _reference
from zhclip_openclip.metrics.recall import score_retrieval
from zhclip_openclip.metrics.topk import blocked_topk


@pytest.mark.parametrize("block", [None, (64, 48), (300, 4000)])
@pytest.mark.parametrize("kind", KINDS)
def test_same_as_a_full_sort(kind, block, device):
    rng = np.random.default_rng(KINDS.index(kind))
    images, texts = _features(kind, rng)
    relations = [sorted(set(rng.integers(0, len(images), rng.integers(0, 4)).tolist())) for _ in range(len(texts))]
    scores = score_retrieval(images, texts, relations, block=block, device=device)
    expected = _reference(images, texts, relations, k=10)
    for direction, (ranks, top) in expected.items():
        assert scores.ranks[direction].tolist() == ranks, direction
        assert scores.top[direction].tolist() == top, direction
    assert blocked_topk(texts, images, 10, block, device).tolist() == expected["image_retrieval"][1]


@pytest.mark.parametrize("dim", [512, 1024])
def test_same_as_on_the_cpu_at_real_sizes(dim, device):
    """Unit features of a model that is right about every second text, with doubles among the pictures."""
    generator = torch.Generator().manual_seed(dim)
    images = torch.nn.functional.normalize(torch.randn(6000, dim, generator=generator), dim=-1)
    images[3000:3300] = images[:300]
    texts = (
        images[:2000] + torch.randn(2000, dim, generator=generator) * torch.tensor([0.02, 0.2]).repeat(1000)[:, None]
    )
    texts = torch.nn.functional.normalize(texts, dim=-1)
    relations = [[row] for row in range(2000)]
    there = score_retrieval(images, texts, relations, device=device)
    here = score_retrieval(images, texts, relations)
    for direction in here.ranks:
        assert (there.ranks[direction] == here.ranks[direction]).all()
        assert (there.top[direction] == here.top[direction]).all()
    assert 0.3 < here.metrics()["image_retrieval_recall@1"] < 1


def test_tf32_that_the_caller_allows_changes_nothing(device):
    rng = np.random.default_rng(5)
    images, texts = _features("random", rng)
    relations = [[0]] * len(texts)
    expected = score_retrieval(images, texts, relations)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
            scores = score_retrieval(images, texts, relations, device=device)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert (scores.top["text_retrieval"] == expected.top["text_retrieval"]).all()
    assert (scores.ranks["image_retrieval"] == expected.ranks["image_retrieval"]).all()
