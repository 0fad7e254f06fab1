"""The whole suite runs against a stand-in hub on loopback and an empty cache: nothing leaves the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.hub import serve  # noqa: E402

_stack = ExitStack()


def pytest_configure(config):
    if hasattr(config, "workerinput"):  # one of two processes that share the cores
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Before anything imports huggingface_hub, which reads its address once.
    home = Path(_stack.enter_context(tempfile.TemporaryDirectory(prefix="zhclip-tests-")))
    (home / "hub").mkdir()
    config.zhclip_hub = _stack.enter_context(serve(home / "hub"))
    os.environ["HF_ENDPOINT"] = config.zhclip_hub.url
    os.environ["HF_HOME"] = str(home / "cache")
    os.environ["XDG_CACHE_HOME"] = str(home / "user")  # what searches and measurements of the user have left is theirs
    os.environ["HF_HUB_DISABLE_XET"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["ZHCLIP_MEASURE"] = "0"  # no test depends on how fast this machine is, or on what its user has kept
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "ZHCLIP_MODELS_DIR", "TORCH_DEVICE_BACKEND_AUTOLOAD"):
        os.environ.pop(name, None)


def pytest_unconfigure(config):
    _stack.close()


@pytest.fixture
def hub(request):
    """The stand-in hub, empty; put repositories into `hub.root / org / name`."""
    hub = request.config.zhclip_hub
    hub.requests.clear()
    hub.faults.clear()
    yield hub
    hub.faults.clear()
    for folder in hub.root.iterdir():
        shutil.rmtree(folder)


@pytest.fixture
def offline(monkeypatch):
    """huggingface_hub as with HF_HUB_OFFLINE=1."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def models_dir(tmp_path, monkeypatch):
    """A folder that `ZHCLIP_MODELS_DIR` names."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("ZHCLIP_MODELS_DIR", str(folder))
    return folder


@pytest.fixture(scope="session")
def run_python():
    """Run code in a fresh interpreter: `run_python(code, *arguments, check=True, **environment)`."""

    def run(code: str, *arguments: str, check: bool = True, cwd=None, **environment):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=cwd,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2", **environment},
        )
        assert not check or done.returncode == 0, done.stderr[-3000:]
        return done

    return run


@pytest.fixture(scope="module")
def reduced(tmp_path_factory):
    """Every model config with two layers a tower, for the tests of one module."""
    from tests.support.reduced import reduced_models

    with reduced_models(tmp_path_factory.mktemp("reduced")):
        yield
