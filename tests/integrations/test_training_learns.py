"""open_clip_train from random weights on data that come with the package: what it learns, and what our loss changes."""

from __future__ import annotations

import json
import logging

import open_clip
import pytest
import torch
from open_clip_train.main import main
from torch.utils.data import DataLoader

from zhclip_openclip.metrics.evaluate import evaluate
from zhclip_openclip.training.sources import open_sets

pytestmark = pytest.mark.slow

#: docs/training.md has the command in full.
RECIPE = (
    "--model zhclip-tiny --train-data digits-retrieval --val-data digits-retrieval --train-num-samples 1437 "
    "--batch-size 64 --lr 2e-3 --wd 0.02 --beta1 0.9 --beta2 0.999 --eps 1e-8 --grad-clip-norm 1 --workers 0 "
    "--device cpu --precision fp32 --save-frequency 0"
)


@pytest.fixture
def learn(tmp_path, monkeypatch):
    """Trains; gives the last row of results.jsonl."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def learn(epochs: int, *options: str, name: str) -> dict:
        steps = epochs * (1437 // 64)
        words = [
            *RECIPE.split(),
            "--epochs",
            epochs,
            "--val-frequency",
            epochs,
            "--warmup",
            steps // 10,
            "--name",
            name,
        ]
        main([str(word) for word in (*words, *options)])
        return json.loads((tmp_path / "logs" / name / "checkpoints" / "results.jsonl").read_text().splitlines()[-1])

    yield learn
    root.handlers[:] = before[0]
    root.setLevel(before[1])


def test_it_gets_as_far_as_a_script_made_for_it(learn):
    """`benchmarks/train_tiny.py` taught the weights in the package with prompts of its own."""
    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    (dataset,) = open_sets("digits-retrieval", train=False)
    dataset.transform = transform
    loader = DataLoader(
        dataset, 64, collate_fn=lambda batch: (torch.stack([b[0] for b in batch]), [b[1] for b in batch])
    )
    script = evaluate(model.eval(), loader, open_clip.get_tokenizer("zhclip-tiny"), "cpu", amp=False)
    told = learn(100, "--aug-cfg", "scale=(0.6,1.0)", name="ours")
    means = [sum(row[f"{way}_retrieval_mean_recall"] for way in ("image", "text")) / 2 for row in (told, script)]
    assert means[0] >= means[1] > 0.9
    assert told["image_retrieval_recall@1"] >= script["image_retrieval_recall@1"]


def test_the_hosts_loss_on_the_same_data_learns_less_in_the_same_time(learn):
    """Its gradient has the same mean and more noise: what differs is how far a short training gets."""
    ours = learn(10, "--seed", "1", name="ours")
    plain = learn(10, "--seed", "1", "--plain-loss", "--plain-batches", name="plain")
    assert ours["image_retrieval_recall@1"] >= 0.95
    assert plain["image_retrieval_recall@1"] <= ours["image_retrieval_recall@1"] - 0.05
