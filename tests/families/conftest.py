"""Fixtures of the families' tests. They import late: tests/conftest.py has to set the hub's address first."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture(autouse=True)
def no_remains(tmp_path):
    """Checkpoints of hundreds of megabytes, which pytest would keep for three runs."""
    yield
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture(scope="module")
def reduced(tmp_path_factory):
    """Every model config with two layers a tower, for the tests of one module."""
    from tests.support.reduced import reduced_models

    with reduced_models(tmp_path_factory.mktemp("reduced")):
        yield
