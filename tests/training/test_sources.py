"""What people write after --train-data and --val-data: every layout, spelling and mistake."""

from __future__ import annotations

import shutil

import pytest

from tests.support import retrieval_files as files
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets.retrieval import build_retrieval_dataset
from zhclip_openclip.datasets.wds_export import export_wds
from zhclip_openclip.training.sources import is_ours, open_sets


def relations(dataset) -> set[tuple[str, str]]:
    return {
        (dataset.image_ids[image], entry.text)
        for entry, right in zip(dataset.texts, dataset.text_to_images, strict=True)
        for image in right
    }


@pytest.fixture(scope="module")
def muge(tmp_path_factory):
    """MUGE as it unpacks: two splits of tables."""
    folder = tmp_path_factory.mktemp("sets") / "MUGE"
    files.write_tsv(folder, "train", True)
    return files.write_tsv(folder, "valid", True)


@pytest.mark.parametrize(
    "name",
    [
        "{muge}",
        "{muge}:train",
        "{muge}/train_imgs.tsv",
        "{muge}/train_texts.jsonl",
        "{above}",
        "{above}:train",
        "{muge}/",
    ],
)
def test_spellings_of_one_set(muge, name):
    name = name.format(muge=muge, above=muge.parent)
    assert is_ours(name)
    (dataset,) = open_sets(name, train=True)
    assert (dataset.name, dataset.split, len(dataset), len(dataset.texts)) == ("muge", "train", files.IMAGES, 20)
    assert dataset.directions == ("image_retrieval",)


def test_the_split_that_nobody_names(muge, tmp_path):
    assert open_sets(str(muge), train=False)[0].split == "valid"
    own = files.write_tsv(tmp_path / "shoes", "test", True)
    (dataset,) = open_sets(str(own), train=False)
    assert (dataset.name, dataset.split, len(dataset.directions)) == ("shoes", "test", 2)
    assert open_sets("digits-retrieval", train=True)[0].split == "train"
    assert open_sets("digits-retrieval", train=False)[0].split == "test"
    assert open_sets("digits-retrieval:train", train=False)[0].split == "train"


@pytest.mark.parametrize("layout", ["lmdb", "muge names", "wds", "coco release", "flickr release", "flickr csv"])
def test_every_layout(layout, tmp_path, monkeypatch):
    split, several = "train", True
    if layout == "lmdb":
        pytest.importorskip("lmdb")
        folder = files.write_lmdb(tmp_path / "own", split, True, monkeypatch)
    elif layout == "muge names":
        folder = files.write_tsv(tmp_path / "own", split, True, muge_names=True)
    elif layout == "wds":
        files.write_tsv(tmp_path / "MUGE", split, True)
        folder = tmp_path / "shards"
        export_wds(build_retrieval_dataset("muge", tmp_path / "MUGE", None, split), folder, 5)
    else:
        several = False
        split = "test"
        if layout == "coco release":
            folder = files.write_coco_release(tmp_path / "COCO-CN")
        else:
            folder = files.write_flickr(tmp_path / "Flickr30k-CN", "csv" if layout.endswith("csv") else "tagged")
    (dataset,) = open_sets(f"{folder}:{split}", train=True)
    assert (len(dataset), len(dataset.texts)) == (files.IMAGES, 20 if several else 2 * files.IMAGES)
    if layout == "wds":
        source = build_retrieval_dataset("muge", tmp_path / "MUGE", None, split)
        assert relations(dataset) == relations(source)


def test_joined_sets(muge):
    first, second = open_sets(f"{muge}::digits-retrieval", train=True)
    assert (first.name, second.name) == ("muge", "digits-retrieval")


@pytest.mark.parametrize(
    "data",
    [None, "", "shards/{000..012}.tar", "table.csv", "table.tsv", "s3://bucket/x.tar", "a.tar::b.tar", "x" * 5000],
)
def test_what_is_not_ours(data):
    assert not is_ours(data)


def test_a_table_of_file_names_is_not_ours(tmp_path):
    """open_clip_train's own form, under a name that looks like ours."""
    table = tmp_path / "train_imgs.tsv"
    table.write_text("filepath\ttitle\n" + "a/b.jpg\t一只猫\n" * 100, encoding="utf-8")
    assert not is_ours(str(table))


def spoil(folder, how: str):
    """A folder with something wrong in it, and what is written after --train-data."""
    if how == "no train split":
        files.write_tsv(folder, "valid", True)
    elif how == "no answers":
        files.write_tsv(folder, "test", True)
        path = folder / "test_texts.jsonl"
        path.write_text(path.read_text("utf-8").replace('"image_ids": [', '"image_ids": [], "x": ['), "utf-8")
        return f"{folder}:test"
    elif how == "two sets":
        for name in ("MUGE", "Flickr30k-CN"):
            files.write_tsv(folder / name, "train", True)
    elif how == "two sets in one":
        files.write_tsv(folder, "train", True)
        files.write_tsv(folder, "train", True, muge_names=True)
    elif how == "half a set":
        files.write_tsv(folder, "train", True)
        (folder / "train_texts.jsonl").unlink()
    elif how == "table without its texts":
        files.write_tsv(folder, "train", True)
        (folder / "train_texts.jsonl").unlink()
        return f"{folder}/train_imgs.tsv"
    elif how == "empty":
        folder.mkdir()
    elif how == "joined with a CSV":
        files.write_tsv(folder, "train", True)
        return f"{folder}::table.csv"
    elif how == "no folder":
        return "MUGE:train"
    return str(folder)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no train split", "no split train here; there is valid; name one as .*own:valid"),
        ("no answers", "text 500 has no image"),
        ("two sets", r"own holds 2 sets \(Flickr30k-CN, MUGE\); name one of them"),
        ("two sets in one", r"holds 2 sets \(own \(MR_\*_imgs.tsv\), own \(\*_imgs.tsv\)\)"),
        ("half a set", "its other half train_texts.jsonl is not beside it"),
        ("table without its texts", "its other half train_texts.jsonl is not beside it"),
        ("empty", "no split train here; looked for train_imgs.tsv with .* or lmdb/train/imgs .*; found nothing"),
        ("joined with a CSV", "table.csv: no such folder, .* cannot be joined"),
        ("no folder", "MUGE:train: no such folder"),
    ],
)
def test_mistakes_are_told_in_one_line(how, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = spoil(tmp_path / "own", how)
    assert is_ours(data)
    with pytest.raises(DatasetError, match=message) as told:
        open_sets(data, train=True)
    assert "\n" not in str(told.value)


def test_an_lmdb_without_pairs(tmp_path, monkeypatch):
    pytest.importorskip("lmdb")
    folder = files.write_lmdb(tmp_path / "own", "train", True, monkeypatch)
    shutil.rmtree(folder / "lmdb" / "train" / "pairs")
    with pytest.raises(DatasetError, match="lmdb/train: an LMDB of pictures without its pairs/"):
        open_sets(str(folder), train=True)


def test_bad_pictures_are_left_out_where_that_is_asked_for(tmp_path):
    folder = files.write_tsv(tmp_path / "own", "train", True)
    path = folder / "train_imgs.tsv"
    lines = path.read_text().splitlines()
    lines[3] = lines[3].split("\t")[0] + "\tAAAA"
    path.write_text("\n".join(lines) + "\n")
    assert len(open_sets(str(folder), train=True)[0]) == files.IMAGES, "they are decoded when they are needed"
    (dataset,) = open_sets(str(folder), train=True, skip_bad_images=True)
    assert len(dataset) == files.IMAGES - 1 and len(dataset.skipped) == 1
