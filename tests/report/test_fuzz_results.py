"""Result files that are damaged, made up or meant badly: each is one line in the report, and the others are read.

The corpus of kinds is tried whole; then Hypothesis damages good files. A run is short and the same each time:
`ZHCLIP_FUZZ_SECONDS=120` makes each of the latter go on for so long, and `ZHCLIP_FUZZ_SEED=3` chooses with what.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import time
import tracemalloc
import unicodedata
import zipfile

import numpy as np
import pytest

from tests.support import report_files as files
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.galleries._result import read_result
from zhclip_openclip.metrics import _npz
from zhclip_openclip.report import views
from zhclip_openclip.report.build import build
from zhclip_openclip.report.runs import read_results

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

SECONDS = float(os.environ.get("ZHCLIP_FUZZ_SECONDS", "0"))
SEED = int(os.environ.get("ZHCLIP_FUZZ_SEED", "0"))
TEXTS = ("terminal", "markdown", "csv", "latex")  # the page takes a second, and is made of the kinds only

#: Values that no reader should believe, as they are written in JSON.
VALUES = {
    "null": "null",
    "true": "true",
    "list": '["a"]',
    "object": '{"a": {"b": []}}',
    "empty": '""',
    "spaces": '"  \\t "',
    "nan": "NaN",
    "infinite": "-Infinity",
    "over a float": "1e999",
    "10^400": "1" + "0" * 400,
    "-10^400": "-1" + "0" * 400,
    "5,000 digits": "9" * 5000,
    "2^63": str(2**63),
    "minus": "-1",
    "two": "2",
    "300 characters": json.dumps("a" * 300),
    "a million characters": json.dumps("a" * 1_000_000),
    "nul": '"a\\u0000b.npz"',
    "escape": '"\\u001b]0;owned\\u0007[2J"',
    "turned": '"\\u202egpj.exe"',
    "half a pair": '"\\ud83d"',
    "markup": '"[/x][bold]:bomb:\\\\"',
    "page": '"<script>alert(1)</script>\\" onload=x"',
    "formula": '"=cmd|1"',
    "elsewhere": '"../../../etc/passwd"',
    "folder": '"."',
    "deep": "[" * 5000 + "]" * 5000,
    "number": "3",
}
KEYS = ("dataset", "model", "metrics", "pretrained", "task", "language", "template_set", "gallery", "skipped_images")
OTHER_KEYS = ("per_query", "versions", "split", "fingerprint", "spelling", "incomplete", "anything")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """{kind: (JSON, NPZ)} of good results."""
    folder = tmp_path_factory.mktemp("good")
    rng = np.random.default_rng(0)
    import torch

    target = torch.from_numpy((rng.random((40, 4)) < 0.3).astype(np.int64))
    made = {
        "per_query": files.retrieval(folder, "zhclip", "muge", {"image_retrieval": files.ranks_with([30, 50, 60], 50)}),
        "per_sample": files.classification(folder, "zhclip", "dtd", *files.answers_with(80, 60)),
        "several": files.classification(folder, "zhclip", "voc2007_multilabel", target + torch.rand(40, 4), target),
    }
    return {kind: (path.read_bytes(), path.with_suffix(".npz").read_bytes()) for kind, path in made.items()}


def one_line(text: str) -> None:
    assert text and not {unicodedata.category(sign) for sign in text} & {"Cc", "Cf", "Cs", "Zl", "Zp"}, repr(text)
    assert len(text) < 6000


def told(folder, all_views=False):
    """The report of a folder that holds a good result too: it is made, has that one, and tells the rest in lines."""
    read = read_results([folder])
    assert any(run.path.endswith("good.json") for run in read.runs), read.problems
    for run in read.runs:
        assert run.metrics and all(math.isfinite(value) and 0 <= value <= 1 for value in run.metrics.values())
    for problem in read.problems:
        one_line(str(problem))
    made = build([folder], resamples=100)
    for name in views.FORMATS if all_views else TEXTS:
        views.render(made, name).encode("utf-8")
    return read


@pytest.fixture
def folder(tmp_path, good):
    described, npz = good["per_sample"]
    (tmp_path / "good.json").write_bytes(described)
    (tmp_path / json.loads(described)["per_sample"]).write_bytes(npz)
    return tmp_path


def put(folder, described: bytes, npz: bytes | None, kind: str) -> None:
    (folder / "bad.json").write_bytes(described)
    if npz is not None:
        (folder / "bad.npz").write_bytes(npz)


def named(good, kind):
    """The good JSON of a kind, which names bad.npz."""
    described = json.loads(good[kind][0])
    described[next(key for key in ("per_query", "per_sample") if key in described)] = "bad.npz"
    return described


# ---------------------------------------------------------------- the kinds


@pytest.mark.parametrize("key", [*KEYS, *OTHER_KEYS])
def test_a_value_of_another_kind(folder, good, key):
    """Each in a file of its own, all in one report."""
    described = named(good, "per_query")
    (folder / "bad.npz").write_bytes(good["per_query"][1])
    for number, value in enumerate(VALUES.values()):
        text = json.dumps({**described, key: "@"}).replace('"@"', value)
        (folder / f"bad-{number}.json").write_text(text)
    read = told(folder)
    for number, name in enumerate(VALUES):
        path = f"bad-{number}.json"
        assert any(path in run.path for run in read.runs) or any(path in str(one) for one in read.problems), name


@pytest.mark.parametrize(
    "metric", ["image_retrieval_recall@1", "image_retrieval_recall@" + "9" * 5000, "[/x]", "\x1b[2J"], ids="1950"
)
def test_a_metric_of_another_kind(folder, good, metric):
    described = named(good, "per_query")
    (folder / "bad.npz").write_bytes(good["per_query"][1])
    for number, value in enumerate(VALUES.values()):
        metrics = {**described["metrics"], metric: "@"}
        text = json.dumps({**described, "metrics": metrics}).replace('"@"', value)
        (folder / f"bad-{number}.json").write_text(text)
    read = told(folder)
    assert not [run.path for run in read.runs if metric in run.metrics and "bad-" in run.path]
    for number, name in enumerate(VALUES):
        if name not in ("true", "object"):  # of those nothing is said: metrics by class, and switches
            assert any(f"bad-{number}.json" in str(one) for one in read.problems), name


def test_figures_that_are_not_finite_are_told_and_never_shown(folder, good):
    for value in ("NaN", "Infinity", "1e999", "1" + "0" * 400):
        text = json.dumps({"dataset": "cifar10", "model": "zhclip", "metrics": {"acc1": "@", "acc5": 0.9}})
        put(folder, text.replace('"@"', value).encode(), None, "")
        made = build([folder], resamples=100)
        assert sum("acc1" in str(one) and "left out" in str(one) for one in made.problems) == 1
        cells = [row.cells for table in made.tables for row in table.rows]
        assert not [
            cell for row in cells for cell in row.values() if cell.ours is not None and not 0 <= cell.ours <= 100
        ]


WHOLE = {
    "nothing": b"",
    "zeros": bytes(100),
    "page": b"<!DOCTYPE html><html>",
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "archive": b"PK\x03\x04" + bytes(50),
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "GBK": '{"数据": 1}'.encode("gbk"),
    "deep": b"[" * 200_000,
    "deep object": b'{"a":' * 200_000,
    "many": json.dumps({"dataset": "x", "model": "y", "metrics": {f"m{n}": 0.5 for n in range(5000)}}).encode(),
    "many wrong": json.dumps({"dataset": "x", "model": "y", "metrics": {f"m{n}": 5 for n in range(5000)}}).encode(),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_of_another_kind(folder, name):
    put(folder, WHOLE[name], None, "")
    read = told(folder, all_views=True)
    assert 1 <= len(read.problems) <= 21


def npz_of(arrays: dict, **options) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", options.pop("method", zipfile.ZIP_DEFLATED)) as archive:
        for key, array in arrays.items():
            content = array
            if not isinstance(array, bytes):
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, np.asanyarray(array))
                content = buffer.getvalue()
            archive.writestr(f"{key}.npy", content)
    return file.getvalue()


def claims(shape: str, descr: str = "'<i4'") -> bytes:
    """An NPY that says it has this shape, and has two numbers."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(8)


ARRAYS = {
    "objects": np.array([print], dtype=object),
    "structures": np.zeros(50, dtype=[("a", "i4"), ("b", "U3")]),
    "floats": np.full(50, 1.5),
    "nan": np.full(50, np.nan),
    "complex": np.full(50, 1j),
    "booleans": np.ones(50, dtype=bool),
    "texts": np.array(["a"] * 50),
    "dates": np.zeros(50, dtype="M8[s]"),
    "void": np.zeros(50, dtype="V8"),
    "bytes": np.array([b"a"] * 50),
    "minus": np.full(50, -5),
    "large": np.full(50, 2**62),
    "unsigned": np.full(50, 2**64 - 1, dtype=np.uint64),
    "one": np.array(3),
    "none": np.zeros(0, dtype=np.int32),
    "square": np.zeros((50, 50), dtype=np.int32),
    "tall": np.zeros((50, 0), dtype=np.int32),
    "long double": np.full(50, np.longdouble(1) / 3),
    "10^13 items": claims("(10000000000000,)"),
    "10^13 empty texts": claims("(10000000000000,)", "'<U0'"),
    "10^13 by nothing": claims("(10000000000000, 0)"),
    "minus items": claims("(-2,)"),
    "ten thousand dimensions": claims("(" + "1," * 9000 + ")"),
    "header of code": claims("(__import__('os').system('true'),)"),
    "no text": claims("(2,)", "'<U1'")[:-8] + b"\xff" * 8,
    "cut": claims("(2,)")[:-5],
    "nothing": b"",
    "NPY 9.0": b"\x93NUMPY\x09\x00" + bytes(100),
}


@pytest.mark.parametrize("kind", ["per_query", "per_sample", "several"])
def test_an_array_of_another_kind(folder, good, kind):
    with np.load(io.BytesIO(good[kind][1])) as file:
        arrays = dict(file)
    described = json.dumps(named(good, kind)).encode()
    for key, name in itertools.product(arrays, ARRAYS):
        put(folder, described, npz_of({**arrays, key: ARRAYS[name]}), kind)
        read = read_results([folder])
        assert any(run.path.endswith("good.json") for run in read.runs)
        bad = next(index for index, run in enumerate(read.runs) if run.path.endswith("bad.json"))
        said = [str(one) for one in read.problems]
        # What is still right is a file of which another part was changed, one that only galleries look at.
        assert (read.outcomes[bad] is None) == (len(said) == 1), (key, name)
        for line in said:
            one_line(line)
        try:
            read_result(folder / "bad.npz")
        except ZhclipError as error:
            one_line(str(error))


META = {
    "no text": np.array(3),
    "no JSON": np.array("{"),
    "a list": np.array("[]"),
    "deep": np.array("[" * 100_000),
    "digits": np.array('{"format": ' + "1" * 5000 + "}"),
    "classes": np.array('{"format": 1, "classes": 1e400}'),
    "more classes": np.array('{"format": 1, "classes": 1000000000000}'),
    "two": np.array(["{}", "{}"]),
    "names": np.array('{"format": 1, "classes": 10, "model": ["a"], "fingerprint": {"a": 1}, "split": 3}'),
    "metrics": np.array('{"format": 1, "classes": 10, "metrics": {"image_retrieval_recall@x": "a", "b": NaN}}'),
    "format": np.array(json.dumps({"format": "\x1b[2J" * 50})),
}


@pytest.mark.parametrize("name", META)
@pytest.mark.parametrize("kind", ["per_query", "per_sample"])
def test_a_description_of_another_kind(folder, good, kind, name):
    with np.load(io.BytesIO(good[kind][1])) as file:
        arrays = dict(file)
    put(folder, json.dumps(named(good, kind)).encode(), npz_of({**arrays, "meta": META[name]}), kind)
    told(folder)
    try:
        read = read_result(folder / "bad.npz")
    except ZhclipError as error:
        one_line(str(error))
    else:
        assert all(0 <= value <= 1 for value in read.meta["metrics"].values())


def test_archives_of_another_kind(folder, good):
    with np.load(io.BytesIO(good["per_sample"][1])) as file:
        arrays = dict(file)
    whole = npz_of(arrays)
    method = whole.index(b"PK\x01\x02") + 10
    encrypted = whole.index(b"PK\x01\x02") + 8
    kinds = {
        "method": whole[:method] + b"\x63\x00" + whole[method + 2 :],
        "bzip2": npz_of(arrays, method=zipfile.ZIP_BZIP2),
        "encrypted": whole[:encrypted] + b"\x01\x00" + whole[encrypted + 2 :],
        "checksum": whole[: method + 6] + b"1234" + whole[method + 10 :],
        "twice": npz_of({**arrays, "metb": b""}).replace(b"metb.npy", b"meta.npy"),
        "bare": claims("(2,)"),
        "empty": npz_of({}),
    }
    for name, content in kinds.items():
        put(folder, json.dumps(named(good, "per_sample")).encode(), content, "per_sample")
        read = told(folder)
        assert [str(one) for one in read.problems if "is damaged" in str(one)], name


def test_what_inflates_is_not_inflated(folder, good, monkeypatch):
    """128 MB of zeros in 130 kB, and files that claim more than they have: looked at, and not read."""
    with np.load(io.BytesIO(good["per_sample"][1])) as file:
        arrays = dict(file)
    monkeypatch.setattr(_npz, "LIMIT", 2**20)
    described = json.dumps(named(good, "per_sample")).encode()
    bombs = [np.zeros(2**25, dtype=np.int32), claims("(10000000000000,)")]
    contents = [npz_of({**arrays, "target": bomb}) for bomb in bombs]
    assert len(contents[0]) < 300_000
    for content, reason in zip(contents, ("inflates to 0.1 GiB", "claims 10,000,000,000,000 items"), strict=True):
        put(folder, described, content, "per_sample")
        tracemalloc.start()
        read = read_results([folder])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert reason in str(read.problems[0]) and peak < 2**24


def test_big_endian_and_fortran_order_are_read(folder, good):
    """What NumPy may write is no fault."""
    with np.load(io.BytesIO(good["per_query"][1])) as file:
        arrays = dict(file)
    arrays["image_retrieval_rank"] = arrays["image_retrieval_rank"].astype(">i8")
    arrays["text_ids"] = arrays["text_ids"].astype(arrays["text_ids"].dtype.newbyteorder(">"))
    arrays["image_retrieval_counted"] = arrays["image_retrieval_counted"].astype(bool)
    put(folder, json.dumps(named(good, "per_query")).encode(), npz_of(arrays, method=zipfile.ZIP_STORED), "per_query")
    read = read_results([folder / "bad.json"])
    assert not read.problems and read.outcomes[0].ids["image_retrieval"][3] == "text-3"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(folder, good):
    put(folder, good["per_query"][0], None, "per_query")
    (folder / "bad.json").chmod(0)
    assert "Permission denied" in str(told(folder).problems[0])


# ---------------------------------------------------------------- damaged at random


def keep_on(check, strategy, examples):
    until, number = time.monotonic() + SECONDS, 0
    how = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )

    def once(value):
        check(value)

    while number == 0 or time.monotonic() < until:
        hypothesis.seed(SEED * 1_000_003 + number)(how(hypothesis.given(strategy)(once)))()
        number += 1


PARTS = [*(value.encode("utf-8", "surrogatepass") for value in VALUES.values() if len(value) < 20_000), b"\xff", b"{"]


@st.composite
def damaged(draw, original: bytes) -> bytes:
    """Up to four changes, as disks, copies and people make them."""
    data = original
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.sampled_from([1, 2, 8, 60])))
        what = draw(st.sampled_from(["byte", "bit", "cut", "out", "in"]))
        if what == "byte":
            data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
        elif what == "bit" and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]
        elif what == "cut":
            data = data[:at]
        elif what == "out":
            data = data[:at] + data[end:]
        else:
            data = data[:at] + draw(st.sampled_from(PARTS)) + data[draw(st.sampled_from([at, end])) :]
    return data


@pytest.mark.parametrize("kind", ["per_query", "per_sample"])
def test_a_damaged_result(folder, good, kind):
    original = json.dumps(named(good, kind), indent=0).encode()

    def check(data):
        put(folder, data, good[kind][1], kind)
        told(folder)

    keep_on(check, damaged(original), examples=15)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("kind", ["per_query", "per_sample", "several"])
def test_damaged_outcomes(folder, good, kind, packed):
    """A single byte of a file that is not packed can be one of an array: then its checksum tells."""
    with np.load(io.BytesIO(good[kind][1])) as file:
        original = npz_of(dict(file), method=zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED)
    put(folder, json.dumps(named(good, kind)).encode(), original, kind)
    before = read_results([folder])
    assert not before.problems

    def check(data):
        (folder / "bad.npz").write_bytes(data)
        read = read_results([folder])
        assert len(read.runs) == 2 and len(read.problems) <= 1
        for problem in read.problems:
            one_line(str(problem))
        try:
            read_result(folder / "bad.npz")
        except ZhclipError as error:
            one_line(str(error))

    keep_on(check, damaged(original), examples=80)


@pytest.mark.parametrize("kind", ["per_query", "per_sample"])
def test_results_of_any_values(folder, good, kind):
    anything = st.recursive(
        st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(st.characters(), max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    )
    described = named(good, kind)
    changes = st.dictionaries(st.sampled_from([*described, *KEYS, *OTHER_KEYS]), anything, min_size=1, max_size=3)

    def check(changed):
        metrics = changed.get("metrics")
        if isinstance(metrics, dict):
            changed["metrics"] = {**described["metrics"], **metrics}
        put(folder, json.dumps({**described, **changed}).encode(), good[kind][1], kind)
        told(folder)

    keep_on(check, changes, examples=15)
