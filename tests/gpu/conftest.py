"""Tests of a GPU: `pytest -m gpu`. Where there is none they are skipped; `ZHCLIP_TEST_DEVICE=cpu` runs them on the CPU
all the same, which says whether the tests themselves work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def device():
    import torch

    chosen = os.environ.get("ZHCLIP_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "")
    if not chosen:
        pytest.skip("there is no GPU here")
    return chosen
