"""Right pairs of a batch against a search through all of them; expectations of repeats against counting every batch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from zhclip_openclip.training.relations import Relations, repeats, same_texts

#: (image, text) of all right pairs: text 0 has two images, image 1 three texts, one pair stands there twice.
PAIRS = [(0, 0), (1, 0), (1, 1), (1, 2), (2, 3), (3, 3), (3, 3), (4, 4)]
IMAGE, TEXT = np.array(PAIRS).T


def test_positives_are_all_that_the_data_call_right():
    relations = Relations(IMAGE, TEXT, images=6)
    rng = np.random.default_rng(0)
    for _ in range(50):
        chosen = rng.integers(0, len(PAIRS), rng.integers(1, 9))
        image, text = IMAGE[chosen], TEXT[chosen]
        found = list(zip(*(side.tolist() for side in relations.positives(image, text)), strict=True))
        right = [(i, j) for i, j in itertools.product(range(len(chosen)), repeat=2) if (image[i], text[j]) in PAIRS]
        assert sorted(found) == right
        assert [row for row, _ in found] == sorted(row for row, _ in found)


def test_texts_that_read_the_same_are_one():
    assert same_texts(["一", "二", "一", "一 "]).tolist() == [0, 1, 0, 2]


def test_an_image_without_text_has_no_positives():
    rows, columns = Relations(IMAGE, TEXT, images=6).positives(np.array([5]), np.array([0]))
    assert len(rows) == len(columns) == 0


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8])
def test_expectations_are_the_means_over_all_batches(batch):
    told = repeats(IMAGE, TEXT, Relations(IMAGE, TEXT, images=6), batch)
    batches = list(itertools.combinations(range(len(PAIRS)), batch))
    false, texts, images = [], [], []
    for chosen in batches:
        texts.append(len({PAIRS[k][1] for k in chosen}))
        images.append(len({PAIRS[k][0] for k in chosen}))
        wrong = sum((PAIRS[i][0], PAIRS[j][1]) in PAIRS for i in chosen for j in chosen if i != j)
        false.append(wrong / batch)
    assert told.distinct_texts == pytest.approx(np.mean(texts))
    assert told.distinct_images == pytest.approx(np.mean(images))
    assert told.false_negatives == pytest.approx(np.mean(false))
    assert told.accuracy_bound == pytest.approx(min(np.mean(texts), np.mean(images)) / batch)


def test_three_texts_for_4000_pairs():
    """USERS.md, A.3: in a batch of 128 accuracy cannot exceed 2 %."""
    text = np.arange(4000) % 3
    told = repeats(np.arange(4000), text, Relations(np.arange(4000), text, 4000), 128)
    assert told.accuracy_bound == pytest.approx(3 / 128)
    assert told.false_negatives == pytest.approx(127 / 3, rel=0.01)
