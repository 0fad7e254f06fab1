"""One copy of the weights in the processes of one machine, which nobody can change for another."""

from __future__ import annotations

import gc
import os
import re
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from zhclip_openclip._errors import CheckpointError
from zhclip_openclip.checkpoints import _shared, _transfer

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="memfd is Linux's")
#: Another process that loads the same file, trains, and waits until the first one is through with it.
OTHER = """
import sys
import open_clip, torch
from tests.checkpoints.test_shared_weights import memory_of
model = open_clip.create_model("zhclip-tiny", pretrained=sys.argv[1])
print(memory_of(model), float(sum(p.double().abs().sum() for p in model.parameters())), flush=True)
with torch.no_grad():
    for parameter in model.parameters():
        parameter.fill_(7)
print("changed", flush=True)
sys.stdin.readline()
print(all(bool((p == 7).all()) for p in model.parameters()), flush=True)
"""


def memory_of(model) -> int:
    """The inode of the memory that the first parameter is in; 0 for memory of this process alone."""
    address = next(model.parameters()).data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        found = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ (\d+)", line)
        if int(found[1], 16) <= address < int(found[2], 16):
            return int(found[3]) if "memfd:zhclip" in line else 0
    raise AssertionError("no such memory")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where records are, of nobody else."""
    monkeypatch.setenv("ZHCLIP_SHARED_WEIGHTS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"zhclip-weights-{os.getuid()}"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    state = open_clip.create_model("zhclip-tiny", pretrained="digits").state_dict()
    return {name: tensor.contiguous() for name, tensor in state.items()}


def same(model, state) -> bool:
    return all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_two_processes_have_one_copy_and_change_their_own(folder, tmp_path, state):
    path = tmp_path / "m.safetensors"
    save_file(state, path)
    model = open_clip.create_model("zhclip-tiny", pretrained=str(path))
    assert memory_of(model) and same(model, state)
    total = float(sum(p.double().abs().sum() for p in model.parameters()))
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", OTHER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as other:
        inode, found = other.stdout.readline().split()
        assert int(inode) == memory_of(model)
        assert float(found) == total
        assert other.stdout.readline() == "changed\n"
        assert same(model, state), "what the other process trains arrives here"
        with torch.no_grad():
            next(model.parameters()).zero_()
        os.truncate(path, 0)
        other.stdin.write("\n")
        other.stdin.close()
        assert other.stdout.read() == "True\n"
    assert other.returncode == 0


def test_a_copy_lasts_as_long_as_its_model(folder, tmp_path, state):
    save_file(state, tmp_path / "m.safetensors")
    one, two = (open_clip.create_model("zhclip-tiny", pretrained=str(tmp_path / "m.safetensors")) for _ in range(2))
    assert memory_of(one) == memory_of(two)
    with torch.no_grad():
        next(one.parameters()).fill_(3)
    assert same(two, state)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(list(folder.iterdir())) == 1
    open_descriptors = len(os.listdir("/proc/self/fd"))
    del one, two
    gc.collect()
    assert not list(folder.iterdir())
    assert len(os.listdir("/proc/self/fd")) < open_descriptors


def test_another_file_is_another_copy(folder, tmp_path, state):
    """Written over in place, with the same size: what was shared before does not come back."""
    path = tmp_path / "m.safetensors"
    save_file(state, path)
    first = open_clip.create_model("zhclip-tiny", pretrained=str(path))
    changed = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    save_file(changed, path)
    second = open_clip.create_model("zhclip-tiny", pretrained=str(path))
    assert memory_of(first) != memory_of(second)
    assert same(first, state)
    assert same(second, changed)


def test_nobody_can_write_to_the_copy(folder, tmp_path, state):
    save_file(state, tmp_path / "m.safetensors")
    model = open_clip.create_model("zhclip-tiny", pretrained=str(tmp_path / "m.safetensors"))
    process, number = next(folder.iterdir()).read_text().split()
    with open(f"/proc/{process}/fd/{number}", "r+b", buffering=0) as file:
        with pytest.raises(PermissionError):
            file.write(b"0")
        with pytest.raises(PermissionError):
            file.truncate(0)
    assert same(model, state)


def test_a_part_is_saved_without_the_rest(folder, tmp_path, state):
    save_file(state, tmp_path / "m.safetensors")
    model = open_clip.create_model("zhclip-tiny", pretrained=str(tmp_path / "m.safetensors"))
    assert memory_of(model)
    torch.save({"a": model.logit_scale.detach()}, tmp_path / "part.pt")
    assert (tmp_path / "part.pt").stat().st_size < 5000
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / "all.safetensors")
    assert (tmp_path / "all.safetensors").stat().st_size < 1.1 * (tmp_path / "m.safetensors").stat().st_size


@pytest.mark.parametrize("fault", ["folder of all", "no memory", "not sealed", "foreign record"])
def test_what_cannot_be_shared_is_loaded_alone(folder, tmp_path, state, monkeypatch, fault):
    path = tmp_path / "m.safetensors"
    save_file(state, path)
    if fault == "folder of all":
        folder.mkdir(mode=0o777)
        folder.chmod(0o777)
    elif fault == "no memory":

        def full(*_):
            raise OSError(12, "Cannot allocate memory")

        monkeypatch.setattr(os, "posix_fallocate", full)
    elif fault == "not sealed":
        views = _shared._views
        kept = []
        monkeypatch.setattr(_shared, "_views", lambda *given: kept.append(views(*given)) or kept[-1])
    else:
        model = open_clip.create_model("zhclip-tiny", pretrained=str(path))
        record = next(folder.iterdir())
        name = record.name
        del model
        gc.collect()
        (folder / name).write_text(f"{os.getpid()} 0")
    model = open_clip.create_model("zhclip-tiny", pretrained=str(path))
    assert same(model, state)
    assert bool(memory_of(model)) == (fault == "foreign record")


def test_a_file_that_cannot_be_read_is_the_same_error(folder, tmp_path, state, monkeypatch):
    save_file(state, tmp_path / "m.safetensors")
    monkeypatch.setattr(_transfer.Source, "_read", lambda *_: 0)
    with pytest.raises(CheckpointError, match="m.safetensors ends at byte"):
        open_clip.create_model("zhclip-tiny", pretrained=str(tmp_path / "m.safetensors"))


@pytest.mark.parametrize(
    ("told", "processes", "shares"),
    [("", "", False), ("", "1", False), ("", "2", True), ("0", "2", False), ("1", "", True), ("", "many", False)],
)
def test_when_they_share(monkeypatch, told, processes, shares):
    monkeypatch.setenv("ZHCLIP_SHARED_WEIGHTS", told)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert _shared.wanted() is shares
