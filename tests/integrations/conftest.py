"""What several tests of the integrations share."""

from __future__ import annotations

import json
import logging
import sys

import pytest

TRAINING = ("--model", "zhclip-tiny", "--device", "cpu", "--workers", "0", "--warmup", "2", "--lr", "1e-4")


@pytest.fixture
def evaluate_digits(monkeypatch, tmp_path):
    """Run `clip_benchmark eval` of the digits in this process and an empty folder; returns that folder."""
    import clip_benchmark.cli as cli

    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(*arguments, model="zhclip-tiny", dataset="digits", language="zh"):
        words = ["--model", model, "--num_workers", "0", "--dataset", dataset, "--language", language]
        monkeypatch.setattr(sys, "argv", ["clip_benchmark", "eval", *words, *map(str, arguments)])
        cli.main()
        return folder

    return run


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Runs open_clip_train's `main` with options; gives (folder of the run, rows of its results.jsonl)."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)

    from open_clip_train import main as host_main

    def train(*options, name="run", common=TRAINING, batch=16):
        words = [*common, "--name", name, "--logs", tmp_path / "logs", "--batch-size", batch, *options]
        assert host_main.main([str(word) for word in words]) is None
        run = tmp_path / "logs" / name
        results = run / "checkpoints" / "results.jsonl"
        lines = results.read_text().splitlines() if results.is_file() else []
        return run, [json.loads(line) for line in lines]

    yield train
    root.handlers[:], _ = before
    root.setLevel(before[1])
