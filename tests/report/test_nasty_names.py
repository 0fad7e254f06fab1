"""Names are names: what stands in a result, a published file or a path is taken for nothing more by any view.

Every text of a report is one of `NAMES` here, by the fields of its data classes and by files that hold them, and every
view that there is goes through all of it: a new field or a new view is in these tests without anybody thinking of it.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import pkgutil
import re
import unicodedata
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from tests.support import report_files as files
from zhclip_openclip._errors import printable
from zhclip_openclip._terminal import literal
from zhclip_openclip.report import _model, views
from zhclip_openclip.report.build import build
from zhclip_openclip.report.views import _text, terminal

NAMES = {
    "markup": "[/x][red]bold[/red] [link=http://a.b]",
    "emoji": ":bomb: :smile:",
    "escape": "\x1b]0;owned\x07\x1b[2J\x08\x00",
    "lines": "a\r\nb\n- item\n# head\n1. one\ttab\x0b\x0c",
    "C1": "\x9b31m\x85\u2028\u2029\x1c",
    "turned": "\u202egpj.exe\u2066\u200f",
    "bytes": "\udcff\udc80/x",
    "half a pair": "\ud83d",
    "formula": "=cmd|' /C calc'!A0",
    "plus": "+1",
    "minus": "-1+cmd",
    "at": "@SUM(1)",
    "tab": "\t=1",
    "wide formula": "＝1",
    "row": "[1cm] \\input{/etc/passwd} ^^5c % $x$ & # _ ~",
    "star": "*x",
    "list": "- - item",
    "number": "1. one",
    "link": "[a](javascript:alert(1)) ![x](http://y) <http://z> `|` **b** __c__ ~~d~~ $e$ &lt; \\| a|b",
    "page": '<script>alert(1)</script>" onmouseover="x\' {{ 7*7 }} {% raw %} <!-- ]]>',
    "svg": '</title></svg><script>alert(2)</script><g id="line 0"> #0c0000',
    "address": "javascript:alert(3)",
    "backslash": "ends with \\",
    "slash": "../../x/../\\\\host\\c$",
    "long": "很长" * 400,
}


def of(cls, text: str, **given):
    """An object of a data class whose every text is this one."""
    values = {}
    for field in dataclasses.fields(cls):
        kind = field.type
        if field.name in given:
            values[field.name] = given[field.name]
        elif kind in ("str", "str | None"):
            values[field.name] = text
        elif kind.startswith(("float", "int")):
            values[field.name] = 1
        elif kind == "bool":
            values[field.name] = True
        elif kind == "dict[str, Any]":
            values[field.name] = {text: text, "versions": {text: text}, "number": 3}
        elif kind == "Trained | None":
            values[field.name] = _model.Trained(text, text, (text,))
        elif kind.startswith(("dict", "list")):
            values[field.name] = {} if kind.startswith("dict") else []
        else:
            raise TypeError(f"{cls.__name__}.{field.name}: what is a {kind}?")
    return cls(**values)


def report_of(text: str) -> _model.Report:
    column, other = of(_model.Column, text), of(_model.Column, text, key="other", group="")
    others = tuple(of(_model.Figure, text, value=49.0, decimals=1, verdict="off", doubt=doubt) for doubt in ("", text))
    cell = _model.Cell(50.0, 51.0, 49.0, 53.0, 1.0, "reproduced", True, True, 100, 0, text, others)
    rows = [of(_model.Row, text, cells={text: cell, "other": _model.Cell()}) for _ in range(2)]
    rows.append(of(_model.Row, text, cells={text: _model.Cell(40.0), "other": _model.Cell()}))
    table = of(_model.Table, text, columns=[column, other], rows=rows)
    return of(
        _model.Report,
        text,
        tables=[table],
        comparisons=[of(_model.Comparison, text)],
        problems=[of(_model.Problem, text)],
        runs=[of(_model.Run, text)],
        sources={text: text},
    )


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return NAMES[request.param]


@pytest.fixture(scope="module")
def rendered(name):
    """{view: text} of the report whose every text is this name."""
    made = report_of(name)
    return {view: views.render(made, view) for view in views.FORMATS}


def seen(text: str) -> set[str]:
    """Categories of what cannot be seen in a text, but for its line breaks."""
    return {unicodedata.category(sign) for sign in text if sign != "\n"} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


def test_every_view_is_tested():
    modules = {one.name for one in pkgutil.iter_modules(views.__path__)}
    assert {name for name in modules if not name.startswith("_")} - {"charts"} == set(views.FORMATS)


def test_no_view_says_what_cannot_be_seen(rendered):
    for view, text in rendered.items():
        assert not seen(text), view
        assert text.encode("utf-8")


def test_csv_has_texts_and_no_formulas(rendered, name):
    lines = list(csv.reader(io.StringIO(rendered["csv"], newline=""), strict=True))
    assert len({len(line) for line in lines}) == 1 and len(lines) == 1 + 6 + 1 + 1 + 4
    head, *rows = lines
    for row in rows:
        for key, value in zip(head, row, strict=True):
            assert not value.startswith(tuple("=+-@\t\r＝＋－＠")), key
    assert rows[0][head.index("title")].removeprefix("'") == printable(name)


def test_terminal_takes_names_literally(name, rendered):
    file = io.StringIO()
    terminal.show(report_of(name), Console(file=file, width=4000, force_terminal=True, color_system=None))
    assert " ".join(printable(name).split()) in " ".join(file.getvalue().split())
    assert not seen(file.getvalue())


def test_markdown_has_no_markup_of_names(rendered, name):
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(rendered["markdown"])
    every = [child for token in tokens for child in [token, *(token.children or ())]]
    kinds = [token.type for token in every]
    assert {token.content for token in every if token.type.startswith("html")} <= {"<br>"}
    assert not {"link_open", "image", "s_open", "fence", "hr", "ordered_list_open"} & set(kinds)
    assert kinds.count("table_open") == 2 and kinds.count("bullet_list_open") == 3
    assert kinds.count("heading_open") == 6 and max(token.level for token in every) < 6
    assert kinds.count("tr_open") == 1 + 3 + 1 + 1
    said = "".join(token.content for token in every if token.type in ("text", "code_inline", "text_special"))
    assert re.sub(r"\s", "", printable(" ".join(name.split()))) in re.sub(r"\s", "", said)


def test_latex_reads_no_name_as_a_command(rendered):
    text = rendered["latex"]
    bare = re.sub(r"\\(?:text(?:backslash|asciitilde|asciicircum|less|greater|bar|quotedbl)\{\}|[&%$#_{}])", "", text)
    body = [line for line in bare.splitlines() if not line.startswith("%")]
    assert not [line for line in body if "%" in line.removesuffix("{!}{%")]  # the template's own
    commands = set(re.findall(r"\\([A-Za-z]+)", bare))
    assert commands <= {
        *("usepackage", "begin", "end", "centering", "caption", "resizebox", "ifdim", "width", "linewidth", "else"),
        *("fi", "toprule", "midrule", "bottomrule", "cmidrule", "multicolumn", "textbf", "paragraph", "item"),
        *("footnotesize", "setlength", "tabcolsep", "endhead", "dag", "star"),
    }
    rows = re.findall(r"\\\\\s*\n(.*)", text)
    assert rows and not [line for line in rows if line.lstrip()[:1] in ("[", "*")]
    assert not [line for line in text.splitlines() if re.match(r"\s*\\item\s*[\[*]", line)]


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.texts.append(data)


def test_page_has_no_tag_or_attribute_of_names(rendered, name):
    plain = Page(views.render(report_of("plain"), "html"))
    page = Page(rendered["html"])
    assert page.tags.count("script") == plain.tags.count("script") == 1
    assert set(page.tags) <= {*plain.tags, "small"} and not [key for key, _ in page.attributes if key.startswith("on")]
    assert {key for key, _ in page.attributes} <= {key for key, _ in plain.attributes}
    for key, value in page.attributes:
        if key in ("href", "src"):
            assert value.startswith(("#", "data:", "http://", "https://")) or ":" not in value, value
    assert any(" ".join(printable(name).split()) in " ".join(text.split()) for text in page.texts)
    assert any(printable(name) == value for key, value in page.attributes if key == "title")


# ---------------------------------------------------------------- by files


@pytest.fixture(scope="module")
def by_files(tmp_path_factory):
    """A report of results, published figures and paths with all of these names wherever a name can stand."""
    folder = tmp_path_factory.mktemp("nasty") / os.fsdecode(b"results \xff [/x]")
    papers = []
    keys = ("dataset", "model", "pretrained", "task", "language", "template_set", "per_query")
    for number, text in enumerate(NAMES.values()):
        if printable(text) != text and text.encode("utf-8", "replace") != text.encode("utf-8", "surrogatepass"):
            continue  # half a character: no JSON has it
        for turn, key in enumerate(keys):
            described = {"dataset": "cifar10", "model": "zhclip", "pretrained": f"tag-{number}"}
            described |= {key: text, text: text, "versions": {text: text}, "split": text}
            metrics = {"acc1": 0.5, f"{text}{turn}": 0.25, f"{text} more": "x"}
            files.write_json(folder / f"{number}-{key}.json", **described, metrics=metrics)
        figures = {"metrics": ["acc1"], "values": {text: [50.0]}, "title": text, "title_zh": text, text: text}
        published = {"format": 1, "source": text, "url": text, "note": text, "decimals": 1, "models": {text: text}}
        papers.append(files.write_json(folder / ".papers" / f"{number}.json", **published, datasets={text: figures}))
    (folder / "=a[x]\x1b[2J <b>.json").write_text("{")
    (folder / os.fsdecode(b"\xff\xfe.json")).write_text("[]")
    return build([folder, folder / "no\x1b[2J"], papers, resamples=100)


@pytest.mark.parametrize("view", views.FORMATS)
def test_files_with_such_names_are_reported(by_files, view):
    assert len(by_files.runs) > 5 * len(NAMES) and len(by_files.problems) > 5
    text = views.render(by_files, view)
    assert not seen(text) and text.encode("utf-8")
    if view == "csv":
        sizes = {len(line) for line in csv.reader(io.StringIO(text, newline=""), strict=True)}
        assert len(sizes) == 1
    if view == "html":
        assert Page(text).tags.count("script") == 1


# ---------------------------------------------------------------- on a terminal


def test_literal_names(name):
    file = io.StringIO()
    console = Console(file=file, width=10_000, emoji=False, highlight=False, color_system=None)
    console.print(f"[bold]{literal(name)}[/]", soft_wrap=True)
    assert file.getvalue() == printable(name) + "\n"


def test_problems_are_one_line(name):
    assert not seen(str(_model.Problem(name, name, name))) and "\n" not in str(_model.Problem(name, name, name))


def test_cleaning_twice_is_cleaning_once(name):
    once = _text.cleaned(report_of(name))
    assert _text.cleaned(once) == once
