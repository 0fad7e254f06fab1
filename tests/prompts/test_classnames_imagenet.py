"""The overrides of clip_benchmark's Chinese ImageNet names: each one says what it replaces, and the result is clean."""

import importlib.util
import json
import re
import unicodedata
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[2] / "src/zhclip_openclip/data/classnames/imagenet1k.json"
LATIN_IN_CHINESE_MEDIA = {"CD", "CRT", "T", "iPod"}


def clip_benchmark_names(language):
    spec = importlib.util.find_spec("clip_benchmark")
    assert spec is not None, "clip_benchmark is not installed"
    path = Path(spec.submodule_search_locations[0]) / "datasets" / f"{language}_classnames.json"
    return json.loads(path.read_text(encoding="utf-8"))["imagenet1k"]


def bare(name):
    """A name without whitespace, punctuation and the difference between full and half width."""
    name = unicodedata.normalize("NFKC", name).casefold()
    return "".join(ch for ch in name if unicodedata.category(ch)[0] not in "ZPSC")


DATA = json.loads(FILE.read_text(encoding="utf-8"))
OVERRIDES = DATA["overrides"]
KEYS = ["index", "english", "base", "zh", "why"]
ENGLISH = clip_benchmark_names("en")
BASE = clip_benchmark_names("cn")


@pytest.fixture(scope="module")
def result():
    names = list(BASE)
    for override in OVERRIDES:
        names[override["index"]] = override["zh"]
    return names


def test_header():
    assert list(DATA) == ["dataset", "english", "base", "notes", "contained", "alike", "overrides"]
    for index, note in DATA["notes"].items():  # of names that stay as in the base list
        assert note.startswith(ENGLISH[int(index)]) and int(index) not in {one["index"] for one in OVERRIDES}
    assert DATA["dataset"] == "imagenet1k"
    assert OVERRIDES


def test_one_override_per_line_in_order():
    indices = [override["index"] for override in OVERRIDES]
    assert indices == sorted(set(indices))
    lines = [line for line in FILE.read_text(encoding="utf-8").splitlines() if '"index"' in line]
    assert [json.loads(line.strip().rstrip(",")) for line in lines] == OVERRIDES


@pytest.mark.parametrize("override", OVERRIDES, ids=lambda override: str(override["index"]))
def test_override_says_what_it_replaces(override):
    assert list(override) in (KEYS, [*KEYS, "note"])
    index = override["index"]
    assert type(index) is int and 0 <= index < 1000
    assert override["english"] == ENGLISH[index]
    assert override["base"] == BASE[index]
    assert override["zh"] == override["zh"].strip() != override["base"]
    assert re.match(r"(wrong|collision|gloss|usage): \S", override["why"])


def test_result_is_1000_different_names(result):
    assert len(result) == len(ENGLISH) == len(BASE) == 1000
    assert all(result)
    assert len(set(result)) == 1000
    assert all(bare(name) for name in result)
    assert len({bare(name) for name in result}) == 1000


def test_result_has_no_glosses(result):
    """Nothing but letters: no brackets, slashes, commas, semicolons or spaces."""
    assert [name for name in result if not name.isalpha()] == []


def test_result_is_chinese(result):
    latin = {run for name in result for run in re.findall(r"[A-Za-z]+", name)}
    assert latin <= LATIN_IN_CHINESE_MEDIA
    cjk = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
    assert [name for name in result if not cjk.search(name)] == ["iPod"]
    assert [name for name in result if cjk.sub("", name).strip("".join(LATIN_IN_CHINESE_MEDIA))] == []
