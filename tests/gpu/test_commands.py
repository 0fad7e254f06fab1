"""The hosts' commands on a GPU: an evaluation, the same under torchrun with nccl, and training."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from tests.support.digit_files import write_digits
from tests.support.processes import torchrun

EVAL = ("eval", "--model", "zhclip-tiny", "--language", "zh", "--quiet", "--batch_size", "64")


def run(*words, cwd, **environment) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def metrics(path) -> dict:
    return json.loads(path.read_text("utf-8"))["metrics"]


@pytest.mark.parametrize("dataset", ["digits", "digits-retrieval"])
def test_an_evaluation_is_that_of_the_cpu(dataset, device, tmp_path):
    words = ("clip_benchmark.cli", *EVAL, "--dataset", dataset, "--no_amp")
    run(*words, "--output", "there.json", cwd=tmp_path)
    run(*words, "--output", "here.json", cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
    there, here = metrics(tmp_path / "there.json"), metrics(tmp_path / "here.json")
    for name, value in here.items():
        if isinstance(value, float):  # 360 pictures: one that nearly ties may fall to the other side
            assert abs(there[name] - value) <= 1 / 300, name


@pytest.mark.parametrize("dataset", ["digits", "digits-retrieval"])
def test_torchrun_gives_what_one_process_gives(dataset, device, tmp_path):
    words = (*EVAL, "--dataset", dataset)
    run("clip_benchmark.cli", *words, "--output", "one.json", cwd=tmp_path)
    visible = "0" if torch.device(device).type == "cuda" else ""
    done = torchrun(
        1, "-m", "zhclip_openclip", *words, "--output", "ranks.json", cwd=tmp_path, CUDA_VISIBLE_DEVICES=visible
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert metrics(tmp_path / "ranks.json") == metrics(tmp_path / "one.json")


@pytest.mark.parametrize("options", [(), ("--siglip",), ("--grad-checkpointing", "--accum-freq", "2")])
@pytest.mark.parametrize("precision", ["fp32", "amp_bf16", "amp"])
def test_training_learns(precision, options, device, tmp_path):
    if torch.device(device).type == "cpu" and precision == "amp":
        pytest.skip("float16 is for GPUs")
    data = write_digits(tmp_path / "DIGITS", {"train": range(200), "valid": range(60)})
    words = ("--train-data", data, "--val-data", data, "--model", "zhclip-tiny", "--device", device, "--workers", "1")
    words += ("--batch-size", "50", "--epochs", "6", "--warmup", "2", "--lr", "1e-3", "--precision", precision)
    run("open_clip_train.main", *words, *options, "--name", "run", "--logs", "logs", cwd=tmp_path)
    lines = (tmp_path / "logs" / "run" / "checkpoints" / "results.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert all(0 <= row["image_retrieval_recall@1"] <= 1 for row in rows)
    losses = [row["clip_val_loss"] for row in rows]
    assert losses[-1] < losses[0], losses  # of pictures that it did not train on; NaN is not less
