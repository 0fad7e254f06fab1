"""Damaged input of every kind that a data set is read from: it is refused in one line, or what is read is sound."""

import io
import json
import pickle
import tarfile
from types import SimpleNamespace

import pytest
from hypothesis import strategies as st
from PIL import Image

from tests.support import fuzz
from tests.support import retrieval_files as files
from zhclip_openclip.datasets import _tsv_index, at_hand, captions, elevater
from zhclip_openclip.datasets._images import decode_image, open_image
from zhclip_openclip.datasets.chinese_clip_lmdb import unpickle_pair
from zhclip_openclip.datasets.retrieval import build_retrieval_dataset
from zhclip_openclip.datasets.wds_export import export_wds
from zhclip_openclip.datasets.wds_open import open_wds


def sound(dataset):
    """Ids are there once, texts are texts, relations lead to images, and every picture is read or refused."""
    if dataset is None:
        return
    assert len(set(dataset.image_ids)) == len(dataset) > 0
    assert len({entry.id for entry in dataset.texts}) == len(dataset.texts) > 0
    for entry, right in zip(dataset.texts, dataset.text_to_images, strict=True):
        assert type(entry.id) is type(entry.text) is str
        assert right
        assert all(0 <= image < len(dataset) for image in right)
    dataset.fingerprint()
    for entry in (*dataset.skipped, *dataset.skipped_texts, *dataset.notes):
        "".join(entry).encode("utf-8")
    for index in range(len(dataset)):
        fuzz.refused(lambda index=index: dataset[index])


@pytest.fixture(scope="module")
def muge(tmp_path_factory):
    return files.write_tsv(tmp_path_factory.mktemp("muge"), "valid", True)


@pytest.fixture(scope="module")
def lmdb_folder(tmp_path_factory):
    pytest.importorskip("lmdb")
    with pytest.MonkeyPatch.context() as monkeypatch:
        return files.write_lmdb(tmp_path_factory.mktemp("lmdb"), "valid", True, monkeypatch)


@pytest.fixture(scope="module")
def shards(muge, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    export_wds(build_retrieval_dataset("muge", muge), folder, 9)
    return folder


def damage(path, read, examples=60, *, originals=()):
    """Runs `read` and looks at what it gives with every kind of damage to one file, which is then as it was."""
    whole = path.read_bytes()

    def check(data):
        path.write_bytes(data)
        sound(fuzz.refused(read))

    try:
        fuzz.run(check, fuzz.damaged(whole, *originals), examples)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("name", ["valid_texts.jsonl", "valid_imgs.tsv"])
def test_chinese_clip_tsv(muge, name, skip):
    damage(muge / name, lambda: build_retrieval_dataset("muge", muge, skip_bad_images=skip), 40)


def test_values_of_a_line(muge):
    path = muge / "valid_texts.jsonl"
    whole = path.read_bytes()
    fields = st.fixed_dictionaries(
        {}, optional={name: fuzz.JSON for name in ("text_id", "text", "image_ids", "query_id", "item_ids", "image_id")}
    )

    def check(entry):
        path.write_text(json.dumps(entry), encoding="utf-8")
        dataset = fuzz.refused(lambda: build_retrieval_dataset("muge", muge))
        sound(dataset)
        if dataset is not None:  # only a text or a number is taken for a text, as it stands there
            assert type(entry["text"]) in (str, int, float)
            assert [text.text for text in dataset.texts] == [str(entry["text"])]

    try:
        fuzz.run(check, fields | fuzz.JSON | good_lines(), 120)
    finally:
        path.write_bytes(whole)


def good_lines():
    scalars = st.integers(0, 9) | st.text(max_size=5) | st.floats(allow_nan=False)
    return st.builds(
        lambda key, text: {"text_id": key, "text": text, "image_ids": [1003]}, scalars, scalars | fuzz.JSON
    )


def test_index_of_a_tsv(muge):
    """The index is a convenience: damaged, it is built anew or refuses, and never gives another picture."""
    expected = build_retrieval_dataset("muge", muge)
    path = _tsv_index.index_path(muge / "valid_imgs.tsv")
    whole = path.read_bytes()

    def check(data):
        path.write_bytes(data)
        dataset = fuzz.refused(lambda: build_retrieval_dataset("muge", muge))
        if dataset is None:
            return
        for index, key in enumerate(dataset.image_ids):
            picture = fuzz.refused(lambda index=index: dataset.read_image(index))
            assert picture is None or picture == expected.read_image(expected.image_ids.index(key))

    try:
        fuzz.run(check, fuzz.damaged(whole))
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("part", ["imgs", "pairs"])
def test_lmdb(lmdb_folder, part):
    path = lmdb_folder / "lmdb" / "valid" / part / "data.mdb"
    damage(path, lambda: build_retrieval_dataset("muge", lmdb_folder))


def test_pickles():
    values = st.integers(-(2**70), 2**70) | st.text(max_size=6)
    things = st.tuples(values, values, values) | st.recursive(
        values | st.none() | st.booleans() | st.floats() | st.binary(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(values, inner, max_size=2)
        ),
        max_leaves=5,
    )

    def check(case):
        thing, protocol, data = case
        found = fuzz.refused(lambda: unpickle_pair(pickle.dumps(thing, protocol), "here"))
        pair = type(thing) is tuple and len(thing) == 3 and all(type(entry) in (int, str) for entry in thing)
        assert found == (thing if pair else None)
        found = fuzz.refused(lambda: unpickle_pair(data, "here"))
        assert found is None or all(type(entry) in (int, str) for entry in found)

    seeds = [pickle.dumps((1001, 501, "红色"), protocol) for protocol in range(6)]
    bombs = [b"\x80\x02r\xff\xff\xff\x7f.", b"(" + b"t" * 50, b"\x80\x02K\x01" + b"2\x86" * 60 + b"."]
    fuzz.run(check, st.tuples(things, st.integers(0, 5), fuzz.damaged(*seeds, *bombs)), 150)


@pytest.mark.parametrize(
    "name", ["test/pairs.json", "test/0.tar", "test/nshards.txt", "dataset_type.txt"], ids=lambda name: name[-9:]
)
def test_shards(shards, name):
    damage(shards / name, lambda: open_wds(shards))


def test_values_of_pairs(shards):
    """One value of the sidecar is another: it is refused, or it is what the dataset says."""
    path = shards / "test" / "pairs.json"
    whole = path.read_bytes()

    def check(content):
        path.write_text(json.dumps(content), encoding="utf-8")
        dataset = fuzz.refused(lambda: open_wds(shards))
        sound(dataset)
        if dataset is not None:
            texts = [(entry["id"], entry["text"], dict.fromkeys(entry["images"])) for entry in content["texts"]]
            found = zip(dataset.texts, dataset.text_to_images, strict=True)
            assert texts == [(entry.id, entry.text, dict.fromkeys(right)) for entry, right in found]
            assert dataset.image_ids == content["images"] and set(dataset.directions) == set(content["directions"])

    try:
        fuzz.run(check, fuzz.altered(json.loads(whole)), 200)
    finally:
        path.write_bytes(whole)


def test_shards_without_pairs(shards):
    pairs = (shards / "test" / "pairs.json").read_bytes()
    (shards / "test" / "pairs.json").unlink()
    with tarfile.open(shards / "plain.tar", "w") as tar:  # members as others name them
        for name in ("v1.0/._a.png", "v1.0/a.png", "v1.0/a.txt", "LICENSE", "b.txt", "b.JPG", "b.json"):
            data = "甲\n乙".encode("gbk" if name == "b.txt" else "utf-8") if name.endswith("txt") else files.picture(4)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    try:
        damage(shards / "test" / "0.tar", lambda: open_wds(shards), originals=[(shards / "plain.tar").read_bytes()])
    finally:
        (shards / "test" / "pairs.json").write_bytes(pairs)


@pytest.mark.parametrize("form", ["cna", "tagged", "csv"])
def test_flickr_captions(tmp_path, form):
    folder = files.write_flickr(tmp_path, form)
    (path,) = [path for path in folder.rglob("*.txt")]
    damage(path, lambda: build_retrieval_dataset("flickr30k-cn", folder), 30)


@pytest.mark.parametrize("name", ["coco-cn_test.txt", "imageid.human-written-caption.txt"])
def test_coco_release(tmp_path, name):
    folder = files.write_coco_release(tmp_path)
    path = folder / "coco-cn-version1805v1.1" / name
    damage(path, lambda: build_retrieval_dataset("coco-cn", folder, skip_bad_images=True), 30)


@pytest.mark.filterwarnings("ignore:.*more than once")
@pytest.mark.parametrize("name", ["label_cn.txt", "label.txt", "index.json"])
def test_elevater(tmp_path, name):
    for label in range(3):
        folder = tmp_path / "test" / str(label)
        folder.mkdir(parents=True)
        (folder / "1.png").write_bytes(files.picture(4))
    (tmp_path / "label_cn.txt").write_text("飞机\n汽车\n鸟\n", encoding="utf-8")
    (tmp_path / "label.txt").write_text("plane\ncar\nbird\n")
    (tmp_path / "index.json").write_text("[2, 0, 1]")
    whole = (tmp_path / name).read_bytes()

    def check(data):
        (tmp_path / name).write_bytes(data)
        dataset = fuzz.refused(lambda: elevater.build("own", tmp_path, template_file="name"))
        if dataset is not None:
            assert len(dataset) == 3 and all(type(name) is str and name for name in dataset.classes)
            assert dataset.order is None or set(dataset.order) <= {0, 1, 2}

    fuzz.run(check, fuzz.damaged(whole, "飞机\n汽车\n鸟\n".encode("gbk")))


PICTURES = {
    "PNG": "P",
    "GIF": "P",
    "BMP": "RGB",
    "TIFF": "RGBA",
    "PPM": "RGB",
    "JPEG": "CMYK",
    "WEBP": "RGBA",
    "ICO": "RGBA",
    "TGA": "RGB",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", PICTURES)
def test_pictures(form):
    buffer = io.BytesIO()
    Image.effect_noise((20, 12), 50).convert(PICTURES[form]).save(buffer, form)

    def check(data):
        for read in (open_image, decode_image):
            picture = fuzz.refused(lambda read=read: read(data, "1001", "valid_imgs.tsv:3"))
            if picture is not None and picture.width * picture.height < 1e6:
                assert picture.resize((4, 4)).convert("RGB").mode == "RGB"

    fuzz.run(check, fuzz.damaged(buffer.getvalue()), 60)


def test_a_bad_file_never_stops_the_plan(muge, lmdb_folder, shards, tmp_path):
    """Whatever is in a folder, a data set is found or missing for a reason of one line."""
    places = {
        "MUGE/valid_texts.jsonl": (muge / "valid_texts.jsonl").read_bytes(),
        "flickr30k-cn/lmdb/test/pairs/data.mdb": (lmdb_folder / "lmdb/valid/pairs/data.mdb").read_bytes(),
        "flickr30k-cn/lmdb/test/imgs/data.mdb": (lmdb_folder / "lmdb/valid/imgs/data.mdb").read_bytes(),
        "wds/coco-cn/test/pairs.json": (shards / "test/pairs.json").read_bytes(),
        "wds/coco-cn/test/nshards.txt": b"300000000",
        "wds/coco-cn/dataset_type.txt": b"retrieval",
        "elevater/cifar-10/label_cn.txt": "飞机\n汽车\n".encode(),
        "elevater/cifar-10/test/0/1.png": files.picture(4),
        "MUGE/valid_imgs.tsv": (muge / "valid_imgs.tsv").read_bytes(),
    }
    for name, data in places.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    chosen = [at_hand.entries()[name] for name in ("muge", "flickr30k-cn", "coco-cn", "cifar10")]

    def check(case):
        name, data = case
        (tmp_path / name).write_bytes(data)
        for entry in chosen:
            found = at_hand.look(entry, tmp_path, "name")
            assert isinstance(found, at_hand.Found) or (found.reason and "\n" not in found.reason)
        (tmp_path / name).write_bytes(places[name])

    case = st.sampled_from(list(places)).flatmap(lambda name: st.tuples(st.just(name), fuzz.damaged(places[name])))
    fuzz.run(check, case, 40)


def plainly_clean(text):
    """`clean_caption` by its definition: one tag of each word at a time, until nothing changes."""
    while True:
        words = text.split()
        split = [word.rpartition(":") for word in words]
        tagged = [bool(colon) and tag in captions._TAGS for _, colon, tag in split]
        if sum(tagged) and 3 * sum(tagged) >= 2 * len(words) and captions._CHINESE.search(" ".join(words)):
            words = [head if drop else word for word, (head, *_), drop in zip(words, split, tagged, strict=True)]
        cleaned = captions._join(words)
        if cleaned == text:
            return cleaned
        text = cleaned


def test_captions_are_cleaned_by_the_definition():
    pieces = [
        "中",
        "狗",
        "a",
        "b",
        ":m",
        ":n",
        ":nr",
        ":zz",
        ":w",
        "::",
        ":",
        " ",
        "  ",
        "：",
        "Nike",
        "3",
        "12:30",
        "　",
    ]
    texts = st.lists(st.sampled_from([*pieces, ":m:m:m", ":m" * 40]), max_size=14).map("".join)

    def check(text):
        cleaned = captions.clean_caption(text)
        assert cleaned == plainly_clean(text) == captions.clean_caption(cleaned)

    fuzz.run(check, texts, 400)


def test_the_check_would_notice(tmp_path):
    """Another exception, and a message of two lines, are no refusal."""

    def wrong():
        raise KeyError("text")

    with pytest.raises(KeyError):
        fuzz.run(lambda _: fuzz.refused(wrong), st.integers(), 2)
    broken = SimpleNamespace(image_ids=["1", "1"], texts=[], __len__=lambda self: 2)
    with pytest.raises((AssertionError, TypeError)):
        sound(broken)
