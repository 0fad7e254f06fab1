"""Recall: sums a reader can do in the head, a slow full sort as reference, bad input."""

import contextlib

import numpy as np
import pytest
import torch

from zhclip_openclip.metrics.recall import invert, mean_recall, recall_at_k, retrieval_metrics, score_retrieval
from zhclip_openclip.metrics.topk import blocked_topk


def test_in_the_head():
    # One number a feature, so a text of 1 ranks the images by their own number: 3, 2, 1, 0 -> positions 3, 2, 1, 0.
    images = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    texts = torch.tensor([[1.0], [-1.0]])
    scores = score_retrieval(images, texts, [[1, 2], [3]], top=3)
    assert scores.ranks["image_retrieval"].tolist() == [2, 4]  # image 2 is second for text 0; image 3 last for text 1
    assert scores.top["image_retrieval"].tolist() == [[3, 2, 1], [0, 1, 2]]
    # images 1 and 2 prefer text 0, which is right; image 3 prefers text 0 as well, but text 1 is right for it
    assert scores.ranks["text_retrieval"].tolist() == [0, 1, 1, 2]
    metrics = scores.metrics(ks=(1, 2, 3))
    assert metrics["image_retrieval_recall@1"] == 0.0
    assert metrics["image_retrieval_recall@2"] == metrics["image_retrieval_recall@3"] == 0.5
    assert metrics["text_retrieval_recall@1"] == 2 / 3  # image 0 has no text and is not asked
    assert metrics["text_retrieval_recall@2"] == 1.0
    assert metrics["image_retrieval_mean_recall"] == (0.0 + 1.0 + 1.0) / 3


def test_equal_scores_keep_the_order_of_the_items():
    images, texts = torch.ones(5, 2), torch.ones(2, 2)
    scores = score_retrieval(images, texts, [[3], [4, 1]], top=5)
    assert scores.ranks["image_retrieval"].tolist() == [4, 2]
    assert scores.top["image_retrieval"].tolist() == [[0, 1, 2, 3, 4]] * 2


def test_a_text_without_a_right_image_counts_as_a_miss_and_an_image_without_text_is_not_asked():
    images, texts = torch.eye(3), torch.eye(3)
    scores = score_retrieval(images, texts, [[0], [], [2]])
    metrics = scores.metrics(ks=(1,))
    assert metrics["image_retrieval_recall@1"] == 2 / 3
    assert metrics["text_retrieval_recall@1"] == 1.0
    assert scores.counted["text_retrieval"].tolist() == [True, False, True]


def test_one_direction_alone():
    metrics = retrieval_metrics(torch.eye(3), torch.eye(3), [[0], [1], [2]], directions=("image_retrieval",))
    assert sorted(metrics) == [
        f"image_retrieval_{name}" for name in ("mean_recall", "recall@1", "recall@10", "recall@5")
    ]


def test_mean_recall_is_over_1_5_10_whatever_k_is_reported():
    ranks = np.array([1, 4, 9, 11])
    assert [recall_at_k(ranks, k) for k in (1, 5, 10)] == [0.25, 0.5, 0.75]
    assert mean_recall(ranks) == 0.5
    metrics = retrieval_metrics(torch.eye(12), torch.eye(12), [[i] for i in range(12)], ks=(2,))
    assert "image_retrieval_recall@1" not in metrics and metrics["image_retrieval_mean_recall"] == 1.0


def _reference(images, texts, relations, k):
    """Full float64 scores rounded to float32, a stable sort, and a look at every place."""
    scores = (texts.double() @ images.double().t()).float()
    result = {}
    for direction, matrix, right in (
        ("image_retrieval", scores, relations),
        ("text_retrieval", scores.t().contiguous(), invert(relations, len(images))),
    ):
        order = torch.sort(matrix, dim=1, descending=True, stable=True).indices.tolist()
        ranks = [
            min((row.index(item) + 1 for item in items), default=0) for row, items in zip(order, right, strict=True)
        ]
        result[direction] = (ranks, [(row[:k] + [-1] * k)[:k] for row in order])
    return result


@contextlib.contextmanager
def torch_threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _features(kind, rng):
    count, asked, dim = {"tiny": (7, 5, 3), "collapsed": (90, 60, 4), "many_near": (400, 40, 8)}.get(
        kind, (230, 110, 12)
    )
    images, texts = rng.standard_normal((count, dim)), rng.standard_normal((asked, dim))
    if kind == "coarse":
        images, texts = np.round(images * 2) / 2, np.round(texts)
    elif kind == "signs":
        images, texts = np.sign(images), np.sign(texts)
    elif kind == "duplicates":
        images, texts = images[rng.integers(0, 40, count)], texts[rng.integers(0, 30, asked)]
    elif kind == "collapsed":
        images[:] = images[0]
    elif kind == "lengths":
        images, texts = images * rng.random((count, 1)) * 1000, texts * 1e-3
    elif kind == "many_near":  # differences around float32's resolution: most scores are within the error bound
        images = images[:1] + rng.standard_normal((count, dim)) * 1e-7
    elif kind == "zeros":
        images[::3], texts[::4] = 0.0, -0.0
    return torch.tensor(images, dtype=torch.float32), torch.tensor(texts, dtype=torch.float32)


KINDS = ("random", "tiny", "coarse", "signs", "duplicates", "collapsed", "lengths", "many_near", "zeros")


@pytest.mark.parametrize("lanes", [True, False])  # False: as masks of many columns and of GPUs are counted
@pytest.mark.parametrize("kind", KINDS)
def test_same_as_a_full_sort_in_any_blocks(kind, lanes, monkeypatch):
    if not lanes:
        monkeypatch.setattr("zhclip_openclip.metrics._mask.MAX_COLUMNS", 0)
    rng = np.random.default_rng(KINDS.index(kind))
    images, texts = _features(kind, rng)
    relations = [sorted(set(rng.integers(0, len(images), rng.integers(0, 4)).tolist())) for _ in range(len(texts))]
    expected = _reference(images, texts, relations, k=10)
    for block, threads in (((1024, 2040), 1), ((64, 48), 3), ((23, 9), 1), ((300, 16), 2)):
        with torch_threads(threads):
            scores = score_retrieval(images, texts, relations, block=block)
            assert torch.get_num_threads() == threads
        for direction, (ranks, top) in expected.items():
            assert scores.ranks[direction].tolist() == ranks, (direction, block)
            assert scores.top[direction].tolist() == top, (direction, block)
    assert blocked_topk(texts, images, 10, block=(840, 32)).tolist() == expected["image_retrieval"][1]


def test_top_and_rank_agree():
    rng = np.random.default_rng(3)
    images, texts = _features("coarse", rng)
    scores = score_retrieval(images, texts, [[i % len(images)] for i in range(len(texts))])
    ranks, tops = scores.ranks["image_retrieval"], scores.top["image_retrieval"]
    for query, (rank, top) in enumerate(zip(ranks, tops, strict=True)):
        assert (query % len(images) in top) == (rank <= 10)
        if rank <= 10:
            assert top[rank - 1] == query % len(images)


@pytest.mark.parametrize("source", ["memmap", "blocks", "float16", "spooled"])
def test_features_from_anywhere(source, tmp_path, monkeypatch):
    rng = np.random.default_rng(9)
    images, texts = _features("coarse", rng)
    relations = [[int(rng.integers(0, len(images)))] for _ in range(len(texts))]
    expected = score_retrieval(images, texts, relations)
    given = images
    if source == "memmap":
        np.save(tmp_path / "f.npy", images.numpy())
        given = np.load(tmp_path / "f.npy", mmap_mode="r")
    elif source == "float16":  # halves are exact in it
        given = images.half()
    else:
        if source == "spooled":
            monkeypatch.setattr("zhclip_openclip.metrics._features._IN_MEMORY", 1000)
        given = (images[start : start + 50].numpy() for start in range(0, len(images), 50))
    scores = score_retrieval(given, texts, relations)
    for direction in expected.ranks:
        assert (scores.ranks[direction] == expected.ranks[direction]).all()
        assert (scores.top[direction] == expected.top[direction]).all()


def test_lower_precision_allowed_by_the_caller_changes_nothing():
    rng = np.random.default_rng(5)
    images, texts = _features("random", rng)
    relations = [[0]] * len(texts)
    expected = score_retrieval(images, texts, relations)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = score_retrieval(images, texts, relations)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert (scores.top["text_retrieval"] == expected.top["text_retrieval"]).all()
    assert (scores.ranks["image_retrieval"] == expected.ranks["image_retrieval"]).all()


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(directions=("imge_retrieval",)), "image_retrieval and/or text_retrieval"),
        (dict(directions=()), "image_retrieval and/or text_retrieval"),
        (dict(text_features=torch.ones(3, 5)), "5 dimensions and image features 4"),
        (dict(text_to_images=[[0], [1]]), "2 entries, but there are 3 text features"),
        (dict(text_to_images=[[0], [1], [4]], image_to_texts=[[]] * 4), "there are only 4 image features"),
        (dict(image_features=torch.tensor([[0.0] * 4] * 3 + [[torch.nan] * 4])), "image features: row 3 is not finite"),
        (dict(text_features=torch.full((3, 4), torch.inf)), "text features: row 0 is not finite"),
        (dict(image_features=iter([])), "image features: the stream of features is empty"),
        (dict(image_features=torch.ones(4)), "have shape"),
    ],
)
def test_bad_input_is_named(change, message):
    given = dict(image_features=torch.ones(4, 4), text_features=torch.ones(3, 4), text_to_images=[[0], [1], [2]])
    with pytest.raises(ValueError, match=message):
        score_retrieval(**{**given, **change})
