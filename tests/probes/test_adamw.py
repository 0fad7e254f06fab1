"""clip_benchmark's protocol: its own code, with CUDA taken out, beside ours on the same features."""

from __future__ import annotations

import pytest
import torch

from tests.support import host_probe
from zhclip_openclip.probes import adamw, evaluate
from zhclip_openclip.probes.adamw import Labelled, Training
from zhclip_openclip.probes.evaluate import Plan, Split

CLASSES = [f"c{number}" for number in range(7)]
KEYS = ("lp_acc1", "lp_acc5", "lp_mean_per_class_recall")


@pytest.fixture(scope="module")
def host():
    return host_probe.on_cpu()


@pytest.fixture(scope="module")
def splits():
    """Seven classes that overlap, so that no figure is 1."""
    random = torch.Generator().manual_seed(3)
    centres = torch.randn(7, 12, generator=random)

    def split(count):
        labels = torch.arange(count) % 7
        features = centres[labels] + 1.6 * torch.randn(count, 12, generator=random)
        return torch.nn.functional.normalize(features, dim=-1), labels

    return {"train": split(210), "val": split(70), "test": split(140)}


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize(("shots", "validated"), [(-1, False), (-1, True), (5, False), (5, True)])
def test_the_same_figures_as_clip_benchmarks_own_code(host, splits, tmp_path, shots, validated, amp):
    used = {name: split for name, split in splits.items() if validated or name != "val"}
    theirs = host_probe.evaluate(host, tmp_path, used, seed=4, fewshot_k=shots, epochs=4, amp=amp)
    plan = Plan(evaluate.ADAMW, shots, (4,), None, Training(epochs=4, amp=amp))
    data, validation, test = (Split(*splits[name], name) if name in used else None for name in ("train", "val", "test"))
    trained = evaluate.train(data, validation, plan, CLASSES, 4)
    ours = evaluate.scored(trained.score(test.features), test, CLASSES, "made up")
    assert 0.2 < ours["lp_acc1"] < 0.95
    for key in KEYS:
        assert ours[key] == pytest.approx(theirs[key], abs=1e-12), key
    assert trained.facts["weight_decay"] == theirs["weight_decay"]
    assert bool(trained.facts["weight_decay"]) == validated


def test_the_same_weights(host, splits):
    features, labels = splits["train"]
    loader = torch.utils.data.DataLoader(host.FeatureDataset(features, labels), batch_size=32, shuffle=True)
    theirs = host.train(loader, 12, 7, 0.01, 0.3, 3, False, "cpu", 9).module
    ours = adamw.train(Labelled(features, labels), 7, 0.01, Training(0.3, 3, 32), 9)
    assert torch.allclose(ours.weight, theirs.weight, rtol=0, atol=1e-6)
    assert torch.allclose(ours.bias, theirs.bias, rtol=0, atol=1e-6)
    other = adamw.train(Labelled(features, labels), 7, 0.01, Training(0.3, 3, 32), 8)
    assert not torch.allclose(ours.weight, other.weight, rtol=0, atol=1e-2)


def test_random_numbers_of_others_stay_as_they_were(splits):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    adamw.train(Labelled(*splits["train"]), 7, 0.0, Training(epochs=1), 0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_learning_rate_that_ends_in_nan_is_one_line(splits):
    plan = Plan(evaluate.ADAMW, how=Training(lr=float("inf")))
    with pytest.raises(evaluate.ProbeError, match="not finite; give a smaller --fewshot_lr than inf"):
        evaluate.train(Split(*splits["train"], "train"), None, plan, CLASSES, 0)
