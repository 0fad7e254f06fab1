"""All sources, a source alone, leaderboards; and that no figure of one data set meets a run on another."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support import report_files as files
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.commands import app
from zhclip_openclip.report import _leaderboard, _names, docs, same_set, views
from zhclip_openclip.report.build import build
from zhclip_openclip.report.published import load_published, read_published

T2I, I2T = files.WAYS
R1 = "text_to_image R@1"
PAGE = Path(__file__).parents[2] / "docs" / "leaderboard.md"


@pytest.fixture(scope="module")
def sources():
    loaded, problems = load_published()
    assert not problems
    return {source.key: source for source in loaded}


@pytest.fixture(scope="module")
def board():
    """What is published, without a run."""
    return build([], leaderboard=True)


def table_of(made, key):
    return next(table for table in made.tables if table.key == key)


def row_of(made, key, title):
    (row,) = [row for row in table_of(made, key).rows if row.title == title and not row.variant]
    return row


def ranks_of(recalls, samples=1000, ways=(T2I,)):
    return {way: files.ranks_with(recalls, samples, seed) for seed, way in enumerate(ways)}


# ---------------------------------------------------------------- the packaged figures


def test_every_file_of_figures_is_a_source(sources):
    found = {path.stem for path in _names.PUBLISHED.glob("*.json")} - {"tables", "systems"}
    assert set(sources) == found and len(found) == 10


def test_what_the_papers_of_one_model_agree_in(sources):
    """Chinese-CLIP's largest model is copied by M2-Encoder and InternVL; a slip of either copy would show."""
    key = ("cnclip-vit-h-14", "")
    own = sources["cn_clip"]
    names = {name: sources[name].models[key] for name in ("m2_encoder", "internvl")}
    assert names == {"m2_encoder": "CN-CLIP-1B", "internvl": "CN-CLIP-ViT-H"}
    for name in names:
        compared = [
            (sources[name].values[column][key], own.value(key, *column)) for column in sources[name].values if
            sources[name].value(key, *column) is not None
        ]  # fmt: skip
        assert len(compared) == 13 and all(one == other for one, other in compared)


def test_recall_grows_with_k(sources):
    for source in sources.values():
        for dataset, metric in source.values:
            if metric.endswith("recall@5"):
                for key in source.models:
                    values = [source.value(key, dataset, metric[:-1] + k) for k in ("1", "5", "10")]
                    if None not in values:
                        assert values == sorted(values), (source.key, dataset, key)


def test_what_is_exchanged_carries_its_note(sources):
    """M2-Encoder's row of CN-CLIP ViT-B/16 on COCO-CN has both directions the other way round."""
    key, m2, own = ("cnclip-vit-b-16", ""), sources["m2_encoder"], sources["cn_clip"]
    for k in (1, 5, 10):
        assert m2.value(key, "coco-cn", f"{T2I}_recall@{k}") == own.value(key, "coco-cn", f"{I2T}_recall@{k}")
        assert m2.value(key, "coco-cn", f"{I2T}_recall@{k}") == own.value(key, "coco-cn", f"{T2I}_recall@{k}")
    assert "exchanged" in m2.doubt(key, "coco-cn") and not m2.doubt(key, "flickr30k-cn")
    assert "five captions an image" in m2.doubt(("altclip-vit-l-14", ""), "coco-cn")


def test_every_model_is_known_by_size_or_said_not_to_be(sources):
    told = _leaderboard._others()
    for source in sources.values():
        for model, _ in source.models:
            assert _leaderboard.system(model).millions or model in told, model
    assert not _leaderboard.system("fg-clip2-so400m").is_moderate and not _leaderboard.system("nobody").is_moderate


# ---------------------------------------------------------------- one source, all sources


def test_one_source_is_shown_whole_and_alone():
    made = build([], sources=["m2_encoder"])
    assert list(made.sources) == ["m2_encoder"]
    assert len(table_of(made, "flickr30k-cn").rows) == 11
    assert {cell.verdict for table in made.tables for row in table.rows for cell in row.cells.values()} == {"not run"}
    assert row_of(made, "flickr30k-cn", "M2-Encoder 1B").cells[R1].published == 78.6


def test_all_sources(sources):
    made = build([], sources=["all"])
    assert set(made.sources) == set(sources)
    titles = {row.title for table in made.tables for row in table.rows}
    assert {"InternVL-G", "FG-CLIP 2 So/16", "SigLIP 2 L/16 + DanQing", "ZH-CLIP"} <= titles
    assert {"lit-cn", "dci-cn", "flickr30k-cna", "crossmodal3600"} <= {table.key for table in made.tables}


def test_a_source_that_there_is_not():
    with pytest.raises(ZhclipError, match="--sources m2: no such source; .*m2_encoder|--sources m2: no such source"):
        build([], sources=["m2"])


def test_a_file_of_others_is_shown_without_a_run(tmp_path):
    described = {"format": 1, "source": "x", "decimals": 1, "models": {"own-model": "Own"}}
    entry = {"metrics": [f"{T2I}_recall@1"], "values": {"own-model": [77.7], "zhclip": [68.1]}}
    paper = files.write_json(tmp_path / "x.json", **described, datasets={"coco-cn": entry})
    made = build([], published=[paper])
    assert row_of(made, "coco-cn", "Own").cells[R1].published == 77.7
    (other,) = row_of(made, "coco-cn", "ZH-CLIP").cells[R1].also
    assert (other.source, other.value, other.differs) == ("x", 68.1, True)


def test_the_packages_own_file_given_as_others_is_that_source():
    made = build([], published=[_names.PUBLISHED / "internvl.json"])
    assert row_of(made, "coco-cn", "InternVL-G").source == "internvl" and "internvl-2" not in made.sources


# ---------------------------------------------------------------- several values of one model


def test_a_model_of_several_papers_is_one_row(board):
    row = row_of(board, "coco-cn", "CN-CLIP ViT-H/14")
    assert row.sources == ["cn_clip", "m2_encoder", "internvl"]
    assert row.cells[R1].published == 69.2 and not any(one.differs for one in row.cells[R1].also)
    models = [row.model for row in table_of(board, "coco-cn").rows]
    assert len(models) == len(set(models))


def test_where_papers_disagree_is_said_in_every_view(board):
    (other,) = row_of(board, "flickr30k-cn", "CN-CLIP ViT-L/14").cells["image_to_text R@1"].also
    assert (other.value, other.differs) == (80.2, True)
    said = "differ in 3 of 6 values, by up to 1.00 (Image-to-Text R@1 81.20 and 80.2)"
    for format in ("terminal", "markdown", "latex", "html"):
        text = views.render(board, format).replace("\\", "")
        assert said in " ".join(text.split()), format
    lines = csv.DictReader(io.StringIO(views.render(board, "csv")))
    assert [line for line in lines if line["record"] == "published" and line["published"] == "80.2"]


def test_a_doubtful_figure_is_neither_judged_nor_ranked_nor_a_disagreement(tmp_path):
    ranks = {T2I: files.ranks_with((57.0, 84.1, 93.6), 1000), I2T: files.ranks_with((62.2, 86.6, 94.9), 1000, 1)}
    files.retrieval(tmp_path, "cnclip-vit-b-16", "coco-cn", ranks)
    made = build([tmp_path], resamples=200, sources=["cn_clip", "m2_encoder"])
    cell = row_of(made, "coco-cn", "CN-CLIP ViT-B/16").cells[R1]
    (other,) = cell.also
    assert cell.verdict == "off" and cell.published == 62.2
    assert other.verdict == "not run" and "exchanged" in other.doubt and not other.differs
    alone = build([tmp_path], resamples=200, sources=["m2_encoder"])
    assert row_of(alone, "coco-cn", "CN-CLIP-0.2B").cells[R1].verdict == "not published"
    for format in views.FORMATS:
        assert "exchanged" in views.render(made, format)


# ---------------------------------------------------------------- leaderboards


def test_one_table_a_data_set_from_the_best_down(board):
    keys = [table.key for table in board.tables]
    assert keys[:3] == ["coco-cn", "flickr30k-cn", "muge"] and len(keys) == len(set(keys))
    assert {"imagenet1k", "lit-cn", "muge fine-tuned"} <= set(keys)
    for table in board.tables:
        assert len({column.dataset for column in table.columns}) == 1
        values = [row.cells[table.columns[0].key].published for row in table.rows]
        told = [value for value in values if value is not None]
        assert told == sorted(told, reverse=True) and values[: len(told)] == told


@pytest.mark.parametrize(
    "dataset, column, best, open_one",
    [
        # FIELD of today, as read in the papers; So400m of FG-CLIP 2 and XLM-R ViT-H have more than a billion.
        ("flickr30k-cn", R1, "M2-Encoder 10B", "M2-Encoder 1B"),
        ("flickr30k-cn", "image_to_text R@1", "M2-Encoder 10B", "M2-Encoder 1B"),
        ("coco-cn", R1, "M2-Encoder 10B", "M2-Encoder 1B"),
        ("muge", R1, "SigLIP 2 L/16 + DanQing", "CN-CLIP ViT-H/14"),
        ("imagenet1k", "acc1", "M2-Encoder 10B", "M2-Encoder 1B"),
        ("flickr30k-cna", R1, "FG-CLIP 2 So/16", "FG-CLIP 2 L/16"),
        ("coco-cn-translated", "image_to_text R@1", "FG-CLIP 2 So/16", "FG-CLIP 2 L/16"),
        ("crossmodal3600", "image_to_text R@1", "xlm-roberta-large-ViT-H-14 frozen_laion5b_s13b_b90k",
         "xlm-roberta-base-ViT-B-32 laion5b_s13b_b90k"),
    ],
)  # fmt: skip
def test_the_best_and_the_best_open_one(board, dataset, column, best, open_one):
    rows = table_of(board, dataset).rows
    told = [row.title for row in rows if row.cells[column].best_published]
    titles = [row.title for row in rows if row.cells[column].leads]
    assert (told, titles) == ([best], [open_one])


def test_own_rows_stand_among_the_published_ones(tmp_path):
    files.retrieval(tmp_path, "zhclip", "coco-cn", ranks_of((76.5, 95.0, 98.0)))
    files.retrieval(tmp_path, "own-model", "coco-cn", ranks_of((76.0, 95.0, 98.0)), pretrained="v1")
    made = build([tmp_path], resamples=200, leaderboard=True)
    order = [row.label for row in table_of(made, "coco-cn").rows]
    assert order[:3] == ["M2-Encoder 10B", "own-model (v1)", "M2-Encoder 1B"]
    row = row_of(made, "coco-cn", "ZH-CLIP")  # it stands by its published value, with ours beside it
    assert row.cells[R1].published == 68.0 and row.cells[R1].ours == pytest.approx(76.5)
    assert order.index("ZH-CLIP") > 3


def test_every_view_of_a_leaderboard_says_sizes_sources_and_marks(board):
    for format in views.FORMATS:
        text = views.render(board, format)
        assert "958M" in text, format
    assert "75.90 ★ |" in views.render(board, "markdown") and "[^m2_encoder]: `m2_encoder`: " in views.render(
        board, "markdown"
    )
    assert "CN-CLIP ViT-H/14, 958M [2][4][5]" in views.render(board, "terminal")
    assert r"75.90 $\star$" in views.render(board, "latex")
    page = views.render(board, "html")
    assert "中文 CLIP：排行榜" in page and "weights not released" in page and page.count('class="leads"') > 50
    line = next(one for one in csv.DictReader(io.StringIO(views.render(board, "csv"))) if one["leads"] == "true")
    assert (line["dataset"], line["title"], line["published"]) == ("coco-cn", "M2-Encoder 1B", "75.9")


def test_the_page_of_the_documentation_is_up_to_date():
    """`python -m zhclip_openclip.report.docs docs/leaderboard.md` writes it."""
    text = PAGE.read_text(encoding="utf-8")
    assert text.split(docs.BEGIN)[1].split(docs.END)[0].strip() == docs.tables().strip()


def test_footnotes_are_all_there():
    text = PAGE.read_text(encoding="utf-8")
    used, given = set(re.findall(r"\[\^([\w-]+)\](?!:)", text)), set(re.findall(r"^\[\^([\w-]+)\]:", text, re.M))
    assert used == given and len(given) >= 9


def test_the_command():
    run = CliRunner().invoke
    done = run(app, ["report", "--leaderboard", "--datasets", "muge", "--format", "csv"])
    assert done.exit_code == 0 and "cn_clip_finetuned" in done.stdout and "coco-cn" not in done.stdout
    done = run(app, ["report", "--sources", "taiyi", "--format", "markdown"])
    assert done.exit_code == 0 and "Taiyi-CLIP-RoBERTa-326M-ViT-H" in done.stdout and "ZH-CLIP" not in done.stdout
    assert "--leaderboard" in str(run(app, ["report"]).exception)


# ---------------------------------------------------------------- no verdict across two sets


@pytest.mark.parametrize(
    "dataset, texts, other",
    [
        ("coco-cn", 5000, "coco-cn-translated"),
        ("coco-cn", 4990, "coco-cn-translated"),  # without some pictures
        ("coco-cn-translated", 1053, "coco-cn"),
        ("coco-cn", 6053, "coco-cn + coco-cn-translated"),
    ],
)
def test_a_result_on_the_other_captions_is_left_out_and_said(tmp_path, dataset, texts, other):
    path = files.retrieval(tmp_path, "cnclip-vit-l-14", dataset, ranks_of((64.1, 88.8, 94.4), texts))
    made = build([tmp_path], resamples=200, sources=["all"])
    (problem,) = made.problems
    assert problem.where == str(path) and f"was made on {texts:,} captions" in str(problem) and other in str(problem)
    assert not made.runs


@pytest.mark.parametrize("dataset, texts", [("coco-cn", 1053), ("coco-cn", 1040), ("coco-cn-translated", 5000)])
def test_a_result_on_its_own_captions_is_judged(tmp_path, dataset, texts):
    files.retrieval(tmp_path, "cnclip-vit-l-14", dataset, ranks_of((64.1, 88.8, 94.4), texts))
    made = build([tmp_path], resamples=200)
    assert not made.problems
    title = "CN-CLIP" if dataset == "coco-cn" else "Chinese-CLIP L/14"
    cell = row_of(made, dataset, title).cells[R1]
    assert cell.published == {"coco-cn": 64.1, "coco-cn-translated": 59.9}[dataset] and cell.ours is not None


@pytest.mark.parametrize("one, other", [("flickr30k-cn", "flickr30k-cna"), ("flickr30k-cna", "flickr30k-cn")])
def test_a_run_never_meets_a_figure_of_the_other_flickr(tmp_path, one, other):
    """CN-CLIP L/14 is published on both; so near to the other's figure that it would be reproduced."""
    figures = {"flickr30k-cn": (68.0, 89.7, 94.4), "flickr30k-cna": (69.6, 90.0, 95.0)}
    files.retrieval(tmp_path, "cnclip-vit-l-14", one, ranks_of(figures[other]))
    made = build([tmp_path], resamples=200, sources=["all"])
    ran = [
        (table.key, cell.source, {one.source for one in cell.also})
        for table in made.tables
        for row in table.rows
        for cell in row.cells.values()
        if cell.ours is not None
    ]
    assert {table for table, *_ in ran} == {one}
    told = {source for _, source, also in ran for source in (source, *also) if source}
    assert told == ({"zh_clip", "cn_clip"} if one == "flickr30k-cn" else {"fg_clip2"})


def test_two_names_of_the_same_data_are_both_left_out(tmp_path):
    for model, dataset in (("zhclip", "flickr30k-cn"), ("cnclip", "flickr30k-cna")):
        files.retrieval(tmp_path, model, dataset, ranks_of((68, 90, 95)), fingerprint="9" * 64)
    made = build([tmp_path], resamples=200)
    assert not made.runs and len(made.problems) == 2
    assert "calls it flickr30k-cna and not flickr30k-cn" in " ".join(map(str, made.problems))


@pytest.mark.parametrize(
    "dataset, entry, said",
    [
        ("coco-cn", {"texts": 5000}, "has 5,000 texts, and coco-cn 1,053: these figures are of coco-cn-translated"),
        ("flickr30k-cn", {"title": "Flickr30K-CNA"}, "these figures are of flickr30k-cna, and not of flickr30k-cn"),
        ("coco-cn", {"texts": "many"}, "texts is many; write how many there are"),
    ],
)
def test_a_file_whose_figures_are_of_the_other_set_says_so(tmp_path, dataset, entry, said):
    values = {"metrics": [f"{T2I}_recall@1"], "values": {"zhclip": [50.0]}}
    described = {"format": 1, "source": "x", "decimals": 1, "datasets": {dataset: {**entry, **values}}}
    path = files.write_json(tmp_path / "x.json", **described)
    source, problems = read_published(path)
    assert source is None and said in str(problems[0]) and str(problems[0]).startswith(f"{path}: datasets.{dataset}")


def test_a_size_that_the_file_says_is_held_against_the_run(tmp_path):
    entry = {"title": "Own", "texts": 500, "metrics": [f"{T2I}_recall@1"], "values": {"zhclip": [50.0]}}
    paper = files.write_json(tmp_path / "x.json", format=1, source="x", decimals=1, datasets={"own-set": entry})
    for texts, verdict in ((500, "reproduced"), (800, "not published")):
        files.retrieval(tmp_path / "r", "zhclip", "own-set", ranks_of((50, 60, 70), texts), language="en")
        made = build([tmp_path / "r"], published=[paper], resamples=200)
        (row,) = [row for row in table_of(made, "own-set").rows if row.cells[R1].ours is not None]
        assert row.cells[R1].verdict == verdict
    assert "are of 500 texts, and this was run on 800" in str(made.problems[0])


def test_figures_of_captions_in_chinese_are_not_of_those_in_english(tmp_path):
    model, tag = "xlm-roberta-base-ViT-B-32", "laion5b_s13b_b90k"
    for language in ("zh", "en"):
        path = files.retrieval(
            tmp_path, model, "crossmodal3600", ranks_of((53.69, 77.72, 86.14)), pretrained=tag, name=language
        )
        path.write_text(json.dumps({**json.loads(path.read_text()), "language": language}))
    made = build([tmp_path], resamples=200)
    found = {row.variant: row.cells[R1] for row in table_of(made, "crossmodal3600").rows}
    assert found[""].verdict == "reproduced" and found["en"].published is None
    assert "captions in zh, and this was run in en" in str(made.problems[0])


def test_the_sizes_are_those_of_the_data_sets():
    for group in _names.layout()["same_pictures"]:
        assert len({size["images"] for size in group.values()}) == 1
    assert same_set.others_of("muge") == {} and set(same_set.others_of("coco-cn")) == {"coco-cn", "coco-cn-translated"}
