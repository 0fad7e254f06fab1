"""The stand-in for scores that stay where they are: every metric and file is that of all scores, ties included."""

from __future__ import annotations

import math

import pytest
import torch
from clip_benchmark.metrics import zeroshot_classification

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.metrics import classification
from zhclip_openclip.metrics._best_scores import BestScores, columns_of
from zhclip_openclip.metrics.per_sample import save_per_sample


def both(classes: int, images: int = 200) -> tuple[torch.Tensor, BestScores]:
    """Coarse scores, nearly all of them tied, and their best, brought together from parts."""
    scores = torch.randint(0, 4, (images, classes), generator=torch.Generator().manual_seed(classes)).float()
    parts = zip(
        *(columns_of(part) for part in scores.split([1, 0, images // 3, images - images // 3 - 1])), strict=True
    )
    return scores, BestScores(tuple(torch.cat(part) for part in parts), classes)


@pytest.mark.parametrize("classes", [1, 3, 4, 5, 6, 1000])
def test_metrics_and_files_are_the_same(classes, tmp_path, monkeypatch):
    scores, best = both(classes)
    target = torch.randint(0, classes, (len(scores),), generator=torch.Generator().manual_seed(0))
    names = [f"class {index}" for index in range(classes)]
    ours, expected = (classification.evaluate(given, target, names, "x") for given in (best, scores))
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert ours[name] == value or (math.isnan(value) and math.isnan(ours[name])), name
    paths = [save_per_sample(tmp_path / name, given, target) for name, given in (("a", best), ("b", scores))]
    assert paths[0].read_bytes() == paths[1].read_bytes()

    class Loader:
        dataset = type("Dataset", (), {"classes": names})

    monkeypatch.setattr(zeroshot_classification, "zero_shot_classifier", lambda *args, **kwargs: None)
    found = []
    for given in (best, scores):
        monkeypatch.setattr(zeroshot_classification, "run_classification", lambda *a, g=given, **k: (g, target))
        found.append(zeroshot_classification.evaluate(None, Loader(), None, names, ["{c}"], "cpu"))
    assert str(found[0]) == str(found[1])  # nan with fewer than 5 classes


def test_what_is_not_there_is_an_error():
    scores, best = both(10)
    assert best.shape == scores.shape and best.topk(5, dim=-1).values.equal(scores.topk(5, dim=-1).values)
    assert best.argmax(dim=1, keepdim=True).equal(scores.argmax(dim=1, keepdim=True))
    for ask in (lambda: best.softmax(dim=1), lambda: best.topk(3), lambda: best.argmax(), lambda: best[0], best.sum):
        with pytest.raises(ZhclipError, match="set ZHCLIP_GATHER_LIMIT higher"):
            ask()
    with pytest.raises(ZhclipError):
        best.topk(5, largest=False)
    with pytest.raises(ZhclipError):
        best.topk(5, dim=0)
