"""Files in any state of damage: whatever is read ends well or in one line of ours, never in somebody else's exception.

Fixed seeds and one fixed list of contents, so that a failure comes back; the number of seeds keeps it to seconds.
`ZHCLIP_FUZZ_SECONDS` and `ZHCLIP_FUZZ_SEED` make it longer and other, as in tests/support/fuzz.py.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import time

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from tests.support import fuzz
from zhclip_openclip import _paths
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.checkpoints import _files, _read

TINY = _paths.DATA / "tiny"
SEEDS = 250
pytestmark = pytest.mark.filterwarnings("ignore")  # of torch about strange pickles, and ours about what is left out

#: Small tensors under names that are known, so that damage goes deeper than the recognition.
TENSORS = {
    "visual.proj": torch.arange(16.0).reshape(4, 4),
    "text.transformer.a.weight": torch.ones(3, 4),
    "text.transformer.b": torch.ones(5).half(),
    "logit_scale": torch.tensor(1.0),
    "steps": torch.tensor(3),
}
EXTRA = {"args": argparse.Namespace(lr=0.1), "best": np.float64(0.5), "optimizer": {"state": {0: {"a": torch.ones(3)}}}}


def safetensors(path):
    save_file(TENSORS, path, metadata={"format": "pt"})


def torch_zip(path):
    torch.save({"state_dict": TENSORS, **EXTRA}, path)


def torch_before_1_6(path):
    torch.save({"state_dict": TENSORS, **EXTRA}, path, _use_new_zipfile_serialization=False)


def index(path):
    save_file(TENSORS, path.parent / "part")
    content = {"metadata": {"total_size": 99}, "weight_map": dict.fromkeys(TENSORS, "part")}
    path.write_text(json.dumps(content), encoding="utf-8")


def seeds():
    """The first of them always, then others until the time that was asked for is over."""
    until = time.monotonic() + fuzz.SECONDS
    for number in itertools.count(fuzz.SEED * 1_000_003):
        if number >= fuzz.SEED * 1_000_003 + SEEDS and time.monotonic() >= until:
            return
        yield number


def damaged(content: bytes, seed: int) -> bytes:
    """One to five changes: a byte, a bit, bytes lost, bytes too many, the end lost, two places swapped."""
    rng = random.Random(seed)
    raw = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        if not raw:
            break
        at, other = rng.randrange(len(raw)), rng.randrange(len(raw))
        match rng.randrange(6):
            case 0:
                raw[at] = rng.randrange(256)
            case 1:
                raw[at] ^= 1 << rng.randrange(8)
            case 2:
                del raw[at : at + rng.randrange(1, 20)]
            case 3:
                raw[at:at] = rng.randbytes(rng.randrange(1, 20))
            case 4:
                del raw[at:]
            case 5:
                raw[at : at + 8], raw[other : other + 8] = raw[other : other + 8], raw[at : at + 8]
    return bytes(raw)


def assert_one_line(error: ZhclipError) -> None:
    told = str(error)
    assert told and told.isprintable(), repr(told)


@pytest.mark.parametrize("write", [safetensors, torch_zip, torch_before_1_6, index])
def test_random_damage(tmp_path, write):
    path = tmp_path / "whole"
    write(path)
    whole = path.read_bytes()
    assert set(_read.read(path).shapes) == set(TENSORS)
    outcomes = {"read": 0, "refused": 0}
    for seed in seeds():
        path.write_bytes(damaged(whole, seed))
        try:
            weights = _read.read(path)
            for name, tensor in weights.stream(weights.shapes):
                assert tuple(tensor.shape) == weights.shapes[name]
                tensor.sum()
            outcomes["read"] += 1
        except ZhclipError as error:
            assert_one_line(error)
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    assert outcomes["refused"] > sum(outcomes.values()) / 2, "the damage is none"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_damage_on_the_way_into_a_model(tmp_path, name):
    """The whole way of `load_checkpoint`: what is refused leaves the model as it was."""
    path = tmp_path / name
    model = open_clip.create_model("zhclip-tiny", pretrained="digits")
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    save_file(state, path) if name.endswith("safetensors") else torch.save(state, path)
    whole = path.read_bytes()
    for seed in range(40):
        # The values are most of the file: only damage outside of them is of interest here.
        path.write_bytes(damaged(whole[:20_000], seed) + whole[20_000:])
        try:
            open_clip.load_checkpoint(model, str(path))
            model.load_state_dict(state)
        except ZhclipError as error:
            assert_one_line(error)
            assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items()), seed


#: What may stand in the place of any file.
CONTENTS = {
    "nothing": b"",
    "zeros": bytes(3000),
    "page": b"<!DOCTYPE html><html><body>Sign in</body></html>",
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "cut JSON": b'{"vision_config": {"hidden_act": "qui',
    "empty object": b"{}",
    "list": b"[1, 2]",
    "number": b"3",
    "null": b"null",
    "deep": b'{"a": ' * 50_000,
    "digits": b'{"a": ' + b"9" * 5000 + b"}",
    "half a surrogate pair": b'{"vision_config": {"hidden_act": "\\ud83d"}}',
    "UTF-16": '{"a": "猫"}'.encode("utf-16"),
    "GBK": '{"图像": "一只猫和一只狗"}\n'.encode("gbk"),
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(50),
    "zip": b"PK\x03\x04" + bytes(50),
    "pickle": b"\x80\x02}q\x00.",
    "other types": json.dumps(
        {
            "vision_config": 3, "text_config": [1], "projection_dim": {}, "weight_map": 3, "model_cfg": [], "zhclip": 1,
            "preprocess_cfg": 1, "image_mean": {}, "size": "x", "image_processor": [], "model": 3, "do_lower_case": 3,
        }
    ).encode(),
    "nulls": json.dumps(
        dict.fromkeys(["vision_config", "text_config", "weight_map", "model_cfg", "size", "image_processor", "zhclip"])
    ).encode(),
}  # fmt: skip
#: Files that are looked for beside weights in open_clip's names, and beside those of Hugging Face.
BESIDE_OURS = ("open_clip_config.json", "config.json", "params.txt", "preprocessor_config.json")
BESIDE_THEIRS = ("config.json", "preprocessor_config.json", "processor_config.json", "params.txt")


def passes(call, *arguments, **options) -> None:
    """Whatever `call` does, it ends well or with an error of ours."""
    try:
        call(*arguments, **options)
    except ZhclipError as error:
        assert_one_line(error)


@pytest.mark.parametrize("content", [*CONTENTS, "folder"])
def test_every_file_may_be_anything(tmp_path, content):
    """`create_model`, `load_checkpoint` and `zhclip convert`, with one file of a folder replaced by something else."""
    from zhclip_openclip.commands.convert import convert

    def put(path):
        if content == "folder":
            path.mkdir()
        else:
            path.write_bytes(CONTENTS[content])

    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    model = open_clip.create_model("zhclip-tiny")
    for name in ("open_clip_model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "epoch_latest.pt"):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        put(folder / name)
        for given in (folder, folder / name):
            passes(open_clip.create_model, "zhclip-tiny", pretrained=str(given))
            passes(open_clip.load_checkpoint, model, str(given))
        passes(convert, str(folder), "zhclip-tiny", tmp_path / "out")
        passes(_files.weights_in, folder)
    for name in BESIDE_OURS:
        shutil.copytree(TINY, ours)
        put(ours / name)
        passes(open_clip.create_model, "zhclip-tiny", pretrained=str(ours))
        passes(open_clip.load_checkpoint, model, str(ours))
        passes(open_clip.get_tokenizer, "zhclip-tiny", pretrained=str(ours))
        shutil.rmtree(ours)
    keys = ("vision_model.embeddings.class_embedding", "text_model.encoder.layer.0.attention.self.key.bias")
    keys += ("text_projection.weight",)
    for name in BESIDE_THEIRS:
        theirs.mkdir()
        torch.save({key: torch.zeros(3) for key in keys}, theirs / "pytorch_model.bin")
        put(theirs / name)
        with pytest.raises(ZhclipError) as error:
            open_clip.create_model("cnclip-rn50", pretrained=str(theirs))
        assert_one_line(error.value)
        shutil.rmtree(theirs)
