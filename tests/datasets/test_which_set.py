"""Two sets of one name: what the captions are decides which set a folder holds, and the wrong one is an error."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from tests.support import retrieval_files as files
from tests.support.known_captions import make_known
from zhclip_openclip.commands import app
from zhclip_openclip.datasets import _which_set
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._which_set import digest, held
from zhclip_openclip.datasets.retrieval import build_retrieval_dataset
from zhclip_openclip.datasets.wds_export import export_wds
from zhclip_openclip.datasets.wds_open import open_wds
from zhclip_openclip.prompts._files import packaged
from zhclip_openclip.training.sources import open_sets

WRITTEN = [text for _, text, _ in files.relations(False)]
TRANSLATED = [f"翻译成中文的第{n}句" for n in range(5 * files.IMAGES)]
OTHER = [f"另一种译法，第{n}句" for n in range(2 * files.IMAGES)]
FLICKR = [str(4385058960 + n) for n in range(files.IMAGES)]


@pytest.fixture
def known(monkeypatch):
    """What the tests' captions are taken for."""
    make_known(
        monkeypatch,
        {"coco-cn": [f"人写的第{n}句" for n in range(30)], "coco-cn-translated": TRANSLATED, "flickr30k-cn": WRITTEN},
        {"flickr30k-cn": FLICKR},
    )


def names(texts):
    return [entry.text for entry in texts]


def test_the_table_tells_the_sets_apart():
    """The real one: its sets have next to nothing in common, and what files do to a caption does not matter."""
    table = packaged("known_captions.json")
    sketches = {name: set(one["captions"]) for name, one in table["captions"].items()}
    assert {name: one["texts"] for name, one in table["captions"].items()} == {
        "coco-cn": 1053,
        "coco-cn-translated": 5000,
        "flickr30k-cn": 5000,
    }
    assert all(len(one) == _which_set.SKETCH for one in sketches.values())
    assert len(set().union(*sketches.values())) >= 3 * _which_set.SKETCH - 2
    spelt = ("一个男人，穿着红色T恤。", "一 个 男人 , 穿着 红色 T恤 .", "一个:m 男人:n ，:wd 穿着:v 红色:n T恤:n 。:wj")
    assert len({digest(text) for text in spelt}) == 1 != len({digest(text) for text in ("一只狗", "一只猫")})


def test_counts_of_the_table_are_those_of_the_data_sets():
    entries = packaged("datasets.json")["datasets"]
    for name, one in packaged("known_captions.json")["captions"].items():
        assert entries[name]["texts"] == one["texts"]


def test_a_part_of_a_set_is_that_set_and_a_few_captions_are_none(known):
    assert held([], TRANSLATED[:35]).set == "coco-cn-translated"
    assert held([], [*TRANSLATED[:2], *OTHER]).set is None
    assert held([], []).set is None


# ---------------------------------------------------------------- COCO-CN


def test_two_coco_cns_in_one_release(tmp_path):
    """Both lie in the archive, and each is read under its own name."""
    folder = files.write_coco_release(tmp_path / "COCO-CN")
    written, translated = (build_retrieval_dataset(name, folder) for name in ("coco-cn", "coco_cn_translated"))
    assert (written.name, names(written.texts)) == ("coco-cn", WRITTEN)
    assert (translated.name, len(translated.texts)) == ("coco-cn-translated", 5 * files.IMAGES)
    assert all(text.startswith("翻译") for text in names(translated.texts))
    assert written.image_ids == translated.image_ids and written.fingerprint() != translated.fingerprint()
    assert all(len(texts) == 5 for texts in translated.image_to_texts)


@pytest.mark.parametrize(
    ("asked", "missing", "message"),
    [
        ("coco-cn", "human-written", "which is coco-cn-translated and not coco-cn: use coco-cn-translated"),
        ("coco-cn-translated", "manually-translated", "which is coco-cn and not coco-cn-translated: use coco-cn"),
    ],
)
def test_the_other_coco_cn_alone_is_an_error(tmp_path, asked, missing, message):
    folder = files.write_coco_release(tmp_path)
    (folder / "coco-cn-version1805v1.1" / f"imageid.{missing}-caption.txt").unlink()
    with pytest.raises(DatasetError, match=message) as told:
        build_retrieval_dataset(asked, folder)
    assert "\n" not in str(told.value)


def test_lines_that_say_how_they_were_made(tmp_path):
    """`#zhm#` is translated by people, `#zhb#` by a machine, on which nobody has published a score."""
    folder = files.write_coco_release(tmp_path)
    release = folder / "coco-cn-version1805v1.1"
    lines = (release / "imageid.manually-translated-caption.txt").read_text("utf-8")
    for path in release.glob("*.txt"):
        path.unlink()
    (release / "coco-cn_test.txt").write_text(lines, "utf-8")
    assert len(build_retrieval_dataset("coco-cn-translated", folder).texts) == 5 * files.IMAGES
    with pytest.raises(DatasetError, match="captions are translated, which is coco-cn-translated"):
        build_retrieval_dataset("coco-cn", folder)
    (release / "coco-cn_test.txt").write_text(lines.replace("#zhm#", "#zhb#"), "utf-8")
    for name in ("coco-cn", "coco-cn-translated"):
        with pytest.raises(DatasetError, match="by a machine alone, on which there are no published scores"):
            build_retrieval_dataset(name, folder)
    (release / "coco-cn_test.txt").unlink()
    (release / "pair.txt").write_text(lines.replace("\t", " "), "utf-8")  # as FG-CLIP 2 has them
    assert len(build_retrieval_dataset("coco-cn-translated", folder).texts) == 5 * files.IMAGES
    with pytest.raises(DatasetError, match="no coco-cn of split test here"):
        build_retrieval_dataset("coco-cn", folder)


def write_table(folder, texts, ids=None):
    """Chinese-CLIP's tables with these texts, several a picture."""
    files.write_tsv(folder, "test", False)
    ids = ids or [str(1000 + n) for n in range(files.IMAGES)]
    rows = (folder / "test_imgs.tsv").read_text().splitlines()
    kept = [f"{key}\t{row.split(chr(9))[1]}\n" for key, row in zip(ids, rows, strict=True)]
    (folder / "test_imgs.tsv").write_text("".join(kept))
    lines = [{"text_id": n, "text": text, "image_ids": [ids[n % len(ids)]]} for n, text in enumerate(texts)]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "test_texts.jsonl").write_text(text, "utf-8")
    return folder


def test_tables_say_nothing_and_their_captions_do(tmp_path, known):
    """Chinese-CLIP's tables are called alike whatever is in them, and its COCO-CN has been made of either set."""
    folder = write_table(tmp_path / "data", TRANSLATED)
    dataset = build_retrieval_dataset("coco-cn-translated", folder)
    assert (dataset.captions_of, dataset.notes) == ("coco-cn-translated", [])
    for name in ("coco-cn", "flickr30k-cn", "flickr30k-cna"):
        with pytest.raises(
            DatasetError, match=rf"what is here is coco-cn-translated .*5,000 captions\), not {name}: use"
        ):
            build_retrieval_dataset(name, folder)
    raw = build_retrieval_dataset("coco-cn-translated", folder, raw_captions=True)
    assert raw.captions_of == "coco-cn-translated"
    files.write_tsv(folder, "own", False)  # one's own data under another split is nobody's business
    assert build_retrieval_dataset("coco-cn", folder, split="own").captions_of is None


def test_both_sets_in_one_table(tmp_path, known):
    folder = write_table(tmp_path / "data", [*TRANSLATED, *(f"人写的第{n}句" for n in range(30))])
    for name in ("coco-cn", "coco-cn-translated"):
        with pytest.raises(DatasetError, match="the captions of coco-cn and of coco-cn-translated in one"):
            build_retrieval_dataset(name, folder)


def test_a_part_of_the_captions_is_noted(tmp_path, known):
    folder = write_table(tmp_path / "data", TRANSLATED[:50])
    assert build_retrieval_dataset("coco-cn-translated", folder).notes == [
        "50 captions, and the published coco-cn-translated has 70"
    ]


# ---------------------------------------------------------------- Flickr30K


def flickr(folder, called, texts):
    """A caption file of either set, called after either."""
    files.write_flickr(folder, "cna")
    (folder / "flickr30k_cn_test.txt").unlink()
    path = folder / called
    path.parent.mkdir(exist_ok=True)
    lines = [f"{FLICKR[n // 2]}#{n % 2}\t{text}\n" for n, text in enumerate(texts)]
    path.write_text("".join(lines), encoding="utf-8")
    return folder


CN, CNA, RELEASED = "flickr30k_cn_test.txt", "flickr30k_cna_test.txt", "test/flickr30k_cn_test.txt"


@pytest.mark.parametrize(
    ("called", "texts", "holds"),
    [
        (CN, WRITTEN, "flickr30k-cn"),
        (CNA, WRITTEN, "flickr30k-cn"),  # called after the other set: the captions decide
        (CNA, OTHER, "flickr30k-cna"),
        (RELEASED, OTHER, "flickr30k-cna"),  # so Flickr30K-CNA's release calls its test file
        (RELEASED, WRITTEN, "flickr30k-cn"),
    ],
)
def test_two_flickrs(tmp_path, known, called, texts, holds):
    folder = flickr(tmp_path / "Flickr30k-CNA", called, texts)
    dataset = build_retrieval_dataset(holds, folder)
    assert (dataset.name, names(dataset.texts)) == (holds, texts)
    assert dataset.captions_of == ("flickr30k-cn" if holds == "flickr30k-cn" else None)
    other = {"flickr30k-cn": "flickr30k-cna", "flickr30k-cna": "flickr30k-cn"}[holds]
    with pytest.raises(DatasetError, match=f"use {holds} as the name of the data set") as told:
        build_retrieval_dataset(other, folder)
    assert called.rpartition("/")[2] in str(told.value) and "\n" not in str(told.value)
    (read,) = open_sets(f"{folder}:test", train=False)  # training asks nobody for the name
    assert read.name == holds


@pytest.mark.parametrize("asked, refused", [("flickr30k-cn", "flickr30k-cna"), ("flickr30k-cna", "flickr30k-cn")])
def test_captions_that_nobody_knows_are_what_their_file_is_called_after(tmp_path, asked, refused):
    called = CN if asked == "flickr30k-cn" else CNA
    folder = flickr(tmp_path / "data", called, OTHER)
    assert build_retrieval_dataset(asked, folder).name == asked
    with pytest.raises(DatasetError, match=f"is called after {asked} and not {refused}"):
        build_retrieval_dataset(refused, folder)
    table = write_table(tmp_path / asked.replace("flickr", "Flickr"), OTHER)
    assert build_retrieval_dataset(asked, table.parent).name == asked
    with pytest.raises(DatasetError, match=f"is called after {asked} and not {refused}"):
        build_retrieval_dataset(refused, table)


def test_other_captions_of_the_same_pictures_in_a_table(tmp_path, known):
    folder = write_table(tmp_path / "data", OTHER, FLICKR)
    assert build_retrieval_dataset("flickr30k-cna", folder).name == "flickr30k-cna"
    with pytest.raises(DatasetError, match="the pictures are those of flickr30k-cn and the captions are not; .*cna"):
        build_retrieval_dataset("flickr30k-cn", folder)


def test_a_folder_with_both_flickrs_is_asked_about(tmp_path, known):
    folder = flickr(tmp_path / "data", CNA, OTHER)
    lines = [f"{FLICKR[n // 2]}#{n % 2}\t{text}\n" for n, text in enumerate(WRITTEN)]
    (folder / CN).write_text("".join(lines), "utf-8")
    assert names(build_retrieval_dataset("flickr30k-cn", folder).texts) == WRITTEN
    assert names(build_retrieval_dataset("flickr30k-cna", folder).texts) == OTHER
    told = "holds two sets: flickr30k_cn_test.txt is flickr30k-cn and flickr30k_cna_test.txt is flickr30k-cna"
    result = CliRunner().invoke(app, ["dataset", "check", str(folder)])
    assert result.exit_code and f"{told}; say which with --name" in str(result.exception)
    result = CliRunner().invoke(app, ["dataset", "check", str(folder), "--name", "flickr30k-cna"])
    assert result.exit_code == 0 and "dataset: flickr30k-cna" in result.output
    with pytest.raises(DatasetError, match=f"{told}; put one of them into a folder of its own"):
        open_sets(f"{folder}:test", train=False)


def test_two_folders_beside_each_other(tmp_path, known):
    for name, called, texts in (("Flickr30k-CN", CN, WRITTEN), ("Flickr30k-CNA", CNA, OTHER)):
        flickr(tmp_path / name, called, texts)
    assert names(build_retrieval_dataset("flickr30k-cn", tmp_path).texts) == WRITTEN
    assert names(build_retrieval_dataset("flickr30k-cna", tmp_path).texts) == OTHER
    shutil.rmtree(tmp_path / "Flickr30k-CN")
    with pytest.raises(DatasetError, match="use flickr30k-cna"):
        build_retrieval_dataset("flickr30k-cn", tmp_path)


# ---------------------------------------------------------------- shards


def test_shards_keep_the_name(tmp_path, known):
    source = build_retrieval_dataset("flickr30k-cna", flickr(tmp_path / "data", CNA, OTHER))
    export_wds(source, tmp_path / "shards")
    assert open_wds(tmp_path / "shards", name="flickr30k-cna").fingerprint() == source.fingerprint()
    with pytest.raises(DatasetError, match="shards of flickr30k-cna, not of flickr30k-cn: use wds/flickr30k-cna"):
        open_wds(tmp_path / "shards", name="flickr30k-cn")


def test_shards_without_a_sidecar_are_looked_into(tmp_path, known):
    export_wds(build_retrieval_dataset("coco-cn-translated", write_table(tmp_path / "d", TRANSLATED)), tmp_path / "s")
    (tmp_path / "s" / "test" / "pairs.json").unlink()
    assert open_wds(tmp_path / "s").captions_of == "coco-cn-translated"
    assert open_wds(tmp_path / "s", name="coco-cn-translated").name == "coco-cn-translated"
    with pytest.raises(DatasetError, match="what is here is coco-cn-translated"):
        open_wds(tmp_path / "s", name="coco-cn")


# ---------------------------------------------------------------- training


def test_training_takes_the_name_that_the_captions_have(tmp_path, known):
    (dataset,) = open_sets(str(write_table(tmp_path / "COCO-CN", TRANSLATED)), train=False)
    assert (dataset.name, dataset.captions_of) == ("coco-cn-translated", "coco-cn-translated")
