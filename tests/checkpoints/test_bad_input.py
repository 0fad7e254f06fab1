"""Every wrong checkpoint ends in one line that says what it is and what to do, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import tarfile
import warnings
import zipfile

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from zhclip_openclip import _paths
from zhclip_openclip._errors import CheckpointError
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


PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
#: What downloads and mistakes leave in the place of weights -> words of the message, the way out among them.
NOT_WEIGHTS = {
    "nothing": (b"", "is an empty file, not weights: nothing was written to it"),
    "zeros": (bytes(5000), "is a file of zeros, not weights: the download failed, fetch it again"),
    "a page": (PAGE, "is an HTML page, not weights: the download failed, fetch it again"),
    "an error of a store": (
        b'<?xml version="1.0"?><Error><Code>AccessDenied',
        "is an XML page, not weights: the download",
    ),
    "an error of an API": (b'{"error": "Repository not found"}', "is a JSON text, not weights: the download failed"),
    "a pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "Git LFS pointer.*git lfs pull",
    ),
    "gzip": (b"\x1f\x8b\x08" + bytes(99), "is a gzip archive, not weights: unpack it"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file, not weights: give the same weights as safetensors"),
    "GGUF": (b"GGUF" + bytes(99), "is a GGUF file, not weights"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(99), "is a PNG picture"),
    "text": (b"some words\n", "is not a file of weights: it begins neither like safetensors nor"),
    "msgpack": (b"\x81\xa6params\x81\xa4text\x81", "is not a file of weights"),
    "UTF-16": ("{}".encode("utf-16"), "is a text in UTF-16"),
    "a pickle": (pickle.dumps([1]), "it is not what torch.save writes"),
}


@pytest.mark.parametrize("name", ["m.safetensors", "pytorch_model.bin", "m.pt", "m", "model.safetensors.index.json"])
@pytest.mark.parametrize("kind", NOT_WEIGHTS)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_the_first_bytes_say_what_it_is(tmp_path, kind, name):
    content, words = NOT_WEIGHTS[kind]
    if kind == "an error of an API" and name.endswith(".json"):
        words = "is not an index of shards"
    (tmp_path / name).write_bytes(content)
    assert re.search(words, refusal(tmp_path / name))


@pytest.mark.parametrize("name", ["m.bin", "m.pt", "m.ckpt", "m.SAFETENSORS", "m", "m.safetensors"])
@pytest.mark.parametrize("form", ["safetensors", "torch", "torch before 1.6"])
def test_any_form_under_any_name(tmp_path, state, form, name):
    path = tmp_path / name
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "torch")
    loaded = load(path).state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_other_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.bin", "w") as archive:
        archive.write(TINY, "tiny/model.safetensors")
    assert "is a zip archive of tiny/model.safetensors, not weights: unpack it" in refusal(tmp_path / "model.bin")
    with tarfile.open(tmp_path / "model.pt", "w") as archive:
        archive.add(TINY, "model.safetensors")
    assert "is not a file of weights" in refusal(tmp_path / "model.pt")


#: Change of the header {name: entry, ...} of a safetensors file -> words of the message.
HEADERS = {
    "no shape": (lambda h: h["logit_scale"].pop("shape"), "the shape None for 'logit_scale'"),
    "no offsets": (lambda h: h["logit_scale"].pop("data_offsets"), "the data_offsets None"),
    "no type": (lambda h: h["logit_scale"].pop("dtype"), "'logit_scale' is of the type None"),
    "unknown type": (lambda h: h["logit_scale"].update(dtype="Q4_K"), "of the type 'Q4_K'; known are .*F32"),
    "a type that is a list": (lambda h: h["logit_scale"].update(dtype=["F32"]), "of the type"),
    "negative": (lambda h: h["logit_scale"].update(shape=[-1]), r"the shape \[-1\]"),
    "true": (lambda h: h["logit_scale"].update(shape=[True]), r"the shape \[True\]"),
    "a real number": (lambda h: h["logit_scale"].update(shape=[1.0]), r"the shape \[1.0\]"),
    "another size": (lambda h: h["logit_scale"].update(shape=[2]), "gives 4 bytes to 'logit_scale', which is F32"),
    "backwards": (lambda h: h["logit_scale"].update(data_offsets=[4, 0]), "the data_offsets"),
    "an overlap": (lambda h: h.update(twice=dict(h["logit_scale"])), "where the tensor before it ends"),
    "a number in its place": (lambda h: h.update(logit_scale=3), "no object for 'logit_scale'"),
    "a number as metadata": (lambda h: h.update(__metadata__={"format": 1}), "other than texts in __metadata__"),
    "metadata that is a list": (lambda h: h.update(__metadata__=[]), "other than texts in __metadata__"),
}


def with_header(header) -> bytes:
    """The tiny model's file with another header."""
    raw = TINY.read_bytes()
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + raw[8 + int.from_bytes(raw[:8], "little") :]


@pytest.mark.parametrize("change", HEADERS)
def test_a_header_is_checked_before_it_is_believed(tmp_path, change):
    raw = TINY.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    HEADERS[change][0](header)
    (tmp_path / "m.safetensors").write_bytes(with_header(header))
    assert re.search(HEADERS[change][1], refusal(tmp_path / "m.safetensors"))


def test_headers_that_would_take_long(tmp_path):
    for header, words in (
        (b'{"a": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "ValueError"),
        (b'{"\\ud83d": 1}', "half a surrogate pair"),
        (b"{" + b" " * (16 * 2**20), "header of 16777217 bytes"),
    ):
        (tmp_path / "m.safetensors").write_bytes(with_header(header))
        assert words in refusal(tmp_path / "m.safetensors")
    (tmp_path / "m.safetensors").write_bytes(TINY.read_bytes() + b"more")
    assert "something else follows it" in refusal(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        ({"a": ["m-1.safetensors"]}, "gives \\['m-1.safetensors'\\] for 'a', not the name of a file beside it"),
        ({"a": {"m": 1}}, "not the name of a file beside it"),
        ({"a": 1}, "gives 1 for 'a'"),
        ({"a": "../secret.safetensors"}, "gives '../secret.safetensors' for 'a', not the name"),
        ({"a": "/etc/passwd"}, "gives '/etc/passwd'"),
        ({"a": ".."}, "gives '..'"),
        ({"a": ""}, "gives ''"),
        ({"a": "m.safetensors.index.json"}, "is an index of shards, not a shard"),
        ({"a": "config.json"}, "config.json is a JSON text, not weights"),
        ({"a": "tiny.safetensors"}, "names 1 tensors that are not in their files \\(a\\)"),
        ({}, "is not an index of shards"),
        ([], "is not an index of shards"),
        (None, "is not an index of shards"),
    ],
)
def test_an_index_names_files_beside_it(tmp_path, weight_map, words):
    (tmp_path / "config.json").write_text("{}")
    shutil.copy(TINY, tmp_path / "tiny.safetensors")
    path = tmp_path / "m.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert re.search(words, refusal(path))


def test_an_index_is_known_by_what_is_in_it(tmp_path, state):
    save_file(state, tmp_path / "a")
    (tmp_path / "b").write_text(json.dumps({"weight_map": dict.fromkeys(state, "a")}))
    assert torch.equal(load(tmp_path / "b").logit_scale, state["logit_scale"])


def test_the_index_says_which_of_two_shards_is_meant(tmp_path, state):
    save_file({**state, "logit_scale": torch.tensor(9.0)}, tmp_path / "b.safetensors")
    save_file({"logit_scale": torch.tensor(5.0)}, tmp_path / "a.safetensors")
    for name, value in (("a", 5.0), ("b", 9.0)):
        mapping = {**dict.fromkeys(state, "b.safetensors"), "logit_scale": f"{name}.safetensors"}
        (tmp_path / "m.index.json").write_text(json.dumps({"weight_map": mapping}))
        assert load(tmp_path / "m.index.json").logit_scale == value


# what stands at the path


def loads_in_every_way(given) -> list[str]:
    """What `create_model` and `load_checkpoint` say of a path."""
    model = open_clip.create_model("zhclip-tiny")
    told = [refusal(given)]
    with pytest.raises(CheckpointError) as error:
        open_clip.load_checkpoint(model, str(given))
    return [*told, str(error.value)]


def test_links_pipes_and_devices(tmp_path):
    (tmp_path / "broken.pt").symlink_to(tmp_path / "gone.pt")
    (tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    os.mkfifo(tmp_path / "pipe.pt")
    for given, words in (
        (tmp_path / "broken.pt", "is a link to .*gone.pt, which is not there"),
        (tmp_path / "loop.pt", "is a link to itself"),
        (tmp_path / "pipe.pt", "is a pipe, not a file"),
        ("/dev/null", "/dev/null is a device, not a file"),
        ("~nosuchuser/m.pt", "knows no home folder of that user"),
        (tmp_path / ("x" * 300), "x' (does not exist|is neither)|does not exist"),
        (str(tmp_path / "a\0b"), "does not exist"),
    ):
        for told in loads_in_every_way(given):
            assert re.search(words, told), told
    (tmp_path / "good.pt").symlink_to(TINY)
    load(tmp_path / "good.pt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.safetensors").symlink_to(tmp_path / "gone")
    assert "folder/model.safetensors is a link to" in refusal(tmp_path / "folder")
    torch.save(load(TINY).state_dict(), tmp_path / "folder" / "pytorch_model.bin")
    load(tmp_path / "folder")


def test_load_checkpoint_takes_a_folder_and_a_home(tmp_path, state, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    torch.save(state, tmp_path / "run" / "epoch_latest.pt")
    for given in (tmp_path / "run", "~/run", "~/run/epoch_latest.pt"):
        model = open_clip.create_model("zhclip-tiny")
        open_clip.load_checkpoint(model, str(given))
        assert torch.equal(model.logit_scale, state["logit_scale"])
    assert torch.equal(load("~/run").logit_scale, state["logit_scale"])


def test_a_newer_file_with_other_values_is_named(tmp_path, state):
    def written(name, content, time):
        path = tmp_path / name
        save_file(content, path) if name.endswith("safetensors") else torch.save(content, path)
        os.utime(path, (time, time))

    tuned = {name: t + 0.01 if t.is_floating_point() else t for name, t in state.items()}
    written("model.safetensors", state, 1000)
    for content, time, warned in ((tuned, 900, False), (state, 2000, False), (tuned, 2000, True)):
        written("pytorch_model.bin", content, time)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loaded = load(tmp_path)
        assert torch.equal(loaded.logit_scale, state["logit_scale"])
        told = [str(w.message) for w in caught if "is newer" in str(w.message)]
        assert bool(told) == warned
    assert "model.safetensors is taken, and pytorch_model.bin beside it is newer and holds other values" in told[0]
    half = {name: t.half() if t.is_floating_point() else t for name, t in state.items()}
    written("pytorch_model.bin", half, 2000)  # the same weights, rounded
    (tmp_path / "epoch_latest.pt").write_bytes(b"no weights")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tmp_path)


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
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    monkeypatch.setattr(_read, "WINDOW", 10_000)
    for path in (*sorted(tmp_path.glob("?.*")), shards):
        loaded = load(path).state_dict()
        assert all(torch.equal(loaded[name], state[name]) for name in state), path
    (shards / "model-2.safetensors").unlink()
    assert "model-2.safetensors" in refusal(shards)
