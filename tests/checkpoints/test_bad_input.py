"""Every wrong checkpoint ends in one line that says what it is and what to do, and leaves nothing behind."""

from __future__ import annotations

import os
import pickle

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from zhclip_openclip import _paths
from zhclip_openclip.checkpoints import _read

TINY = _paths.DATA / "tiny" / "model.safetensors"


def load(path, name="zhclip-tiny"):
    return open_clip.create_model(name, pretrained=str(path))


def refusal(path, name="zhclip-tiny") -> str:
    with pytest.raises(RuntimeError) as error:
        load(path, name)
    assert "\n" not in str(error.value), str(error.value)
    return str(error.value)


@pytest.fixture
def state():
    return dict(open_clip.create_model("zhclip-tiny", pretrained="digits").state_dict())


def test_unknown_model_suggests_ours_too():
    with pytest.raises(RuntimeError, match="zhclip-vit-l-14"):
        open_clip.create_model("zhclip-vit-l14")


def test_unknown_tag_names_the_tags():
    told = refusal("digit")
    assert "neither a tag nor a file or folder" in told and "digits" in told and "did you mean 'digits'" in told
    assert "thu_ml" in refusal("laion400m_e32", "zhclip")


def test_tags_as_open_clip_cleans_them():
    assert open_clip.create_model("zhclip-tiny", pretrained="DIGITS").zhclip_model == "zhclip-tiny"


def test_path_that_is_not_there(tmp_path):
    assert "nothing.pt' does not exist" in refusal(tmp_path / "nothing.pt")


def test_folder_without_and_with_too_many_weights(tmp_path, state):
    assert "holds no weights" in refusal(tmp_path)
    save_file(state, tmp_path / "a.safetensors")
    load(tmp_path)
    save_file(state, tmp_path / "b.safetensors")
    assert "several files of weights (a.safetensors, b.safetensors)" in refusal(tmp_path)


def test_missing_and_unknown_keys_are_counted_and_named(tmp_path, state):
    del state["text.proj.0.weight"], state["visual.head.proj.bias"]
    state["text.extra.weight"] = torch.zeros(2)
    save_file(state, tmp_path / "m.safetensors")
    told = refusal(tmp_path / "m.safetensors")
    assert "2 of" in told and "text.proj.0.weight" in told and "visual.head.proj.bias" in told
    assert "1 keys are unknown (text.extra.weight)" in told


def test_other_shape(tmp_path, state):
    state["text.proj.2.weight"] = torch.zeros(32, 64)
    save_file(state, tmp_path / "m.safetensors")
    assert "text.proj.2.weight [32, 64] for [64, 64]" in refusal(tmp_path / "m.safetensors")


def test_nothing_is_copied_unless_everything_fits(tmp_path, state):
    model = open_clip.create_model("zhclip-tiny")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    del state["text.proj.0.weight"]
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(RuntimeError, match="does not fit"):
        open_clip.load_checkpoint(model, str(tmp_path / "m.safetensors"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_file_that_fits_another_model_says_so():
    told = refusal(TINY, "zhclip-vit-l-14")
    assert "does not fit zhclip-vit-l-14" in told and "it fits zhclip-tiny: load it under that name" in told


def test_of_no_family(tmp_path):
    save_file({"conv1.weight": torch.zeros(2), "fc.bias": torch.zeros(2)}, tmp_path / "m.safetensors")
    told = refusal(tmp_path / "m.safetensors")
    assert "of no known family" in told and "conv1.weight" in told


class Bomb:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_pickle_is_never_executed(tmp_path, form):
    path, marker = tmp_path / "m.pt", tmp_path / "executed"
    if form == "torch":
        torch.save({"state_dict": {}, "x": Bomb(marker)}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(marker)))
    told = refusal(path)
    assert "nothing in it was executed" in told and not marker.exists()
    with pytest.raises(RuntimeError, match="nothing in it was executed"):
        open_clip.create_model("zhclip-tiny", pretrained=str(path), weights_only=False)
    assert not marker.exists()


def test_cut_short(tmp_path, state):
    whole = TINY.read_bytes()
    for end in (0, 5, 1000, len(whole) // 2, len(whole) - 1):
        path = tmp_path / "model.safetensors"
        path.write_bytes(whole[:end])
        assert "cut short" in refusal(path) or "broken" in refusal(path)
    torch.save(state, tmp_path / "m.bin")
    content = (tmp_path / "m.bin").read_bytes()
    (tmp_path / "half.bin").write_bytes(content[: len(content) // 2])
    assert "half.bin" in refusal(tmp_path / "half.bin")


def test_git_lfs_pointer(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 2500000000\n")
    assert "Git LFS pointer" in refusal(path)


def test_not_a_state_dict(tmp_path):
    torch.save([torch.zeros(2)], tmp_path / "m.pt")
    assert "holds a list, not a state dict" in refusal(tmp_path / "m.pt")
    torch.save({"epoch": 3}, tmp_path / "n.pt")
    assert "holds no tensors" in refusal(tmp_path / "n.pt")


def test_forms_of_files_load_alike(tmp_path, state, monkeypatch):
    """safetensors, torch's zip and older format, wrapped or not, in shards, and read in many small windows."""
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.bin")
    torch.save(state, tmp_path / "c.bin", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": {f"module._orig_mod.{name}": t for name, t in state.items()}}, tmp_path / "d.pt")
    names = sorted(state)
    shards = tmp_path / "sharded"
    shards.mkdir()
    save_file({name: state[name] for name in names[:40]}, shards / "model-1.safetensors")
    save_file({name: state[name] for name in names[40:]}, shards / "model-2.safetensors")
    index = {name: f"model-{1 if name in names[:40] else 2}.safetensors" for name in names}
    (shards / "model.safetensors.index.json").write_text(__import__("json").dumps({"weight_map": index}))
    monkeypatch.setattr(_read, "WINDOW", 10_000)
    for path in (*sorted(tmp_path.glob("?.*")), shards):
        loaded = load(path).state_dict()
        assert all(torch.equal(loaded[name], state[name]) for name in state), path
    (shards / "model-2.safetensors").unlink()
    assert "model-2.safetensors" in refusal(shards)
