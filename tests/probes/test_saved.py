"""A probe in a file: the same answers again, and one line for features, classes and files that are not its own."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import open_clip
import pytest
import safetensors
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from zhclip_openclip.probes import Probe, ProbeError, evaluate, load_probe, save_probe, saved
from zhclip_openclip.probes.evaluate import Plan, Split

CLASSES = ["红", "绿"]


@pytest.fixture(scope="module")
def tiny():
    model, _, preprocess = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    return model.eval(), preprocess


def pictures(count):
    """Squares on the left and on the right: two classes that a model for digits tells apart."""
    random = np.random.default_rng(count)
    found = []
    for number in range(count):
        pixels = random.integers(0, 60, (28, 28, 3), dtype=np.uint8)
        pixels[4:24, slice(2, 10) if number % 2 else slice(16, 24)] = 250
        found.append(Image.fromarray(pixels))
    return found


@pytest.fixture(scope="module")
def probe(tiny):
    model, preprocess = tiny
    features = saved._encode(model, torch.stack([preprocess(one) for one in pictures(40)]), "cpu")
    data = Split(features, torch.arange(40) % 2, "squares")
    about = {"model": "zhclip-tiny", "pretrained": "digits", "fingerprint": "f"}
    trained = evaluate.train(data, None, Plan(), CLASSES, 0, about).probe
    return dataclasses.replace(trained, english=["red", "green"], trial=saved.make_trial(model, preprocess))


@pytest.fixture
def path(probe, tmp_path):
    return save_probe(tmp_path / "folder" / "p.safetensors", probe)


def test_what_is_read_is_what_was_written(probe, path, tiny):
    again = load_probe(path)
    for name in ("weight", "bias", "labels", "trial"):
        assert torch.equal(getattr(again, name), getattr(probe, name))
    assert (again.classes, again.english, again.path) == (CLASSES, ["red", "green"], str(path))
    assert again.about == {**probe.about, "format": 1} and again.about["fingerprint"] == "f"
    found = again.classify(*tiny, pictures(6))
    assert [name for name, _ in found] == ["红", "绿"] * 3 and all(0.5 < share <= 1 for _, share in found)
    assert again.classify(*tiny, []) == []


def test_another_models_features_are_refused(path, tiny):
    model, preprocess = tiny
    probe = load_probe(path)
    torch.manual_seed(1)
    other = open_clip.create_model("zhclip-tiny").eval()
    with pytest.raises(ProbeError) as error:
        probe.check(other, preprocess, name="zhclip-tiny (mine)")
    assert str(error.value).startswith(
        f"{path} is for features of zhclip-tiny (digits); zhclip-tiny (mine) gives others (and of one picture these are"
    )
    with pytest.raises(ProbeError, match="this model gives others"):
        probe.classify(other, preprocess, pictures(1))
    with pytest.raises(ProbeError, match="this model gives others"):  # the same tower behind another preprocessing
        probe.check(model, lambda image: preprocess(image).flip(-1))
    with pytest.raises(ProbeError, match=r"for features of 64 dimensions of zhclip-tiny \(digits\), .* \(2, 65\)"):
        probe.scores(torch.zeros(2, 65))
    wide = dataclasses.replace(probe, trial=torch.zeros(3, 70))
    with pytest.raises(ProbeError, match="of 70 dimensions, and these have 64"):
        wide.check(model, preprocess)


def test_precision_makes_no_other_model(path, tiny):
    """bfloat16 is what moves features most of all that is still the same model."""
    model, preprocess = tiny
    import copy

    low = copy.deepcopy(model).bfloat16()
    load_probe(path).check(low, lambda image: preprocess(image).bfloat16())
    apart = saved.make_trial(low, lambda image: preprocess(image).bfloat16()) - load_probe(path).trial
    assert 1e-4 < float(apart.norm(dim=1).max()) < saved.TOLERANCE


def test_classes_are_compared_by_name(path):
    probe = load_probe(path)
    probe.check_classes(CLASSES, None, "x")
    probe.check_classes(["red", "green"], None, "x")
    probe.check_classes(["赤", "青"], ["red", "green"], "x")
    with pytest.raises(
        ProbeError, match=r"other classes than cars: class 0 is '红' and here '绿'; give the --language"
    ):
        probe.check_classes(["绿", "红"], None, "cars")
    with pytest.raises(ProbeError, match="has 2 classes, and cars has 3"):
        probe.check_classes(["红", "绿", "蓝"], None, "cars")


def changed(path, tensors=None, **about):
    """The file anew with other tensors, or other facts."""
    with safetensors.safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["zhclip_probe"])
    held = {name: tensor for name, tensor in {**load_file(path), **(tensors or {})}.items() if tensor is not None}
    save_file(held, path, {"zhclip_probe": json.dumps({**facts, **about})})


@pytest.mark.parametrize(
    ("tensors", "about", "told"),
    [
        ({}, {"format": 2}, "a probe of format 2, and this version reads 1"),
        ({}, {"classes": "红"}, "its classes are no list of names"),
        ({}, {"classes": []}, "it has no classes"),
        ({}, {"english_classes": ["red"]}, "or other English ones"),
        ({"bias": None}, {}, "it has no bias"),
        ({"bias": torch.zeros(3, dtype=torch.float64)}, {}, "its tensors do not fit each other"),
        ({"labels": torch.zeros(2, dtype=torch.int64)}, {}, "its rows are of other classes than it has"),
        ({"labels": torch.tensor([0, 2])}, {}, "its rows are of other classes than it has"),
        ({"bias": torch.tensor([0, torch.nan], dtype=torch.float64)}, {}, "its weights are not finite"),
        ({"bias": torch.zeros(2)}, {}, "its weights are float64"),
        ({"trial": torch.zeros(3, 5)}, {}, "its trial does not fit"),
    ],
)
def test_a_file_that_does_not_fit(path, tensors, about, told):
    changed(path, tensors, **about)
    with pytest.raises(ProbeError, match=told) as error:
        load_probe(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_files_that_are_no_probe(path, tmp_path):
    whole = path.read_bytes()
    for content, told in (
        (b"", "is no probe but an empty file"),
        (b"<html><body>404</body></html>", "is no probe but an HTML page"),
        (whole[:200], "is no probe; give a file"),
        (whole[:-7], "cannot be read"),
    ):
        path.write_bytes(content)
        with pytest.raises(ProbeError, match=told) as error:
            load_probe(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(
        ProbeError, match="is a safetensors file, but no probe; give a file that --save-probe has written"
    ):
        load_probe(path)
    with pytest.raises(ProbeError, match="nix.safetensors: cannot be read .No such file"):
        load_probe(tmp_path / "nix.safetensors")
    with pytest.raises(ProbeError, match="the probe cannot be written"):
        save_probe(tmp_path, Probe(torch.zeros(1, 1), torch.zeros(1), torch.zeros(1, dtype=torch.long), ["a"]))
