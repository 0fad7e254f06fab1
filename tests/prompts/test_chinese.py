"""What a copy editor asks of Chinese names and templates, asked of all of them: every template is filled with every
name of its data set. What is right although a rule says otherwise is excused by a line of data that says why, in
`chinese_rules.json` or, where it is about the names of one data set, in the file of these names.
"""

from __future__ import annotations

import functools
import json
import re
from collections import defaultdict
from pathlib import Path

import pytest

from zhclip_openclip.prompts import classnames, registry
from zhclip_openclip.prompts import templates as sets

DATA = Path(__file__).resolve().parents[2] / "src" / "zhclip_openclip" / "data"
RULES = json.loads((Path(__file__).parent / "chinese_rules.json").read_text(encoding="utf-8"))
TEMPLATES = json.loads((DATA / "templates" / "zh.json").read_text(encoding="utf-8"))
DATASETS = registry.all_datasets()
FILES = sorted({dataset.classnames for dataset in DATASETS.values()})
#: Where a new phrase begins: before it and after it a 的 belongs to something else.
BREAK = re.compile("[，：。]|是")
WORD = re.compile("[\u4e00-\u9fff]{2}")


def names_of(dataset, edition=None):
    return [chinese for _, chinese in classnames.pairs(DATASETS[dataset].classnames, edition)]


@functools.cache
def content(file):
    return json.loads((DATA / "classnames" / f"{file}.json").read_text(encoding="utf-8"))


# ---------------------------------------------------------------- the rules, each on one sentence


def doubled_de(text):
    """Phrases with two 的 in a row of modifiers."""
    return [phrase for phrase in BREAK.split(text) if phrase.count("的") > 1]


def repeated(template, name):
    """Words of two characters that the phrase around a name has, and the name too."""
    marked = next(phrase for phrase in BREAK.split(template) if "{c}" in phrase).replace("{c}", " ")
    return words(marked) & words(name)


def words(text):
    return {text[place : place + 2] for place in range(len(text)) if WORD.fullmatch(text[place : place + 2])}


def wrong_measure(text, dataset, name):
    """(measure word, what it counts) where it is another one's, or what it counts is not in the data.

    What it counts is at the beginning or the end of the phrase behind it: 这架[飞机]的型号, 一张带着开心表情的[脸].
    """
    table, found = RULES["measure_words"], []
    for phrase in BREAK.split(text):
        for match in re.finditer(f"[一二三四五六七八九十两这那]([{table['words']}])(?!分)(?=(.*))", phrase):
            counted, nouns = match[2], table["of_nouns"].items()
            fitting = {word for noun, word in nouns if counted.startswith(noun) or counted.endswith(noun)}
            if counted.endswith(name):  # 一辆{c}, 一个手写体{c}
                fitting.add(table["of_names"].get(dataset))
            if match[1] not in fitting:
                found.append((match[1], counted))
    return found


def wrong_place(template, dataset):
    """Whether a name that is an adjective would have to be a noun."""
    rule = RULES["attributive"][dataset]
    before, _, after = template.partition("{c}")
    return not after.startswith(tuple(rule["before"])) and not before.endswith(tuple(rule["after"]))


# ---------------------------------------------------------------- everything, by every rule


def faults(dataset, templates, names):
    """Kind of fault -> sentences that have it."""
    found, excused = defaultdict(list), set(RULES["repeated"]["names"])
    for template in templates:
        for name in names:
            text = template.format(c=name)
            if doubled_de(text):
                found["two 的 in a row of modifiers"].append(text)
            if name not in excused and repeated(template, name):
                found["a word twice"].append(text)
            if wrong_measure(text, dataset, name):
                found["measure word"].append(text)
    return dict(found)


@pytest.mark.parametrize("dataset", TEMPLATES)
def test_every_template_with_every_name(dataset):
    found = faults(dataset, TEMPLATES[dataset], names_of(dataset))
    assert {what: (len(texts), texts[:5]) for what, texts in found.items()} == {}


@pytest.mark.parametrize("dataset", RULES["attributive"])
def test_a_name_that_is_an_adjective_stands_where_one_can(dataset):
    assert [template for template in TEMPLATES[dataset] if wrong_place(template, dataset)] == []


@pytest.mark.parametrize("dataset", TEMPLATES)
def test_nobody_is_called_a_thing(dataset):
    english = {classnames.key(name) for name, _ in classnames.pairs(DATASETS[dataset].classnames)}
    if english & set(RULES["living"]):
        things = RULES["for_things_only"]
        assert [template for template in TEMPLATES[dataset] if any(word in template for word in things)] == []


@pytest.mark.parametrize("dataset", RULES["not_said_of_classes"])
def test_what_is_not_said_of_classes(dataset):
    banned = RULES["not_said_of_classes"][dataset]["words"]
    assert [template for template in TEMPLATES[dataset] if any(word in template for word in banned)] == []


def test_the_plain_photo_is_in_every_set_whose_subject_allows_it():
    without = {dataset for dataset, templates in TEMPLATES.items() if "{c}的照片" not in templates}
    assert without == set(RULES["without_plain_photo"])
    for why in RULES["without_plain_photo"].values():  # what is said to be the plain form instead is there
        for form in re.findall(r"\{c\}[\u4e00-\u9fff]+", why):
            assert any(form in templates for templates in TEMPLATES.values()), form


# ---------------------------------------------------------------- names beside each other


@pytest.mark.parametrize("file", FILES)
def test_a_name_in_another_is_excused(file):
    names = [chinese for _, chinese in classnames.pairs(file)]
    found = {(short, long) for short in names for long in names if short != long and short in long}
    lines = content(file).get("contained", [])
    assert all(why for *_, why in lines)
    assert found == {(short, long) for short, longs, _ in lines for long in longs}


@pytest.mark.parametrize("file", FILES)
def test_names_that_are_called_alike_are_there(file):
    names = {chinese for _, chinese in classnames.pairs(file)}
    for alike, why in content(file).get("alike", []):
        assert why and len(alike) > 1 and set(alike) <= names


@pytest.mark.parametrize("file", FILES)
def test_one_character_is_a_name_in_everyday_words_only(file):
    short = {chinese for _, chinese in classnames.pairs(file) if len(chinese) == 1}
    assert short <= set(RULES["one_character"])


def notes(file):
    """Normalised English names whose entry has a note."""
    data = content(file)
    if "classes" in data:
        return {classnames.key(entry[0]) for entry in data["classes"] if len(entry) > 2 and entry[2]["note"]}
    return {classnames.key(entry["english"]) for entry in data["overrides"] if entry.get("note")}


def disagreements(tables, noted):
    """(English, {file: names}) where two files call one thing by other names and neither says why.

    tables: file -> (English, Chinese) of each class. noted: file -> normalised English names that have a note.
    """
    groups = [[classnames.key(name) for name in group] for group in RULES["same_thing"]]
    group_of = {name: min(group) for group in groups for name in group}
    called = defaultdict(lambda: defaultdict(set))
    for file, pairs in tables.items():
        for english, chinese in pairs:
            key = classnames.key(english)
            if key not in noted[file]:
                called[group_of.get(key, key)][file].add(chinese)
    return [(english, dict(by_file)) for english, by_file in called.items() if not set.intersection(*by_file.values())]


def test_one_thing_has_one_name_in_all_data_sets():
    """Names that are counts, digits or numbers of classes are not names of things: their files say `differs`."""
    numbered = [file for file in FILES if file.startswith(("dsprites", "smallnorb"))]
    compared = [file for file in FILES if file not in numbered and not content(file).get("differs")]
    tables, noted = {file: classnames.pairs(file) for file in compared}, {file: notes(file) for file in compared}
    assert disagreements(tables, noted) == []


def test_notes_are_sentences():
    for file in FILES:
        for entry in content(file).get("classes", []):
            assert len(entry) == 2 or list(entry[2]) == ["note"] and len(entry[2]["note"]) > 10


# ---------------------------------------------------------------- that the rules would find what was found


@pytest.mark.parametrize("text", ["鳄鱼的头部的近景", "镜头里的铁路上的火车", "从不常见的角度拍的闹钟"])
def test_doubled_de_is_found(text):
    assert doubled_de(text)


@pytest.mark.parametrize("text", ["照片里的场景是悬崖", "分辨率很低的图像，拍的是猫", "表示注意行人的交通标志"])
def test_one_de_is_none_too_many(text):
    assert not doubled_de(text)


@pytest.mark.parametrize(
    ("dataset", "what", "text"),
    [
        ("caltech101", "two 的 in a row of modifiers", "鳄鱼的头部的近景"),
        ("pcam", "two 的 in a row of modifiers", "含转移性肿瘤的淋巴结组织的病理切片"),
        ("caltech101", "a word twice", "白色背景上的背景"),
        ("imagenet1k", "a word twice", "用手机随手拍的手机"),
        ("objectnet", "two 的 in a row of modifiers", "从不常见的角度拍的闹钟"),
    ],
)
def test_the_first_edition_is_found_out(dataset, what, text):
    """What the editor found, and what is of its kind, in the prompts that `zh@1` still gives."""
    templates = sets.load("zh@1", DATASETS[dataset]).templates
    assert text in faults(dataset, templates, names_of(dataset, 1))[what]


def test_a_word_twice_is_found():
    assert repeated("白色背景上的{c}", "背景") == {"背景"}
    assert repeated("用手机随手拍的{c}", "手机") == {"手机"}
    assert not repeated("手写数字图片，内容是{c}", "数字0")


@pytest.mark.parametrize(
    ("text", "dataset", "name"),
    [
        ("一只奥迪", "cars", "奥迪"),
        ("一条带着开心表情的脸", "fer2013", "开心"),
        ("画面里有三只几何体", "clevr_count_all", "三只"),
    ],
)
def test_a_wrong_measure_word_is_found(text, dataset, name):
    assert wrong_measure(text, dataset, name)


def test_a_noun_asked_of_an_adjective_is_found():
    for template in ("表面呈现{c}的效果", "{c}的纹理"):
        assert not wrong_place(template, "dtd")
    assert wrong_place("这个人显得很{c}", "fer2013") and wrong_place("看得出他很{c}", "fer2013")
    assert wrong_place("照片里有{c}", "dtd") and wrong_place("表面有{c}纹理的物体", "dtd")


def test_two_names_of_one_thing_are_found():
    tables = {"a": [("Japanese Chin", "日本狆")], "b": [("japanese_chin", "日本狆犬")], "c": [("tie", "领带")]}
    assert [english for english, _ in disagreements(tables, {"a": (), "b": (), "c": ()})] == ["japanese chin"]
    assert not disagreements(tables, {"a": {"japanese chin"}, "b": (), "c": ()})
    assert disagreements({"a": [("tie", "领带")], "b": [("Windsor tie", "温莎领带")]}, {"a": (), "b": ()})
