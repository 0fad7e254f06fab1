"""Fine-tuned checkpoints: tables of their own, judged by figures of fine-tuned models, and by what they began from.

Ranks and accuracies are chosen beforehand, so that every verdict is known.
"""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from scipy import stats

from tests.support import report_files as files
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.checkpoints.training_run import TrainingRun, training_run
from zhclip_openclip.report import fine_tuned, views
from zhclip_openclip.report._model import Run
from zhclip_openclip.report.build import build

T2I = "image_retrieval"
#: What Results.md of Chinese-CLIP has of MUGE's valid: zero-shot and fine-tuned R@1, 5, 10 of ViT-B/16.
ZERO_SHOT, TUNED = (52.1, 76.7, 84.4), (58.4, 83.6, 90.0)
MODEL = "cnclip-vit-b-16"


def ranks_of(recalls, seed=0, samples=1000):
    return {T2I: files.ranks_with(recalls, samples, seed)}


def training(folder, data="MUGE", began="ofa_sys", name="epoch_3.pt"):
    """What open_clip_train leaves of a run; the path of its checkpoint."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    lines = [f"model: {MODEL}", f"pretrained: {began}", f"train_data: {data}", "force_image_size: None"]
    (folder / "params.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "checkpoints" / name).touch()
    return str(folder / "checkpoints" / name)


def tuned(folder, recalls=TUNED, pretrained="logs/muge/checkpoints/epoch_3.pt", data="MUGE", dataset="muge", **more):
    told = {"trained": {"began": more.pop("began", "ofa_sys"), "data": data}} if data is not None else {}
    return files.retrieval(
        folder, MODEL, dataset, ranks_of(recalls, 7), pretrained=pretrained, name="t", **told, **more
    )


def table_of(made, key):
    return next(table for table in made.tables if table.key == key)


def verdicts(made, key):
    return {row.label: row.cells["text_to_image R@1"].verdict for row in table_of(made, key).rows}


# ---------------------------------------------------------------- what is compared with what


def test_a_checkpoint_is_judged_by_what_is_published_of_fine_tuned_models(tmp_path):
    tuned(tmp_path)
    files.retrieval(tmp_path, MODEL, "muge", ranks_of(ZERO_SHOT))
    made = build([tmp_path], resamples=500)
    assert not made.problems
    zero, own = table_of(made, "muge"), table_of(made, "muge fine-tuned")
    (row,) = [row for row in own.rows if row.cells["text_to_image R@1"].ours is not None]
    assert row.label == "CN-CLIP ViT-B/16 (epoch_3.pt, fine-tuned on muge)" and row.source == "cn_clip_finetuned"
    for k, value in zip((1, 5, 10), TUNED, strict=True):
        cell = row.cells[f"text_to_image R@{k}"]
        assert (cell.published, cell.verdict) == (value, "reproduced")
    # The other published ones are there too, each once, and no zero-shot figure is among them.
    assert [row.title.removeprefix("CN-CLIP ") for row in own.rows] == [
        *("RN50", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px", "ViT-H/14")
    ]
    assert {row.source for row in own.rows} == {"cn_clip_finetuned"}
    assert own.title == "MUGE: retrieval, fine-tuned" and own.title_zh.endswith("（微调后）")
    # And the table of zero-shot figures has no fine-tuned one.
    assert "cn_clip_finetuned" not in {source for row in zero.rows for source in row.sources}
    assert verdicts(made, "muge")["CN-CLIP ViT-B/16"] == "reproduced"
    assert not any("epoch_3" in row.label for row in zero.rows)


@pytest.mark.parametrize("recalls, expected", [(TUNED, "off"), (ZERO_SHOT, "reproduced")])
def test_a_zero_shot_run_never_meets_a_fine_tuned_figure(tmp_path, recalls, expected):
    """Also where it is as good as a fine-tuned one."""
    files.retrieval(tmp_path, MODEL, "muge", ranks_of(recalls))
    made = build([tmp_path], resamples=500)
    assert verdicts(made, "muge")["CN-CLIP ViT-B/16"] == expected
    assert not [table for table in made.tables if "fine-tuned" in table.key]


def test_a_fine_tuned_run_never_meets_a_zero_shot_figure(tmp_path):
    tuned(tmp_path, ZERO_SHOT)
    made = build([tmp_path], resamples=500)
    told = verdicts(made, "muge fine-tuned")
    assert told["CN-CLIP ViT-B/16 (epoch_3.pt, fine-tuned on muge)"] == "off"
    assert set(verdicts(made, "muge").values()) == {"not run"}


def test_trained_on_one_set_and_scored_on_another_is_judged_by_neither(tmp_path):
    tuned(tmp_path, (66.8, 91.1, 97.0), dataset="coco-cn", data="MUGE")
    made = build([tmp_path], resamples=200)
    told = verdicts(made, "coco-cn fine-tuned")
    assert told["CN-CLIP ViT-B/16 (epoch_3.pt, fine-tuned on muge)"] == "not published"
    assert set(verdicts(made, "coco-cn").values()) == {"not run"}


@pytest.mark.parametrize("data", ["/data/shop", "MUGE:valid", "train.csv", ""])
def test_on_data_that_nobody_knows_it_is_judged_by_nothing_and_that_is_said(tmp_path, data):
    path = tuned(tmp_path, data=data)
    made = build([tmp_path], resamples=200)
    (row,) = [row for row in table_of(made, "muge fine-tuned").rows if row.variant]
    assert row.cells["text_to_image R@1"].published is None
    said = next(str(problem) for problem in made.problems if "was trained on" in str(problem))
    assert said.startswith(f"{path}: ") and said.endswith("--fine-tuned epoch_3.pt=muge")
    made = build([tmp_path], resamples=200, fine_tuned=["epoch_3.pt=muge"])  # the advice can be followed
    assert verdicts(made, "muge fine-tuned")["CN-CLIP ViT-B/16 (epoch_3.pt, fine-tuned on muge)"] == "reproduced"
    assert not any("was trained on" in str(problem) for problem in made.problems)


def test_the_best_of_each_kind_is_its_own(tmp_path):
    """A zero-shot run is the best of its table although a fine-tuned one is better."""
    tuned(tmp_path)
    for model, recalls in ((MODEL, ZERO_SHOT), ("cnclip-rn50", (42.6, 68.6, 77.9))):
        files.retrieval(tmp_path, model, "muge", ranks_of(recalls))
    made = build([tmp_path], resamples=200)
    best = {row.label for table in made.tables for row in table.rows if row.cells[table.columns[0].key].best}
    assert best == {"CN-CLIP ViT-B/16"}


# ---------------------------------------------------------------- the model that it began from


@pytest.mark.parametrize("seed, recalls, better", [(0, TUNED, True), (1, (45.0, 70.0, 80.0), False)])
def test_whether_it_is_better_than_what_it_began_from(tmp_path, seed, recalls, better):
    """By McNemar's exact test on the same queries, as scipy's binomial test has it."""
    tuned(tmp_path, recalls)
    before = ranks_of(ZERO_SHOT)
    files.retrieval(tmp_path, MODEL, "muge", before)
    made = build([tmp_path], resamples=500)
    told = {one.column: one for one in made.comparisons}
    assert set(told) == {"text_to_image R@1", "text_to_image Mean"}
    one = told["text_to_image R@1"]
    assert one.table == "muge fine-tuned" and one.origin == ("worse" if better else "better")
    assert (one.worse if better else one.better) == f"{MODEL} (ofa_sys)"
    was, now = before[T2I] == 1, files.ranks_with(recalls, 1000, 7) == 1
    gained, lost = int((now & ~was).sum()), int((was & ~now).sum())
    assert one.p == pytest.approx(stats.binomtest(gained, gained + lost).pvalue, rel=1e-9)
    assert one.difference == pytest.approx(abs(recalls[0] - ZERO_SHOT[0])) and one.samples == 1000


def test_a_fine_tuned_run_and_other_models_are_no_pairs(tmp_path):
    """A zero-shot run of another model asks another question; two that were fine-tuned are compared."""
    tuned(tmp_path)
    files.retrieval(tmp_path, MODEL, "muge", ranks_of(ZERO_SHOT))
    files.retrieval(tmp_path, "zhclip", "muge", ranks_of((56.75, 79.75, 86.66)))
    made = build([tmp_path], resamples=200)
    pairs = {frozenset((one.better, one.worse)) for one in made.comparisons}
    assert len(pairs) == 2
    assert frozenset(("CN-CLIP ViT-B/16", "ZH-CLIP")) in pairs


def test_where_the_beginning_was_not_run_the_command_is_said(tmp_path):
    path = tuned(tmp_path)
    (problem,) = build([tmp_path], resamples=200).problems
    assert problem.where == str(path) and "whether it is better is not known" in problem.what
    assert f"clip_benchmark eval --model {MODEL} --pretrained ofa_sys --dataset muge" in problem.way_out
    files.write_json(
        tmp_path / "z.json", dataset="muge", model=MODEL, pretrained="ofa_sys", metrics={f"{T2I}_recall@1": 0.5}
    )
    (problem,) = build([tmp_path], resamples=200).problems
    assert "no outcomes of single samples" in problem.what


def test_on_other_queries_it_is_no_pair(tmp_path):
    tuned(tmp_path, fingerprint="a" * 64)
    files.retrieval(tmp_path, MODEL, "muge", ranks_of(ZERO_SHOT))
    made = build([tmp_path], resamples=200)
    assert not made.comparisons and "their fingerprints differ" in str(made.problems[0])


def test_from_random_weights_there_is_nothing_to_be_better_than(tmp_path):
    tuned(tmp_path, began="")
    files.retrieval(tmp_path, MODEL, "muge", ranks_of(ZERO_SHOT))
    made = build([tmp_path], resamples=200)
    assert not made.comparisons and not made.problems


def test_a_run_that_began_from_another_checkpoint(tmp_path):
    first, second = "logs/a/checkpoints/epoch_1.pt", "logs/b/checkpoints/epoch_9.pt"
    tuned(tmp_path, pretrained=second, began=first)
    told = {"trained": {"began": "ofa_sys", "data": "MUGE"}}
    files.retrieval(tmp_path, MODEL, "muge", ranks_of((57.0, 80.0, 88.0)), pretrained=first, name="first", **told)
    made = build([tmp_path], resamples=200)
    ours = [one for one in made.comparisons if one.origin]
    assert {one.better + one.worse for one in ours} and all(first in (one.better + one.worse) for one in ours)


# ---------------------------------------------------------------- how it is known


def test_a_result_without_it_asks_the_run_beside_its_checkpoint(tmp_path):
    checkpoint = training(tmp_path / "logs" / "muge", data="/data/MUGE:train")
    tuned(tmp_path / "results", pretrained=checkpoint, data=None)
    made = build([tmp_path / "results"], resamples=200)
    assert verdicts(made, "muge fine-tuned")["CN-CLIP ViT-B/16 (epoch_3.pt, fine-tuned on muge)"] == "reproduced"


def test_a_checkpoint_of_which_nothing_says_so_is_zero_shot_until_somebody_does(tmp_path):
    tuned(tmp_path, data=None, pretrained="/gone/epoch_3.pt")
    assert verdicts(build([tmp_path], resamples=200), "muge")["CN-CLIP ViT-B/16 (epoch_3.pt)"] == "off"
    made = build([tmp_path], resamples=200, fine_tuned=["epoch_3.pt=MUGE@qa_clip"])
    assert verdicts(made, "muge fine-tuned")["CN-CLIP ViT-B/16 (epoch_3.pt, fine-tuned on muge)"] == "reproduced"
    assert "began from cnclip-vit-b-16 qa_clip" in str(made.problems[0])
    made = build([tmp_path], resamples=200, fine_tuned=["other.pt=muge"])
    assert "no result is of a checkpoint other.pt" in str(made.problems[0])


@pytest.mark.parametrize("text", ["epoch_3.pt", "=muge", "epoch_3.pt=", "epoch_3.pt=muge@", "epoch_3.pt=mug"])
def test_statements_of_another_form(text):
    with pytest.raises(
        ZhclipError, match="--fine-tuned .*(write CHECKPOINT=DATASET|no data set mug; did you mean muge)"
    ):
        fine_tuned.parse([text])


def test_what_one_result_says_of_a_checkpoint_holds_for_all(tmp_path):
    tuned(tmp_path)
    checkpoint = "logs/muge/checkpoints/epoch_3.pt"
    files.retrieval(tmp_path, MODEL, "coco-cn", ranks_of(ZERO_SHOT), pretrained=checkpoint, name="other")
    made = build([tmp_path], resamples=200)
    assert "coco-cn fine-tuned" in {table.key for table in made.tables}


@pytest.mark.parametrize(
    "trained", [5, {"began": "ofa_sys"}, {"began": 1, "data": "MUGE"}, {"data": ["x"], "began": ""}]
)
def test_what_is_said_badly_is_a_problem(tmp_path, trained):
    path = tuned(tmp_path, data=None)
    described = json.loads(path.read_text())
    path.write_text(json.dumps({**described, "trained": trained}))
    made = build([tmp_path], resamples=200)
    assert str(made.problems[0]).startswith(f"{path}: trained: is ") and "--fine-tuned" in made.problems[0].way_out


@pytest.mark.parametrize(
    "data, datasets",
    [
        ("MUGE", ("muge",)),
        ("/data/COCO-CN/", ("coco-cn",)),
        ("/data/Flickr30k-CN:train", ("flickr30k-cn",)),
        ("/data/MUGE/train_imgs.tsv", ("muge",)),
        ("/data/MUGE/MR_train_imgs.tsv", ("muge",)),
        ("/data/MUGE/valid_imgs.tsv", ()),
        ("/data/MUGE/lmdb", ("muge",)),
        ("MUGE::/data/own::COCO-CN", ("muge", "coco-cn")),
        ("digits-retrieval", ("digits-retrieval",)),
        ("/data/MUGE/more/shop", ()),
        ("C:\\data", ()),
        ("MUGE:test", ()),
        ("", ()),
    ],
)
def test_which_set_the_training_data_are(data, datasets):
    assert fine_tuned.trained("ofa_sys", data).datasets == datasets


def test_params_of_a_run(tmp_path):
    first = training(tmp_path / "a", data="COCO-CN", began="ofa_sys")
    second = training(tmp_path / "b", data="MUGE", began=first, name="epoch_latest.pt")
    assert training_run(first) == TrainingRun("ofa_sys", "COCO-CN")
    assert training_run(second) == TrainingRun(first, "MUGE::COCO-CN")  # all that it has seen
    (tmp_path / "alone.pt").touch()
    for none in (
        str(tmp_path / "alone.pt"),
        "ofa_sys",
        "",
        None,
        str(tmp_path),
        "x\0y",
        str(tmp_path / "b/nothing.pt"),
    ):
        assert training_run(none) is None
    (tmp_path / "b" / "params.txt").write_bytes(b"\xff\xfe\x00")
    assert training_run(second) is None


def test_runs_that_began_from_each_other_end(tmp_path):
    one = training(tmp_path / "a", began=str(tmp_path / "b" / "checkpoints" / "epoch_3.pt"))
    training(tmp_path / "b", began=one)
    assert training_run(one).data.count("MUGE") == 8


def test_the_statement_is_about_the_end_of_a_path():
    run = Run("r.json", MODEL, "logs/a/checkpoints/epoch_3.pt", "muge", "zh", "zeroshot_retrieval")
    about = {text: fine_tuned.parse([f"{text}=muge"])[0].is_about(run) for text in (
        "epoch_3.pt", "a/checkpoints/epoch_3.pt", "logs/a/*", "poch_3.pt", "b/checkpoints/epoch_3.pt"
    )}  # fmt: skip
    assert list(about.values()) == [True, True, True, False, False]


# ---------------------------------------------------------------- shown


@pytest.mark.parametrize("format", views.FORMATS)
def test_every_view_says_it(tmp_path, format):
    tuned(tmp_path)
    files.retrieval(tmp_path, MODEL, "muge", ranks_of(ZERO_SHOT))
    text = views.render(build([tmp_path], resamples=200), format)
    if format == "csv":
        lines = list(csv.DictReader(io.StringIO(text)))
        assert {line["origin"] for line in lines if line["record"] == "comparison"} == {"worse"}
        assert any(line["table"] == "muge fine-tuned" and line["verdict"] == "reproduced" for line in lines)
    else:
        plain = " ".join(text.replace("\\", "").split())
        assert "MUGE: retrieval, fine-tuned" in plain
        assert "began from" in plain or format == "terminal"  # where it may be broken over lines
        assert format != "html" or "（其起始模型）" in text


def test_the_published_file_says_what_kind_it_is(tmp_path):
    from zhclip_openclip.report.published import load_published, read_published

    sources = {source.key: source for source in load_published()[0]}
    assert [key for key, source in sources.items() if source.fine_tuned] == ["cn_clip_finetuned"]
    described = {"format": 1, "source": "x", "decimals": 1, "training": "tuned", "datasets": {}}
    _, problems = read_published(files.write_json(tmp_path / "x.json", **described))
    assert "training: is \"tuned\"; write 'zero-shot'" in str(problems[0])


def test_figures_are_those_of_the_paper():
    """R@1 grows by fine-tuning, for every size and set; what was typed into the wrong row or column would show."""
    from zhclip_openclip.report.published import load_published

    sources = {source.key: source for source in load_published()[0]}
    before, after = sources["cn_clip"], sources["cn_clip_finetuned"]
    assert before.models == after.models
    for (dataset, metric), column in after.values.items():
        assert set(column) == set(after.models)
        assert all(value >= before.value(key, dataset, metric) for key, value in column.items())
    means = after.values["muge", f"{T2I}_mean_recall"]
    for key, mean in means.items():
        parts = [after.value(key, "muge", f"{T2I}_recall@{k}") for k in (1, 5, 10)]
        assert mean == pytest.approx(np.mean(parts), abs=0.1 + 1e-9)


# ---------------------------------------------------------------- from the evaluation on


def test_an_evaluation_says_it_in_its_result(tmp_path, monkeypatch):
    """Of a checkpoint of a training run; then nobody needs the run any more."""
    import sys

    import clip_benchmark.cli as cli
    import open_clip
    import torch

    model = open_clip.create_model("zhclip-tiny", pretrained="digits")
    checkpoint = training(tmp_path / "logs" / "run", data="digits-retrieval", began="digits")
    torch.save({"epoch": 1, "name": "run", "state_dict": model.state_dict()}, checkpoint)
    monkeypatch.chdir(tmp_path)
    for number, pretrained in enumerate(("logs/run/checkpoints/epoch_3.pt", "digits")):
        words = ["--model", "zhclip-tiny", "--pretrained", pretrained, "--dataset", "digits-retrieval"]
        words += [
            "--language",
            "zh",
            "--num_workers",
            "0",
            "--quiet",
            "--output",
            str(tmp_path / "r" / f"{number}.json"),
        ]
        (tmp_path / "r").mkdir(exist_ok=True)
        monkeypatch.setattr(sys, "argv", ["clip_benchmark", "eval", *words])
        cli.main()
    written = [json.loads((tmp_path / "r" / f"{number}.json").read_text()) for number in range(2)]
    assert written[0]["trained"] == {"began": "digits", "data": "digits-retrieval"} and "trained" not in written[1]
    (tmp_path / "logs" / "run" / "params.txt").unlink()
    made = build([tmp_path / "r"], resamples=200)
    (row,) = table_of(made, "digits-retrieval fine-tuned").rows
    assert row.label == "zhclip-tiny (epoch_3.pt, fine-tuned on digits-retrieval)"
    assert len(made.comparisons) == 4 and {one.p for one in made.comparisons} == {1.0}  # the same weights
    assert not made.problems


def test_a_run_of_chinese_clips_own_trainer_is_known(tmp_path):
    """By the params_TIME.txt of its first start (cn_clip/training/main.py writes one at each)."""
    run = tmp_path / "muge_finetune"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "epoch3.pt").touch()
    common = "vision_model: ViT-B-16\ntext_model: RoBERTa-wwm-ext-base-chinese\nval_data: x\n"
    for time, resume in (
        ("2023-01-01-00-00-00", "pretrained_weights/clip_cn_vit-b-16.pt"),
        ("2023-01-02-00-00-00", ""),
    ):
        text = f"{common}resume: {resume or run / 'checkpoints/epoch_latest.pt'}\ntrain_data: data/MUGE/lmdb/train\n"
        (run / f"params_{time}.txt").write_text(text, encoding="utf-8")
    checkpoint = str(run / "checkpoints" / "epoch3.pt")
    assert training_run(checkpoint) == TrainingRun("ofa_sys", "data/MUGE/lmdb:train")
    tuned(tmp_path, pretrained=checkpoint, data=None)
    made = build([tmp_path], resamples=500)
    assert "CN-CLIP ViT-B/16 (epoch3.pt, fine-tuned on muge)" in verdicts(made, "muge fine-tuned")
    for path in run.glob("params_*.txt"):
        path.write_text("nothing of it\n")
    assert training_run(checkpoint) is None
