"""Batches without repeats: what is in them, what each process gets of them, and where they cannot be had."""

from __future__ import annotations

import numpy as np
import pytest

from zhclip_openclip.training import PairBatches, TrainingError


def sets(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """image and text of each pair: five captions an image; several images a text; both; neither."""
    rng = np.random.default_rng(1)
    if kind == "captions":
        return np.repeat(np.arange(400), 5), np.arange(2000)
    if kind == "queries":
        return np.arange(2000), np.repeat(np.arange(800), rng.multinomial(2000 - 800, [1 / 800] * 800) + 1)
    if kind == "both":
        pairs = np.unique(rng.integers(0, 300, (2000, 2)), axis=0)
        return pairs[:, 0], pairs[:, 1]
    return np.arange(2000), np.arange(2000)


@pytest.mark.parametrize("kind", ["captions", "queries", "both", "neither"])
def test_no_text_and_no_image_stands_twice(kind):
    image, text = sets(kind)
    batches = PairBatches(image, text, 32)
    assert batches.distinct
    for epoch in range(3):
        batches.set_value(epoch)
        plan = batches.plan()
        assert plan.shape == (len(image) // 32, 32)
        assert len(np.unique(plan)) == plan.size
        for batch in plan:
            assert len(set(image[batch])) == len(set(text[batch])) == 32


def test_at_random_they_would_repeat():
    image, text = sets("both")
    plan = PairBatches(image, text, 32, distinct=False).plan()
    assert any(len(set(image[batch])) < 32 for batch in plan)


def test_every_epoch_is_shuffled_anew_and_leaves_out_others():
    batches = PairBatches(*sets("captions"), 300)
    first = batches.plan()
    assert np.array_equal(first, batches.plan())
    batches.set_value(1)
    second = batches.plan()
    assert not np.array_equal(first, second)
    left = [set(range(2000)) - set(plan.ravel().tolist()) for plan in (first, second)]
    assert len(left[0]) == 200 and left[0] != left[1]
    assert not np.array_equal(first, PairBatches(*sets("captions"), 300, seed=1).plan())


def test_batches_are_mixed():
    """Texts next to each other in the files do not stay together, nor does their order."""
    batches = PairBatches(*sets("neither"), 100)
    plan = batches.plan()
    spread = plan.std(axis=1)
    assert (spread > 400).all(), "2,000 pairs drawn evenly have a deviation of 577"
    assert abs(np.corrcoef(np.arange(plan.size), plan.ravel())[0, 1]) < 0.1


@pytest.mark.parametrize("accumulate", [1, 3])
def test_processes_share_the_batches(accumulate):
    image, text = sets("both")
    ranks = [PairBatches(image, text, 8, accumulate=accumulate, rank=rank, world_size=4) for rank in range(4)]
    turns = [list(batches) for batches in ranks]
    assert len({len(turn) for turn in turns}) == 1 and len(turns[0]) == len(ranks[0])
    assert len(turns[0]) % accumulate == 0
    for first in range(0, len(turns[0]), accumulate):
        together = [pair for turn in turns for step in turn[first : first + accumulate] for pair in step]
        assert len(together) == 8 * 4 * accumulate
        assert len(set(image[together])) == len(set(text[together])) == len(together)
    assert ranks[0].num_samples == 4 * 8 * len(turns[0])


def test_ten_texts_cannot_be_told_apart():
    batches = PairBatches(np.arange(1000), np.arange(1000) % 10, 50)
    assert not batches.distinct
    assert len(np.unique(batches.plan())) == 1000


def test_one_text_too_many_is_the_limit():
    """20 batches: a text with 20 pairs fits, one with 21 does not."""
    for count, fits in ((20, True), (21, False)):
        text = np.concatenate([np.zeros(count, int), np.arange(1, 1001 - count)])
        batches = PairBatches(np.arange(1000), text, 50)
        assert batches.distinct is fits
        if fits:
            assert all((text[batch] == 0).sum() == 1 for batch in batches.plan())


def test_upsampling_factors():
    image, text = np.arange(900), np.arange(900)
    source = np.repeat([0, 1, 2], 300)
    batches = PairBatches(image, text, 10, source=source, factors=[1, 2, 0.5])
    counts = []
    for epoch in range(2):
        batches.set_value(epoch)
        plan = batches.plan()
        assert all(len(set(batch)) == 10 for batch in plan.tolist())
        counts.append(np.bincount(plan.ravel(), minlength=900))
        assert (counts[-1][:300] == 1).all() and (counts[-1][300:600] == 2).all() and counts[-1][600:].sum() == 150
    assert not np.array_equal(*(count[600:] for count in counts)), "another half in each epoch"


def test_fewer_samples_an_epoch():
    batches = PairBatches(np.arange(900), np.arange(900), 10, samples=105)
    assert batches.num_samples == 100 and batches.plan().shape == (10, 10)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_size": 64, "world_size": 2}, "100 pairs are fewer than one batch of 128"),
        ({"batch_size": 8, "factors": [1, 2]}, "2 upsampling factors for 1 sets"),
        ({"batch_size": 8, "factors": [-1]}, "positive numbers"),
    ],
)
def test_what_cannot_be_is_refused(given, message):
    with pytest.raises(TrainingError, match=message):
        PairBatches(np.arange(100), np.arange(100), **given)
