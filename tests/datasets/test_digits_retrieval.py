"""`digits-retrieval`: its relations against scikit-learn's labels, its words, and the way through clip_benchmark."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from zhclip_openclip import _paths
from zhclip_openclip.commands import app
from zhclip_openclip.datasets import digits_retrieval
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets.retrieval import build_retrieval_dataset, dataset_name
from zhclip_openclip.datasets.wds_export import export_wds
from zhclip_openclip.datasets.wds_open import open_wds
from zhclip_openclip.metrics.per_query import load_per_query

HELD_OUT = 1437  # position of the first test digit in scikit-learn's collection


@pytest.fixture(scope="module")
def dataset():
    return build_retrieval_dataset("digits-retrieval", "no/such/folder")


def test_relations_are_the_labels(dataset):
    labels = load_digits().target[HELD_OUT:]
    assert len(dataset) == len(labels) == 360
    assert len(dataset.texts) == 10 * len(digits_retrieval.CAPTIONS)
    for entry, right in zip(dataset.texts, dataset.text_to_images, strict=True):
        digit = int(entry.id.split("-")[0])
        assert "零一二三四五六七八九"[digit] in entry.text or str(digit) in entry.text
        assert right == np.flatnonzero(labels == digit).tolist()
    per_image = len(digits_retrieval.CAPTIONS)
    assert all(len(texts) == per_image for texts in dataset.image_to_texts)
    assert dataset.directions == ("image_retrieval", "text_retrieval")


def test_pictures_are_scikit_learns(dataset):
    images = load_digits().images[HELD_OUT:]
    for index in (0, 1, 359):
        picture = np.asarray(Image.open(io.BytesIO(dataset.read_image(index))))
        assert np.array_equal(picture, np.round(images[index] * (255 / 16)).astype(np.uint8))
        assert np.asarray(dataset[index][0]).shape == (8, 8, 3)  # RGB


def test_captions_are_new_and_in_the_vocabulary():
    """No caption is a prompt that the tiny model was trained with, and none has a character that it does not know."""
    names = json.loads((_paths.DATA / "classnames" / "digits.json").read_text("utf-8"))["classes"]
    templates = [*json.loads((_paths.DATA / "templates" / "zh.json").read_text("utf-8"))["digits"], "{c}"]
    trained = {template.format(c=name) for template in templates for _, name in names}
    vocabulary = set((_paths.DATA / "tiny" / "vocab.txt").read_text("utf-8").split())
    texts = [entry.text for entry in build_retrieval_dataset("digits-retrieval", "").texts]
    assert len(set(texts)) == len(texts)
    assert not trained & set(texts)
    assert set("".join(texts)) <= vocabulary


def test_fingerprint_is_its_definition(dataset):
    """Computed from scikit-learn alone: the size of a picture is a header of 11 bytes and 64 pixels."""
    labels = load_digits().target[HELD_OUT:]
    keys = [f"digit-{HELD_OUT + index}" for index in range(len(labels))]
    lines = [f"image\t{key}\t{11 + 64}" for key in keys]
    for digit, numeral in enumerate("零一二三四五六七八九"):
        right = " ".join(sorted(key for key, label in zip(keys, labels, strict=True) if label == digit))
        for number, caption in enumerate(digits_retrieval.CAPTIONS):
            lines.append(f"text\t{digit}-{number}\t{right}\t{caption.format(n=numeral, digit=digit)}")
    assert dataset.fingerprint() == hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def test_splits(dataset):
    train = build_retrieval_dataset("Digits_Retrieval", "", split="train")
    assert len(train) == HELD_OUT and not set(train.image_ids) & set(dataset.image_ids)
    assert dataset_name("digits_retrieval") == "digits-retrieval"
    with pytest.raises(DatasetError, match="no split 'valid'; it has train and test"):
        build_retrieval_dataset("digits-retrieval", "", split="valid")


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """The JSON of `clip_benchmark eval` as a user runs it, in an empty folder without a network."""
    folder = tmp_path_factory.mktemp("empty")
    command = [sys.executable, "-m", "clip_benchmark.cli", "eval", "--model", "zhclip-tiny", "--dataset"]
    command += ["digits-retrieval", "--language", "zh", "--num_workers", "0", "--no_amp", "--output", "result.json"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path.name for path in folder.iterdir()} == {"result.json", "result.npz"}
    return folder / "result.json"


def test_through_clip_benchmark(result, dataset):
    """Its recalls are those of a full sort of all scores."""
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    tokenizer = open_clip.get_tokenizer("zhclip-tiny")
    files = [io.BytesIO(dataset.read_image(index)) for index in range(len(dataset))]
    pictures = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    with torch.no_grad():
        images = model.eval().encode_image(pictures, normalize=True).double()
        texts = model.encode_text(tokenizer([entry.text for entry in dataset.texts]), normalize=True).double()
    right = torch.zeros(len(texts), len(images), dtype=torch.bool)
    for text, positions in enumerate(dataset.text_to_images):
        right[text, positions] = True
    metrics = json.loads(result.read_text("utf-8"))["metrics"]
    for name, scores, hits in (
        ("image_retrieval", texts @ images.T, right),
        ("text_retrieval", images @ texts.T, right.T),
    ):
        order = scores.argsort(dim=1, descending=True)
        found = torch.gather(hits, 1, order)
        for k in (1, 5, 10):
            assert metrics[f"{name}_recall@{k}"] == pytest.approx(float(found[:, :k].any(1).double().mean()), abs=1e-12)
    queries = load_per_query(result.with_suffix(".npz"))
    assert queries["meta"]["fingerprint"] == dataset.fingerprint()
    assert len(queries["image_retrieval_rank"]) == len(dataset.texts)


def test_gallery_and_shards(result, dataset, tmp_path):
    done = CliRunner().invoke(app, ["gallery", str(result), "--output", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "digits-retrieval" in page and page.count("data:image/jpeg;base64,") > 50
    export_wds(dataset, tmp_path / "shards")
    shards = open_wds(tmp_path / "shards")
    assert shards.text_to_images == dataset.text_to_images and len(shards) == len(dataset)


def test_shown_by_name(tmp_path):
    words = ["dataset", "check", str(tmp_path), "--name", "digits-retrieval"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "images: 360" in done.output and "pairs: 2520" in done.output
