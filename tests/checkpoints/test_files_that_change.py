"""What happens to a file of weights while it is read and afterwards: an error, or nothing at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from zhclip_openclip._errors import CheckpointError
from zhclip_openclip.checkpoints import _read, _transfer

#: Loads a model from each of the files, writes over it in the way that is its name, and looks at the model again.
WRITES_OVER = """
import os, sys
from pathlib import Path
import open_clip, torch
from safetensors.torch import save_file

expected = open_clip.create_model("zhclip-tiny", pretrained="digits").state_dict()
for path in map(Path, sys.argv[1:]):
    model = open_clip.create_model("zhclip-tiny", pretrained=str(path))
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if path.stem == "torch":
        torch.save(model.state_dict(), path)
    elif path.stem == "safetensors":
        save_file(state, path)
    elif path.stem == "cut":
        os.truncate(path, 0)
    elif path.stem == "zeros":
        with path.open("r+b") as file:
            file.write(bytes(os.path.getsize(path)))
    elif path.stem == "renamed":
        save_file({name: torch.zeros_like(tensor) for name, tensor in state.items()}, f"{path}.new")
        os.replace(f"{path}.new", path)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    if path.stem in ("torch", "safetensors"):
        again = open_clip.create_model("zhclip-tiny", pretrained=str(path)).state_dict()
        assert all(torch.equal(again[name], expected[name]) for name in expected)
    model.half()
    with torch.no_grad():
        next(model.parameters()).add_(1)
    print(path.stem, flush=True)
"""
#: What a map of the file would do, to show that the test above would notice.
MAPS = """
import os, sys
from safetensors import safe_open
with safe_open(sys.argv[1], framework="pt") as file:
    tensors = [file.get_tensor(name) for name in file.keys()]
os.truncate(sys.argv[1], 0)
print(sum(float(tensor.double().sum()) for tensor in tensors))
"""


def python(code: str, *words, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


@pytest.fixture(scope="module")
def tiny() -> dict[str, torch.Tensor]:
    return {
        n: t.contiguous() for n, t in open_clip.create_model("zhclip-tiny", pretrained="digits").state_dict().items()
    }


def test_writing_over_the_file_leaves_the_model_alone(tmp_path, tiny):
    names = ["torch", "safetensors", "cut", "zeros", "renamed"]
    paths = [tmp_path / f"{name}.pt" for name in names]
    for path in paths:
        torch.save(tiny, path) if path.stem in ("torch", "cut") else save_file(tiny, path)
    done = python(WRITES_OVER, *paths)
    assert (done.returncode, done.stdout.split()) == (0, names), done.stderr[-2000:]


@pytest.mark.skipif(sys.platform != "linux", reason="signals of Linux")
def test_a_map_would_end_the_process(tmp_path):
    save_file({"a": torch.ones(2**20)}, tmp_path / "m.safetensors")
    assert python(MAPS, tmp_path / "m.safetensors").returncode == -signal.SIGBUS


@pytest.mark.parametrize("write", [save_file, torch.save])
@pytest.mark.parametrize("how", ["replaced", "written"])
def test_another_file_than_the_one_whose_header_was_read(tmp_path, write, how):
    path = tmp_path / "m"
    write({"visual.proj": torch.ones(64, 64)}, path)
    weights = _read.read(path)
    other = tmp_path / "other"
    write({"visual.proj": torch.zeros(64, 64)}, other)
    if how == "replaced":
        os.replace(other, path)
    else:
        path.write_bytes(other.read_bytes())
    with pytest.raises(CheckpointError, match=r"m was changed while it was read: load it again"):
        list(weights.stream(["visual.proj"]))


@pytest.mark.parametrize("how", ["cut", "written"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_file_that_changes_in_the_middle(tmp_path, tiny, monkeypatch, how, threads):
    path = tmp_path / "m.safetensors"
    save_file(tiny, path)
    read, calls = _transfer.Source._read, []

    def reads(self, buffer, offset):
        calls.append(offset)
        if len(calls) == 20:
            if how == "cut":
                os.truncate(path, 4096)
            else:
                with Path(path).open("r+b") as file:
                    file.seek(4096)
                    file.write(bytes(4096))
        return read(self, buffer, offset)

    monkeypatch.setattr(_transfer.Source, "_read", reads)
    monkeypatch.setattr(_transfer, "_threads", lambda: threads)
    with pytest.raises(CheckpointError, match="m.safetensors was changed while it was read"):
        open_clip.create_model("zhclip-tiny", pretrained=str(path))
    assert len(calls) >= 20


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("precision", ["fp32", "pure_fp16"])
def test_blocks_and_threads_change_no_bit(tmp_path, tiny, monkeypatch, stored, precision):
    """Against torch's own conversion of each tensor as a whole."""
    path = tmp_path / "m.pt"
    held = {name: tensor.to(stored) if tensor.is_floating_point() else tensor for name, tensor in tiny.items()}
    torch.save(held, path)
    assert _read.read(path).offsets.keys() == held.keys(), "torch does not say where in the file they are"
    monkeypatch.setattr(_transfer, "BLOCK", 1000)
    monkeypatch.setattr(_transfer, "_threads", lambda: 3)
    loaded = open_clip.create_model("zhclip-tiny", pretrained=str(path), precision=precision).state_dict()
    for name, tensor in held.items():
        assert torch.equal(loaded[name], tensor.to(loaded[name].dtype)), name


def test_where_no_thread_can_read_at_a_place_of_its_own(tmp_path, tiny, monkeypatch):
    """As on Windows, which has no preadv."""
    save_file(tiny, tmp_path / "m.safetensors")
    monkeypatch.delattr(os, "preadv")
    monkeypatch.setattr(_transfer, "_threads", lambda: 3)
    loaded = open_clip.create_model("zhclip-tiny", pretrained=str(tmp_path / "m.safetensors")).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tiny.items())


def test_files_that_do_not_say_where_are_read_too(tmp_path, tiny):
    """Turned tensors, several in one storage, and the form before torch 1.6."""
    turned = {n: t.t().contiguous().t() if t.ndim == 2 else t for n, t in tiny.items()}
    torch.save(turned, tmp_path / "turned.pt")
    whole = torch.cat([t.flatten().float() for t in tiny.values()])
    parts = torch.split(whole, [t.numel() for t in tiny.values()])
    torch.save({n: p.view(t.shape) for (n, t), p in zip(tiny.items(), parts, strict=True)}, tmp_path / "one.pt")
    torch.save(tiny, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    placed = {path.stem: len(_read.read(path).offsets) for path in tmp_path.iterdir()}
    assert placed["old"] == 0 < placed["turned"] < placed["one"] == len(tiny)
    for path in tmp_path.iterdir():
        loaded = open_clip.create_model("zhclip-tiny", pretrained=str(path)).state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in tiny.items()), path
