"""`zhclip classify`: its labels against clip_benchmark's own classifier, what 其他 stands for, and bad labels."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip._paths import DATA
from zhclip_openclip.commands import app
from zhclip_openclip.datasets.digits import Digits
from zhclip_openclip.datasets.pictures_of import list_pictures
from zhclip_openclip.features.settings import using
from zhclip_openclip.folders import mismatched
from zhclip_openclip.folders.classify import classify
from zhclip_openclip.folders.labels import read_labels
from zhclip_openclip.folders.shelf import open_shelf

NAMES = [f"数字{character}" for character in "零一二三四五六七八九"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    for number in range(60):
        Digits("test")[number][0].save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def run(*arguments):
    return CliRunner().invoke(app, ["classify", *map(str, arguments), "--model", "zhclip-tiny"])


@pytest.fixture(scope="module")
def by_hand(digits):
    """Labels and templates -> (pictures, labels) cosines: by open_clip and clip_benchmark's own functions."""
    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    tokenizer = open_clip.get_tokenizer("zhclip-tiny")
    images = torch.stack([transform(Image.open(path).convert("RGB")) for path in sorted(digits.glob("*.png"))])
    with torch.no_grad():
        pictures = torch.nn.functional.normalize(model.eval().encode_image(images), dim=-1)

    def scores(names, templates):
        # As clip_benchmark's zero_shot_classifier computes it, which the plugin has replaced.
        with torch.no_grad():
            columns = []
            for name in names:
                texts = model.encode_text(tokenizer([template.format(c=name) for template in templates]))
                mean = torch.nn.functional.normalize(texts, dim=-1).mean(dim=0)
                columns.append(mean / mean.norm())
        return (pictures @ torch.stack(columns, dim=1)).numpy()

    return scores


def test_labels_scores_and_shares(digits, kept, by_hand, tmp_path):
    output = tmp_path / "labels.csv"
    done = run(digits, "--dataset-names", "digits", "--cache", kept, "--output", output, "--format", "json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    templates = json.loads((DATA / "templates" / "zh.json").read_text("utf-8"))["digits"]
    assert told["templates"] == templates and told["labels"] == NAMES
    scores = by_hand(NAMES, templates)
    order = np.argsort(-scores, axis=1, kind="stable")
    assert [one["label"] for one in told["pictures"]] == [NAMES[number] for number in order[:, 0]]
    assert [one["second"] for one in told["pictures"]] == [NAMES[number] for number in order[:, 1]]
    best = scores.max(axis=1)
    assert [one["score"] for one in told["pictures"]] == pytest.approx(best.tolist(), abs=1e-5)
    # The mismatched: the bank's names in the same templates. None of them is one of these labels.
    chance = by_hand([name for name, _ in mismatched.bank()][::3], templates).flatten()
    assert told["mismatched_pairs"] == len(chance)
    shares = [(chance < score).mean() for score in best]
    assert [one["mismatched_below"] for one in told["pictures"]] == pytest.approx(shares, abs=2e-3)
    targets = Digits("test").targets[:60]
    right = np.mean([one["label"] == NAMES[label] for one, label in zip(told["pictures"], targets, strict=True)])
    assert right > 0.9
    rows = list(csv.DictReader(io.StringIO(output.read_text("utf-8-sig"))))
    assert [(row["picture"], row["label"]) for row in rows] == [
        (one["picture"], one["label"]) for one in told["pictures"]
    ]


def test_other_stands_for_the_names_of_the_bank(digits, kept, by_hand):
    """A picture is 其他 exactly where a name of the bank, which no label holds, fits better than each label."""
    done = run(digits, "--labels", "数字一，猫、其他", "--cache", kept, "--format", "json", "--templates", "name")
    assert done.exit_code == 0, done.output
    assert "其他 stands for" in done.stderr
    names = [name for name, _ in mismatched.bank()][::3]
    apart = [name for name in names if "猫" not in name]
    assert len(apart) < len(names)  # 橘猫 is a cat
    scores = by_hand(["数字一", "猫", *apart], ["{c}"])
    together = np.concatenate([scores[:, :2], scores[:, 2:].max(axis=1, keepdims=True)], axis=1)
    wanted = [["数字一", "猫", "其他"][number] for number in together.argmax(axis=1)]
    told = json.loads(done.stdout)
    assert [one["label"] for one in told["pictures"]] == wanted and len(set(wanted)) > 1
    assert told["mismatched_pairs"] == 60 * len(apart)


def test_the_second_time_texts_of_the_bank_are_kept(digits, tmp_path):
    from zhclip_openclip.folders._model import open_model

    opened, encoded = open_model("zhclip-tiny", device="cpu"), []
    real = opened.module.encode_text
    opened.module.encode_text = lambda ids, *given: (encoded.append(len(ids)), real(ids, *given))[1]
    labels = read_labels("猫,狗")
    with using(cache=tmp_path, quiet=True):
        shelf = open_shelf(list_pictures(digits), opened, workers=0)
        first, before = classify(shelf, opened, labels), sum(encoded)
        encoded.clear()
        second = classify(shelf, opened, labels)
    assert first.pictures == second.pictures and sum(encoded) < before / 3


def test_labels_from_a_file(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeff猫\r\n\r\n 狗 \r\n花，草\r\n".encode())
    assert read_labels(file=path).names == ("猫", "狗", "花，草")
    assert read_labels("猫, 狗，兔子,").names == ("猫", "狗", "兔子")
    assert read_labels(dataset="food101").names[0] == "苹果派" and len(read_labels(dataset="food101").names) == 101
    assert read_labels("猫,其他").other == 1 and read_labels("猫,狗").other is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--labels", "猫,狗,猫"], "'猫' is there twice"),
        (["--labels", "猫"], "'猫' alone; two labels are needed"),
        (["--labels", " , "], "none; two labels"),
        (["--labels", "猫,其他,其它"], "mean the same"),
        (["--labels", "猫 狗"], "separated by commas: --labels 猫,狗"),
        (["--labels", "{gbk}"], "give it as --labels-file"),
        (["--labels-file", "{png}"], "a PNG picture; give a text file"),
        (["--labels-file", "{folder}"], "a folder; give a text file"),
        (["--dataset-names", "food10"], "did you mean food101"),
        (["--labels-file", "{folder}/missing.txt"], "missing.txt: cannot be read"),
        (["--labels-file", "{gbk}"], "not UTF-8"),
        (["--labels", "猫,狗", "--dataset-names", "food101"], "one of --labels"),
        ([], "one of --labels"),
        (["--labels", "猫,狗", "--templates", "nothing"], "--templates nothing"),
    ],
)
def test_bad_labels(digits, tmp_path, options, said):
    gbk = tmp_path / "gbk.txt"
    gbk.write_bytes("苹果\n香蕉\n".encode("gbk"))
    png = digits / "00.png"
    done = run(digits, *[word.format(folder=tmp_path, gbk=gbk, png=png) for word in options])
    assert done.exit_code == 1 and isinstance(done.exception, ZhclipError), (done.output, done.exception)
    assert said in str(done.exception) and "custom_template_file" not in str(done.exception)
