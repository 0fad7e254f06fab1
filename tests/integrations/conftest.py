"""What several tests of the integrations share."""

from __future__ import annotations

import sys

import pytest


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
