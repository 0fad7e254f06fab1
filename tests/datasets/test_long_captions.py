"""LIT-CN, DCI-CN and DOCCI-CN: a line a picture, one to one, scored as FG-CLIP 2's script scores them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.retrieval_files import IMAGES, picture
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets.retrieval import build_retrieval_dataset
from zhclip_openclip.metrics.recall import retrieval_metrics
from zhclip_openclip.training.sources import open_sets

LONG = "画面里有一只猫，" * 40
FILES = {
    "lit-cn": ("image_caption_long_cn.txt", "web/{n}.jpg"),
    "dci-cn": ("image_caption_trans.txt", "photos/sa_{n}.jpg"),
    "docci-cn": ("image_caption_trans.txt", "images/test_{n:05d}.jpg"),
}


def write(folder, name, paths="{}"):
    """paths: how the file spells the path of a picture."""
    file, spelt = FILES[name]
    lines = []
    for n in range(IMAGES):
        path = folder / spelt.format(n=n)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(n))
        lines.append(f"{paths.format(spelt.format(n=n))}\t{LONG}Picture {n}: end。\n")
    (folder / file).write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("paths", ["{}", "/data/authors/set/{}", "..\\{}"])
def test_one_line_is_a_picture_and_its_caption(tmp_path, name, paths):
    dataset = build_retrieval_dataset(name.upper(), write(tmp_path / "some folder", name, paths))
    assert (dataset.name, dataset.split, len(dataset), dataset.notes) == (name, "test", IMAGES, [])
    assert dataset.directions == ("image_retrieval", "text_retrieval")
    assert dataset.text_to_images == [[n] for n in range(IMAGES)]
    assert dataset.texts[3].text == f"{LONG}Picture 3: end。"  # not lower-cased, not cut
    assert [dataset.read_image(n) for n in range(IMAGES)] == [picture(n) for n in range(IMAGES)]
    assert dataset.check(decode=True)["pairs"] == IMAGES


def test_dci_and_docci_call_their_file_alike(tmp_path):
    """What the pictures are called tells them apart."""
    for name, other in (("dci-cn", "docci-cn"), ("docci-cn", "dci-cn")):
        folder = write(tmp_path / name.replace("-", "_of_"), name)
        with pytest.raises(DatasetError, match=f"what is here is {name} .*, not {other}: use {name}"):
            build_retrieval_dataset(other, folder)
        (read,) = open_sets(f"{folder}:test", train=False)
        assert read.name == read.captions_of == name
    with pytest.raises(DatasetError, match="no dci-cn of split train here"):
        build_retrieval_dataset("dci-cn", tmp_path, split="train")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("web/3.jpg 没有制表符", r"cn.txt:4: no tab \('web/3.jpg 没有制表符'\); needed: path of the picture, one tab"),
        ("web/3.jpg\t一\t二", r"cn.txt:4: 2 tabs"),
        ("web/3.jpg\t ", r"cn.txt:4: 1 tabs"),
        ("web/33.jpg\t一句", r"1 of 14 pictures are not there, for example web/33.jpg; unpack the pictures beside"),
    ],
)
def test_lines_that_are_none(tmp_path, line, message):
    path = write(tmp_path, "lit-cn") / FILES["lit-cn"][0]
    lines = path.read_text("utf-8").splitlines()
    lines[3] = line
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=message):
        build_retrieval_dataset("lit-cn", tmp_path)


def test_pictures_of_one_name_in_two_folders(tmp_path):
    """Unpacked without their folders they would be one file, and two captions would be right for a wrong picture."""
    path = write(tmp_path, "lit-cn") / FILES["lit-cn"][0]
    lines = path.read_text("utf-8").replace("web/1.jpg", "mine/0.jpg")
    path.write_text(lines, encoding="utf-8")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "0.jpg").write_bytes(picture(1))
    dataset = build_retrieval_dataset("lit-cn", tmp_path)
    assert [dataset.read_image(n) for n in (0, 1)] == [picture(0), picture(1)]
    (tmp_path / "mine" / "0.jpg").unlink()
    for n in range(IMAGES):
        (tmp_path / "web" / f"{n}.jpg").rename(tmp_path / f"{n}.jpg")
    with pytest.raises(DatasetError, match="web/0.jpg and mine/0.jpg are one file here"):
        build_retrieval_dataset("lit-cn", tmp_path)


def test_a_picture_with_two_lines_is_told(tmp_path):
    path = write(tmp_path, "lit-cn") / FILES["lit-cn"][0]
    with path.open("a", encoding="utf-8") as file:
        file.write("web/0.jpg\t又一句\n")
    dataset = build_retrieval_dataset("lit-cn", tmp_path)
    assert dataset.notes == ["1 of 15 captions are of a picture that has one already; either counts as right"]
    assert dataset.image_to_texts[0] == [0, 14]


def test_scored_as_the_authors_score(tmp_path):
    """fgclip2/eval/long_trans_cn.py: of each row of the similarities the last of argsort is the row's own number."""
    dataset = build_retrieval_dataset("lit-cn", write(tmp_path, "lit-cn"))
    generator = np.random.default_rng(0)
    images = generator.standard_normal((IMAGES, 16)).astype(np.float32)
    texts = images + 1.5 * generator.standard_normal((IMAGES, 16)).astype(np.float32)
    images, texts = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, texts))
    similarity = 1 / (1 + np.exp(-(10 * images @ texts.T - 10)))
    theirs = {
        way: np.mean([row.argsort()[-1] == n for n, row in enumerate(rows)])
        for way, rows in (("text_retrieval", similarity), ("image_retrieval", similarity.T))
    }
    ours = retrieval_metrics(
        torch.from_numpy(images), torch.from_numpy(texts), dataset.text_to_images, directions=dataset.directions
    )
    assert 0.2 < theirs["text_retrieval"] < 1
    assert {way: ours[f"{way}_recall@1"] for way in theirs} == pytest.approx(theirs)
