"""WebDataset shards of other makers: what plain CLIP_benchmark reads is read, and what it does not is named."""

import io
import json
import multiprocessing
import os
import tarfile

import pytest
from PIL import Image

from tests.support import retrieval_files as files
from zhclip_openclip.datasets import _shards, at_hand, streams, wds_export
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets.retrieval import build_retrieval_dataset
from zhclip_openclip.datasets.wds_export import export_wds
from zhclip_openclip.datasets.wds_open import open_wds


def write(root, members, name="0.tar", count=1, form=tarfile.PAX_FORMAT):
    """A shard with these members; data of a number is that picture, of a text a caption."""
    (root / "test").mkdir(parents=True, exist_ok=True)
    (root / "dataset_type.txt").write_text("retrieval")
    (root / "test" / "nshards.txt").write_text(str(count))
    with tarfile.open(root / "test" / name, "w", format=form) as tar:
        for member, data in members:
            data = files.picture(data) if isinstance(data, int) else data
            data = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return root


def pairs(*names, first=0):
    """Members of samples with these names."""
    found = []
    for number, name in enumerate(names):
        picture = first + number
        suffix = "png" if picture % 5 == 4 else "jpg"
        found += [(f"{name}.{suffix}", picture), (f"{name}.txt", f"第{picture}张\n另一句{picture}")]
    return found


def theirs(root):
    """What CLIP_benchmark's own reader gives: (picture, captions) of each sample."""
    builder = pytest.importorskip("clip_benchmark.datasets.builder")
    dataset = builder.build_wds_dataset("x", transform=lambda image: image.tobytes(), data_dir=str(root))
    return list(dataset)


READ_BY_BOTH = {
    "a folder with a dot": [pairs("v1.0/a", "v1.0/b")],
    "a dot in front": [pairs("./a", "./b")],
    "deep folders": [pairs("x/y/a", "x/z/a")],
    "upper case": [[(name.replace("jpg", "JPG").replace("txt", "TXT"), data) for name, data in pairs("a", "b")]],
    "suffixes with dots": [[*pairs("a"), ("a.left.png", 3), *pairs("b", first=1)]],
    "sidecars of macOS": [[("._a.jpg", b"x"), *pairs("a"), ("._b.jpg", b"x"), *pairs("b", first=1), ("._b.txt", b"x")]],
    "files without a suffix": [[("LICENSE", "MIT"), *pairs("a", "b"), ("Makefile", "all:")]],
    "meta members": [[("__meta__", "x"), ("__x__/a.jpg", b"x"), *pairs("a", "b")]],
    "more in a sample": [[("a.json", "{}"), *pairs("a"), ("b.cls", "3"), *pairs("b", first=1)]],
    "a key twice in a shard": [[*pairs("a", "b"), *pairs("a", "b", first=2)]],
    "a key in two shards": [pairs("a", "b"), pairs("a", "b", first=2)],
    "a key that looks like a number of ours": [
        [*pairs("a"), *pairs("b", first=1), *pairs("a#2", first=2), *pairs("a", first=3)]
    ],
    "blank lines": [[("a.jpg", 0), ("a.txt", "一\n\n二\r\n三\x0b四")]],
    "chinese names": [pairs("图片/一", "图片/二")],
}


@pytest.mark.parametrize("case", READ_BY_BOTH)
def test_what_clip_benchmark_reads_is_read(tmp_path, case):
    shards = READ_BY_BOTH[case]
    for number, members in enumerate(shards):
        write(tmp_path, members, f"{number}.tar", len(shards))
    expected = theirs(tmp_path)
    dataset = open_wds(tmp_path)
    found = [dataset[index] for index in range(len(dataset))]
    assert [(picture.tobytes(), captions) for picture, captions in found] == expected
    assert len(set(dataset.image_ids)) == len(expected) and not dataset.skipped


def test_folders_and_links_beside_are_passed_over(tmp_path):
    write(tmp_path, [])
    with tarfile.open(tmp_path / "test" / "0.tar", "w") as tar:
        folder = tarfile.TarInfo("a.dir")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        link = tarfile.TarInfo("latest")
        link.type, link.linkname = tarfile.SYMTYPE, "a.jpg"
        tar.addfile(link)
        for name, data in pairs("a"):
            data = files.picture(data) if isinstance(data, int) else data.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert len(open_wds(tmp_path)) == len(theirs(tmp_path)) == 1


def test_files_beside_are_counted(tmp_path):
    """CLIP_benchmark ends in an error here: it wants a picture of every sample."""
    write(tmp_path, [("README.md", "read me"), *pairs("a", "b"), ("index.csv", "1")])
    assert open_wds(tmp_path).notes == ["2 files of the shards are neither pictures nor captions"]


def test_names_that_are_not_utf8(tmp_path):
    write(tmp_path, pairs(os.fsdecode("数据/甲".encode("gbk")), "b"), form=tarfile.GNU_FORMAT)
    dataset = open_wds(tmp_path)
    assert dataset.image_ids == ["\\xca\\xfd\\xbe\\xdd/\\xbc\\xd7", "b"] and dataset.read_image(0) == files.picture(0)
    dataset.fingerprint()


REFUSED = {
    r"0.tar\[a.txt\]: not UTF-8 \(looks like GBK\); convert the captions": [
        ("a.jpg", 0),
        ("a.txt", "一只狗".encode("gbk")),
    ],
    r"0.tar\[a.txt\]: no picture \(webp, png, jpg, jpeg\) with this caption": [("a.txt", "一"), ("a.gif", 0)],
    r"0.tar\[a.jpg\]: no .txt with captions beside it": [("a.jpg", 0), *pairs("b")],
    r"0.tar\[a.jpg\]: the sample has two .jpg": [("a.jpg", 0), ("a.jpg", 1), ("a.txt", "一")],
    r"test: there is no picture in its shards": [],
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused(tmp_path, message):
    write(tmp_path, REFUSED[message])
    with pytest.raises(DatasetError, match=message):
        open_wds(tmp_path)


SMALL_FILES = {
    "dataset_type.txt is missing.*write the word retrieval": lambda root: (root / "dataset_type.txt").unlink(),
    "0.tar: missing, though nshards.txt says 1; here are 00000.tar: rename": lambda root: (
        root / "test" / "0.tar"
    ).rename(root / "test" / "00000.tar"),
    "1.tar: missing, though nshards.txt says 300000000; 1 are there up to this one": lambda root: (
        root / "test" / "nshards.txt"
    ).write_text("300000000"),
    "no folder test/ with shards; there is val: use it as --split": lambda root: (root / "test").rename(root / "val"),
    "nshards.txt has no number of shards in it": lambda root: (root / "test" / "nshards.txt").write_text("9" * 4000),
    "more than 4096 bytes where a word": lambda root: (root / "dataset_type.txt").write_text("x" * 5000),
    r"dataset_type.txt: not UTF-8 \(byte 0\)": lambda root: (root / "dataset_type.txt").write_bytes(b"\xca\xfd"),
    "0.tar: not a whole tar file .a gzip archive.; unpack it": lambda root: (root / "test" / "0.tar").write_bytes(
        b"\x1f\x8b" + b"x" * 600
    ),
    "0.tar: not a whole tar file .an HTML page.": lambda root: (root / "test" / "0.tar").write_bytes(b"<html>" * 200),
}


@pytest.mark.parametrize("message", SMALL_FILES)
def test_small_files(tmp_path, message):
    write(tmp_path, pairs("a"))
    SMALL_FILES[message](tmp_path)
    with pytest.raises(DatasetError, match=message):
        open_wds(tmp_path)


def test_a_byte_order_mark_does_not_matter(tmp_path):
    write(tmp_path, pairs("a"))
    (tmp_path / "test" / "nshards.txt").write_bytes(b"\xef\xbb\xbf1\r\n")
    (tmp_path / "dataset_type.txt").write_bytes(b"\xef\xbb\xbfRetrieval\r\n")
    assert len(open_wds(tmp_path)) == 1


def test_no_list_of_shards_is_made_from_a_number(tmp_path, monkeypatch):
    """3e8 shards were 3e8 names: the plan, the check before a run and the reader stop at the first that is missing."""
    write(tmp_path / "wds" / "coco-cn", pairs("a"), count=300_000_000)
    (tmp_path / "wds" / "coco-cn" / "classnames.txt").write_text("a")
    asked = []
    monkeypatch.setattr(_shards.Path, "is_file", lambda path: asked.append(path) or os.path.isfile(path))
    with pytest.raises(DatasetError, match="1.tar: missing"):
        streams.check_shards("wds/x", tmp_path / "wds" / "coco-cn")
    assert "1.tar: missing" in at_hand.look(at_hand.entries()["coco-cn"], tmp_path, "name").reason
    assert len(asked) < 100


# exports


@pytest.fixture
def source(tmp_path):
    return files.write_tsv(tmp_path / "source", "valid", True)


def export_again_and_again(source, output, shard_size):
    for _ in range(4):
        export_wds(build_retrieval_dataset("muge", source), output, shard_size)


@pytest.mark.parametrize("sizes", [(4, 4, 4), (4, 5, 14)])
def test_exports_at_once(source, tmp_path, sizes):
    """Three processes into one folder, of the same form or of three: each ends well, and what is there is whole."""
    context = multiprocessing.get_context("fork" if os.name != "nt" else "spawn")
    arguments = [(source, tmp_path / "wds", size) for size in sizes]
    running = [context.Process(target=export_again_and_again, args=args) for args in arguments]
    for process in running:
        process.start()
    for process in running:
        process.join(120)
    assert [process.exitcode for process in running] == [0, 0, 0]
    expected = build_retrieval_dataset("muge", source)
    copy = open_wds(tmp_path / "wds")
    assert copy.fingerprint() == expected.fingerprint()
    assert [copy.read_image(n) for n in range(14)] == [files.picture(n) for n in range(14)]
    left = {path.name for path in (tmp_path / "wds" / "test").iterdir()}
    assert left == {"pairs.json", "nshards.txt", *(path.name for path in (tmp_path / "wds" / "test").glob("*.tar"))}


@pytest.mark.skipif(os.name == "nt", reason="no such lock")
def test_another_export_that_does_not_end(source, tmp_path):
    dataset = build_retrieval_dataset("muge", source)
    (tmp_path / "wds" / "test").mkdir(parents=True)
    alone = wds_export._alone_in(tmp_path / "wds" / "test", 0)
    with alone, pytest.raises(DatasetError, match="another export has been at work here for 0 s"):
        export_wds(dataset, tmp_path / "wds", patience=0)
    export_wds(dataset, tmp_path / "wds", patience=0)


@pytest.mark.parametrize(
    "name",
    [
        "test/0.tar",
        "test/0.tar.part",
        "test/nshards.txt.new",
        "test/pairs.json",
        "test/nshards.txt",
        "dataset_type.txt",
    ],
)
def test_links_are_not_written_through(source, tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "wds" / "test").mkdir(parents=True)
    (tmp_path / "wds" / name).symlink_to(victim)
    export_wds(build_retrieval_dataset("muge", source), tmp_path / "wds", 5)
    assert victim.read_text() == "mine" and len(open_wds(tmp_path / "wds")) == 14
    assert not (tmp_path / "wds" / name).is_symlink()


def test_what_a_kill_leaves_is_taken_away(source, tmp_path):
    (tmp_path / "wds" / "test").mkdir(parents=True)
    for name in ("0.tarabc123.part", "3.tar.part", "nshards.txt.new", "pairs.jsonx1.part"):
        (tmp_path / "wds" / "test" / name).write_bytes(b"half")
    export_wds(build_retrieval_dataset("muge", source), tmp_path / "wds", 5)
    assert sorted(path.name for path in (tmp_path / "wds" / "test").iterdir()) == [
        *("0.tar", "1.tar", "2.tar"),
        *("nshards.txt", "pairs.json"),
    ]


def test_a_folder_that_cannot_be_written_is_one_line(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot be written") as error:
        export_wds(build_retrieval_dataset("muge", source), tmp_path / "file" / "wds")
    assert "\n" not in str(error.value)


PAIRS = {
    "it has no 'images'": lambda content: content.pop("images"),
    r"images\[0\] is no str": lambda content: content["images"].__setitem__(0, 1000),
    "images has an id twice": lambda content: content["images"].__setitem__(0, "1001"),
    r"sizes\[0\] is no int": lambda content: content["sizes"].__setitem__(0, True),
    r"texts\[0\] has a int as 'text'": lambda content: content["texts"][0].update(text=5),
    r"texts\[1\] has a NoneType as 'id'": lambda content: content["texts"][1].update(id=None),
    r"texts\[2\] names image -1, and there are 14": lambda content: content["texts"][2].update(images=[-1]),
    r"texts\[2\] names image 14, and there are 14": lambda content: content["texts"][2].update(images=[14]),
    r"texts\[2\].images\[0\] is no int": lambda content: content["texts"][2].update(images=["1"]),
    r"directions\[0\] is no str": lambda content: content.update(directions=[1000000000]),
    "it has a str as 'directions'": lambda content: content.update(directions="image_retrieval"),
    "directions are image_retrieval and text_retrieval": lambda content: content.update(directions=["audio"]),
    "it has no 'split'": lambda content: content.pop("split"),
    r"notes\[0\] is no str": lambda content: content.update(notes=[{}]),
}


@pytest.mark.parametrize("message", PAIRS)
def test_pairs_of_other_types(source, tmp_path, message):
    path = export_wds(build_retrieval_dataset("muge", source), tmp_path / "wds")
    content = json.loads(path.read_text("utf-8"))
    PAIRS[message](content)
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(DatasetError, match=rf"pairs.json: damaged \({message}.*; export again"):
        open_wds(tmp_path / "wds")


def test_pictures_in_a_shard_that_claim_too_much(tmp_path):
    """A picture of 200 million pixels in 200 kB is refused by name, and left out when that is asked for."""
    data = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(data, "PNG")
    write(tmp_path, [("a.png", data.getvalue()), ("a.txt", "一"), *pairs("b")])
    dataset = open_wds(tmp_path)
    with pytest.raises(DatasetError, match=r"0.tar\[a.png\]: image a does not decode \(.*decompression bomb"):
        dataset[0]
    dataset = open_wds(tmp_path, skip_bad_images=True)
    assert dataset.image_ids == ["b"] and [skipped.key for skipped in dataset.skipped] == ["a"]
