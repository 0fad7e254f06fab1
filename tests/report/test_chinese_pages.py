"""Pages read in Chinese alone: nothing of the program itself is left in English, and measure words are right.

Everything that a report holds is called in Chinese here, so that what is left in Latin letters is the page's own.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from zhclip_openclip.report import statistics
from zhclip_openclip.report._model import Cell, Column, Comparison, Problem, Report, Row, Run, Table
from zhclip_openclip.report.views import html

#: Names and signs that a Chinese page has too.
LATIN = {"CLIP", "EN", "Holm", "McNemar", "R", "k", "acc", "mean", "per", "class", "n", "p", "zhclip", "openclip"}


class Chinese(HTMLParser):
    """What the page shows once its switch is at Chinese: texts, and attributes that are said or shown."""

    VOID = {"meta", "link", "br", "img", "input"}

    def __init__(self, text):
        super().__init__()
        self.texts, self.attributes, self.languages, self._open = [], [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        classes = (attributes.get("class") or "").split()
        hidden = "en" in classes or tag in ("style", "script", "svg")  # charts are described in English
        if tag not in self.VOID:
            self._open.append((tag, hidden or any(inside for _, inside in self._open)))
        if "lang" in attributes:
            self.languages.add(attributes["lang"])
        if self._open and self._open[-1][1]:
            return
        for name in ("aria-label", "title", "alt", "placeholder"):
            if name in attributes:
                said = attributes["data-zh"] if attributes.get("data-said") == name else attributes[name]
                self.attributes.append(said)

    def handle_endtag(self, tag):
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if self._open and not self._open[-1][1] and self._open[-1][0] != "title" and data.strip():
            self.texts.append(" ".join(data.split()))


def latin(texts):
    return {word for text in texts for word in re.findall(r"[A-Za-z]+", text)} - LATIN


@pytest.fixture(scope="module", params=html.TESTS)
def page(request):
    """A report with every kind of cell, a comparison that is significant and one that is not, and problems."""
    columns = [
        Column("一", "甲集", "image_retrieval_recall@1", "R@1", "R@1", "Text-to-Image", "文搜图"),
        Column("二", "甲集", "image_retrieval_mean_recall", "Mean", "平均", "Text-to-Image", "文搜图"),
    ]
    cells = [
        Cell(50.0, 51.0, 49.0, 53.0, 1.0, "reproduced", samples=9, run=0),
        Cell(50.0, 41.0, 39.0, 43.0, -9.0, "off", samples=9, run=0),
        Cell(50.0, 51.0, difference=1.0, verdict="no interval", run=0),
        Cell(None, 51.0, verdict="not published", run=0),
        Cell(50.0),
        Cell(),
    ]
    rows = [
        Row(f"模型{place}", f"模型{place}", "源", cells=dict.fromkeys("一二", one)) for place, one in enumerate(cells)
    ]
    tests = [
        Comparison("表", "一", "甲集", "模型0", "模型1", 1.0, 0.5, 1.5, 9, 0.01, 0.01, significant, request.param)
        for significant in (True, False)
    ]
    report = Report(
        [
            Table("表", "Table", "表格", columns, rows),
            Table("另", "Other", "另一张", columns, [Row("模型", "模型", "源", cells={"一": Cell(1.0)})]),
        ],
        tests,
        [Problem("文件", "坏了")],
        [Run("结果", "模型0", "标签", "甲集", "中文", "检索", "模板", {"一": 0.5}, None, "查看", True, {"指纹": "零"})],
        resamples=99,
        sources={"源": "出处"},
    )
    return html.render(report)


def test_nothing_is_left_in_english(page):
    chinese = Chinese(page)
    assert latin(chinese.texts) == set()
    assert latin(chinese.attributes) - {"image", "retrieval", "recall"} == set()  # a column's metric is its key
    assert chinese.languages == {"en", "zh-CN"}


def test_controls_are_in_chinese(page):
    chinese = Chinese(page)
    assert {"自动", "浅色", "深色", "中文"} <= set(chinese.texts) and {"语言", "配色", "目录"} <= set(
        chinese.attributes
    )


def test_the_switch_sets_language_and_title(page):
    assert 'root.lang = language === "zh" ? "zh-CN" : "en"' in page
    assert len(re.search("<title>(.*?)</title>", page)[1].split(" · ")) == 2


def test_english_left_over_is_found(page):
    spoilt = page.replace("自动</span>", "自动</span> Auto")
    assert latin(Chinese(spoilt).texts) == {"Auto"}


def test_no_ascii_punctuation_between_chinese(page):
    texts = [text for text in Chinese(page).texts if re.search("[\u4e00-\u9fff]", text)]
    assert [text for text in texts if re.search("[\u4e00-\u9fff] ?[:;,!?](?! ?[A-Za-z0-9])", text)] == []


@pytest.mark.parametrize("key", html.DEFINITIONS)
def test_definitions_have_no_long_row_of_modifiers(key):
    """One 的 in each part of a sentence, so that it is understood at the first reading."""
    chinese = html.DEFINITIONS[key][1]
    assert max(part.count("的") for part in re.split("[，；：。、]", chinese)) <= 2
    assert max(map(len, re.split("[，；：。]", chinese))) <= 40 and chinese.endswith("。")


def test_every_test_has_a_chinese_name():
    rng = np.random.default_rng(0)
    target, ids = np.arange(40) % 4, {"image_retrieval": np.arange(40)}
    many = (rng.random((40, 4)) > 0.5).astype(int)

    def labels():
        top = rng.permuted(np.tile(np.arange(4), (40, 1)), axis=1)
        return statistics.Labels(target, top[:, 0], top, 4)

    def ranks():
        return statistics.Ranks({"image_retrieval": rng.integers(0, 20, 40)}, ids)

    def scores():
        return statistics.Scores(many, rng.random((40, 4)))

    kinds = {
        labels: ("acc1", "mean_per_class_recall"),
        ranks: ("image_retrieval_recall@1", "image_retrieval_mean_recall"),
        scores: ("mean_average_precision",),
    }
    named = {
        statistics.compare(kind(), kind(), metric, 99).test for kind, metrics in kinds.items() for metric in metrics
    }
    assert named == set(html.TESTS)
