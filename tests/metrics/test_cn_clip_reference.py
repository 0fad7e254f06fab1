"""Recalls and top-10 lists are those of Chinese-CLIP's own scripts: PyPI's cn_clip, run as scripts on feature files."""

import json

import numpy as np
import pytest
import torch

from tests.support.cn_clip_runs import run_scripts, write_jsonl
from zhclip_openclip.metrics.recall import score_retrieval

pytest.importorskip("cn_clip")


def _random(rng, images, texts, dim):
    return rng.standard_normal((images, dim)), rng.standard_normal((texts, dim))


def _coarse(rng, images, texts, dim):
    """Multiples of a half: every product and sum is exact in float32, and different vectors tie."""
    left, right = _random(rng, images, texts, dim)
    return np.round(left * 2) / 2, np.round(right * 2) / 2


def _duplicates(rng, images, texts, dim):
    left, right = _coarse(rng, images, texts, dim)
    return left[rng.integers(0, images // 4, images)], right[rng.integers(0, texts // 4, texts)]


def _collapsed(rng, images, texts, dim):
    left, right = _coarse(rng, images, texts, dim)
    return np.repeat(left[:1], images, axis=0), right


CASES = {
    "random": (_random, 211, 97, 48),
    "random_many_texts": (_random, 60, 320, 32),
    "coarse_ties": (_coarse, 190, 130, 6),
    "duplicates": (_duplicates, 150, 120, 8),
    "collapsed": (_collapsed, 40, 30, 4),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Feature and annotation files of each case, with what cn_clip's scripts made of them."""
    root, cases = tmp_path_factory.mktemp("cn_clip"), {}
    for number, (name, (make, images, texts, dim)) in enumerate(CASES.items()):
        rng = np.random.default_rng(number)
        image_features, text_features = (part.astype(np.float32) for part in make(rng, images, texts, dim))
        # one to five right images a text, some images in no text at all, ids that are not positions
        text_to_images = [
            sorted(rng.choice(images - 3, rng.integers(1, 6), replace=False).tolist()) for _ in range(texts)
        ]
        folder = root / name
        folder.mkdir()
        write_jsonl(
            folder / "img.jsonl", ({"image_id": 1000 + i, "feature": f.tolist()} for i, f in enumerate(image_features))
        )
        write_jsonl(
            folder / "txt.jsonl", ({"text_id": 7000 + t, "feature": f.tolist()} for t, f in enumerate(text_features))
        )
        write_jsonl(
            folder / "texts.jsonl",
            (
                {"text_id": 7000 + t, "text": "x", "image_ids": [1000 + i for i in right]}
                for t, right in enumerate(text_to_images)
            ),
        )
        cases[name] = (folder, torch.from_numpy(image_features), torch.from_numpy(text_features), text_to_images)
    run_scripts(case[0] for case in cases.values())
    return cases


@pytest.mark.parametrize("block", [(1024, 2040), (16, 24)])
@pytest.mark.parametrize("name", CASES)
def test_same_recalls_and_top10(reference, name, block):
    folder, images, texts, text_to_images = reference[name]
    scores = score_retrieval(images, texts, text_to_images, block=block)
    metrics = scores.metrics()
    for direction, short in (("image_retrieval", "ir"), ("text_retrieval", "tr")):
        theirs = json.loads((folder / f"{short}.json").read_text())
        assert theirs["success"], theirs
        for k in (1, 5, 10):
            assert metrics[f"{direction}_recall@{k}"] * 100 == theirs["scoreJson"][f"r{k}"]
        assert metrics[f"{direction}_mean_recall"] * 100 == theirs["scoreJson"]["mean_recall"]
        query_id, item_ids, first = {
            "ir": ("text_id", "image_ids", 1000),
            "tr": ("image_id", "text_ids", 7000),
        }[short]
        for query, line in enumerate((folder / f"{short}.jsonl").read_text().splitlines()):
            prediction = json.loads(line)
            assert [first + item for item in scores.top[direction][query].tolist()] == prediction[item_ids], query_id


def test_the_cases_are_not_trivial(reference):
    """Recalls lie strictly between 0 and 1 and some queries do tie, or the comparison above would prove little."""
    for name, (_, images, texts, text_to_images) in reference.items():
        metrics = score_retrieval(images, texts, text_to_images).metrics()
        assert 0 < metrics["image_retrieval_recall@10"] < 1, name
        tied = (texts @ images.t()).sort(dim=1).values.diff(dim=1).eq(0).any()
        assert bool(tied) == (not name.startswith("random")), name
