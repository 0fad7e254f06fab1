"""The views say what the report says, and take every name literally."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess

import pytest
from rich.console import Console

from tests.support import report_files as files
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.report import views
from zhclip_openclip.report.build import (
    VERDICTS,
    Cell,
    Column,
    Comparison,
    Problem,
    Report,
    Row,
    Run,
    Table,
    build,
)
from zhclip_openclip.report.views import _text, latex, markdown, terminal

TEXTS = ("terminal", "markdown", "latex")
NASTY = "模型_a & 50% | $x$ #1 <b> {y} ~^ \\cmd `z` [red]*"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Runs that are reproduced, off, without interval, not published and not run; variants; comparisons; problems."""
    folder = tmp_path_factory.mktemp("results")
    files.classification(folder, "zhclip", "dtd", *files.answers_with(47.66, 1880, 47))
    files.classification(folder, "zhclip", "dtd", *files.answers_with(30, 1880, 47, seed=1), language="en")
    files.classification(folder, "cnclip", "dtd", *files.answers_with(60, 1880, 47, seed=2))
    for model, seed in (("zhclip", 3), ("altclip", 4)):
        ranks = {way: files.ranks_with([60, 80, 90], 1000, seed=seed + place) for place, way in enumerate(files.WAYS)}
        files.retrieval(folder, model, "coco-cn", ranks)
    metrics = {"acc1": 0.5123456789012345, "mean_per_class_recall": 0.4}
    files.write_json(
        folder / "foreign.json", dataset="vtab/pets", model="ViT-B-32", pretrained="openai", metrics=metrics
    )
    files.write_json(folder / "alone.json", dataset="muge", model="mclip", metrics={"image_retrieval_recall@1": 0.22})
    (folder / "broken.json").write_text("{")
    return build([folder], resamples=500)


@pytest.fixture
def nasty():
    """Every text of a report is something that markup would trip over."""
    column = Column("c", "d", "acc1", NASTY, NASTY, NASTY, NASTY)
    cell = Cell(50.0, 51.0, 49.0, 53.0, 1.0, "reproduced", True, True, 100, 0)
    run = Run("/r.json", "m", "p", "d", "zh", "zeroshot_classification")
    comparison = Comparison("t", "c", "d", NASTY, "b", 1.0, -0.5, 2.5, 100, 0.3, 0.6, False, "McNemar, exact")
    rows = [
        Row("m", NASTY, "s", NASTY, {"c": cell}),
        Row("n", "b", cells={"c": Cell(ours=1.0, verdict="not published")}),
    ]
    return Report(
        tables=[Table("t", NASTY, NASTY, [column], rows)],
        comparisons=[comparison],
        problems=[Problem(NASTY, "line\nbreak", NASTY)],
        runs=[run],
        resamples=10,
        sources={"s": NASTY},
    )


def said(report):
    """(row, column, cell) of all that was run or is published."""
    for table in report.tables:
        for row in table.rows:
            for column in table.columns:
                yield table, row, column, row.cells[column.key]


def test_the_fixture_has_every_verdict(report):
    assert {cell.verdict for *_, cell in said(report)} == set(VERDICTS)
    assert report.comparisons and report.problems and any(row.variant for _, row, *_ in said(report))


@pytest.mark.parametrize("name", views.FORMATS)
def test_views_do_not_change_the_report_and_are_stable(report, name):
    before = repr(report)
    first = views.render(report, name)
    assert views.render(report, name) == first and repr(report) == before


@pytest.mark.parametrize("name", TEXTS)
def test_everything_is_said(report, name):
    text = views.render(report, name)
    plain = re.sub(r"\\textbf\{([^}]*)\}|\*\*", r"\1", text).replace("--", "–").replace("$", "").replace("\\", "")
    for table, row, column, cell in said(report):
        assert table.title in plain and row.title in plain and column.title in plain
        for name in ("published", "ours", "difference", "interval"):
            assert _text.LINES[name](cell) in plain
        if cell.ours is not None:
            assert cell.verdict in plain
    for one in report.comparisons:
        for wanted in (_text.signed(one.difference), _text.interval(one.low, one.high), _text.p_value(one.p)):
            assert wanted in plain.replace("textless{}", "<")
    assert plain.count("broken JSON") == 1
    assert "6,880" not in plain and "500 resamples, seed 0" in plain
    for source in report.sources.values():
        assert re.sub(r"\s+", "", source)[:40].replace("_", "") in re.sub(r"\s+", "", plain).replace("_", "")


# ---------------------------------------------------------------- csv


def test_csv_has_every_cell_with_all_its_digits(report):
    lines = list(csv.DictReader(io.StringIO(views.render(report, "csv"))))
    keys = ("table", "title", "variant", "source", "column")
    cells = {tuple(line[key] for key in keys): line for line in lines if line["record"] == "cell"}
    count = 0
    for table, row, column, cell in said(report):
        line = cells[table.key, row.title, row.variant, row.source, column.key]
        for key in ("published", "ours", "low", "high", "difference"):
            value = getattr(cell, key)
            assert line[key] == "" if value is None else float(line[key]) == value
        assert (line["record"], line["verdict"], line["metric"]) == ("cell", cell.verdict, column.metric)
        assert line["best"] == str(cell.best).lower() and line["best_published"] == str(cell.best_published).lower()
        assert line["samples"] == ("" if cell.samples is None else str(cell.samples))
        assert line["run"] == ("" if cell.run is None else report.runs[cell.run].path)
        count += 1
    kinds = [line["record"] for line in lines]
    assert kinds.count("cell") == count and kinds == sorted(kinds)  # cells, comparisons, problems
    compared = [line for line in lines if line["record"] == "comparison"]
    for line, one in zip(compared, report.comparisons, strict=True):
        assert (line["better"], line["worse"], line["test"]) == (one.better, one.worse, one.test)
        assert [float(line[key]) for key in ("difference", "low", "high", "p", "p_corrected")] == [
            one.difference,
            one.low,
            one.high,
            one.p,
            one.p_corrected,
        ]
        assert line["significant"] == str(one.significant).lower()
    problems = [(line["where"], line["what"], line["way_out"]) for line in lines if line["record"] == "problem"]
    assert problems == [(one.where, one.what, one.way_out) for one in report.problems]
    assert any("51.23456789012345" in line["ours"] for line in lines)


def test_csv_takes_names_literally(nasty):
    first, *_, last = csv.DictReader(io.StringIO(views.render(nasty, "csv")))
    assert first["title"] == first["variant"] == NASTY and last["what"] == "line break"


# ---------------------------------------------------------------- terminal


def test_terminal_reads_from_left_to_right(report):
    lines = views.render(report, "terminal").splitlines()
    assert all(len(line) <= terminal.WIDTH for line in lines if "problem" not in line and "http" not in line)
    start = lines.index("Zero-shot image classification (ACC1)")
    model = next(n for n in range(start, len(lines)) if lines[n].startswith("ZH-CLIP  "))
    assert re.split(r"\s{2,}", lines[model])[:5] == ["ZH-CLIP", "published", "97.08", "80.73", "47.66"]
    assert re.split(r"\s{2,}", lines[model + 1].strip()) == ["ours", "47.66"]
    assert [line.split()[0] for line in lines[model + 2 : model + 5]] == ["difference", "95%", "verdict"]
    assert lines[model + 4].split()[1:] == ["not", "run", "not", "run", "reproduced", *["not", "run"] * 3]
    assert lines[model + 5].startswith("ZH-CLIP (en)") or lines[model + 5] == ""


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_terminal_of_any_width_cuts_nothing_off(report, width):
    file = io.StringIO()
    terminal.show(report, Console(file=file, width=width, color_system=None))
    text = file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    for *_, cell in said(report):
        assert all(_text.LINES[name](cell) in text for name in ("published", "ours", "difference", "interval"))
    assert "…" not in text


def test_groups_stay_together_where_they_fit(report):
    columns = report.tables[0].columns
    assert [len(part) for part in terminal._parts(columns, 8)] == [8]
    assert [len(part) for part in terminal._parts(columns, 7)] == [4, 4]
    assert [len(part) for part in terminal._parts(columns, 3)] == [3, 3, 2]
    zero_shot = next(table for table in report.tables if table.key == "zeroshot_classification").columns
    assert [len(part) for part in terminal._parts(zero_shot, 6)] == [6, 5]


def test_terminal_takes_names_literally(nasty):
    text = terminal.render(nasty)
    assert "[red]*" in text and "<b>" in text and "line break" in re.sub(r"\s+", " ", text)


# ---------------------------------------------------------------- Markdown


def test_markdown_tables_have_as_many_cells_in_each_line(report, nasty):
    for given in (report, nasty):
        blocks = re.findall(r"(?:^\|.*\|\n?)+", markdown.render(given), re.M)
        assert len(blocks) == len(given.tables) + 1
        for block in blocks:
            sizes = {len(re.split(r"(?<!\\)\|", line)) for line in block.strip().splitlines()}
            assert len(sizes) == 1
            assert re.fullmatch(r"\|( -+:? \|)+", block.splitlines()[1])


def test_markdown_of_one_cell(report):
    text = markdown.render(report)
    row = next(line for line in text.splitlines() if line.startswith("| ZH-CLIP | `zh_clip` | **97.08**"))
    cell = row.split(" | ")[4]
    found = re.fullmatch(
        r"47.66<br>\+0.00<br>(\d+\.\d\d)–(\d+\.\d\d)<br>\*reproduced\*<br>published \*\*47.66\*\*", cell
    )
    assert found and float(found[1]) < 47.66 < float(found[2])


def test_markdown_takes_names_literally(nasty):
    text = markdown.render(nasty)
    assert "<b>" not in text.replace("\\<b\\>", "") and "\\*" in text and "\\|" in text


# ---------------------------------------------------------------- LaTeX


def test_latex_is_ruled_by_booktabs(report):
    text = latex.render(report)
    tables = len(report.tables)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == text.count(r"\begin{tabular}") == tables
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == tables + 1
    assert "\\hline" not in text and r"\cmidrule(lr){3-6}\cmidrule(lr){7-10}" in text
    assert r"\multicolumn{4}{c}{Text-to-Image} & \multicolumn{4}{c}{Image-to-Text}" in text
    for block in re.findall(r"\\begin\{tabular\}\{(l+r+)\}(.*?)\\end\{tabular\}", text, re.S):
        lines = [line for line in block[1].splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
        assert {line.count(" & ") + line.startswith("& ") for line in lines} == {len(block[0]) - 1}


def test_latex_takes_names_literally():
    assert latex.escaped("50% & $5 #1 a_b {x} ~^") == (
        r"50\% \& \$5 \#1 a\_b \{x\} \textasciitilde{}\textasciicircum{}"
    )
    assert latex.escaped('\\cmd <a> | "b"') == (
        r"\textbackslash{}cmd \textless{}a\textgreater{} \textbar{} \textquotedbl{}b\textquotedbl{}"
    )
    assert latex.escaped("two\nlines") == "two lines"


def test_latex_says_when_it_needs_chinese_fonts(report, nasty):
    assert "ctex" not in latex.render(report) and "ctex" in latex.render(nasty)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on PATH")
@pytest.mark.parametrize("which", ["report", "nasty"])
def test_latex_compiles(request, tmp_path, which):
    given = request.getfixturevalue(which)
    text = latex.render(given)
    if which == "nasty":
        text = text.replace("模型", "")  # pdflatex has no Chinese fonts
    (tmp_path / "report.tex").write_text(text, "utf-8")
    document = r"""\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs,longtable,graphicx}
\begin{document}\input{report}\end{document}"""
    (tmp_path / "document.tex").write_text(document)
    done = subprocess.run(
        ["pdflatex", "-draftmode", "-interaction=nonstopmode", "-halt-on-error", "document.tex"],
        capture_output=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-1500:]


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    "points, text", [(0.0, "+0.00"), (-0.004, "+0.00"), (0.006, "+0.01"), (-1.236, "-1.24"), (12.3, "+12.30")]
)
def test_differences_have_a_sign_and_zero_has_one_only(points, text):
    assert _text.signed(points) == text


def test_small_p_values():
    assert [_text.p_value(p) for p in (0.0, 9e-5, 0.00012, 0.0123, 1.0)] == [
        "<0.0001",
        "<0.0001",
        "0.00012",
        "0.012",
        "1",
    ]


def test_a_format_that_there_is_not(report):
    with pytest.raises(ZhclipError, match="no format 'pdf'; there are terminal, markdown, csv, latex, html"):
        views.render(report, "pdf")
