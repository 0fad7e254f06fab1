"""Linear probes in a report: how they were trained is no metric, and they stand beside nothing that is zero-shot."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support import report_files as files
from zhclip_openclip.report.build import build
from zhclip_openclip.report.runs import read_results

#: As clip_benchmark 1.6.2 writes it: settings among the metrics, some of them numbers from 0 to 1.
HOSTS = {
    "lp_acc1": 0.8, "lp_acc5": float("nan"), "lp_mean_per_class_recall": 0.75, "weight_decay": 0.01, "epochs": 10,
    "seed": 0, "fewshot_k": 1, "normalized": True,
}  # fmt: skip
ACC = ["lp_acc1", "lp_mean_per_class_recall"]


def probe_of(path, model="zhclip", dataset="cifar10", metrics=None, **given):
    metrics = (
        {"lp_acc1": 0.8, "lp_mean_per_class_recall": 0.75, "fewshot_k": -1, "seed": 0} if metrics is None else metrics
    )
    described = {"dataset": dataset, "model": model, "task": "linear_probe", "language": "zh", "metrics": metrics}
    return files.write_json(path, **described, **given)


@pytest.mark.parametrize("task", ["linear_probe", ""])
def test_settings_of_clip_benchmarks_own_are_no_metrics(tmp_path, task):
    files.write_json(tmp_path / "a.json", dataset="cifar10", model="RN50", task=task, metrics=HOSTS)
    read = read_results([tmp_path])
    (run,) = read.runs
    assert not read.problems and run.task == "linear_probe" and sorted(run.metrics) == ACC
    assert run.facts["weight_decay"] == 0.01 and run.facts["fewshot_k"] == 1 and run.facts["probe"] == "adamw"
    (table,) = [table for table in build([tmp_path], resamples=50).tables if table.key == "cifar10 linear_probe"]
    assert [column.metric for column in table.columns] == ACC
    assert [row.label for row in table.rows] == ["RN50 (1 shot, AdamW)"]


def test_a_probe_is_in_no_zero_shot_table_and_beside_no_published_figure(tmp_path):
    """cifar10's accuracy is published of zhclip; a probe that calls its accuracy acc1 too is no reproduction of it."""
    for name in ("lp_acc1", "acc1"):
        probe_of(tmp_path / f"{name}.json", metrics={name: 0.97}, probe={"classifier": "logistic"})
    made = build([tmp_path], resamples=50)
    zero_shot = next(table for table in made.tables if table.key == "zeroshot_classification")
    assert all(cell.ours is None for row in zero_shot.rows for cell in row.cells.values())
    table = next(table for table in made.tables if table.key == "cifar10 linear_probe")
    cells = [cell for row in table.rows for cell in row.cells.values() if cell.ours is not None]
    assert [cell.ours for cell in cells] == [97.0, 97.0] and {cell.published for cell in cells} == {None}


def test_rows_tell_how_a_probe_was_trained_and_nothing_of_prompts(tmp_path):
    plain = {"classifier": "logistic", "fewshot_k": -1, "train_split": "train", "seeds": [{}]}
    given = [
        ("a", plain, {}),
        ("b", {**plain, "fewshot_k": 16, "seeds": [{}, {}, {}], "std": {"lp_acc1": 0.01}}, {}),
        ("c", {**plain, "classifier": "adamw"}, {}),
        ("d", {**plain, "train_split": "trainval"}, {}),
        ("e", {**plain, "loaded": "p.safetensors"}, {}),
        ("f", plain, {"language": "en", "prompts_version": 1, "classname_source": "zhclip_openclip cifar10.json"}),
    ]
    for name, probe, more in given:
        described = {"dataset": "cifar10", "model": "zhclip", "task": "linear_probe", "language": "zh", "probe": probe}
        metrics = {"lp_acc1": 0.8, "fewshot_k": probe["fewshot_k"], "seed": 0}
        files.write_json(tmp_path / f"{name}.json", **{**described, "metrics": metrics, **more})
    made = build([tmp_path], resamples=50)
    table = next(table for table in made.tables if table.key == "cifar10 linear_probe")
    assert [row.variant for row in table.rows] == [
        "", "AdamW", "probe p.safetensors", "trained on trainval", "16 shots, 3 seeds",
    ]  # fmt: skip
    # The language of the class names changes no figure: the same result.
    assert [problem.what.split(" as ")[0] for problem in made.problems] == ["the same result"]
    assert next(run for run in made.runs if run.path.endswith("b.json")).facts["std of lp_acc1"] == 0.01


def test_probes_are_compared_in_pairs(tmp_path):
    import torch

    from zhclip_openclip.metrics.per_sample import save_per_sample

    target = torch.arange(400) % 10
    for model, share in (("zhclip", 0.9), ("cnclip", 0.6)):
        wrong = np.random.default_rng(0).random(400) >= share
        answers = torch.where(torch.from_numpy(wrong), (target + 1) % 10, target)
        scores = torch.nn.functional.one_hot(answers, 10).float()
        found = {"lp_acc1": float((answers == target).float().mean())}
        save_per_sample(tmp_path / f"{model}.npz", scores, target, {"task": "linear_probe", "model": model})
        probe_of(
            tmp_path / f"{model}.json",
            model,
            metrics=found,
            per_sample=f"{model}.npz",
            probe={"classifier": "logistic"},
        )
    made = build([tmp_path], resamples=200)
    (compared,) = made.comparisons
    assert (compared.table, compared.column, compared.better) == ("cifar10 linear_probe", "lp_acc1", "ZH-CLIP")
    assert compared.significant and compared.samples == 400 and compared.test == "McNemar, exact"
    table = next(table for table in made.tables if table.key == "cifar10 linear_probe")
    assert all(row.cells["lp_acc1"].low < row.cells["lp_acc1"].ours < row.cells["lp_acc1"].high for row in table.rows)
    assert not made.problems
