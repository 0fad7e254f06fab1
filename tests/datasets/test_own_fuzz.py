"""Damaged tables, lists and settings of own data: refused in one line, or what is read is sound."""

from __future__ import annotations

import json

import pytest

from tests.datasets.test_fuzz import sound
from tests.support import fuzz
from tests.support.own_files import folders, lines, table
from zhclip_openclip.datasets import own, own_data
from zhclip_openclip.datasets._labelled import Labelled


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folders with a table of labels, one of captions, lists and settings."""
    root = tmp_path_factory.mktemp("own")
    folders(root / "p", 猫=2, 狗=2)
    rows = [[f"p/{name}/{n}.png", name] for name in "猫狗" for n in range(2)]
    table(root / "labels.csv", ["path", "label"], rows, "gbk", "\r\n")
    lines(root / "captions.jsonl", [{"image": path, "caption": [f"一只{name}", "动物"]} for path, name in rows])
    (root / "p" / "label_cn.txt").write_text("猫\n狗\n", encoding="utf-8")
    (root / "p" / "templates_cn.txt").write_text("{c}\n{c}的照片\n", encoding="utf-8")
    (root / "own.json").write_text('{"layout": "labels", "data-file": "labels.csv", "columns": "path=path"}')
    return root


def read(root, **asked):
    dataset = own_data.build(own.recognise("own/x", root, own.Asked(quiet=True, **asked)))
    if isinstance(dataset, Labelled):
        assert len(dataset) > 0 and len(dataset.classes) > 1 and len(set(dataset.classes)) == len(dataset.classes)
        assert all(0 <= label < len(dataset.classes) for label in dataset.targets)
        assert len({path for path, _ in dataset.samples}) == len(dataset)
        assert all("{c}" in template for template in dataset.templates)
        dataset.fingerprint()
    else:
        sound(dataset)
    for told in (dataset.recognised, *dataset.notes):
        assert "\n" not in told
        told.encode("utf-8")
    return dataset


@pytest.mark.parametrize(
    ("file", "below", "asked"),
    [
        ("labels.csv", "", {"file": "labels.csv", "layout": "labels"}),
        ("captions.jsonl", "", {"file": "captions.jsonl", "layout": "captions", "columns": "path=image"}),
        ("label_cn.txt", "p", {}),
        ("templates_cn.txt", "p", {}),
        ("own.json", "", {}),
    ],
)
def test_damage(data, file, below, asked):
    root = data / below
    path = root / file
    whole = path.read_bytes()
    read(root, **asked)

    def check(content):
        path.write_bytes(content)
        fuzz.refused(lambda: read(root, **asked))

    try:
        fuzz.run(check, fuzz.damaged(whole), 60)
    finally:
        path.write_bytes(whole)


def test_values_of_a_line(data):
    path = data / "captions.jsonl"
    whole = path.read_bytes()
    entries = [json.loads(line) for line in whole.decode("utf-8").splitlines()]

    def check(content):
        path.write_text("\n".join(json.dumps(entry) for entry in content) if isinstance(content, list) else "1")
        fuzz.refused(lambda: read(data, file="captions.jsonl", layout="captions", columns="path=image"))

    try:
        fuzz.run(check, fuzz.altered(entries), 80)
    finally:
        path.write_bytes(whole)
