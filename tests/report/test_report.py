"""Reports of results that are made from the published figures themselves, so that every verdict is known.

Each query or image of these results is a hit or a miss, with exactly the published share of hits. Expected intervals
are computed here, by scipy's exact binomial distribution and by plain resampling.
"""

from __future__ import annotations

import itertools
import json
import os
import re

import numpy as np
import pytest
import typer
from scipy import stats
from typer.testing import CliRunner

from tests.support import report_files as files
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.commands.report import report as command
from zhclip_openclip.integrations.clip_benchmark import COMPARISON
from zhclip_openclip.metrics.per_query import load_per_query
from zhclip_openclip.metrics.per_sample import load_per_sample
from zhclip_openclip.report import _names, views
from zhclip_openclip.report.build import build, verdict
from zhclip_openclip.report.published import load_published

T2I = "image_retrieval"
#: Five standard errors of a drawn 2.5% point, in standard deviations; see test_statistics.py.
NEAR = 5 * 0.027


@pytest.fixture(scope="module")
def source():
    return load_published()[0][0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, source):
    """Results with exactly the published shares."""
    folder = tmp_path_factory.mktemp("results")
    files.published_results(folder, source)
    return folder


@pytest.fixture(scope="module")
def report(folder):
    return build([folder], resamples=4999)


def table_of(report, key):
    return next(table for table in report.tables if table.key == key)


def rows_of(report, key, source="zh_clip"):
    return [row for row in table_of(report, key).rows if row.source == source]


def row_of(report, key, label):
    return next(row for row in table_of(report, key).rows if row.label == label)


def spread(samples, share):
    """The standard deviation of a share in percent."""
    return 100 * (share / 100 * (1 - share / 100) / samples) ** 0.5


# ---------------------------------------------------------------- the published tables


def test_tables_are_laid_out_as_published(report, source):
    retrieval = ["R@1", "R@5", "R@10", "Mean"]
    assert [table.key for table in report.tables][:4] == ["coco-cn", "flickr30k-cn", "muge", "zeroshot_classification"]
    for key in ("coco-cn", "flickr30k-cn"):
        columns = table_of(report, key).columns
        assert [column.title for column in columns] == 2 * retrieval
        assert [column.group for column in columns] == 4 * ["Text-to-Image"] + 4 * ["Image-to-Text"]
    assert [column.title for column in table_of(report, "muge").columns] == retrieval
    names = ["CIFAR10", "CIFAR100", "DTD", "EuroSAT", "FER", "FGVC", "KITTI", "MNIST", "PC", "VOC", "ImageNet"]
    assert [column.title for column in table_of(report, "zeroshot_classification").columns] == names
    systems = ["Clip-Chinese", "mclip", "Taiyi-CLIP", "CN-CLIP", "altclip-xlmr-l", "ZH-CLIP"]
    for table in report.tables[:4]:
        assert [row.title for row in rows_of(report, table.key)] == systems
        assert all(column.title_zh and (column.group == "") == (column.group_zh == "") for column in table.columns)
        assert len({column.key for column in table.columns}) == len(table.columns)


def test_every_published_value_is_there_and_reproduced(report, source):
    cells = 0
    for table in report.tables[:4]:
        for row, column in itertools.product(rows_of(report, table.key), table.columns):
            cell = row.cells[column.key]
            assert cell.published == source.value((row.model, ""), column.dataset, column.metric)
            near = 0.01 if column.title == "Mean" else 1e-9  # a mean of three rounded values
            assert cell.ours == pytest.approx(cell.published, abs=near)
            assert cell.difference == pytest.approx(cell.ours - cell.published, abs=1e-12)
            assert cell.verdict == "reproduced" and cell.samples == files.SAMPLES
            cells += 1
    assert cells == 186 and not report.problems


def test_intervals_are_the_exact_ones_of_a_share(report):
    """Endless resampling of hits and misses is binomial."""
    for table in report.tables[:4]:
        for row, column in itertools.product(rows_of(report, table.key), table.columns):
            cell = row.cells[column.key]
            if column.title == "Mean":
                continue
            exact = 100 * stats.binom.ppf([0.025, 0.975], files.SAMPLES, cell.ours / 100) / files.SAMPLES
            near = NEAR * 2**0.5 * spread(files.SAMPLES, cell.ours) + 1.01 / 100
            assert (cell.low, cell.high) == pytest.approx(tuple(exact), abs=near)


def test_intervals_of_means_are_those_of_plain_resampling(report, folder):
    rng = np.random.default_rng(2)
    for key, model in (("coco-cn", "zhclip"), ("muge", "clip-chinese")):
        (path,) = folder.glob(f"{key}_*_{model}*.npz") if model != "zhclip" else folder.glob(f"{key}_*_zhclip*.npz")
        ranks = load_per_query(path)[f"{T2I}_rank"]
        each = np.mean([(ranks >= 1) & (ranks <= k) for k in (1, 5, 10)], axis=0)
        means = [each[rng.integers(0, len(each), len(each))].mean() for _ in range(2000)]
        expected = 100 * np.percentile(means, [2.5, 97.5])
        row = next(row for row in rows_of(report, key) if row.model == _names.model_name(model))
        cell = row.cells["text_to_image Mean"]
        assert (cell.low, cell.high) == pytest.approx(tuple(expected), abs=100 * np.std(means) * NEAR * 6**0.5)


def test_the_best_are_in_bold(report):
    """Published: as in the README. Ours are the same numbers here, so the same are best; Mean is a little apart."""
    for table in report.tables[:4]:
        for column in table.columns:
            cells = [row.cells[column.key] for row in rows_of(report, table.key)]
            best = max(cell.published for cell in cells)
            assert [cell.best_published for cell in cells] == [cell.published == best for cell in cells]
            assert [cell.best for cell in cells] == [cell.best_published for cell in cells]


def test_all_of_those_that_tie_are_best(tmp_path):
    for model in ("zhclip", "altclip", "cnclip"):
        share = 80 if model != "cnclip" else 79.99
        files.classification(tmp_path, model, "dtd", *files.answers_with(share, seed=len(model)))
    made = build([tmp_path], resamples=100)
    best = {row.title: row.cells["dtd"].best for row in rows_of(made, "zeroshot_classification")}
    assert {title for title, is_best in best.items() if is_best} == {"ZH-CLIP", "altclip-xlmr-l"}
    alone = build([tmp_path], models=["zhclip"], resamples=100)
    assert not row_of(alone, "zeroshot_classification", "ZH-CLIP").cells["dtd"].best  # of one there is no best


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize("dataset, k", [("muge", 1), ("coco-cn", 5), ("flickr30k-cn", 10)])
def test_verdicts_of_results_that_are_off_by_known_amounts(tmp_path, source, dataset, k):
    """Moved by half a standard deviation the published value is in the interval, by three it is out."""
    samples, wanted = 4000, {}  # not as many as the translated captions of COCO-CN
    for place, name in enumerate(COMPARISON):
        model = _names.model_name(name)
        recalls = [source.value((model, ""), dataset, f"{T2I}_recall@{own}") for own in files.KS]
        published = recalls[files.KS.index(k)]
        moved = published + (0.5, -0.5, 3, -3, 1, -4)[place] * spread(samples, published)
        recalls = [
            min(moved, one) if own < k else max(moved, one) if own > k else moved
            for own, one in zip(files.KS, recalls, strict=True)
        ]
        ranks = files.ranks_with(recalls, samples, seed=place)
        files.retrieval(tmp_path, name, dataset, {T2I: ranks})
        hits = int(((ranks >= 1) & (ranks <= k)).sum())
        low, high = 100 * stats.binom.ppf([0.025, 0.975], samples, hits / samples) / samples
        # Not so near an end that the draw would decide.
        margin = NEAR * spread(samples, moved) + 0.02
        assert min(abs(published - low), abs(published - high)) > margin
        wanted[model] = "reproduced" if low <= published <= high else "off"
    made = build([tmp_path], resamples=9999)
    found = {row.model: row.cells[f"text_to_image R@{k}"].verdict for row in rows_of(made, dataset)}
    assert found == wanted and set(wanted.values()) == {"reproduced", "off"}


@pytest.mark.parametrize(
    "published, rounding, expected",
    [
        (60.0, 0.005, "reproduced"),
        (59.0, 0.005, "reproduced"),  # the end itself
        (58.995, 0.005, "reproduced"),
        (58.99, 0.005, "off"),  # 58.9949... rounds to it, 59 does not
        (58.99, 0.05, "reproduced"),
        (61.05, 0.05, "reproduced"),  # 61.05 - 0.05 is less than 61 by a rounding of the machine
        (61.1, 0.05, "off"),
        (None, 0.05, "not published"),
    ],
)
def test_a_published_value_is_rounded(published, rounding, expected):
    assert verdict(published, 59.0, 61.0, rounding) == expected


def test_verdicts_allow_for_the_decimals_of_each_source(tmp_path):
    """With all samples right the interval is 100 to 100, so that only the rounding is left."""
    files.classification(tmp_path / "results", "zhclip", "dtd", *files.answers_with(100, 50))
    found = {}
    for decimals, value in ((0, 100), (1, 99.9), (1, 100.0), (2, 99.99)):
        entry = {"metrics": ["acc1"], "values": {"zhclip": [value]}}
        described = {"format": 1, "source": "x", "decimals": decimals, "datasets": {"dtd": entry}}
        path = files.write_json(tmp_path / f"{decimals}-{value}.json", **described)
        made = build([tmp_path / "results"], published=[path], resamples=100)
        (other,) = row_of(made, "zeroshot_classification", "ZH-CLIP").cells["dtd"].also
        assert other.source == path.stem
        found[decimals, value] = other.verdict
    assert found == {(0, 100): "reproduced", (1, 99.9): "off", (1, 100.0): "reproduced", (2, 99.99): "off"}
    # 99.6 rounds to 100 without decimals, the other way round: ours is 99.6 and has no width.
    assert verdict(100.0, 99.6, 99.6, 0.5) == "reproduced" and verdict(99.0, 99.6, 99.6, 0.5) == "off"


def test_cells_without_run_outcomes_or_figures(tmp_path):
    path = files.retrieval(tmp_path, "zhclip", "muge", {T2I: files.ranks_with([50, 70, 80])})
    described = json.loads(path.read_text("utf-8"))
    described.pop("per_query")
    files.write_json(path, **described)
    files.classification(tmp_path, "zhclip-tiny", "digits", *files.answers_with(96.67, 360))
    made = build([tmp_path], resamples=100)
    cell = row_of(made, "muge", "ZH-CLIP").cells["text_to_image R@1"]
    assert (cell.verdict, cell.low, cell.high, cell.samples) == ("no interval", None, None, None)
    assert cell.ours == pytest.approx(50) and cell.difference == pytest.approx(50 - 56.75)
    cell = row_of(made, "muge", "CN-CLIP").cells["text_to_image R@1"]
    assert (cell.verdict, cell.ours, cell.run) == ("not run", None, None)
    digits = row_of(made, "digits", "zhclip-tiny")
    assert digits.source == "zhclip_tiny" and digits.cells["acc1"].verdict == "reproduced"
    assert digits.cells["acc5"].verdict == "not published"


# ---------------------------------------------------------------- comparisons


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Four runs on one classification and one retrieval set, some nearly equal, and the report."""
    folder = tmp_path_factory.mktemp("compared")
    for seed, (model, share) in enumerate((("zhclip", 60), ("cnclip", 56.6), ("altclip", 60.1), ("mclip", 50))):
        files.classification(folder, model, "dtd", *files.answers_with(share, 1880, classes=47, seed=seed))
        ranks = files.ranks_with([share - 5, share + 9, share + 20], 5008, seed=seed)
        files.retrieval(folder, model, "muge", {T2I: ranks})
    return folder, build([folder])


def outcomes_of(folder):
    """(data set, model) -> the hits of each sample, read here from the files; of a mean, how many of three."""
    result = {}
    for path in folder.glob("*.npz"):
        if "muge" in path.name:
            file = load_per_query(path)
            ranks = file[f"{T2I}_rank"]
            result["text_to_image R@1", file["meta"]["model"]] = (ranks == 1).astype(int)
            result["text_to_image Mean", file["meta"]["model"]] = sum(
                ((ranks >= 1) & (ranks <= k)).astype(int) for k in (1, 5, 10)
            )
        else:
            file = load_per_sample(path)
            result["dtd", file["meta"]["model"]] = (file["top"][:, 0] == file["target"]).astype(int)
    return result


TITLES = {"ZH-CLIP": "zhclip", "CN-CLIP": "cnclip", "altclip-xlmr-l": "altclip", "mclip": "mclip"}


def test_each_pair_is_compared_once_by_what_models_are_ranked_by(compared):
    made = compared[1].comparisons
    asked = [(one.column, frozenset((one.better, one.worse))) for one in made]
    pairs = [frozenset(pair) for pair in itertools.combinations(TITLES, 2)]
    columns = ("text_to_image R@1", "text_to_image Mean", "dtd")
    assert len(asked) == len(set(asked)) == 18 and set(asked) == set(itertools.product(columns, pairs))
    assert {one.dataset for one in made if one.table == "muge"} == {"muge"}


def test_tests_are_scipys_and_corrected_by_hand(compared):
    folder, made = compared
    hits, p = outcomes_of(folder), []
    for one in made.comparisons:
        first, second = (hits[one.column, TITLES[title]] for title in (one.better, one.worse))
        unit = 3 if one.column == "text_to_image Mean" else 1
        assert one.difference == pytest.approx(100 * (first.sum() - second.sum()) / unit / len(first))
        assert one.difference >= 0 and one.samples == len(first)
        if unit == 1:
            alone, beside = int((first > second).sum()), int((second > first).sum())
            expected = stats.binomtest(alone, alone + beside).pvalue
            assert one.test == "McNemar, exact" and one.p == pytest.approx(expected, rel=1e-9)
        else:
            drawn = stats.permutation_test(
                (first, second),
                lambda a, b, axis: a.sum(axis=axis) - b.sum(axis=axis),
                permutation_type="samples",
                n_resamples=1999,
                vectorized=True,
                batch=200,
                rng=1,
            ).pvalue
            near = 2 * 5 * (max(drawn, 1e-3) / 2 / 1999) ** 0.5
            assert one.test == "paired permutation, exact" and one.p == pytest.approx(drawn, abs=near)
        p.append(one.p)
    order, running = sorted(range(len(p)), key=p.__getitem__), 0.0
    for place, index in enumerate(order):
        running = max(running, min(1.0, (len(p) - place) * p[index]))
        one = made.comparisons[index]
        assert one.p_corrected == pytest.approx(running, rel=1e-9)
        assert one.significant == (running <= 0.05)
    decided = {one.significant for one in made.comparisons}
    assert decided == {True, False}
    # Correction matters: without it one more difference would be called significant.
    assert sum(value <= 0.05 for value in p) > sum(one.significant for one in made.comparisons)


def test_intervals_of_differences_are_those_of_plain_resampling(compared):
    folder, made = compared
    hits, rng = outcomes_of(folder), np.random.default_rng(3)
    for one in made.comparisons[::4]:
        unit = 3 if one.column == "text_to_image Mean" else 1
        apart = (hits[one.column, TITLES[one.better]] - hits[one.column, TITLES[one.worse]]) / unit
        drawn = [apart[rng.integers(0, len(apart), len(apart))].mean() for _ in range(2000)]
        near = 100 * (NEAR * 6**0.5 * np.std(drawn) + 1.01 / unit / len(apart))
        assert (one.low, one.high) == pytest.approx(tuple(100 * np.percentile(drawn, [2.5, 97.5])), abs=near)
        assert one.low <= one.difference <= one.high


def test_runs_on_other_samples_are_not_compared(tmp_path):
    given = files.ranks_with([50, 70, 80])
    files.retrieval(tmp_path, "zhclip", "muge", {T2I: given})
    files.retrieval(tmp_path, "cnclip", "muge", {T2I: given}, fingerprint="0" * 64)
    logits, target = files.answers_with(60, 500)
    files.classification(tmp_path, "zhclip", "dtd", logits, target)
    files.classification(tmp_path, "cnclip", "dtd", logits.flip(0), target.flip(0))
    made = build([tmp_path], resamples=100)
    assert not made.comparisons
    found = [str(problem) for problem in made.problems]
    assert len(found) == 2 and all("cannot be compared with" in line and "same files" in line for line in found)
    assert "fingerprints differ" in found[0] and "other labels, or another order" in found[1]


# ---------------------------------------------------------------- rows and further tables


def test_results_of_two_versions_of_the_prompts_are_not_compared(tmp_path):
    """They have rows of their own and no test between them, and both are told; those of one version are compared."""
    for seed, (model, version) in enumerate({"zhclip": 2, "altclip": 1, "mclip": None, "cnclip": 2}.items()):
        answers = files.answers_with(50 + seed, 500, seed=seed)
        files.classification(tmp_path, model, "dtd", *answers, prompts_version=version)
    report = build([tmp_path], resamples=200)
    rows = {row.label for row in rows_of(report, "zeroshot_classification") if row.cells["dtd"].run is not None}
    assert rows == {"ZH-CLIP", "CN-CLIP", "altclip-xlmr-l (prompts version 1)", "mclip (prompts version 1)"}
    pairs = {frozenset((one.better, one.worse)) for one in report.comparisons}
    assert pairs == {frozenset(("ZH-CLIP", "CN-CLIP")), frozenset(rows - {"ZH-CLIP", "CN-CLIP"})}
    best = {row.label for row in rows_of(report, "zeroshot_classification") if row.cells["dtd"].best}
    assert best == {"CN-CLIP", "mclip (prompts version 1)"}  # the best of each version
    told = [str(problem) for problem in report.problems]
    assert len(told) == 2  # one for each of the older
    for one in told:
        assert re.search(r"altclip|mclip", one.partition(":")[0]) and one.endswith("--custom_template_file zh@1")
        assert re.search(r"is of version 1 of the prompts of dtd; not compared with those of version 2, such as ", one)


def test_an_older_version_of_one_model_is_not_the_same_run(tmp_path):
    for version in (1, 2):
        answers = files.answers_with(50, 500, seed=version)
        files.classification(tmp_path, "zhclip", "dtd", *answers, name=f"v{version}", prompts_version=version)
    report = build([tmp_path], resamples=200)
    (problem,) = report.problems
    assert "v1.json" in problem.where and "not compared with" in problem.what and not report.comparisons


def test_other_models_and_variants_have_rows_of_their_own(tmp_path):
    answers = files.answers_with(50, 400)
    files.classification(tmp_path, "cnclip", "dtd", *answers)
    files.classification(tmp_path, "cnclip", "dtd", *answers, pretrained="/x/epoch_latest.pt", name="b")
    files.classification(tmp_path, "cnclip", "dtd", *answers, templates="cn_clip", name="c")
    files.classification(tmp_path, "cnclip", "dtd", *answers, language="en", name="d")
    files.classification(tmp_path, "cnclip-vit-h-14", "dtd", *answers)
    files.classification(tmp_path, "ViT-B-32", "dtd", *answers, pretrained="openai", language="en", name="e")
    made = build([tmp_path], resamples=100)
    rows = [
        (row.label, row.source, row.cells["dtd"].published) for row in table_of(made, "zeroshot_classification").rows
    ]
    variants = ["", " (en)", " (templates cn_clip)", " (epoch_latest.pt)"]
    expected = [("Clip-Chinese", "zh_clip", 18.4), ("mclip", "zh_clip", 29.57), ("Taiyi-CLIP", "zh_clip", 40.69)]
    expected += [(f"CN-CLIP{text}", "zh_clip", 44.73) for text in variants]
    expected += [("altclip-xlmr-l", "zh_clip", 42.07), ("ZH-CLIP", "zh_clip", 47.66)]
    expected += [("CN-CLIP ViT-H/14", "cn_clip", 51.2), ("ViT-B-32 (openai, en)", "", None)]
    assert rows == expected
    # What Chinese-CLIP itself publishes of the model stands in the same rows.
    for row in rows_of(made, "zeroshot_classification")[3:7]:
        (other,) = row.cells["dtd"].also
        assert (other.source, other.value, other.decimals, other.differs) == ("cn_clip", 44.2, 1, True)
    assert len(made.comparisons) == 15


def test_a_model_that_was_not_run_beside_its_variant(tmp_path):
    files.classification(tmp_path, "zhclip", "dtd", *files.answers_with(50, 400), language="en")
    rows = rows_of(build([tmp_path], resamples=100), "zeroshot_classification")
    assert [row.label for row in rows][-2:] == ["ZH-CLIP", "ZH-CLIP (en)"]
    assert [row.cells["dtd"].verdict for row in rows][-2:] == ["not run", "reproduced"]


def test_figures_of_a_tag_stand_beside_the_runs_of_that_tag(tmp_path):
    entry = {"metrics": [f"{T2I}_recall@1"], "values": {"cnclip-vit-l-14,qa_clip": [59.5], "zhclip": [56.8]}}
    described = {"format": 1, "source": "QA-CLIP", "decimals": 1, "models": {"cnclip,qa_clip": "QA-CLIP"}}
    paper = files.write_json(tmp_path / "qa.json", **described, datasets={"muge": entry})
    ranks = {T2I: files.ranks_with([59.5, 80, 90])}
    files.retrieval(tmp_path / "results", "cnclip", "muge", ranks, pretrained="qa_clip")
    made = build([tmp_path / "results"], published=[paper], resamples=100)
    rows = {(row.label, row.source): row.cells["text_to_image R@1"] for row in table_of(made, "muge").rows}
    assert rows["QA-CLIP", "qa"].verdict == "reproduced" and rows["QA-CLIP", "qa"].published == 59.5
    assert rows["CN-CLIP", "zh_clip"].verdict == "not run" and ("CN-CLIP (qa_clip)", "zh_clip") not in rows
    assert made.sources["qa"] == "QA-CLIP"


def test_other_data_sets_and_metrics_have_tables_of_their_own(tmp_path):
    answers = files.answers_with(50, 400)
    for dataset in ("pets", "fgvc_aircraft", "digits"):
        files.classification(tmp_path, "zhclip", dataset, *answers)
    files.classification(tmp_path, "cnclip", "fgvc_aircraft", *answers)
    files.retrieval(tmp_path, "zhclip", "mscoco_captions", {T2I: files.ranks_with([10, 20, 30], 100)}, fingerprint="")
    files.write_json(tmp_path / "l.json", dataset="dtd", model="x", task="linear_probe", metrics={"lp_acc1": 0.8})
    made = build([tmp_path], resamples=100)
    further = {table.key: table for table in made.tables[4:]}
    assert sorted(further) == ["digits", "dtd linear_probe", "fgvc_aircraft", "mscoco_captions", "pets"]
    assert [column.metric for column in further["pets"].columns] == ["acc1", "acc5", "mean_per_class_recall"]
    assert [column.title for column in further["mscoco_captions"].columns] == ["R@1", "R@5", "R@10", "Mean"]
    assert [column.metric for column in further["dtd linear_probe"].columns] == ["lp_acc1"]
    assert further["digits"].title == "Handwritten digits: zero-shot classification"
    assert further["digits"].title_zh == "手写数字：零样本分类"
    # Chinese-CLIP publishes the mean over classes of FGVC Aircraft, which the published table of accuracies has not.
    assert [column.metric for column in further["fgvc_aircraft"].columns] == ["mean_per_class_accuracy"]
    rows = {row.label: row.cells["mean_per_class_accuracy"] for row in further["fgvc_aircraft"].rows}
    assert rows["CN-CLIP ViT-L/14"].published == 16.0 and rows["ZH-CLIP"].verdict == "not published"
    # It is compared by its accuracy, and not a second time.
    assert [one.column for one in made.comparisons if one.dataset == "fgvc_aircraft"] == ["fgvc_aircraft"]


def test_a_data_set_of_somebody_elses_with_its_figures(tmp_path):
    entry = {"title": "Our own", "title_zh": "自建", "metrics": ["acc1"], "values": {"our-model": [50.0]}}
    described = {"format": 1, "source": "us", "decimals": 1, "models": {"our-model": "Ours"}}
    paper = files.write_json(tmp_path / "us.json", **described, datasets={"our-set": entry})
    files.classification(
        tmp_path / "r", "our-model", "our-set", *files.answers_with(50, 400), pretrained="v2", language="en"
    )
    made = build([tmp_path / "r"], published=[paper], resamples=100)
    table = table_of(made, "our-set")
    assert (table.title, table.title_zh) == ("Our own: zero-shot classification", "自建：零样本分类")
    told = [(row.label, row.cells["acc1"].verdict) for row in table.rows]
    assert told == [("Ours", "not run"), ("Ours (v2)", "reproduced")]


def test_runs_that_disagree_are_both_in_the_table(tmp_path):
    files.classification(tmp_path, "zhclip", "dtd", *files.answers_with(47, 1000), name="a")
    files.classification(tmp_path, "zhclip", "dtd", *files.answers_with(49, 1000), name="b")
    made = build([tmp_path], resamples=100)
    shown = [(row.label, row.cells["dtd"].ours) for row in rows_of(made, "zeroshot_classification")[-2:]]
    assert shown == [("ZH-CLIP", pytest.approx(47)), ("ZH-CLIP (b.json)", pytest.approx(49))]
    assert "0.490000, in" in str(made.problems[0]) and "0.470000" in str(made.problems[0])


def test_only_what_is_asked_for(folder, tmp_path):
    made = build([folder], models=["zhclip", "cnclip-vit-h-14"], datasets=["muge", "vtab/dtd"], resamples=100)
    assert [table.key for table in made.tables] == ["muge", "zeroshot_classification"]
    assert [column.key for column in made.tables[1].columns] == ["dtd"]
    assert [row.title for row in made.tables[1].rows] == ["ZH-CLIP", "CN-CLIP ViT-H/14"]
    assert row_of(made, "muge", "CN-CLIP ViT-H/14").cells["text_to_image R@1"].verdict == "not run"
    assert not row_of(made, "muge", "ZH-CLIP").cells["text_to_image R@5"].best_published  # CN-CLIP, not shown, is
    assert not made.comparisons
    (table,) = build([folder], datasets=["digits"], resamples=100).tables  # not run, but published and asked for
    assert [row.cells["acc1"].verdict for row in table.rows] == ["not run"]


def test_names_that_nobody_knows(folder):
    with pytest.raises(ZhclipError, match=r"--models zhclipp: no such model; did you mean zhclip"):
        build([folder], models=["zhclipp"])
    with pytest.raises(ZhclipError, match=r"--datasets mug: no such data set; did you mean muge"):
        build([folder], datasets=["mug"])


def test_no_data_at_all(tmp_path):
    made = build([tmp_path / "nowhere", tmp_path])
    assert len(made.problems) == 2 and not made.runs and not made.comparisons
    assert [len(table.rows) for table in made.tables] == [6, 6, 6, 6]
    verdicts = {cell.verdict for table in made.tables for row in table.rows for cell in row.cells.values()}
    assert verdicts == {"not run"}


def test_the_same_results_give_the_same_report(compared):
    folder, made = compared
    assert build([folder]) == made
    other = build([folder], seed=1)
    assert other != made and [one.p for one in other.comparisons] == [one.p for one in made.comparisons]


def test_progress_ends_where_it_says(compared):
    told = []
    build([compared[0]], resamples=100, progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == list(range(1, told[-1][1] + 1)) and len({total for _, total in told}) == 1


def test_of_too_many_runs_each_is_compared_with_the_best(tmp_path):
    """20 checkpoints on two sets of samples: 190 pairs, of which 18 are asked and all are corrected for."""
    shares = np.linspace(40, 70, 20)
    for number, share in enumerate(shares):
        ranks = {"image_retrieval": files.ranks_with([share, 80, 90], 300, seed=number)}
        data = "ab"[number % 2] * 64
        more = {"pretrained": f"/x/epoch_{number}.pt", "name": str(number), "fingerprint": data}
        files.retrieval(tmp_path, "zhclip", "muge", ranks, **more)
    made = build([tmp_path], resamples=100)
    first = [one for one in made.comparisons if one.column.endswith("R@1")]
    assert {one.better for one in first} == {"ZH-CLIP (epoch_18.pt)", "ZH-CLIP (epoch_19.pt)"} and len(first) == 18
    assert len(made.comparisons) == 2 * 18 and made.corrected_for == made.pairs == 2 * 190
    (note,) = made.problems
    assert str(note).startswith("muge: 20 runs make 190 pairs: each is compared with the best alone")
    smallest = min(made.comparisons, key=lambda one: one.p)
    assert smallest.p_corrected == pytest.approx(min(1, smallest.p * 380))
    for name in ("markdown", "html"):
        assert "380" in views.render(made, name)
    few = build([tmp_path], models=[f"zhclip,/x/epoch_{number}.pt" for number in range(4)], resamples=100)
    assert few.pairs == len(few.comparisons) == 2 * 2 and not [one for one in few.problems if "pairs" in one.what]


def test_many_runs_without_outcomes_are_no_pairs(tmp_path):
    for number in range(20):
        metrics = {"acc1": 0.5 + number / 100}
        files.write_json(tmp_path / f"{number}.json", dataset="cifar10", model=f"m{number}", metrics=metrics)
    made = build([tmp_path])
    assert made.corrected_for == 0 and not made.problems


# ---------------------------------------------------------------- the command

app = typer.Typer()
app.command()(command)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def small(tmp_path):
    files.classification(tmp_path / "results", "zhclip", "dtd", *files.answers_with(47.66, 500))
    (tmp_path / "results" / "broken.json").write_text("{")
    return tmp_path / "results"


@pytest.mark.parametrize("format", ["terminal", "markdown", "csv", "latex"])
def test_command_prints(small, format):
    done = run(small, "--format", format, "--resamples", 100)
    assert done.exit_code == 0 and "ZH-CLIP" in done.stdout and "47.6" in done.stdout
    assert [line for line in done.stderr.splitlines() if line] == [
        f"problem: {small / 'broken.json'}:1:2: broken JSON (Expecting property name enclosed in double quotes); "
        "evaluate again, or take it away"
    ]


@pytest.mark.parametrize("format", ["terminal", "markdown", "csv", "latex", "html"])
def test_command_writes(small, tmp_path, format):
    output = tmp_path / "new" / "report.txt"
    done = run(small, "--format", format, "--resamples", 100, "--output", output)
    assert done.exit_code == 0 and not done.stdout and f"written: {output}" in done.stderr.replace("\n", "")
    text = output.read_text("utf-8")
    assert "ZH-CLIP" in text and [path.name for path in output.parent.iterdir()] == ["report.txt"]


def test_a_page_is_written_to_a_pipe(small):
    assert run(small, "--format", "html", "--resamples", 100).stdout.startswith("<!")


def test_a_report_that_is_there_already_is_not_written_again(small, tmp_path, monkeypatch):
    """So that a results folder that cannot be written is no fault where nothing has changed."""
    made = build([small], resamples=100)
    path = views.write(made, "markdown", tmp_path / "report.md")

    def refused(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(views, "whole_file", refused)
    assert views.write(made, "markdown", path) == path
    path.write_text("another")
    with pytest.raises(ZhclipError, match="report.md: cannot be written .Read-only file system.; give another"):
        views.write(made, "markdown", path)


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "file/report.md"])
def test_names_that_no_report_can_have(small, tmp_path, name):
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "file").write_text("")
    with pytest.raises(ZhclipError, match="cannot be written"):
        views.write(build([small], resamples=100), "csv", folder / name)
    assert os.listdir(folder) == ["file"]


def test_a_full_disk_leaves_nothing(small, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(ZhclipError, match="No space left on device"):
        views.write(build([small], resamples=100), "html", tmp_path / "there" / "report.html")
    assert not os.listdir(tmp_path / "there")


def test_an_interrupted_report_leaves_the_old_one(small, tmp_path, monkeypatch):
    import os

    output = tmp_path / "report.md"
    output.write_text("old")

    def replace(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    done = run(small, "--format", "markdown", "--output", output, "--resamples", 100)
    assert isinstance(done.exception, ZhclipError) and "No space left" in str(done.exception)
    assert output.read_text() == "old" and sorted(path.name for path in tmp_path.iterdir()) == ["report.md", "results"]


def test_command_without_results(tmp_path):
    done = run(tmp_path, "--resamples", 100)
    assert isinstance(done.exception, ZhclipError) and done.exit_code == 1
    assert "no result could be read" in str(done.exception)
    assert "problem:" in done.stderr and "altclip-xlmr-l" in done.stdout


def test_command_spares_the_results(small, tmp_path):
    path = next(small.glob("dtd*.json"))
    before = path.read_bytes()
    for output in (path, small / "broken.json"):
        done = run(small, "--output", output, "--format", "csv")
        assert re.search("one of the results; give --output another name", str(done.exception))
    done = run(small, "--output", small, "--format", "csv", "--resamples", 100)
    assert "a folder; give --output the name of a file" in str(done.exception)
    assert path.read_bytes() == before


def test_command_takes_names_between_commas(small):
    done = run(
        small, "--models", "cnclip,qa_clip,zhclip", "--datasets", "dtd,muge", "--format", "csv", "--resamples", 100
    )
    assert done.exit_code == 0 and "taiyiclip" not in done.stdout and "zhclip-vit-l-14" in done.stdout
    assert "cifar10" not in done.stdout
    files.classification(small, "zhclip", "dtd", *files.answers_with(40, 500), pretrained="/x/own.pt", name="own")
    done = run(small, "--models", "cnclip,zhclip,/x/own.pt", "--format", "csv", "--resamples", 100)
    shown = {
        line.split(",")[6] + line.split(",")[7] for line in done.stdout.splitlines() if line.startswith("cell,zero")
    }
    assert shown == {"CN-CLIP", "ZH-CLIPown.pt"}
    done = run(small, "--models", "nobody")
    assert "--models nobody: no such model" in str(done.exception)


def test_command_takes_published_files(small, tmp_path):
    entry = {"metrics": ["acc1"], "values": {"zhclip": [47.7], "nobody": [1]}}
    described = {"format": 1, "source": "A paper", "decimals": 1, "datasets": {"dtd": entry}}
    paper = files.write_json(tmp_path / "paper.json", **described)
    done = run(small, "--published", paper, "--format", "markdown", "--resamples", 100)
    assert "`paper`: A paper" in done.stdout
    assert f"problem: {paper}: datasets.dtd.values.nobody: there is no model 'nobody'" in done.stderr
