"""LMDB files are read without LMDB: the same entries as its own library gives, and no file can end the process."""

import pickle
import random
import struct

import pytest

from tests.support import retrieval_files as files
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._lmdb_file import LmdbFile
from zhclip_openclip.datasets.chinese_clip_lmdb import unpickle_pair
from zhclip_openclip.datasets.retrieval import build_retrieval_dataset

lmdb = pytest.importorskip("lmdb")


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        root = files.write_lmdb(tmp_path_factory.mktemp("lmdb"), "valid", True, monkeypatch)
    return root / "lmdb" / "valid"


@pytest.mark.parametrize("commits", [1, 2, 5])
@pytest.mark.parametrize("longest", [40, 30_000])
def test_the_same_entries_as_lmdb(tmp_path, commits, longest):
    """Trees of one to three levels, values in leaves and beside them, entries deleted and replaced."""
    rng = random.Random(commits + longest)
    environment = lmdb.open(str(tmp_path), map_size=2**28)
    for count in (0, 1, 700, 5, 60)[:commits]:
        with environment.begin(write=True) as transaction:
            for _ in range(count * 3 if commits > 2 else 3):
                key = str(rng.randrange(1000)).encode()
                if rng.random() < 0.3:
                    transaction.delete(key)
                transaction.put(key, rng.randbytes(rng.randrange(longest)))
    environment.close()
    environment = lmdb.open(str(tmp_path), readonly=True, lock=False)
    with environment.begin() as transaction:
        expected = [(bytes(key), bytes(value)) for key, value in transaction.cursor()]
    environment.close()
    file = pickle.loads(pickle.dumps(LmdbFile(tmp_path, "copy it again")))
    assert [(key, file.read(value)) for key, value, _ in file.items()] == expected
    assert [(key, raw) for key, _, raw in file.items()] == expected
    assert [raw for *_, raw in file.items(20)] == [raw if len(raw) <= 20 else b"" for _, raw in expected]
    assert file.entries == len(expected)


@pytest.mark.parametrize("part", ["imgs", "pairs"])
def test_every_cut_is_one_line(split, part):
    """py-lmdb dies of SIGBUS here: half a copy, any other share of it, and single pages."""
    path = split / part / "data.mdb"
    whole = path.read_bytes()
    try:
        for size in sorted({0, 1, 100, 4095, 4096, 8191, 8192, *range(4096, len(whole), 4096), len(whole) - 1}):
            path.write_bytes(whole[:size])
            with pytest.raises(DatasetError, match=r"data\.mdb") as error:
                build_retrieval_dataset("muge", split.parent.parent)
            if size > 8192:
                assert f"is cut off: it has {size:,} bytes, and {len(whole):,} are needed; copy it" in str(error.value)
    finally:
        path.write_bytes(whole)


def test_what_is_no_lmdb_file(split):
    path = split / "imgs" / "data.mdb"
    whole = path.read_bytes()
    changes = {
        "it is an HTML page, no LMDB file": b"<html>please log in" + b" " * 9000,
        "version 2 of the format": whole[:20] + struct.pack("<I", 2) + whole[24:],
        "pages of 4095 bytes": whole[:40] + struct.pack("<I", 4095) + whole[44:],
    }
    try:
        for message, data in changes.items():
            path.write_bytes(data)
            with pytest.raises(DatasetError, match=message):
                build_retrieval_dataset("muge", split.parent.parent)
    finally:
        path.write_bytes(whole)


def test_databases_by_name_and_several_values_are_refused(tmp_path):
    for name, more in (("named", {"key": b"x"}), ("several", {"key": b"x", "dupsort": True})):
        environment = lmdb.open(str(tmp_path / name), map_size=2**24, max_dbs=2)
        database = environment.open_db(**more)
        with environment.begin(write=True) as transaction:
            transaction.put(b"1", b"2", db=database)
        environment.close()
        with pytest.raises(DatasetError, match="databases by name, or several values"):
            list(LmdbFile(tmp_path / name, "x").items())


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps([1, 2, "红"]),
        pickle.dumps((1, 2)),
        pickle.dumps((1, 2, "红", 4)),
        pickle.dumps((1, 2, None)),
        pickle.dumps((1, 2, True), 0),
        pickle.dumps((1, 2, b"x")),
        pickle.dumps((1, (2, 3), "红")),
        pickle.dumps(print),
        b"\x80\x02K\x01r\xff\xff\xff\x07.",  # a memo of 2 GB in pickle's own reader
        b"\x80\x02)" + b"2\x86" * 40 + b".",  # tuples of tuples, doubled 40 times
        b"(" * 100_000,
        b"I" + b"9" * 5000 + b"\n.",
        b"",
    ],
)
def test_pickles_of_anything_else(data):
    with pytest.raises(DatasetError, match="here") as error:
        unpickle_pair(data, "here")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol(protocol):
    same = "同一个"
    for pair in ((1001, 501, "红色"), ("a", "b", "c"), (same, same, same), (2**70, -5, "")):
        assert unpickle_pair(pickle.dumps(pair, protocol), "here") == pair


def test_half_of_the_layout(split, tmp_path):
    (tmp_path / "lmdb" / "valid" / "imgs").mkdir(parents=True)
    (tmp_path / "lmdb" / "valid" / "imgs" / "data.mdb").write_bytes((split / "imgs" / "data.mdb").read_bytes())
    with pytest.raises(DatasetError, match=r"valid/pairs: has no data.mdb \(imgs beside it has one\)"):
        build_retrieval_dataset("muge", tmp_path)
    # A complete layout is taken, whatever is left of another.
    files.write_tsv(tmp_path, "valid", True)
    assert build_retrieval_dataset("muge", tmp_path).layout == "Chinese-CLIP TSV"
    (tmp_path / "valid_imgs.tsv").unlink()
    (tmp_path / "lmdb" / "valid" / "pairs").mkdir()
    (tmp_path / "lmdb" / "valid" / "pairs" / "data.mdb").write_bytes((split / "pairs" / "data.mdb").read_bytes())
    assert build_retrieval_dataset("muge", tmp_path).layout == "Chinese-CLIP LMDB"
