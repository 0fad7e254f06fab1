"""Losses with several right pairs: against dense targets, and in the host's own loop on one and on two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, CoCaLoss, DistillClipLoss, SigLipLoss

from tests.support.processes import torchrun
from zhclip_openclip.training import MultiPositiveLoss, Relations, TrainingError
from zhclip_openclip.training.loss import spread_loss

SCRIPT = Path(__file__).parents[1] / "support" / "loss_ranks.py"
#: Three pictures of one text, and an image with two texts.
PAIRS = [(0, 0), (1, 0), (2, 0), (3, 1), (3, 2), (4, 3)]
IMAGE, TEXT = np.array(PAIRS).T
RIGHT = torch.tensor([[(i, t) in PAIRS for _, t in PAIRS] for i, _ in PAIRS]).double()


def features(seed: int = 0, n: int = len(IMAGE)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = [F.normalize(torch.randn(n, 8, dtype=torch.float64, generator=generator), dim=-1) for _ in range(2)]
    scale = torch.tensor(5.0, dtype=torch.float64)
    return {"image_features": made[0], "text_features": made[1], "logit_scale": scale}


def loss_with(inner, image=IMAGE, text=TEXT) -> MultiPositiveLoss:
    ids = torch.tensor(np.stack([image, text], axis=1))
    return MultiPositiveLoss(inner, Relations(IMAGE, TEXT, 5), lambda: ids)


def divergence(logits: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Cross-entropy with soft targets, less their entropy."""
    target = right / right.sum(1, keepdim=True)
    return F.cross_entropy(logits, target) + torch.xlogy(target, target).sum(1).mean()


def dense(given) -> torch.Tensor:
    logits = given["logit_scale"] * given["image_features"] @ given["text_features"].T
    return (divergence(logits, RIGHT) + divergence(logits.T, RIGHT.T)) / 2


def test_as_with_dense_targets():
    given = features()
    ours = loss_with(ClipLoss())(**given, output_dict=True)["contrastive_loss"]
    assert float(ours) == pytest.approx(float(dense(given)), rel=1e-12)
    assert float(ours) != pytest.approx(float(ClipLoss()(**given)), rel=1e-3)
    assert float(loss_with(ClipLoss())(**given)) == float(ours)


def test_siglip_as_with_dense_labels():
    given = {**features(), "logit_bias": torch.tensor(-2.0, dtype=torch.float64)}
    logits = given["logit_scale"] * given["image_features"] @ given["text_features"].T - 2.0
    wanted = -F.logsigmoid((2 * RIGHT - 1) * logits).sum() / len(IMAGE)
    assert float(loss_with(SigLipLoss())(**given)) == pytest.approx(float(wanted), rel=1e-12)


def test_the_host_decides_where_only_the_pairs_are_right():
    """To the last bit, and by its own code."""
    image, text = np.array([0, 3, 4]), np.array([0, 1, 3])
    given = features(n=3)
    assert torch.equal(loss_with(ClipLoss(), image, text)(**given), ClipLoss()(**given))
    given["logit_bias"] = torch.tensor(-2.0, dtype=torch.float64)
    assert torch.equal(loss_with(SigLipLoss(), image, text)(**given), SigLipLoss()(**given))


def test_it_falls_to_zero():
    """Three pictures of one text, told apart from the rest as well as can be: nothing is left of our loss, while the
    host's cannot get below the entropy of what is the same."""
    text = F.one_hot(torch.tensor(TEXT), 8).double()
    images = torch.stack([F.normalize(text[RIGHT[i] > 0].sum(0), dim=0) for i in range(len(IMAGE))])
    scale = torch.tensor(40.0, dtype=torch.float64)
    # the image with two texts is as near to each of them as the others to their one
    images[3] = images[4] = text[3] + text[4]
    given = {"image_features": images, "text_features": text, "logit_scale": scale}
    assert float(loss_with(ClipLoss())(**given)) == pytest.approx(0, abs=1e-12)
    floor = float((RIGHT.sum(1).log().mean() + RIGHT.sum(0).log().mean()) / 2)
    assert floor > 0.5 and float(ClipLoss()(**given)) == pytest.approx(floor)


def test_distillation_and_captioning_keep_their_other_parts():
    given = {**features(), **{f"dist_{key}": value for key, value in features(1).items()}}
    ours, theirs = (loss(**given, output_dict=True) for loss in (loss_with(DistillClipLoss()), DistillClipLoss()))
    assert ours["distill_loss"] == theirs["distill_loss"]
    assert float(ours["contrastive_loss"]) == pytest.approx(float(dense(features())), rel=1e-12)
    coca = {**features(), "logits": torch.randn(6, 4, 9), "labels": torch.randint(1, 9, (6, 4))}
    ours, theirs = (loss(**coca, output_dict=True) for loss in (loss_with(CoCaLoss(2.0, 0.5)), CoCaLoss(2.0, 0.5)))
    assert ours["caption_loss"] == theirs["caption_loss"]
    assert float(ours["contrastive_loss"]) == pytest.approx(0.5 * float(dense(features())), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_adds_up_in_float32(dtype):
    logits = (torch.randn(6, 6) * 30).to(dtype)
    rows, columns = (torch.from_numpy(side) for side in Relations(IMAGE, TEXT, 5).positives(IMAGE, TEXT))
    wanted = divergence(logits.double(), RIGHT)
    assert float(spread_loss(logits, rows, columns)) == pytest.approx(float(wanted), rel=1e-5)


def test_compiled_as_a_part_of_something_larger():
    """open_clip 4 compiles its task with the loss in it."""
    loss, given = loss_with(ClipLoss()), features()
    compiled = torch.compile(lambda **g: loss(**g) * 2, backend="eager")
    assert float(compiled(**given)) == pytest.approx(2 * float(dense(given)), rel=1e-12)


def test_features_of_other_pairs_are_refused():
    with pytest.raises(TrainingError, match="features of 3 pairs, and the batches before it held 6"):
        loss_with(ClipLoss())(**features(n=3))


def check_updates(path: Path, ranks: int) -> None:
    told = json.loads(path.read_text())
    assert told["ranks"] == ranks
    differences = told["differences"]
    assert len(differences) == 2 * (3 * 4 + 2 * 5)
    wrong = {key: value for key, value in differences.items() if not key.endswith("plain") and value > 1e-10}
    assert not wrong
    assert all(value > 1e-3 for key, value in differences.items() if key.endswith("plain")), (
        "--plain-loss is the host's"
    )


def test_the_hosts_loop_on_one_process(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        environment.pop(name, None)
    root = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([root, environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "one.json"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    check_updates(tmp_path / "one.json", 1)


def test_the_hosts_loop_on_two_processes(tmp_path):
    done = torchrun(2, SCRIPT, tmp_path / "two.json", timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    check_updates(tmp_path / "two.json", 2)
