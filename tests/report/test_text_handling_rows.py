"""Two text handlings of one model are never taken for one, nor compared with figures of the other."""

from __future__ import annotations

import json

import pytest

from zhclip_openclip.commands.report import _models
from zhclip_openclip.report.build import build
from zhclip_openclip.report.runs import handling_of, read_results

NAME = "ViT-B-16-SigLIP2"


def result(folder, file, value, model=NAME, dataset="muge", language="zh", **more):
    folder.mkdir(exist_ok=True)
    described = {
        "dataset": dataset,
        "model": model,
        "pretrained": "webli",
        "task": "zeroshot_retrieval",
        "language": language,
        "metrics": {"image_retrieval_recall@1": value},
        **more,
    }
    (folder / file).write_text(json.dumps(described), encoding="utf-8")


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    result(folder, "a.json", 0.5, text_handling="authors")
    result(folder, "b.json", 0.4, text_handling="host")
    return folder


def published(folder, **more):
    described = {
        "format": 1,
        "source": "somebody",
        "decimals": 1,
        "models": {f"{NAME},webli": "SigLIP 2 of somebody"},
        "datasets": {
            "muge": {
                "metrics": ["image_retrieval_recall@1"],
                "values": {f"{NAME},webli": [40.0]},
            }
        },
        **more,
    }
    path = folder / "somebody.json"
    path.write_text(json.dumps(described), encoding="utf-8")
    return path


def rows(report):
    return {
        (row.source, row.variant): (cell.published, cell.ours)
        for table in report.tables
        for row in table.rows
        for cell in row.cells.values()
        if row.model == NAME and (cell.ours, cell.published) != (None, None)
    }


def test_each_has_a_row(results):
    report = build([results])
    assert rows(report) == {("", "webli"): (None, 50.0), ("", "webli, text handling host"): (None, 40.0)}
    assert not report.problems  # nor two runs of one cell that disagree


def test_a_result_without_us_was_made_the_hosts_way(results):
    result(results, "c.json", 0.4)
    runs = read_results([results]).runs
    assert [handling_of(run) for run in runs] == ["authors", "host", "host"]
    assert [run.foreign for run in runs] == [False, False, True]
    assert [str(problem) for problem in build([results]).problems if "same result as" in str(problem)]
    result(results, "en.json", 0.4, dataset="crossmodal3600", language="en")
    result(results, "laion.json", 0.4, model="ViT-B-32")
    assert [handling_of(run) for run in read_results([results]).runs][3:] == ["", ""]


def test_figures_of_one_handling_stand_beside_runs_of_it_alone(results, tmp_path):
    unsaid = rows(build([results], [published(tmp_path)]))
    assert unsaid == {("somebody", ""): (40.0, 50.0), ("somebody", "text handling host"): (40.0, 40.0)}
    said = rows(build([results], [published(tmp_path, text_handling="host")]))
    assert said == {("somebody", "text handling host"): (40.0, 40.0), ("", "webli"): (None, 50.0)}
    wrong = build([results], [published(tmp_path, text_handling="raw")])
    assert any('text_handling: is "raw"; write authors or host, or leave it out' in str(one) for one in wrong.problems)


def test_models_of_open_clip_are_asked_for_by_name(results):
    assert _models("zhclip,ViT-L-14,commonpool_xl_s13b_b90k,cnclip,qa_clip") == [
        "zhclip",
        "ViT-L-14,commonpool_xl_s13b_b90k",
        "cnclip,qa_clip",
    ]
    assert len(_models("multilingual,chinese_clip")) == 37 and _models(None) is None
    named = rows(build([results], models=[f"{NAME},webli"]))
    assert {variant for source, variant in named if not source} == {"webli", "webli, text handling host"}
    assert not rows(build([results], models=["ViT-L-14,commonpool_xl_s13b_b90k"]))
