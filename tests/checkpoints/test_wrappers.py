"""What trainers and their wrappers make of a state dict: found by what is in it, or refused by its name."""

from __future__ import annotations

import argparse
import subprocess
import warnings
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from zhclip_openclip import _paths
from zhclip_openclip._errors import CheckpointError
from zhclip_openclip.checkpoints import _read

TINY = _paths.DATA / "tiny" / "model.safetensors"


@pytest.fixture(scope="module")
def model():
    return open_clip.create_model("zhclip-tiny", pretrained="digits")


@pytest.fixture(scope="module")
def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def other(state):
    """Weights of the same names with other values."""
    return {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def under(prefix: str, state: dict) -> dict:
    return {prefix + name: tensor for name, tensor in state.items()}


def put(word: str, after: str, state: dict) -> dict:
    """`word` into each name behind the part `after`."""
    result = {name.replace(f"{after}.", f"{after}.{word}.", 1): tensor for name, tensor in state.items()}
    assert result.keys() != state.keys()
    return result


def lightning(state, prefix):
    extra = {"head.weight": torch.zeros(3, 64), "loss.scale": torch.ones(())}
    return {"state_dict": {**under(prefix, state), **extra}, "pytorch-lightning_version": "2.4.0", "loops": {"a": {}}}


OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(9)}, "visual.proj": {"exp_avg": torch.zeros(9)}}, "param_groups": []}
#: Form -> (content of the file, a word of the warning that it comes with).
FORMS = {
    "plain": (lambda s: s, None),
    "parameters": (lambda s: {k: torch.nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()}, None),
    "DeepSpeed": (lambda s: {"module": s, "ds_version": "0.16", "optimizer": None, "param_shapes": [{}]}, None),
    "with an optimizer": (lambda s: {"epoch": 1, "weights": s, "optimizer": OPTIMIZER}, None),
    **{key: (lambda s, key=key: {key: s}, None) for key in ("state_dict", "model", "net", "params", "student", "ema")},
    **{key: (lambda s, key=key: {key: s}, None) for key in ("model_ema", "state_dict_ema", "anything at all")},
    "nested": (lambda s: {"model": {"state_dict": s}, "epoch": 3}, None),
    "nested deeper": (lambda s: {"a": {"b": {"model": s}}}, None),
    "Lightning model.": (lambda s: lightning(s, "model."), "2 keys outside of state_dict: model.* are left out (head."),
    "Lightning clip.": (lambda s: lightning(s, "clip."), "left out"),
    "Lightning net.model.": (lambda s: lightning(s, "net.model."), "state_dict: net.model.*"),
    "DataParallel": (lambda s: {"state_dict": under("module.", s)}, None),
    "compiled and parallel": (lambda s: under("_orig_mod.module.", s), None),
    "FSDP": (lambda s: put("_fsdp_wrapped_module", "visual", under("_fsdp_wrapped_module.", s)), None),
    "checkpointed blocks": (lambda s: put("_checkpoint_wrapped_module", "blocks.0", s), None),
    "compiled tower": (lambda s: put("_orig_mod", "visual", s), None),
    "parallel tower": (lambda s: put("module", "visual", s), None),
    "AveragedModel": (lambda s: {"n_averaged": torch.tensor(7), **under("module.", s)}, None),
    "beside an average": (
        lambda s: {"model": s, "model_ema": other(s)},
        "holds weights in model and in model_ema: model is taken",
    ),
    "before an average": (lambda s: {"state_dict_ema": other(s), "state_dict": s}, "state_dict is taken"),
    "average in one dict": (
        lambda s: {**under("ema_model.", other(s)), **under("model.", s)},
        "are left out (ema_model",
    ),
    "NumPy scalars": (lambda s: {"model": s, "lr": np.float64(1e-4), "best": np.float32(0.5), "n": np.int64(3)}, None),
    "a NumPy array": (lambda s: {"model": s, "random": np.arange(5)}, None),
    "a Namespace": (lambda s: {"state_dict": s, "args": argparse.Namespace(lr=1e-4, path=Path("/x"))}, None),
    "an object": (
        lambda s: {"state_dict": s, "config": Settings()},
        "test_wrappers.Settings: they are left out",
    ),
    "names that are numbers": (lambda s: {**s, 0: torch.zeros(2), ("a",): torch.zeros(2)}, None),
    "other values between": (lambda s: {**s, "_metadata": {"a": 1}, "epoch": 3, "name": "x"}, None),
}


class Settings:
    def __init__(self):
        self.lr = 0.1

    def __setstate__(self, state):
        raise AssertionError("something of the file was executed")


def load(path) -> tuple[dict, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        weights = _read.read(path)
        loaded = {name: tensor.clone() for name, tensor in weights.stream(weights.shapes)}
    return loaded, [str(warning.message) for warning in caught]


def assert_loads(path, state, word):
    loaded, told = load(path)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert (len(told) == 1 and word in told[0]) if word else told == [], told


@pytest.mark.parametrize("form", FORMS)
def test_the_state_dict_is_found(tmp_path, state, form):
    build, word = FORMS[form]
    path = tmp_path / "checkpoint.pt"
    torch.save(build(state), path)
    assert_loads(path, state, word)


@pytest.mark.parametrize("form", ["Lightning model.", "FSDP", "parallel tower", "AveragedModel", "average in one dict"])
def test_in_safetensors_too(tmp_path, state, form):
    build, word = FORMS[form]
    content = build(state)
    save_file(content.get("state_dict", content), tmp_path / "model.safetensors")
    assert_loads(tmp_path / "model.safetensors", state, word and word.replace("state_dict: ", ""))


def test_the_form_before_torch_1_6_and_its_stand_ins(tmp_path, state):
    torch.save(FORMS["NumPy scalars"][0](state), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert_loads(tmp_path / "old.pt", state, None)


def test_what_users_have_allowed_in_torch_stays_allowed(tmp_path, state):
    before = set(torch.serialization.get_safe_globals())
    torch.save(FORMS["a Namespace"][0](state), tmp_path / "a.pt")
    with torch.serialization.safe_globals([argparse.Namespace]):
        inside = set(torch.serialization.get_safe_globals())
        _read.read(tmp_path / "a.pt")
        assert set(torch.serialization.get_safe_globals()) == inside
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_whole_model_gives_the_model(tmp_path, model, state):
    torch.save({"model": state, "model_ema": other(state)}, tmp_path / "a.pt")
    with pytest.warns(UserWarning, match="model_ema"):
        loaded = open_clip.create_model("zhclip-tiny", pretrained=str(tmp_path / "a.pt"))
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())


#: Form -> (content, words of the refusal).
REFUSED = {
    "student and teacher": (lambda s: {"student": s, "teacher": other(s)}, "holds 2 models (student, teacher)"),
    "two averages": (lambda s: {"ema": s, "swa": other(s)}, "holds 2 models (ema, swa)"),
    "two prefixes": (lambda s: {**under("student.", s), **under("teacher.", s)}, "(student.*, teacher.*)"),
    "LoRA": (
        lambda s: {**s, "visual.trunk.blocks.0.attn.qkv.lora_A.default.weight": torch.zeros(4, 64)},
        "merge first, with model.merge_and_unload()",
    ),
    "PEFT": (
        lambda s: under("base_model.model.", {k.replace("proj.", "proj.base_layer.", 1): v for k, v in s.items()}),
        "merge first",
    ),
    "adapter alone": (lambda s: {"base_model.model.visual.x.lora_A.weight": torch.zeros(4, 4)}, "merge first"),
    "ZeRO-3": (lambda s: {"module": {name: torch.empty(0) for name in s}}, "zero_to_fp32.py"),
    "meta": (lambda s: {**s, "logit_scale": torch.empty((), device="meta")}, "logit_scale has no values"),
    "sparse": (lambda s: {**s, "text.proj.0.weight": torch.eye(64).to_sparse()}, "text.proj.0.weight is sparse"),
    "quantised": (
        lambda s: {**s, "text.proj.0.weight": torch.quantize_per_tensor(torch.eye(64), 0.1, 0, torch.qint8)},
        "text.proj.0.weight is quantised",
    ),
    "a list": (lambda s: [s], "holds a list, not a state dict"),
    "nothing": (lambda s: {"epoch": 3, "args": {}}, "holds no tensors: its keys are epoch, args"),
    "a model": (lambda s: torch.nn.Linear(2, 2), "holds a pickled torch.nn.modules.linear.Linear"),
}


@pytest.mark.parametrize("form", REFUSED)
@pytest.mark.filterwarnings("ignore")  # of torch about the forms that it writes here
def test_what_is_refused_says_why(tmp_path, state, form):
    build, words = REFUSED[form]
    path = tmp_path / "checkpoint.pt"
    torch.save(build(state), path)
    with pytest.raises(CheckpointError) as error:
        _read.read(path)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_int8_in_the_place_of_a_weight(tmp_path, model, state):
    for suffix in ("pt", "safetensors"):
        content = {**state, "text.proj.0.weight": torch.ones(64, 64, dtype=torch.int8)}
        path = tmp_path / f"a.{suffix}"
        torch.save(content, path) if suffix == "pt" else save_file(content, path)
        with pytest.raises(CheckpointError, match=r"text.proj.0.weight is int8.*before they were quantised"):
            open_clip.load_checkpoint(model, str(path))
    assert torch.equal(model.state_dict()["text.proj.0.weight"], state["text.proj.0.weight"])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript(tmp_path):
    linear = torch.nn.Linear(2, 2)
    torch.jit.save(torch.jit.trace(linear, torch.zeros(1, 2)), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="TorchScript archive: save its state_dict"):
        _read.read(tmp_path / "a.pt")


@pytest.mark.parametrize("key", ["visual.a#0", "visual.head#x", "#", "text.proj.0.weight\n", "", ".", "模型.权重"])
def test_names_that_mean_nothing_are_listed(tmp_path, model, state, key):
    save_file({**state, key: torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="1 keys are unknown"):
        open_clip.load_checkpoint(model, str(tmp_path / "a.safetensors"))


class Bomb:
    """Calls `function` when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_nothing_is_executed(tmp_path, state):
    """Built-in functions are refused; whatever else would be called has a stand-in and does nothing."""
    marker = tmp_path / "executed"
    torch.save({"state_dict": state, "x": Bomb(eval, f"open({str(marker)!r}, 'w')")}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="it wants to run eval.*nothing in it was executed"):
        _read.read(tmp_path / "a.pt")
    torch.save({"state_dict": state, "x": Bomb(subprocess.Popen, ["touch", str(marker)])}, tmp_path / "b.pt")
    assert_loads(tmp_path / "b.pt", state, "Popen: they are left out, and nothing was executed")
    assert not marker.exists()
    torch.load(tmp_path / "b.pt", weights_only=False)["x"].wait()
    assert marker.exists(), "the bomb is none"


def test_what_this_package_says_of_its_weights_comes_with_them(tmp_path, model, state):
    told = model.state_dict()._metadata[""]["zhclip"]
    save_file(state, tmp_path / "a.safetensors", metadata={"format": "pt", "zhclip": told})
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "b.pt")
    torch.save(torch.nn.DataParallel(model).state_dict(), tmp_path / "c.pt")
    assert [_read.read(tmp_path / name).own for name in ("a.safetensors", "b.pt", "c.pt")] == [told] * 3
    torch.save(state, tmp_path / "d.pt")
    assert _read.read(tmp_path / "d.pt").own == ""
