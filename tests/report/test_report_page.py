"""The report as a page: what is on it, that it is one file, and how a browser shows and sorts it.

All figures here are made up by a random generator, published ones too: they only look like those of the real tables.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tests.support.browser import browse, needs_chromium
from zhclip_openclip.report._model import Cell, Column, Comparison, Problem, Report, Row, Run, Table
from zhclip_openclip.report.views import charts, html

MODELS = {
    "clip-chinese-vit-b-32": "Clip-Chinese",
    "mclip-vit-l-14": "mclip",
    "taiyiclip-vit-l-14": "Taiyi-CLIP",
    "cnclip-vit-l-14": "CN-CLIP",
    "altclip-vit-l-14": "altclip-xlmr-l",
    "zhclip-vit-l-14": "ZH-CLIP",
}
RETRIEVAL = {
    "coco-cn": ("COCO-CN retrieval (official test set)", "COCO-CN 图文检索（官方测试集）", 1053, 1000),
    "flickr30k-cn": ("Flickr30K-CN retrieval (official test set)", "Flickr30K-CN 图文检索（官方测试集）", 5000, 1000),
    "muge": ("MUGE text-to-image retrieval (official validation set)", "MUGE 文搜图（官方验证集）", 5008, None),
}
CLASSIFICATION = {
    "cifar10": ("CIFAR10", "CIFAR10 物体", 10000),
    "cifar100": ("CIFAR100", "CIFAR100 物体", 10000),
    "dtd": ("DTD", "DTD 纹理", 1880),
    "eurosat": ("EuroSAT", "EuroSAT 卫星图", 5000),
    "fer2013": ("FER", "FER 表情", 3589),
    "fgvc_aircraft": ("FGVC", "FGVC 飞机", 3333),
    "kitti_closest_vehicle_distance": ("KITTI", "KITTI 车距", 711),
    "mnist": ("MNIST", "MNIST 手写数字", 10000),
    "pcam": ("PC", "PC 病理切片", 32768),
    "voc2007": ("VOC", "VOC 物体", 14976),
    "imagenet1k": ("ImageNet", "ImageNet 物体", 50000),
}
GROUPS = {"image_retrieval": ("Text-to-Image", "文搜图"), "text_retrieval": ("Image-to-Text", "图搜文")}
SOURCE = "README of the fixture, https://example.org/tables?a=1&b=2"


def columns_of(key):
    """The columns of a table with the number of samples of each."""
    if key not in RETRIEVAL:
        for dataset, (title, title_zh, samples) in CLASSIFICATION.items():
            yield Column(dataset, dataset, "acc1", title, title_zh), samples
        return
    for (way, (group, group_zh)), samples in zip(GROUPS.items(), RETRIEVAL[key][2:], strict=True):
        for k in (1, 5, 10) if samples else ():
            name = f"{way} R@{k}"
            yield Column(name, key, f"{way}_recall@{k}", f"R@{k}", f"R@{k}", group, group_zh), samples
        if samples:
            yield Column(f"{way} mean", key, f"{way}_mean_recall", "Mean", "平均", group, group_zh), samples


def make_cell(rng, published, samples, measured, run):
    """A measured cell is a draw around the published one; one in six is off, one in ten has no outcomes."""
    if not measured:
        return Cell(published=published)
    half = 196 * np.sqrt(published / 100 * (1 - published / 100) / samples)
    off = rng.random() < 0.17
    ours = round(
        float(np.clip(published + half * (rng.choice([-1.8, 1.6]) if off else rng.uniform(-0.8, 0.8)), 1, 99.9)), 2
    )
    difference = round(ours - published, 2)
    if rng.random() < 0.1:
        return Cell(published, ours, difference=difference, verdict="no interval", samples=samples, run=run)
    low, high = round(ours - half, 2), round(min(100, ours + half), 2)
    verdict = "reproduced" if low <= published <= high else "off"
    return Cell(published, ours, low, high, difference, verdict, samples=samples, run=run)


def mark_best(rows, key):
    """The rows with the best of a column marked, of the published and of ours."""
    best = {}
    for value in ("published", "ours"):
        values = [getattr(row.cells[key], value) for row in rows]
        best[value] = max((one for one in values if one is not None), default=None)
    for row in rows:
        cell = row.cells[key]
        row.cells[key] = Cell(
            **{
                **vars(cell),
                "best_published": cell.published is not None and cell.published == best["published"],
                "best": cell.ours is not None and cell.ours == best["ours"],
            }
        )


def make_report(measured, extra=True):
    """A report of six models and four tables. measured: (table or data set, model) -> whether it was run."""
    rng = np.random.default_rng(7)
    runs, tables = [], []
    for key in (*RETRIEVAL, "zeroshot_classification"):
        columns, rows, ran = list(columns_of(key)), [], {}
        for place, (model, title) in enumerate(MODELS.items()):
            cells = {}
            for column, samples in columns:
                published = round(
                    float(np.clip(35 + 7 * place + rng.normal(0, 6) + 20 * (column.title != "R@1"), 4, 98)), 2
                )
                done = measured(column.dataset, model)
                if done and (model, column.dataset) not in ran:
                    ran[model, column.dataset] = len(runs)
                    retrieval = key in RETRIEVAL
                    runs.append(
                        Run(
                            path=f"/somewhere/results/{column.dataset}_{model}_zh.json",
                            model=model,
                            pretrained="fixture_tag",
                            dataset=column.dataset,
                            language="zh",
                            task="zeroshot_retrieval" if retrieval else "zeroshot_classification",
                            templates="" if retrieval else "zh",
                            samples=f"/somewhere/results/{column.dataset}_{model}_zh.npz",
                            gallery=f"{column.dataset}_{model}_zh.html" if retrieval else None,
                            facts={
                                "fingerprint": f"{place:02x}5e8f00d1" * 6,
                                "zhclip_openclip": "0.0",
                                "split": "test",
                            },
                        )
                    )
                cells[column.key] = make_cell(rng, published, samples, done, ran.get((model, column.dataset)))
            rows.append(Row(model, title, "fixture", cells=cells))
        for column, _ in columns:
            mark_best(rows, column.key)
        title, title_zh = RETRIEVAL.get(key, ("Zero-shot image classification (ACC1)", "零样本图像分类（准确率）"))[:2]
        tables.append(Table(key, title, title_zh, [column for column, _ in columns], rows))
    report = Report(tables, runs=runs, resamples=10000, seed=0, sources={"fixture": SOURCE})
    if extra:
        report.comparisons = [
            Comparison(
                *("coco-cn", "image_retrieval R@1", "coco-cn", "ZH-CLIP", "CN-CLIP", 2.094, 0.38, 3.8, 1053),
                *(0.0021, 0.0126, True, "paired bootstrap"),
            ),
            Comparison(
                *("coco-cn", "text_retrieval R@1", "coco-cn", "CN-CLIP", "ZH-CLIP", 0.4, -0.9, 1.7, 1000),
                *(0.55, 1.0, False, "paired bootstrap"),
            ),
            Comparison(
                *("zeroshot_classification", "cifar10", "cifar10", "ZH-CLIP", "CN-CLIP", 2.33, 1.9, 2.8, 10000),
                *(0.0, 0.0, True, "exact McNemar"),
            ),
        ]
        report.problems = [
            Problem("/somewhere/results/broken.json:3:7", "not JSON (Expecting ',' delimiter)", "evaluate again"),
            Problem(
                "muge_cnclip_zh(1).json", "another run of this cell says 56.31, muge_cnclip_zh.json 56.25", "keep one"
            ),
        ]
    return report


def a_third(dataset, model):
    """Two models on all retrieval sets but MUGE, which one was run on; three on some data sets."""
    if dataset in ("coco-cn", "flickr30k-cn"):
        return model in ("cnclip-vit-l-14", "zhclip-vit-l-14")
    if dataset == "muge":
        return model == "zhclip-vit-l-14"
    return model in ("cnclip-vit-l-14", "altclip-vit-l-14", "zhclip-vit-l-14") and dataset in (
        "cifar10",
        "cifar100",
        "dtd",
        "eurosat",
        "fer2013",
        "mnist",
    )


@pytest.fixture(scope="module")
def report():
    return make_report(a_third)


@pytest.fixture(scope="module")
def text(report):
    return html.render(report)


def only(cell, row=None, column=None, **more):
    """A report of one cell."""
    column = column or Column("muge R@1", "muge", "image_retrieval_recall@1", "R@1", "R@1", "Text-to-Image", "文搜图")
    row = row or Row("zhclip-vit-l-14", "ZH-CLIP", cells={column.key: cell})
    return Report([Table("muge", "MUGE", "MUGE 文搜图", [column], [row])], **more)


#: What a screen reader hears in Chinese, once the page is switched to it.
HEARD = re.compile(
    r'(<span class="sr"><span class="en" lang="en">[^<]*</span>) <span class="zh" lang="zh-CN">[^<]*</span>'
)


class Page(HTMLParser):
    """What is on the page: values as {table: {row: [cell]}}, headings, links, the text of elements with an id.

    A cell is {"class": [...], "value": "67.10", "bold": {...}, "text": {"ours": ..., "interval": ...}}.
    """

    def __init__(self, text):
        super().__init__()
        self.tags, self.references, self.links, self.ids, self.charts = [], [], [], [], []
        self.tables, self.heads, self.sections, self.closed = {}, {}, {}, []
        self._stack, self._row, self._cell, self._part = [], None, None, None
        self._table, self._table_id, self._script = None, None, False
        self.feed(HEARD.sub(r"\1", text))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        classes = (attributes.get("class") or "").split()
        self.tags.append(tag)
        self.references += [
            attributes[name] for name in ("src", "href", "action", "data", "srcset") if name in attributes
        ]
        if tag == "a":
            self.links.append(attributes["href"])
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag in ("section", "details") and "id" in attributes:
            self._table_id = attributes["id"]
            self.sections[self._table_id] = ""
            if tag == "details":
                self.closed.append(self._table_id)
        if tag == "svg":
            self.charts.append((self._table_id, attributes))
        if tag == "table":
            self._table = self.tables.setdefault(self._table_id, {}) if "values" in classes else None
        elif self._table is not None and tag == "th" and attributes.get("scope") == "row":
            self._row, self._cell, self._part = "", None, "row"
        elif self._table is not None and tag == "th":
            self.heads.setdefault(self._table_id, []).append("")
            self._part = "head"
        elif self._table is not None and tag == "td":
            self._cell = {"class": classes, "attributes": attributes, "text": {}, "bold": set()}
            self._table[self._row].append(self._cell)
        elif self._cell is not None and tag == "div":
            self._part = classes[0]
        elif self._cell is not None and tag == "b":
            self._cell["bold"].add(self._part)
        self._script = tag in ("script", "style")

    def handle_endtag(self, tag):
        if tag == "th" and self._part == "row":
            self._row = " ".join(self._row.split())
            self._table[self._row] = []
        if tag in ("th", "td"):
            self._part = None
        if tag == "td":
            self._cell = None
        if tag == "table":
            self._table = None
        self._script = False

    def handle_data(self, data):
        if self._script:
            return
        if self._table_id:
            self.sections[self._table_id] += data
        if self._part == "row":
            self._row += data
        elif self._part == "head":
            self.heads[self._table_id][-1] += data
        elif self._cell is not None and self._part:
            self._cell["text"][self._part] = self._cell["text"].get(self._part, "") + data


def words(text):
    return " ".join(text.split())


# ---------------------------------------------------------------- what is on it


def test_every_cell_says_what_the_report_says(report, text):
    page = Page(text)
    signs = {"reproduced": "✓", "off": "≠", "no interval": "?"}
    assert list(page.tables) == [f"table-{place}" for place in range(1, 5)]
    for table, shown in zip(report.tables, page.tables.values(), strict=True):
        assert list(shown) == [row.title for row in table.rows]
        for row in table.rows:
            for column, there in zip(table.columns, shown[row.title], strict=True):
                cell, said = row.cells[column.key], {part: words(data) for part, data in there["text"].items()}
                assert f"◇{cell.published:.2f}" in said["published"]
                assert ("published" in there["bold"]) == cell.best_published
                if cell.ours is None:
                    assert "–" in said["published"] and "ours" not in said and there["class"] == ["cell", "idle"]
                    assert there["attributes"]["data-value"] == ""
                    continue
                assert said["ours"] == f"{signs[cell.verdict]}{cell.verdict}, ours {cell.ours:.2f}"
                assert ("ours" in there["bold"]) == cell.best
                assert float(there["attributes"]["data-value"]) == cell.ours
                assert f"{cell.difference:+.2f}".replace("-", "−") in said["published"]
                assert said.get("interval") == (f"interval {cell.low:.2f}–{cell.high:.2f}" if cell.low else "–")


def test_laid_out_as_published(text):
    heads = {name: [words(head) for head in heads] for name, heads in Page(text).heads.items()}
    columns = ["R@1 n = 1,053", "R@5 n = 1,053", "R@10 n = 1,053", "Mean 平均 n = 1,053"]
    back = [head.replace("1,053", "1,000") for head in columns]
    assert [re.sub(r"(?<=\S)(?=n = )", " ", re.sub(r"(?=平均)", " ", head)) for head in heads["table-1"]] == [
        *("Model 模型", "Text-to-Image 文搜图", "Image-to-Text 图搜文"),
        *columns,
        *back,
    ]
    assert len(heads["table-3"]) == 1 + 1 + 4 and len(heads["table-4"]) == 1 + 11
    assert [head[:4] for head in heads["table-4"][6:8]] == ["FGVC", "KITT"]
    assert "FGVC飞机" in heads["table-4"][6]  # not FGVC FGVC 飞机


def test_summary_counts_and_says_the_verdicts(report, text):
    cells = [cell for table in report.tables for row in table.rows for cell in row.cells.values()]
    for verdict in ("reproduced", "off", "no interval", "not run"):
        many = sum(cell.verdict == verdict for cell in cells)
        assert many and re.search(rf'class="many">{many}</span>.*?lang="en">{verdict}<', text), verdict
    assert not re.search(r'class="what"><span class="en" lang="en">not published', text)  # there is none
    assert "23 runs of 3 models on 9 data sets; percent, with 95% intervals" in text
    one = html.render(make_report(lambda *cell: cell == ("cifar10", "zhclip-vit-l-14"), extra=False))
    assert "1 run of 1 model on 1 data set;" in one


def test_comparisons_in_words(text):
    said = words(Page(text).sections["comparisons"])
    assert "ZH-CLIP is better than CN-CLIP by 2.09 points (95% 0.38 to 3.80), p = 0.013 after Holm" in said
    assert "CN-CLIP and ZH-CLIP cannot be told apart: 0.40 points (95% −0.90 to 1.70), p = 1.00 after Holm" in said
    assert "p < 0.001 after Holm" in said and "exact McNemar, p < 0.001" in said
    assert "ZH-CLIP 优于 CN-CLIP，高 2.09 个百分点（95% 区间 0.38 至 3.80），经 Holm 校正 p = 0.013" in said
    assert "all 3 comparisons" in said and "1 of 2 told apart" in said
    assert 'id="comparisons"' not in html.render(make_report(a_third, extra=False))


def test_problems_runs_and_sources(report, text):
    page = Page(text)
    assert "broken.json:3:7" in page.sections["problems"] and "; evaluate again" in page.sections["problems"]
    assert "/somewhere" not in text  # a page is for showing around
    for run in report.runs:
        assert run.path.removeprefix("/somewhere/results/") in page.sections["runs"]
        assert run.facts["fingerprint"] in page.sections["runs"]
    assert SOURCE.partition("?")[0] in page.sections["definitions"] and SOURCE.rpartition(" ")[2] in page.links
    for word in ("R@k, Text-to-Image", "图搜文 R@k", "Accuracy (acc1)", "10,000 resamples"):
        assert word in page.sections["definitions"]
    assert "Accuracy within five" not in text
    assert not re.search(r"\b(None|nan|True|False)\b", re.sub("<(style|script).*?</\\1>", "", text, flags=re.DOTALL))


def test_galleries_are_links_beside_the_page(report, text):
    expected = [run.gallery for run in report.runs if run.gallery]
    assert [address for address in Page(text).links if address.endswith(".html")] == expected and len(expected) == 5


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)",
        " javascript:alert(1)",
        "java\nscript:alert(1)",
        "https://example.org/x.html",
        "//example.org/x.html",
        "/etc/passwd",
        "\\\\host\\x",
        "data:text/html,x",
        "http://[",
    ],
)
def test_a_gallery_that_leads_elsewhere_is_no_link(address):
    report = only(Cell(ours=5.0, verdict="not published", run=0))
    report.runs = [Run("x.json", "m", "t", "muge", "zh", "zeroshot_retrieval", gallery=address)]
    assert all(link.startswith("#") for link in Page(html.render(report)).links)


def test_nothing_run(report):
    report = make_report(lambda *_: False, extra=False)
    page = Page(html.render(report))
    assert page.closed == list(page.tables) == ["table-1", "table-2", "table-3", "table-4"]
    assert not page.charts and "No results yet" in html.render(report)
    first = page.tables["table-1"]["ZH-CLIP"][0]
    assert float(first["attributes"]["data-value"]) == report.tables[0].rows[-1].cells["image_retrieval R@1"].published


def test_one_run_comes_first_and_the_others_are_folded():
    page = Page(html.render(make_report(lambda *cell: cell == ("mnist", "zhclip-vit-l-14"), extra=False)))
    assert list(page.tables) == ["table-4", "table-1", "table-2", "table-3"]
    assert page.closed == ["table-1", "table-2", "table-3"] and len(page.charts) == 1


def test_empty_report():
    page = Page(html.render(Report()))
    assert not page.tables and "Nothing yet" in page.sections["runs"]
    assert "Intervals" not in page.sections["definitions"]


def test_cells_of_every_kind():
    def said(cell):
        (cells,) = Page(html.render(only(cell))).tables["table-1"].values()
        return " | ".join(words(part) for part in cells[0]["text"].values())

    assert said(Cell(ours=5.0, low=4.0, high=6.125, verdict="not published")) == (
        "○not published, ours 5.00 | interval 4.00–6.12 | "
    )
    assert said(Cell(42.6, 42.0, difference=-0.6, verdict="no interval")) == (
        "?no interval, ours 42.00 | – | published ◇42.6 , difference −0.60"
    )
    assert said(Cell(42.65, 42.649, 42, 43, -0.001, "reproduced")).endswith("published ◇42.65 , difference 0.00")
    assert said(Cell()) == "–not run"
    assert said(Cell(0.0, 0.0, 0.0, 0.0, 0.0, "reproduced", True, True)) == (
        "✓reproduced, ours 0.00 | interval 0.00–0.00 | published ◇0.0 , difference 0.00"
    )


def test_variants_of_a_model_and_mixed_metrics():
    columns = [
        Column("voc", "voc2007", "map_11_points", "VOC", "VOC 物体"),
        Column("mnist", "mnist", "acc1", "MNIST", ""),
    ]
    rows = [
        Row("m", "M", "", variant, {"voc": Cell(ours=value, verdict="not published")})
        for variant, value in (("zh", 61.0), ("cn_clip templates", 62.0))
    ]
    text = html.render(Report([Table("x", "X", "", columns, rows)]))
    page = Page(text)
    assert list(page.tables["table-1"]) == ["Mzh", "Mcn_clip templates"]
    assert any("map_11_points" in head for head in page.heads["table-1"])
    assert "M (cn_clip templates): 62.00" in text and "11-point mean average precision" in text
    assert len(page.charts) == 1  # MNIST has no value


def test_columns_are_the_lines_of_one_model_alone():
    columns = [
        Column(f"{way} R@{k}", "digits-retrieval", f"{way}_recall@{k}", f"R@{k}", f"R@{k}", *group)
        for way, group in GROUPS.items()
        for k in (1, 5)
    ]
    cells = {one.key: Cell(ours=80.0 + place, verdict="not published") for place, one in enumerate(columns)}
    text = html.render(Report([Table("digits", "D", "", columns, [Row("m", "M", cells=cells)])]))
    labels = [chart["aria-label"] for _, chart in Page(text).charts]
    assert labels == [
        "Dot chart. D Text-to-Image, percent: M R@1 80.00; M R@5 81.00",
        "Dot chart. D Image-to-Text, percent: M R@1 82.00; M R@5 83.00",
    ]
    assert text.count('class="panels"') == 1


def test_sources_of_a_table_say_whose_rows_they_are():
    column = Column("muge R@1", "muge", "image_retrieval_recall@1", "R@1", "")
    rows = [
        Row(name, name.upper(), name, cells={column.key: Cell(value)}) for name, value in (("a", 42.6), ("b", 56.25))
    ]
    text = html.render(Report([Table("muge", "MUGE", "", [column], rows)], sources={"a": "Source A", "b": "Source B"}))
    said = words(re.sub("<[^>]*>", "", text))
    assert "（A）： Source A" in said and "（B）： Source B" in said
    assert "◇42.6 " in said and "◇56.25" in said  # each with the decimals of its source


# ---------------------------------------------------------------- one file


def test_one_file_that_asks_for_nothing(text):
    page = Page(text)
    assert not {"iframe", "object", "base", "embed", "img", "form", "input"} & set(page.tags)
    assert page.tags.count("script") == 1 and page.tags.count("link") == 1
    outside = [reference for reference in page.references if not reference.startswith(("data:", "#"))]
    assert sorted(outside) == sorted(link for link in page.links if not link.startswith("#"))
    assert not re.search(r"url\(|@import|@font-face|<!ENTITY|<\?xml", text)
    assert len(page.ids) == len(set(page.ids)) and len(text) < 1_500_000
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text


NASTY = '"><script>alert(1)</script><b>${\\frac{1}{2}}$ 红色\n'


def test_nothing_in_a_name_is_markup(recwarn):
    column = Column(NASTY, NASTY, "acc1", NASTY, NASTY, NASTY, NASTY)
    row = Row(NASTY, NASTY, NASTY, NASTY, {NASTY: Cell(50.0, 51.0, 49.0, 53.0, 1.0, "reproduced", run=0)})
    report = Report(
        [Table(NASTY, NASTY, NASTY, [column], [row])],
        [Comparison(NASTY, NASTY, NASTY, NASTY, NASTY, 1.0, 0.5, 1.5, 9, 0.01, 0.01, True, NASTY)],
        [Problem(NASTY, NASTY, NASTY)],
        [Run(NASTY, NASTY, NASTY, NASTY, NASTY, NASTY, NASTY, gallery=NASTY, facts={NASTY: NASTY})],
        sources={NASTY: NASTY},
    )
    text = html.render(report)
    page = Page(text)
    assert page.tags.count("script") == 1 and "<b>$" not in text and "alert(1)" in text
    assert page.charts[0][1]["aria-label"].count("<script>") >= 2
    assert not list(recwarn)


def test_same_report_same_bytes(text, tmp_path):
    assert html.render(make_report(a_third)) == text
    program = (
        "import hashlib; from tests.report.test_report_page import a_third, html, make_report;"
        "print(hashlib.sha256(html.render(make_report(a_third)).encode()).hexdigest())"
    )
    (tmp_path / "matplotlibrc").write_text("font.size: 31\nlines.linewidth: 9\nsvg.fonttype: path\n")
    for seed in ("1", "2"):  # in another order of sets, and with a taste of one's own
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "MPLCONFIGDIR": str(tmp_path)},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == hashlib.sha256(text.encode()).hexdigest(), done.stderr
        assert not done.stderr


# ---------------------------------------------------------------- charts


def read_chart(svg):
    """What a panel shows, read back from its geometry: {mark: [(line, value)]}, and its numbers as (x, text)."""
    root = ElementTree.fromstring(svg)
    name = "{http://www.w3.org/2000/svg}"
    numbers = [(float(one.get("x")), one.text) for one in root.iter(f"{name}text")]
    (x1, first), (x2, last) = numbers[0], numbers[-1]
    scale = (float(last) - float(first)) / (x2 - x1)
    marks = {"ours": [], "off": [], "published": [], "interval": []}
    for group in root.iter(f"{name}g"):
        if group.find(f"{name}title") is None:
            continue
        for use in group.iter(f"{name}use"):
            kind = re.search(r"var\(--chart-(ours|off|published)\)", use.get("style"))[1]
            marks[kind].append((float(use.get("y")), float(first) + scale * (float(use.get("x")) - x1)))
        for path in group.findall(f"{name}path"):
            ends = [float(number) for number in re.findall(r"[\d.]+", path.get("d"))]
            assert ends[1] == ends[3]
            marks["interval"].append((ends[1], *(float(first) + scale * (ends[place] - x1) for place in (0, 2))))
    lines = {
        kind: [((found[0] - charts.TOP) / charts.ROW - 0.5, *found[1:]) for found in group]
        for kind, group in marks.items()
    }
    return lines, numbers


def test_a_chart_is_to_scale(report):
    table = report.tables[0]
    for column in table.columns:
        cells = [row.cells[column.key] for row in table.rows]
        lines, numbers = read_chart(charts.panel(cells, [row.label for row in table.rows], "x", "x"))
        ours = [
            (place, cell.ours) for place, cell in enumerate(cells) if cell.ours is not None and cell.verdict != "off"
        ]
        off = [(place, cell.ours) for place, cell in enumerate(cells) if cell.verdict == "off"]
        held = [(place, cell.low, cell.high) for place, cell in enumerate(cells) if cell.low is not None]
        for kind, expected in {"ours": ours, "off": off, "interval": held}.items():
            assert np.array(lines[kind]).ravel() == pytest.approx(np.array(expected).ravel(), abs=0.005), kind
        assert lines["published"] == [
            pytest.approx((place, cell.published), abs=0.005) for place, cell in enumerate(cells)
        ]
        assert len(numbers) >= 2


@pytest.mark.parametrize(
    "cells",
    [
        [Cell(68.0, 67.8, 64.9, 70.6)],
        [Cell(96.67, 96.67, 94.44, 98.33)],
        [Cell(ours=100.0, low=100.0, high=100.0)],
        [Cell(ours=0.0)],
        [Cell(99.99, 99.98, 99.97, 99.99), Cell(0.01)],
        [Cell(50.123), Cell(50.124, 50.125)],
        [Cell(ours=12.5), Cell()],
        [Cell(published=float(value)) for value in range(0, 101, 4)],
    ],
    ids=str,
)
def test_no_number_of_a_chart_is_cut_or_runs_into_the_next(cells):
    svg = charts.panel(cells, ["name"] * len(cells), "x", "x")
    assert f'viewBox="0 0 {charts.WIDTH} {charts.TOP + charts.ROW * len(cells) + charts.FOOT}"' in svg
    lines, numbers = read_chart(svg)
    assert 2 <= len(numbers) <= 7
    assert all(0 <= float(text) <= 100 for _, text in numbers)
    half = [(x, 0.5 * 11 * 0.64 * len(text)) for x, text in numbers]  # 11 pixels, digits of 0.64 em at most
    assert half[0][0] - half[0][1] >= 0 and half[-1][0] + half[-1][1] <= charts.WIDTH
    for (x, width), (x2, width2) in zip(half, half[1:], strict=False):
        assert x + width + 3 < x2 - width2
    low, high = charts.limits(cells)
    for mark in [*lines["ours"], *lines["published"]]:
        assert low < mark[1] < high


def test_charts_say_what_they_show(report, text):
    page = Page(text)
    assert [sum(1 for where, _ in page.charts if where == f"table-{one}") for one in (1, 2, 3, 4)] == [8, 8, 4, 6]
    cell = report.tables[0].rows[3].cells["image_retrieval R@1"]
    label = page.charts[0][1]["aria-label"]
    assert label.startswith("Dot chart. COCO-CN retrieval (official test set) Text-to-Image R@1, percent: ")
    said = f"CN-CLIP {cell.ours:.2f} ({cell.low:.2f} to {cell.high:.2f}), published {cell.published:.2f}; ZH-CLIP"
    assert said in label and all(chart["role"] == "img" for _, chart in page.charts)
    assert "DejaVu" not in text and "#0c00" not in text and "font-family" not in text.partition("<body>")[2]
    references = re.findall(r'xlink:href="#([^"]*)"', text)
    marks = re.findall(r'<path id="([^"]*)"', text)
    assert set(references) == set(marks) and len(marks) == len(set(marks))


# ---------------------------------------------------------------- in a browser

IN_DARK = {False: "--blink-settings=preferredColorScheme=1", True: "--blink-settings=preferredColorScheme=0"}


def ask(text, script, tmp_path, *options):
    """What a script of ours answers that runs in the page: its hash joins that of the page's own in the policy."""
    script = f"""addEventListener("load", () => {{
        const answer = {{}}, $ = (name) => document.querySelector(name);
        {script}
        document.body.dataset.answer = JSON.stringify(answer);
    }});"""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = text.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    (tmp_path / "asked.html").write_text(text.replace("</body>", f"<script>{script}</script></body>"), "utf-8")
    done, addresses = browse(tmp_path / "asked.html", tmp_path, "--dump-dom", *options)
    assert "CONSOLE" not in done.stderr and not addresses, done.stderr
    answer = re.search(r'<body[^>]* data-answer="([^"]*)"', done.stdout)
    return json.loads(unescape(answer[1]))


@needs_chromium
def test_browser_finds_no_fault_and_asks_the_network_for_nothing(text, report, tmp_path):
    (tmp_path / "report.html").write_text(text, "utf-8")
    done, addresses = browse(tmp_path / "report.html", tmp_path, "--dump-dom")
    assert "CONSOLE" not in done.stderr, done.stderr
    assert not addresses
    page = Page(done.stdout)
    assert list(page.tables) == list(Page(text).tables) and 'data-script="on"' in done.stdout


@needs_chromium
def test_browser_would_tell(text, tmp_path):
    """The check before this one notices a page that asks for something, and a script that is not ours."""
    page = tmp_path / "report.html"
    page.write_text(text.replace("</body>", '<img src="http://127.0.0.1:9/x.png"><script>1</script></body>'), "utf-8")
    done, _ = browse(page, tmp_path, "--dump-dom")
    assert done.stderr.count("CONSOLE") >= 2 and "Content Security Policy" in done.stderr
    page.write_text(re.sub("<meta http-equiv[^>]*>", "", page.read_text("utf-8")), "utf-8")
    assert browse(page, tmp_path, "--dump-dom")[1] == {"http://127.0.0.1:9/x.png"}


@needs_chromium
def test_a_click_sorts_and_empty_cells_stay_last(text, report, tmp_path):
    answer = ask(
        text,
        """
        const table = $("#table-4 table.values"), heads = [...table.tHead.rows[0].cells];
        const head = heads.find((cell) => cell.textContent.includes("EuroSAT")), button = head.querySelector("button");
        const now = () => [head.getAttribute("aria-sort"), [...table.tBodies[0].rows].map((row) => row.cells[0].title)];
        answer.clicks = [now()];
        for (let click = 0; click < 3; click++) { button.click(); answer.clicks.push(now()); }
        button.focus();
        answer.keyboard = document.activeElement === button && button.type === "button" && button.tabIndex === 0;
        button.click();
        heads[0].querySelector("button").click();
        answer.marks = [heads[0].getAttribute("aria-sort"), head.getAttribute("aria-sort")];
        answer.names = [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
        """,
        tmp_path,
    )
    table = report.tables[3]
    cells = {row.model: row.cells["eurosat"] for row in table.rows}
    as_published = list(cells)
    measured = [model for model in as_published if cells[model].ours is not None]
    empty = [model for model in as_published if cells[model].ours is None]
    assert len(measured) == 3 and len(empty) == 3

    def in_order(falling):
        by = [
            sorted(group, key=key, reverse=falling)
            for group, key in (
                (measured, lambda model: cells[model].ours),
                (empty, lambda model: cells[model].published),
            )
        ]
        return by[0] + by[1]

    assert answer["clicks"] == [
        [None, as_published],
        ["descending", in_order(True)],
        ["ascending", in_order(False)],
        [None, as_published],
    ]
    assert answer["marks"] == ["ascending", None] and answer["keyboard"] is True
    assert answer["names"] == ["altclip-xlmr-l", "Clip-Chinese", "CN-CLIP", "mclip", "Taiyi-CLIP", "ZH-CLIP"]


@needs_chromium
def test_switches(text, tmp_path):
    answer = ask(
        text,
        """
        const shown = (name) => getComputedStyle($("#comparisons " + name)).display !== "none";
        const now = () => [getComputedStyle(document.body).backgroundColor, shown(".en"), shown(".zh")];
        answer.first = now();
        for (const value of ["dark", "light", "system", "en", "zh", "both"]) {
            $(`.switch button[value="${value}"]`).click();
            answer[value] = now();
        }
        answer.pressed = [...document.querySelectorAll('[aria-pressed="true"]')].map((button) => button.value);
        """,
        tmp_path,
        IN_DARK[False],
    )
    pressed, light, dark = answer.pop("pressed"), answer["first"][0], answer["dark"][0]
    assert light != dark and pressed == ["both", "system"]
    assert {value for value, (colour, *_) in answer.items() if colour != light} == {"dark"}
    shown = {value: shown for value, (_, *shown) in answer.items()}
    assert shown.pop("en") == [True, False] and shown.pop("zh") == [False, True]
    assert all(both == [True, True] for both in shown.values())


@needs_chromium
def test_the_language_switch_speaks_in_attributes_too(text, tmp_path):
    answer = ask(
        text,
        """
        const now = () => [document.documentElement.lang, document.title, $("nav").getAttribute("aria-label")];
        for (const value of ["zh", "en", "both"]) {
            $(`.switch button[value="${value}"]`).click();
            answer[value] = now();
        }
        """,
        tmp_path,
    )
    assert answer["zh"] == ["zh-CN", "中文 CLIP：已发表与复现", "目录"]
    assert answer["en"] == ["en", "Chinese CLIP: published and reproduced", "Contents"]
    assert answer["both"] == ["en", f"{answer['en'][1]} · {answer['zh'][1]}", "Contents · 目录"]


@needs_chromium
@pytest.mark.parametrize("width", [320, 390, 820, 1280])
def test_nothing_sticks_out_or_overlaps(text, tmp_path, width):
    """At a width the page does not scroll sideways, names stand beside their lines, and no number is cut."""
    answer = ask(
        frame(text, width),
        """
        const page = $("iframe").contentDocument, box = (element) => element.getBoundingClientRect();
        Object.assign(answer, {wide: page.documentElement.scrollWidth, apart: 0, cut: 0, panels: 0});
        for (const panel of page.querySelectorAll(".panel")) {
            const svg = panel.querySelector("svg"), chart = box(svg), scale = chart.height / svg.viewBox.baseVal.height;
            answer.panels += 1;
            answer.cut += chart.right > box(panel.closest(".block")).right;
            for (const number of svg.querySelectorAll("text"))
                answer.cut += box(number).left < chart.left - 1 || box(number).right > chart.right + 1;
            const names = [...panel.querySelectorAll(".names > div")].map(box);
            if (names[0].height) names.forEach((name, line) => {
                const middle = chart.top + scale * (TOP + ROW * (line + 0.5));
                answer.apart = Math.max(answer.apart, Math.abs((name.top + name.bottom) / 2 - middle));
                answer.cut += name.right > chart.left + 1;
            });
        }
        const scroll = page.querySelector("#table-4 .scroll");
        scroll.scrollLeft = 200;
        answer.moved = scroll.scrollLeft;
        answer.sticky = box(scroll.querySelector("tbody th")).left - box(scroll).left;
        """.replace("TOP", str(charts.TOP)).replace("ROW", str(charts.ROW)),
        tmp_path,
        "--window-size=1400,1000",
    )
    assert answer["wide"] <= width and answer["panels"] == 26
    assert answer["cut"] == 0 and answer["apart"] < 1
    if width < 820:
        assert answer["moved"] > 100 and answer["sticky"] <= 24


def frame(text, width):
    """A page with the report in a frame of that width; windows are 500 pixels wide at least."""
    policy = re.search(r"script-src '[^']*'", text)[0]
    return (
        f'<!DOCTYPE html><html><head><meta http-equiv="Content-Security-Policy" content="{policy}"></head><body>'
        f'<iframe srcdoc="{escape(text)}" style="border:0;width:{width}px;height:900px"></iframe></body></html>'
    )


@needs_chromium
def test_screenshots_in_light_and_dark(text, tmp_path):
    (tmp_path / "report.html").write_text(text, "utf-8")
    pictures = {}
    for dark, option in IN_DARK.items():
        shot = tmp_path / f"{dark}.png"
        browse(tmp_path / "report.html", tmp_path, f"--screenshot={shot}", "--window-size=1280,3400", option)
        with Image.open(shot) as image:
            pictures[dark] = np.asarray(image.convert("RGB")).astype(int)
    assert pictures[False][2, 2].mean() > 200 and pictures[True][2, 2].mean() < 60
    ours = {False: (0x2F, 0x5B, 0xD0), True: (0x8A, 0xAA, 0xFF)}
    good = {False: (0x0B, 0x7A, 0x34), True: (0x4F, 0xD0, 0x7C)}
    for dark, pixels in pictures.items():
        for colour, least in ((ours[dark], 1500), (good[dark], 150)):  # dots and intervals; ticks
            assert (np.abs(pixels - colour).max(axis=2) <= 3).sum() > least
