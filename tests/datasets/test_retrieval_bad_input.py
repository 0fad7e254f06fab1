"""Bad data is named with file and line and a way out, before any model is loaded; skipping is counted."""

import json
import os
import pickle
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.support import retrieval_files as files
from zhclip_openclip.datasets import _tsv_index
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets.retrieval import build_retrieval_dataset


@pytest.fixture
def muge(tmp_path):
    return files.write_tsv(tmp_path, "valid", True)


def edit(path: Path, line: int, change):
    """Changes one line (from 1) of a file, as bytes; None removes it."""
    lines = path.read_bytes().split(b"\n")
    lines[line - 1] = change(lines[line - 1])
    path.write_bytes(b"\n".join(entry for entry in lines if entry is not None))


def images(folder):
    return folder / "valid_imgs.tsv"


def texts(folder):
    return folder / "valid_texts.jsonl"


def replace_field(field, value):
    def change(line):
        entry = json.loads(line)
        entry[field] = value
        return json.dumps(entry, ensure_ascii=False).encode()

    return change


BROKEN_PICTURE = b"1002\t" + b"aGVsbG8gd29ybGQh"  # "hello world!"
IMAGE_CASES = {
    "no tab": (lambda line: line.replace(b"\t", b" "), "without a tab"),
    "bad base64 sign": (lambda line: line[:40] + b"*" + line[41:], r"bad base64 \(contains '\*'\)"),
    "bad base64 length": (lambda line: line.rstrip(b"=")[:-1].ljust(61, b"A")[: len(line) // 4 * 4 + 2], "bad base64"),
    "python bytes": (lambda line: line.replace(b"\t", b"\tb'") + b"'", "Python bytes literal"),
    "an id twice": (lambda line: line.replace(b"1002", b"1001"), r"image 1001 is there twice \(first: .*imgs.tsv:2\)"),
    "picture missing": (lambda line: None, "valid_texts.jsonl:3: text 502 names image 1002, which is not there"),
}
TEXT_CASES = {
    "no image": (replace_field("image_ids", []), "text 502 has no image"),
    "unknown image": (replace_field("image_ids", [1002, 77]), "text 502 names image 77, which is not there"),
    "an id twice": (replace_field("text_id", 501), r"text 501 is there twice \(first: .*texts.jsonl:2\)"),
    "no JSON": (lambda line: line[:-5], "not JSON"),
    "other fields": (lambda line: b'{"id": 1}', "text_id, text, image_ids"),
    "not an object": (lambda line: b"[1, 2]", "query_id, query_text, item_ids"),
    "GBK": (lambda line: line.decode().encode("gbk"), "looks like GBK.*iconv -f GBK"),
    "Latin-1": (lambda line: b'{"text_id": 502, "text": "caf\xe9 ", "image_ids": [1002]}', "looks like Latin-1"),
}


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("case", IMAGE_CASES)
def test_bad_image_line(muge, case):
    change, message = IMAGE_CASES[case]
    edit(images(muge), 3, change)
    with pytest.raises(DatasetError, match=message) as error:
        build_retrieval_dataset("muge", muge)
    assert "valid_imgs.tsv:3: " in one_line(error) or case == "picture missing"


@pytest.mark.parametrize("case", TEXT_CASES)
def test_bad_text_line(muge, case):
    change, message = TEXT_CASES[case]
    edit(texts(muge), 3, change)
    with pytest.raises(DatasetError, match=message) as error:
        build_retrieval_dataset("muge", muge)
    assert "valid_texts.jsonl:3: " in one_line(error)


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 40, 80])
def test_truncated_tsv(muge, cut):
    whole = images(muge).read_bytes().rstrip(b"\n")
    images(muge).write_bytes(whole[:-cut])
    with pytest.raises(DatasetError, match=r"valid_imgs.tsv:14: .*cut off") as error:
        build_retrieval_dataset("muge", muge)
    one_line(error)


def test_missing_last_line_end_is_no_truncation(muge):
    for path in (images(muge), texts(muge)):
        path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert len(build_retrieval_dataset("muge", muge)) == files.IMAGES


def test_truncated_jsonl(muge):
    texts(muge).write_bytes(texts(muge).read_bytes()[:-9])
    with pytest.raises(DatasetError, match=r"valid_texts.jsonl:20: the last line is cut off"):
        build_retrieval_dataset("muge", muge)


@pytest.mark.parametrize("which", [images, texts])
@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_empty_file(muge, which, content):
    which(muge).write_bytes(content)
    with pytest.raises(DatasetError, match=f"{which(muge).name}: the file is empty"):
        build_retrieval_dataset("muge", muge)


def test_utf16(muge):
    texts(muge).write_text(texts(muge).read_text("utf-8"), encoding="utf-16")
    with pytest.raises(DatasetError, match="valid_texts.jsonl:1: UTF-16"):
        build_retrieval_dataset("muge", muge)


def test_picture_that_does_not_decode(muge):
    edit(images(muge), 3, lambda line: BROKEN_PICTURE)
    dataset = build_retrieval_dataset("muge", muge)  # cheap checks alone
    dataset.check()
    with pytest.raises(DatasetError, match=r"valid_imgs.tsv:3: image 1002 does not decode \(not a picture\)") as error:
        dataset.check(decode=True)
    assert "1 of 14 pictures are bad" in one_line(error)
    with pytest.raises(DatasetError, match=r"valid_imgs.tsv:3: image 1002 does not decode"):
        dataset[2]
    dataset[3]


def test_half_a_picture_is_found(muge):
    def halve(line):
        key, _, encoded = line.partition(b"\t")
        return key + b"\t" + encoded[: len(encoded) // 8 * 4]

    edit(images(muge), 3, halve)
    with pytest.raises(DatasetError, match=r"valid_imgs.tsv:3: image 1002 does not decode"):
        build_retrieval_dataset("muge", muge).check(decode=True)


def test_skipping_counts_and_keeps_relations_consistent(muge):
    edit(images(muge), 2, lambda line: line.replace(b"\t", b" "))  # 1001: no tab
    edit(images(muge), 3, lambda line: BROKEN_PICTURE)  # 1002: does not decode
    edit(images(muge), 4, lambda line: line + b"*")  # 1003: bad base64
    edit(texts(muge), 3, replace_field("image_ids", [1002]))  # loses its only image
    edit(texts(muge), 5, replace_field("image_ids", [1004, 77]))  # names one that never was
    seen = []
    dataset = build_retrieval_dataset("muge", muge, skip_bad_images=True)
    assert [key for key in dataset.image_ids] == [str(1000 + n) for n in range(14) if n not in (1, 2, 3)]
    assert {skipped.key for skipped in dataset.skipped} >= {"line 2", "1002", "1003", "77"}
    assert {skipped.key for skipped in dataset.skipped_texts} >= {"502"}
    for skipped in (*dataset.skipped, *dataset.skipped_texts):
        assert ":" in skipped.where and skipped.reason
    for entry, right in zip(dataset.texts, dataset.text_to_images, strict=True):
        line = json.loads(texts(muge).read_text("utf-8").splitlines()[int(entry.id) - 500])
        kept = [str(key) for key in line["image_ids"] if str(key) in dataset.image_ids]
        assert [dataset.image_ids[image] for image in right] == kept and kept
    for image, captions in enumerate(dataset.image_to_texts):
        assert all(image in dataset.text_to_images[text] for text in captions)
        seen.append(dataset[image])
    assert dataset.check(decode=True)["skipped"] == len(dataset.skipped)


def test_nothing_left(muge):
    lines = images(muge).read_bytes().replace(b"\t", b" ")
    images(muge).write_bytes(lines)
    with pytest.raises(DatasetError, match="nothing is left"):
        build_retrieval_dataset("muge", muge, skip_bad_images=True)


def test_no_layout_says_what_was_looked_for(tmp_path):
    (tmp_path / "MUGE").mkdir()
    (tmp_path / "MUGE" / "train_imgs.tsv").touch()
    with pytest.raises(DatasetError) as error:
        build_retrieval_dataset("muge", tmp_path)
    message = one_line(error)
    assert "valid_imgs.tsv with valid_texts.jsonl" in message and "lmdb/valid/imgs" in message
    assert "train_imgs.tsv" in message and str(tmp_path) in message
    with pytest.raises(DatasetError, match="no such folder"):
        build_retrieval_dataset("muge", tmp_path / "nowhere")


def test_one_half_of_a_layout(muge):
    texts(muge).unlink()
    with pytest.raises(DatasetError, match="its other half valid_texts.jsonl is not beside it"):
        build_retrieval_dataset("muge", muge)


def test_test_split_of_muge_has_no_answers(tmp_path):
    files.write_tsv(tmp_path, "test", True)
    path = tmp_path / "test_texts.jsonl"
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    path.write_text("".join(json.dumps({**line, "image_ids": []}) + "\n" for line in lines))
    with pytest.raises(DatasetError, match="test_texts.jsonl:1: text 500 has no image; .* --split valid"):
        build_retrieval_dataset("muge", tmp_path, split="test")


def test_missing_pictures_of_a_release(tmp_path):
    folder = files.write_coco_release(tmp_path)
    gone = folder / "images" / "val2014" / f"{files.coco_id(1)}.jpg"
    gone.unlink()
    with pytest.raises(DatasetError, match=f"1 of 14 pictures are not there, for example {gone.name}; put MSCOCO"):
        build_retrieval_dataset("coco-cn", folder)
    dataset = build_retrieval_dataset("coco-cn", folder, skip_bad_images=True)
    assert len(dataset) == 13 and files.coco_id(1) in {skipped.key for skipped in dataset.skipped}
    elsewhere = tmp_path / "elsewhere"
    (folder / "images").rename(elsewhere)
    with pytest.raises(DatasetError, match="14 of 14 pictures"):
        build_retrieval_dataset("coco-cn", folder)
    gone = elsewhere / "val2014" / gone.name
    gone.write_bytes(files.picture(1))
    assert len(build_retrieval_dataset("coco-cn", folder, image_folder=elsewhere)) == 14


def test_bad_caption_line(tmp_path):
    folder = files.write_flickr(tmp_path, "cna")
    path = folder / "flickr30k_cn_test.txt"
    edit(path, 4, lambda line: line.replace(b"\t", b""))
    with pytest.raises(DatasetError, match="flickr30k_cn_test.txt:4: no caption line"):
        build_retrieval_dataset("flickr30k-cn", folder)


def test_lmdb(tmp_path, monkeypatch):
    lmdb = pytest.importorskip("lmdb")
    folder = files.write_lmdb(tmp_path, "valid", True, monkeypatch)

    def put(part, key, value):
        environment = lmdb.open(str(folder / "lmdb" / "valid" / part), map_size=2**24)
        with environment.begin(write=True) as transaction:
            before = transaction.get(key)
            transaction.put(key, value)
        environment.close()
        return before

    before = put("imgs", b"1002", b"abc*")
    with pytest.raises(DatasetError, match=r"imgs\[1002\]: bad base64"):
        build_retrieval_dataset("muge", folder)
    put("imgs", b"1002", before)
    before = put("imgs", b"num_images", b"15")
    with pytest.raises(DatasetError, match="incomplete: num_images"):
        build_retrieval_dataset("muge", folder)
    put("imgs", b"num_images", before)
    # a pickle that would run code when loaded by pickle.loads
    marker = tmp_path / "ran"
    before = put("pairs", b"0", pickle.dumps(_Touch(str(marker))))
    with pytest.raises(DatasetError, match=r"pairs\[0\]: .*refuses to load"):
        build_retrieval_dataset("muge", folder)
    assert not marker.exists()
    put("pairs", b"0", before)
    assert len(build_retrieval_dataset("muge", folder)) == files.IMAGES
    monkeypatch.setitem(sys.modules, "lmdb", None)  # not needed for reading
    assert len(build_retrieval_dataset("muge", folder)) == files.IMAGES


class _Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


class TestIndex:
    """The offset index of a TSV: built once, kept beside the file, never trusted for another file."""

    def count_builds(self, monkeypatch):
        builds, build = [], _tsv_index._build
        monkeypatch.setattr(_tsv_index, "_build", lambda path: builds.append(path) or build(path))
        return builds

    def test_built_once(self, muge, monkeypatch):
        builds = self.count_builds(monkeypatch)
        first, second = (build_retrieval_dataset("muge", muge) for _ in range(2))
        assert len(builds) == 1 and _tsv_index.index_path(images(muge)).is_file()
        assert [second.read_image(i) for i in range(14)] == [files.picture(i) for i in range(14)]
        assert not list(muge.glob("*.part")) and first.fingerprint() == second.fingerprint()

    def test_problems_are_remembered(self, muge, monkeypatch):
        edit(images(muge), 3, lambda line: line.replace(b"\t", b" "))
        builds = self.count_builds(monkeypatch)
        for _ in range(2):
            with pytest.raises(DatasetError, match="valid_imgs.tsv:3: a line without a tab"):
                build_retrieval_dataset("muge", muge)
        assert len(builds) == 1

    def test_built_anew_for_a_changed_file(self, muge):
        build_retrieval_dataset("muge", muge)
        edit(images(muge), 1, lambda line: line.replace(b"1000", b"9000"))  # same size
        os.utime(images(muge), ns=(1, 1))
        with pytest.raises(DatasetError, match="names image 1000, which is not there"):
            build_retrieval_dataset("muge", muge)

    @pytest.mark.parametrize("content", [b"", b"no zip at all", None])
    def test_broken_index_is_replaced(self, muge, content, monkeypatch):
        build_retrieval_dataset("muge", muge)
        path = _tsv_index.index_path(images(muge))
        path.write_bytes(path.read_bytes()[:300] if content is None else content)
        builds = self.count_builds(monkeypatch)
        build_retrieval_dataset("muge", muge)
        build_retrieval_dataset("muge", muge)
        assert len(builds) == 1

    def test_an_index_that_inflates_is_not_read(self, muge, monkeypatch):
        """Of the same contents, but compressed: nobody knows how large that becomes."""
        build_retrieval_dataset("muge", muge)
        path = _tsv_index.index_path(images(muge))
        with np.load(path) as file:
            content = {key: file[key] for key in file.files}
        np.savez_compressed(path, **content)
        builds = self.count_builds(monkeypatch)
        assert len(build_retrieval_dataset("muge", muge)) == files.IMAGES
        assert len(builds) == 1

    def test_folder_that_cannot_be_written(self, muge, monkeypatch, tmp_path_factory):
        cache = tmp_path_factory.mktemp("cache")
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        make = tempfile.mkstemp

        def refuse(dir, **more):  # as root may write anywhere, permissions can't be used for this
            if Path(dir) == muge:
                raise PermissionError("read-only")
            return make(dir=dir, **more)

        monkeypatch.setattr(tempfile, "mkstemp", refuse)
        builds = self.count_builds(monkeypatch)
        for _ in range(2):
            assert len(build_retrieval_dataset("muge", muge)) == files.IMAGES
        assert len(builds) == 1 and not _tsv_index.index_path(images(muge)).exists() and list(cache.rglob("*.npz"))

    def test_does_not_load_the_file(self, tmp_path):
        """A file of 30 MB is indexed and read within 4 MB."""
        import tracemalloc

        files.write_tsv(tmp_path, "valid", True)
        with open(images(tmp_path), "ab") as file:
            for n in range(300):
                file.write(b"%d\t%s\n" % (5000 + n, b"AAAA" * 25_000))
        tracemalloc.start()
        dataset = build_retrieval_dataset("muge", tmp_path)
        assert len(dataset) == 314 and dataset.read_image(3) == files.picture(3)
        assert len(dataset.read_image(300)) == 75_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 * 2**20
