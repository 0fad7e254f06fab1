"""Running `zhclip reproduce` in tests, and what it leaves. Not a test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import typer
from typer.testing import CliRunner

from zhclip_openclip.commands.reproduce import reproduce

#: What a user starts, whether or not the command is in the list of commands.
CODE = "import typer; from zhclip_openclip.commands.reproduce import reproduce; typer.run(reproduce)"


def zhclip(*words):
    """Run the command in this process."""
    app = typer.Typer()
    app.command()(reproduce)
    return CliRunner().invoke(app, [str(word) for word in words])


def one(output, *words):
    """zhclip-tiny, without a report and with one process."""
    return zhclip("--models", "zhclip-tiny", "--output", output, "--no-report", "--num-workers", "0", *words)


def start(output, *words, **environment):
    """The offline demo in a process of its own, which keeps each block of images."""
    command = [sys.executable, "-c", CODE, "--offline-demo", "--output", str(output), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ZHCLIP_FEATURE_CACHE_BLOCK_SECONDS": "0", **environment}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def results(folder):
    """Everything that a run leaves for good: name -> bytes."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


class Recorder:
    """A display that remembers."""

    def __init__(self):
        self.started, self.ended, self.told, self.others = [], [], [], []

    def start(self, cell):
        self.started.append(cell.name)

    def progress(self, stage, done, total, reused):
        self.told.append((stage, done, total, reused))

    def end(self, cell, failure, note):
        self.ended.append((cell.name, failure, note))

    def elsewhere(self, cell, finished):
        self.others.append((cell.name, finished))
