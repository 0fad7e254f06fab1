"""Retrieval sets as people write and copy them themselves: what is read, and what a message says when it is not."""

import base64
import itertools
import json
import math
import os
import subprocess

import pytest

from tests.support import retrieval_files as files
from zhclip_openclip.datasets import _tsv_index
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._relations import TextEntry
from zhclip_openclip.datasets._retrieval import _image_line, _text_line
from zhclip_openclip.datasets._text_lines import encoding_of
from zhclip_openclip.datasets.captions import LONGEST, clean_caption
from zhclip_openclip.datasets.retrieval import build_retrieval_dataset


@pytest.fixture
def muge(tmp_path):
    return files.write_tsv(tmp_path, "valid", True)


def rewrite_texts(folder, change):
    """Each entry of the JSONL by `change`."""
    path = folder / "valid_texts.jsonl"
    entries = [change(json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), "utf-8")


def rewrite_images(folder, change):
    """Each (id, base64) of the TSV by `change`, as a whole line."""
    path = folder / "valid_imgs.tsv"
    lines = [change(*line.split("\t")) for line in path.read_text("utf-8").splitlines()]
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def message_of(folder, **more):
    with pytest.raises(DatasetError) as error:
        build_retrieval_dataset("muge", folder, **more)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, True, ["红"], {"zh": "红"}])
@pytest.mark.parametrize("field", ["text_id", "text", "image_ids"])
def test_values_that_are_no_texts(muge, field, value):
    """Each was a query or an id once: 'None', 'nan', "['..']"."""
    wrong = [1001, value] if field == "image_ids" else value
    rewrite_texts(muge, lambda entry: {**entry, field: wrong} if entry["text_id"] == 502 else entry)
    message = message_of(muge)
    assert f"valid_texts.jsonl:3: {field} is " in message and "a text or a number is needed" in message
    assert message_of(muge, skip_bad_images=True) == message


def test_numbers_are_texts(muge):
    rewrite_texts(muge, lambda entry: {**entry, "text": 42, "image_ids": entry["image_ids"][0]})
    dataset = build_retrieval_dataset("muge", muge)
    assert {entry.text for entry in dataset.texts} == {"42"} and all(
        len(right) == 1 for right in dataset.text_to_images
    )


def test_either_spelling_of_each_field(muge):
    expected = build_retrieval_dataset("muge", muge).fingerprint()
    rewrite_texts(muge, lambda e: {"text_id": e["text_id"], "query_text": e["text"], "item_ids": e["image_ids"]})
    assert build_retrieval_dataset("muge", muge).fingerprint() == expected
    rewrite_texts(muge, lambda entry: {**entry, "text": "红"})
    assert "has text and query_text, which are two names of one field" in message_of(muge)


@pytest.mark.parametrize("name", ["image_id", "images", "item_id", "url"])
def test_a_field_of_another_name_is_shown(muge, name):
    def rename(entry):
        entry[name] = entry.pop("image_ids")
        return entry

    rewrite_texts(muge, rename)
    message = message_of(muge)
    assert f"there is no image_ids or item_ids, here are text_id, text, {name};" in message and "rename" in message
    assert "--split" not in message


def test_a_test_split_without_the_field(tmp_path):
    files.write_tsv(tmp_path, "test", True)
    path = tmp_path / "test_texts.jsonl"
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    path.write_text("".join(json.dumps({"text_id": e["text_id"], "text": e["text"]}) + "\n" for e in lines))
    with pytest.raises(DatasetError, match=r"test_texts.jsonl:1: there is no image_ids.*--split valid"):
        build_retrieval_dataset("muge", tmp_path, split="test")


HABITS = {
    "a .0 at the end": lambda key: f"{key}.0",
    "zeros in front": lambda key: f"00{key}",
    "the suffix of a file name": lambda key: f"{key}.jpg",
    "a folder in front": lambda key: f"images/{key}",
    "full-width signs": lambda key: key.translate({ord(str(n)): chr(0xFF10 + n) for n in range(10)}),
    "a folder, zeros and the suffix": lambda key: f"images/000{key}.png",
}


@pytest.mark.parametrize("habit", HABITS)
def test_ids_that_do_not_match_are_shown_side_by_side(muge, habit):
    rewrite_images(muge, lambda key, encoded: f"{HABITS[habit](key)}\t{encoded}")
    message = message_of(muge)
    assert "valid_texts.jsonl:1: text 500 names image 1000, which is not there" in message
    assert f"there is {HABITS[habit]('1000')!r} for '1000': they differ by {habit}" in message


def test_ids_of_another_set_are_shown(muge):
    rewrite_images(muge, lambda key, encoded: f"photo-{key}-{'x' * 300}\t{encoded}")
    assert "ids of images are photo-1000-xxx" in message_of(muge)


def test_swapped_columns(muge):
    rewrite_images(muge, lambda key, encoded: f"{encoded}\t{key}")
    assert "valid_imgs.tsv:1: the columns are swapped (needed: id, tab, base64 of the picture)" in message_of(muge)


def test_base64_without_padding(muge):
    expected = build_retrieval_dataset("muge", muge)
    rewrite_images(muge, lambda key, encoded: f"{key}\t{encoded.rstrip('=').replace('+', '-').replace('/', '_')}")
    dataset = build_retrieval_dataset("muge", muge)
    assert dataset.fingerprint() == expected.fingerprint()
    assert [dataset.read_image(n) for n in range(14)] == [files.picture(n) for n in range(14)]
    rewrite_images(muge, lambda key, encoded: f"{key}\t{encoded[:41]}")
    assert "bad base64 (41 characters without = at the end, and 0 of these): a part is missing" in message_of(muge)


def test_long_ids(muge):
    """URLs that differ after 200 bytes, and 67 Chinese characters, whose 200th byte is inside one."""
    long = "https://example.org/" + "图" * 67 + "x" * 200
    rewrite_images(muge, lambda key, encoded: f"{long}{key}\t{encoded}")
    rewrite_texts(muge, lambda entry: {**entry, "image_ids": [f"{long}{image}" for image in entry["image_ids"]]})
    for _ in range(2):  # built, and from its index
        dataset = build_retrieval_dataset("muge", muge)
        assert dataset.image_ids == [f"{long}{1000 + n}" for n in range(14)] and not dataset.skipped
        assert [dataset.read_image(n) for n in range(14)] == [files.picture(n) for n in range(14)]


def test_one_long_id_does_not_make_the_others_long(tmp_path):
    encoded = base64.b64encode(files.picture(0)).decode()
    for longest in (8, 4000):
        path = tmp_path / f"{longest}.tsv"
        path.write_text("".join(f"{n:04d}\t{encoded}\n" for n in range(500)) + f"{'x' * longest}\t{encoded}\n")
        assert len(_tsv_index.TsvImages(path)) == 501
    sizes = [_tsv_index.index_path(tmp_path / f"{longest}.tsv").stat().st_size for longest in (8, 4000)]
    assert sizes[1] - sizes[0] == 3992


def test_a_file_that_changed_and_kept_size_and_time(muge):
    """Its index holds still: what is read is compared with the id that stands before the tab."""
    build_retrieval_dataset("muge", muge)
    path = muge / "valid_imgs.tsv"
    stat, lines = path.stat(), path.read_bytes().splitlines(keepends=True)
    twins = [(a, b) for a in range(14) for b in range(a) if len(lines[a]) == len(lines[b])]
    first, second = twins[0]
    lines[first], lines[second] = lines[second], lines[first]
    path.write_bytes(b"".join(lines))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    dataset = build_retrieval_dataset("muge", muge)
    for index in range(14):
        if index not in (first, second):
            assert dataset.read_image(index) == files.picture(index)
            continue
        with pytest.raises(DatasetError, match=r"is not here any more.*remove .*zhclip-index.npz and start again"):
            dataset.read_image(index)
    _tsv_index.index_path(path).unlink()  # what the message says helps
    dataset = build_retrieval_dataset("muge", muge)
    places = [dataset.image_ids.index(str(1000 + n)) for n in range(14)]
    assert [dataset.read_image(place) for place in places] == [files.picture(n) for n in range(14)]


def test_lines_of_a_fingerprint_have_one_reading():
    """Of all ids and texts of two signs that separate something: no two data sets have one line, no line is two."""
    short = ["".join(signs) for length in (1, 2) for signs in itertools.product("1 \t\n", repeat=length)]
    images = [[key] for key in short] + [list(pair) for pair in itertools.combinations(sorted(short), 2)]
    seen = {_image_line(key, 7): ("image", key) for key in short}
    for key, text, named in itertools.product(short, [*short, ""], images):
        line = _text_line(TextEntry(key, text), named)
        assert "\n" not in line
        assert seen.setdefault(line, (key, text, named)) == (key, text, named)
    assert len(seen) == len(short) + len(short) * (len(short) + 1) * len(images)
    # What has none of these signs is hashed as it always was.
    assert _text_line(TextEntry("8428", "高级感 托特包"), ["1", "2"]) == "text\t8428\t1 2\t高级感 托特包"


def test_texts_that_no_model_can_get_right_are_counted(muge):
    texts = {500: "", 501: "\u200b ", 502: "红", 503: "红", 504: "绿", 505: "绿"}
    images = {502: [1001], 503: [1002], 504: [1003], 505: [1003]}

    def change(entry):
        key = entry["text_id"]
        return {**entry, "text": texts.get(key, entry["text"]), "image_ids": images.get(key, entry["image_ids"])}

    rewrite_texts(muge, change)
    dataset = build_retrieval_dataset("muge", muge)
    assert len(dataset.texts) == 20
    assert [note.split(";")[0] for note in dataset.notes] == [
        "2 of 20 texts are empty",
        "2 of 20 texts stand there again for other images",
    ]


def test_pictures_that_are_left_out_count_once(muge):
    rewrite_texts(muge, lambda entry: {**entry, "image_ids": [77] if entry["text_id"] < 505 else entry["image_ids"]})
    dataset = build_retrieval_dataset("muge", muge, skip_bad_images=True)
    assert [skipped.key for skipped in dataset.skipped] == ["77"]
    assert [skipped.key for skipped in dataset.skipped_texts] == ["500", "501", "502", "503", "504"]
    report = dataset.check()
    assert (report["skipped"], report["skipped_texts"], report["texts"]) == (1, 5, 15)


@pytest.mark.skipif(os.name == "nt", reason="names are bytes elsewhere")
@pytest.mark.parametrize("read_only", [False, True])
def test_folder_whose_name_is_not_utf8(tmp_path, monkeypatch, read_only):
    """As unzip leaves a Chinese name from Windows."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = os.fsencode(tmp_path) + b"/" + "数据".encode("gbk")
    os.mkdir(folder)
    root = files.write_tsv(type(tmp_path)(os.fsdecode(folder)), "valid", True)
    if read_only:
        monkeypatch.setattr(_tsv_index, "index_path", lambda path: tmp_path / "nowhere" / "x" / path.name / "a.npz")
        (tmp_path / "nowhere").write_text("a file where the folder should be")
    dataset = build_retrieval_dataset("muge", root)
    assert (
        len(dataset) == 14 and dataset.read_image(3) == files.picture(3) and dataset.check(decode=True)["skipped"] == 0
    )
    (root / "valid_texts.jsonl").write_text('{"text_id": 1}\n')
    assert "\\xca\\xfd" in message_of(root)


ENCODINGS = {
    "gbk": "GBK",
    "gb18030": "GB18030",
    "big5": "Big5",
    "utf-16-le": "UTF-16LE",
    "utf-16-be": "UTF-16BE",
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_bytes_rather_are(encoding):
    text = {
        "big5": "1000.jpg#0\t一個穿著紅色衣服的男孩在草地上奔跑",
        "gb18030": "一个穿着红色衣服的男孩 \u20087 在草地上",
    }
    raw = text.get(encoding, "1000.jpg#0\t一个穿着红色衣服的男孩在草地上奔跑").encode(encoding)
    assert encoding_of(raw) == ENCODINGS[encoding]


def test_the_advice_for_another_encoding_works(tmp_path):
    """The command that the message names, run."""
    folder = files.write_flickr(tmp_path, "cna")
    expected = build_retrieval_dataset("flickr30k-cn", folder).fingerprint()
    path = folder / "flickr30k_cn_test.txt"
    path.write_bytes(path.read_text("utf-8").encode("gbk"))
    with pytest.raises(DatasetError, match=r"flickr30k_cn_test.txt:1: not UTF-8 \(looks like GBK\)") as error:
        build_retrieval_dataset("flickr30k-cn", folder)
    command = str(error.value).partition("convert it: ")[2]
    assert command == f"iconv -f GBK -t UTF-8 {path} > new"  # from wherever one is
    subprocess.run(f"{command} && mv new {path}", shell=True, check=True, cwd=tmp_path)
    assert build_retrieval_dataset("flickr30k-cn", folder).fingerprint() == expected


def test_translations_are_another_set(tmp_path):
    folder = files.write_coco_release(tmp_path)
    written = folder / "coco-cn-version1805v1.1" / "imageid.human-written-caption.txt"
    assert not build_retrieval_dataset("coco-cn", folder).notes
    written.unlink()
    with pytest.raises(DatasetError, match=r"has imageid.manually-translated-caption.txt .* use coco-cn-translated"):
        build_retrieval_dataset("coco-cn", folder)
    (written.parent / "imageid.manually-translated-caption.txt").unlink()
    with pytest.raises(DatasetError, match=r"imageid.human-written-caption.txt is not beside it"):
        build_retrieval_dataset("coco-cn", folder)


def test_a_text_without_end_is_no_caption():
    """32 kB of tags took a second and a half, 640 kB minutes."""
    for text in ("中" + ":m" * 320_000, "中 " * LONGEST):
        assert clean_caption(text) == text
    assert clean_caption("中" + ":m" * 4000) == "中"
    assert clean_caption(" ".join(["a" + ":m" * n for n in range(1, 90)]) + " 中:m").endswith("中")
