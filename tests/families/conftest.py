"""Fixtures of the families' tests. They import late: tests/conftest.py has to set the hub's address first."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture(autouse=True)
def no_remains(tmp_path):
    """Checkpoints of hundreds of megabytes, which pytest would keep for three runs."""
    yield
    shutil.rmtree(tmp_path, ignore_errors=True)
