"""Fixtures of the tests of export. They import late: tests/conftest.py has to set the hub's address first."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture
def source_of(reduced, models_dir, tmp_path):
    """`source_of(name)`: a reduced model with random weights, loaded from its published layout."""
    from tests.support.exported import published_source

    yield lambda name: published_source(name, models_dir)
    shutil.rmtree(tmp_path, ignore_errors=True)  # hundreds of megabytes, which pytest would keep for three runs


@pytest.fixture(scope="session")
def tiny():
    """The embedded model."""
    from zhclip_openclip.export import _source

    return _source.load("digits", "zhclip-tiny")
