"""Classes and templates against the data, before any model runs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from zhclip_openclip import prompts
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.prompts import checks
from zhclip_openclip.prompts._errors import PromptError


class Data(SimpleNamespace):
    def __len__(self):
        return self.length


def data(**more):
    return Data(**{"classes": ["猫", "狗"], "templates": ["一只{c}"], "length": 3, **more})


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"targets": [0, 1, 1]},
        {"targets": torch.tensor([0, 1, 0])},
        {"_labels": (0, 1, 0)},
        {"y": [0, 0, 0]},
        {"samples": [("a", 0), ("b", 1), ("c", 1)]},
        {"_samples": [("a", 0), ("b", 1), ("c", 1)]},
        {"bndboxes": [("a", (0, 0, 1, 1), 0), ("b", (0, 0, 1, 1), 1)]},
        {"labels": torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])},
        {"labels": ["a", "b", "c"]},  # not what labels are
        {"targets": [0, 1]},  # not one a sample
        {"class_to_idx": {"a": 0, "b": 1}, "samples": [("a", 0)]},
    ],
)
def test_good(labels):
    prompts.check(data(**labels), "x")


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ({"length": 0}, "x, split val is empty"),
        ({"classes": None}, "has no class names"),
        ({"templates": []}, "has no templates"),
        ({"templates": ["一只猫"]}, r"x, templates: template 1, '一只猫', has no \{c\}"),
        ({"targets": [0, 1, 2]}, r"sample 2 has the label 2, and there are 2 class names \(0 to 1\); 1 samples of 3"),
        ({"targets": [0, -1, 0]}, "sample 1 has the label -1"),
        ({"samples": [("a", 5), ("b", 7)]}, "labels 5, 7"),
        ({"labels": torch.zeros(3, 4)}, "2 class names for labels of 4 classes"),
        ({"categories": ["a", "b", "c"]}, "2 class names for 3 classes in the data"),
        ({"class_to_idx": {"a": 0, "b": 1, "c": 2}}, "2 class names for 3 classes in the data"),
    ],
)
def test_bad(what, error):
    with pytest.raises(ZhclipError, match=error) as caught:
        prompts.check(data(**what), "x", "val")
    assert "\n" not in str(caught.value)


def test_stream_without_a_length():
    stream = SimpleNamespace(classes=["猫"], templates=["{c}"])
    prompts.check(stream, "wds/x")


def test_objectnets_folders_are_more_than_its_classes():
    folders = {"a": 0, "b": 1, "c": 2}
    prompts.check(data(class_to_idx=folders, label_map={"a": 0, "c": 1}, samples=[("c/1.png", 2)]), "objectnet")
    with pytest.raises(ZhclipError, match="2 class names for 3 classes"):
        prompts.check(data(class_to_idx=folders, label_map=folders), "objectnet")


def test_babel_imagenet_is_a_part_of_its_folders():
    prompts.check(data(class_to_idx={"a": 0, "b": 1, "c": 2}, idxs=[0, 2], targets=[0, 1, 1]), "babel_imagenet")


EMOTIONS = ["angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised"]


def folder_set(*names):
    from types import SimpleNamespace

    return SimpleNamespace(class_to_idx={name: number for number, name in enumerate(names)})


@pytest.mark.parametrize(
    "names, told",
    [
        (["0", "1", "2", "3", "4", "5", "6"], r"the folders are numbered \(0, 1, 2, 3 and 3 more\)"),
        (["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"], "sad for 'neutral'"),
    ],
)
def test_folders_that_stand_for_other_classes(names, told):
    """By position, `sad` of Kaggle's order would be scored as `neutral`: accuracy 0.6 for 1.0."""
    with pytest.raises(PromptError, match=f"^fer2013: .*{told}.*after its class: angry, disgusted"):
        checks.folders(folder_set(*names), EMOTIONS, "fer2013")


def test_folders_that_tell_nothing_or_the_same_pass():
    checks.folders(folder_set("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"), EMOTIONS, "fer2013")
    checks.folders(folder_set(*(f"n0{number}" for number in range(7))), EMOTIONS, "imagenet1k")
    checks.folders(folder_set("AnnualCrop", "SeaLake"), ["annual crop land", "lake or sea"], "eurosat")
    checks.folders(folder_set("0", "1"), ["0", "1"], "mnist")
    checks.folders(folder_set("0 - zero", "1 - one"), ["0", "1"], "mnist")
    checks.folders(folder_set("bee", "beetle"), ["bee", "beetle"], "cifar100")
    checks.folders(folder_set("a"), ["a", "b"], "of another length")
    checks.folders(object(), EMOTIONS, "no folders")
