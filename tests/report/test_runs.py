"""Reading folders of results, ours and anybody's, and what is said of those that cannot be used as they are."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch

from tests.support import report_files as files
from zhclip_openclip.metrics.per_query import load_per_query
from zhclip_openclip.metrics.per_sample import load_per_sample
from zhclip_openclip.report import runs
from zhclip_openclip.report.runs import checkpoint, read_results, tags, variant, without_duplicates
from zhclip_openclip.report.statistics import Labels, Ranks, Scores

MUGE = {"image_retrieval": files.ranks_with([30, 50, 60], 200)}
ANSWERS = files.answers_with(80, 200)


def foreign(path, **changes):
    """A result as clip_benchmark writes it by itself."""
    described = {
        "dataset": "wds/vtab/cifar100",
        "model": "ViT-B-32",
        "pretrained": "laion2b_s34b_b79k",
        "task": "zeroshot_classification",
        "metrics": {"acc1": 0.755, "acc5": 0.94, "mean_per_class_recall": 0.7549},
        "language": "en",
    }
    described.update(changes)
    return files.write_json(path, **{key: value for key, value in described.items() if value is not None})


def only(path, problems=0):
    read = read_results([path])
    assert len(read.runs) == len(read.outcomes) == 1 and len(read.problems) == problems, read.problems
    return read.runs[0], read.outcomes[0]


# ---------------------------------------------------------------- what is read


def test_a_retrieval_result_of_ours(tmp_path):
    path = files.retrieval(tmp_path, "zhclip", "muge", MUGE, split="valid")
    run, outcomes = only(path)
    assert (run.model, run.pretrained, run.dataset) == ("zhclip-vit-l-14", "thu_ml", "muge")
    assert run.task == "zeroshot_retrieval" and not run.foreign and variant(run) == () and checkpoint(run) == ""
    assert run.samples == str(path.with_suffix(".npz")) and run.path == str(path)
    assert run.facts["split"] == "valid" and run.facts["fingerprint"] == "f" * 64
    assert isinstance(outcomes, Ranks) and np.array_equal(outcomes.ranks["image_retrieval"], MUGE["image_retrieval"])
    assert outcomes.ids["image_retrieval"][3] == "text-3"


def test_queries_that_are_not_counted_are_left_out(tmp_path):
    path = files.retrieval(tmp_path, "zhclip", "coco-cn", {way: MUGE["image_retrieval"] for way in files.WAYS})
    npz = path.with_suffix(".npz")
    arrays = dict(np.load(npz))
    arrays["text_retrieval_counted"][:50] = False
    np.savez(npz, **arrays)
    described = json.loads(path.read_text("utf-8"))
    described["metrics"] = files.recalls_of(
        {"image_retrieval": MUGE["image_retrieval"], "text_retrieval": MUGE["image_retrieval"][50:]}
    )
    path.write_text(json.dumps(described))
    _, outcomes = only(path)
    assert len(outcomes.ranks["text_retrieval"]) == 150 and outcomes.ids["text_retrieval"][0] == "image-50"


def test_a_classification_result_of_ours(tmp_path):
    path = files.classification(tmp_path, "cnclip", "vtab/pcam", *ANSWERS, versions={"torch": "2.6"})
    run, outcomes = only(path)
    assert (run.model, run.dataset, run.templates) == ("cnclip-vit-l-14", "pcam", "zh") and not run.foreign
    assert isinstance(outcomes, Labels) and outcomes.classes == 10
    assert run.facts["versions"] == {"torch": "2.6"} and run.facts["spelling"] == "vtab/pcam"
    assert run.metrics["mean_per_class_accuracy"] == run.metrics["mean_per_class_recall"]


def test_several_labels(tmp_path):
    target = (torch.rand(60, 4, generator=torch.Generator().manual_seed(1)) < 0.4).long()
    path = files.classification(tmp_path, "zhclip", "voc2007_multilabel", target + torch.rand(60, 4), target)
    run, outcomes = only(path)
    assert isinstance(outcomes, Scores) and "mean_average_precision" in run.metrics
    described = json.loads(path.read_text("utf-8"))
    described["metrics"]["mean_average_precision"] -= 0.001
    path.write_text(json.dumps(described))
    (problem,) = read_results([path]).problems
    assert "is stale (mean_average_precision" in str(problem)


def test_a_result_that_was_made_without_this_package(tmp_path):
    run, outcomes = only(foreign(tmp_path / "a.json"))
    assert run.foreign and outcomes is None and run.samples is None
    assert (run.model, run.dataset, variant(run)) == ("ViT-B-32", "cifar100", ("en",))
    assert checkpoint(run) == "laion2b_s34b_b79k"


def test_what_follows_from_the_metrics_of_a_foreign_result(tmp_path):
    recalls = {"image_retrieval_recall@1": 0.5, "image_retrieval_recall@5": 0.8, "image_retrieval_recall@10": 0.95}
    run, _ = only(foreign(tmp_path / "a.json", dataset="flickr30k-cn", task="zeroshot_retrieval", metrics=recalls))
    assert run.metrics["image_retrieval_mean_recall"] == pytest.approx(0.75)
    assert "text_retrieval_mean_recall" not in run.metrics


@pytest.mark.parametrize(
    "spelling, name",
    [
        ("wds/vtab/kitti_closest_vehicle_distance", "kitti_closest_vehicle_distance"),
        ("elevater/kitti-distance", "kitti_closest_vehicle_distance"),
        ("tfds/eurosat/rgb:2.*.*", "eurosat"),
        ("elevater/voc-2007-classification", "voc2007_multilabel"),
        ("wds/Flickr30K_CN", "flickr30k-cn"),
        ("wds/mscoco_captions", "mscoco_captions"),
        ("sugar_crepe/add_att", "sugar_crepe/add_att"),
    ],
)
def test_names_of_data_sets(tmp_path, spelling, name):
    assert only(foreign(tmp_path / "a.json", dataset=spelling))[0].dataset == name


def test_without_task_language_or_tag(tmp_path):
    run, _ = only(foreign(tmp_path / "a.json", task=None, language=None, pretrained=None))
    assert (run.task, run.language, run.pretrained, variant(run)) == ("zeroshot_classification", "", "", ())
    run, _ = only(foreign(tmp_path / "a.json", task="auto", dataset="x", metrics={"text_retrieval_recall@5": 0.5}))
    assert run.task == "zeroshot_retrieval"


def test_metrics_that_are_no_single_share(tmp_path):
    metrics = {"acc1": 0.5, "acc5": float("nan"), "per_class_accuracy": {"a": 1.0}, "CIDEr": 1.2, "flag": True}
    run, _ = only(foreign(tmp_path / "a.json", metrics=metrics), problems=1)
    assert run.metrics == {"acc1": 0.5}
    (problem,) = read_results([tmp_path]).problems
    assert re.fullmatch(r".*a\.json: CIDEr: is 1\.2, no share from 0 to 1; it is left out", str(problem))


def test_a_folder_is_read_with_the_folders_below_but_not_the_hidden_ones(tmp_path):
    for name in ("b.json", "a.json", "deep/er/c.json", ".part/d.json", "deep/.e.json"):
        foreign(tmp_path / name, model=name)
    (tmp_path / "f.json.tmp").write_text("{")
    (tmp_path / "g.npz").write_bytes(b"")
    read = read_results([tmp_path, tmp_path / "a.json", tmp_path / "deep" / ".." / "b.json"])
    assert [run.model for run in read.runs] == ["a.json", "b.json", "deep/er/c.json"] and not read.problems


def test_galleries_are_links(tmp_path):
    path = files.retrieval(tmp_path / "results", "zhclip", "muge", MUGE, name="here")
    assert only(path)[0].gallery is None
    (tmp_path / "results" / "here.html").write_text("")
    for start, link in ((tmp_path, "results/here.html"), (tmp_path / "results", "here.html")):
        assert read_results([path], links_from=start).runs[0].gallery == link
    assert read_results([path], links_from=tmp_path / "pages").runs[0].gallery == "../results/here.html"


# ---------------------------------------------------------------- bad input


def problem_of(*paths, runs=0):
    read = read_results(paths)
    assert len(read.problems) == 1 and len(read.runs) == runs, read.problems
    return str(read.problems[0])


@pytest.mark.parametrize(
    "content, said",
    [
        (b'{\n "dataset": "muge",\n "model" "zhclip"}', r"a.json:3:10: broken JSON \(Expecting ':' delimiter\)"),
        (b'{"dataset": "muge", "metr', r"a.json:1:\d+: broken JSON"),
        (b"", r"a.json:1:1: broken JSON"),
        (b"\xff\xfe\x00", r"a.json: is no JSON in UTF-8"),
        (b"[" * 100_000, r"a.json: is no JSON"),
        (b"[1, 2]", r"a.json: is no result of clip_benchmark \(has no dataset and no model and no metrics\)"),
        (b'{"dataset": "muge", "model": "x"}', r"is no result of clip_benchmark \(has no metrics\)"),
        (b'{"dataset": 1, "model": "x", "metrics": {}}', r"dataset is 1; it must be a name"),
        (b'{"dataset": "muge", "model": "", "metrics": {}}', r'model is ""; it must be a name'),
        (b'{"dataset": "muge", "model": "x", "metrics": []}', r"metrics is no object"),
        (b'{"dataset": "muge", "model": "x", "metrics": {}}', r"has no metric that can be reported"),
    ],
)
def test_json_that_is_no_result(tmp_path, content, said):
    (tmp_path / "a.json").write_bytes(content)
    assert re.search(said, problem_of(tmp_path))


def test_the_rest_is_read(tmp_path):
    (tmp_path / "a.json").write_text("{")
    foreign(tmp_path / "b.json")
    assert "a.json:1:2: broken JSON" in problem_of(tmp_path, runs=1)


def test_paths_with_nothing(tmp_path):
    assert re.search("no result in this folder; give the folder", problem_of(tmp_path))
    assert re.search("nowhere: no such file or folder", problem_of(tmp_path / "nowhere"))


def test_names_that_are_nearly_ours(tmp_path):
    foreign(tmp_path / "a.json", model="zhclip-vit-l14")
    assert re.search("model: 'zhclip-vit-l14' is none .* did you mean zhclip-vit-l-14", problem_of(tmp_path, runs=1))
    foreign(tmp_path / "a.json", dataset="flickr30k-cnn")
    assert re.search("dataset: 'flickr30k-cnn' is none .* did you mean flickr30k-cn", problem_of(tmp_path, runs=1))


def test_images_that_were_left_out_are_told(tmp_path):
    files.classification(tmp_path, "zhclip", "dtd", *ANSWERS, skipped_images={"count": 3, "images": []})
    assert "3 images could not be read and are not in its metrics" in problem_of(tmp_path, runs=1)


def rewrite(path, **changes):
    arrays = {**np.load(path), **changes}
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})


KINDS = {
    "per_query": lambda folder: files.retrieval(folder, "zhclip", "muge", MUGE, name="a"),
    "per_sample": lambda folder: files.classification(folder, "zhclip", "dtd", *ANSWERS, name="a"),
}


@pytest.fixture(params=KINDS)
def written(request, tmp_path):
    """(kind, JSON, NPZ) of a good result."""
    path = KINDS[request.param](tmp_path)
    return request.param, path, path.with_suffix(".npz")


def left_out(path, said):
    """The result is read without its outcomes, and why is told."""
    read = read_results([path])
    assert len(read.runs) == len(read.problems) == 1 and read.outcomes == [None] and read.runs[0].samples is None
    assert re.search(f"a.json: its .*{said}.*evaluate again", str(read.problems[0])), read.problems


def test_outcomes_that_are_not_there(written, tmp_path):
    kind, path, npz = written
    described = json.loads(path.read_text("utf-8"))
    shutil.move(npz, tmp_path / "elsewhere.npz")
    left_out(path, f"{kind} file a.npz is not beside it")
    for name in ("../a.npz", "/etc/passwd", ["a.npz"]):
        path.write_text(json.dumps({**described, kind: name}))
        left_out(path, "is not beside it")


def test_outcomes_that_are_damaged(written):
    kind, path, npz = written
    whole = npz.read_bytes()
    for content in (b"", b"no archive", whole[: len(whole) // 2], whole[:300] + bytes(50) + whole[350:]):
        npz.write_bytes(content)
        left_out(path, f"{kind} file a.npz is damaged")
    npz.write_bytes(whole)
    rewrite(npz, meta=np.array("{"))
    left_out(path, "is damaged")
    meta = json.dumps({"format": 99, "classes": 10})
    rewrite(npz, meta=np.array(meta))
    left_out(path, "format 99, this version reads 1")


def test_arrays_that_do_not_fit(written):
    kind, path, npz = written
    whole = npz.read_bytes()
    keys = {
        "per_query": {"image_retrieval_rank": 1, "image_retrieval_counted": 0, "text_ids": 1},
        "per_sample": {"target": 1, "predicted": 1, "top": 1},
    }[kind]
    for key, cut in keys.items():
        array = dict(np.load(npz))[key]
        rewrite(npz, **{key: array[cut:] if cut else np.zeros_like(array)})
        left_out(path, "arrays do not fit each other")
        npz.write_bytes(whole)
        rewrite(npz, **{key: None})
        left_out(path, "is damaged|has no")
        npz.write_bytes(whole)


def test_labels_beyond_the_classes(tmp_path):
    path = KINDS["per_sample"](tmp_path)
    rewrite(path.with_suffix(".npz"), target=np.full(200, 10, dtype=np.int32))
    left_out(path, "arrays do not fit each other")


def test_nothing_in_a_file_is_executed(tmp_path):
    path = KINDS["per_sample"](tmp_path)
    rewrite(path.with_suffix(".npz"), target=np.array([print], dtype=object))
    left_out(path, "is damaged .*target is of type object, not integers")


def test_outcomes_of_another_run(tmp_path):
    path = KINDS["per_query"](tmp_path)
    other = files.retrieval(tmp_path / "b", "cnclip", "muge", MUGE, name="a")
    shutil.copy(other.with_suffix(".npz"), tmp_path)
    left_out(path, "another run .model cnclip, here zhclip")


def test_outcomes_with_other_metrics(tmp_path):
    """An earlier evaluation's, say; whatever the file says of itself, its outcomes are counted."""
    path = KINDS["per_query"](tmp_path)
    described = json.loads(path.read_text("utf-8"))
    described["metrics"]["image_retrieval_recall@5"] += 1 / 200
    path.write_text(json.dumps(described))
    left_out(path, r"stale \(image_retrieval_recall@5 0\.500000, here 0\.505000\)")
    path = KINDS["per_sample"](tmp_path)
    described = json.loads(path.read_text("utf-8"))
    described["metrics"]["mean_per_class_recall"] -= 0.001
    path.write_text(json.dumps(described))
    left_out(path, r"stale \(mean_per_class_recall")


def test_the_stand_in_files_are_as_the_package_writes_them(tmp_path):
    assert load_per_query(KINDS["per_query"](tmp_path).with_suffix(".npz"))["meta"]["format"] == 1
    assert load_per_sample(KINDS["per_sample"](tmp_path).with_suffix(".npz"))["meta"]["format"] == 1


# ---------------------------------------------------------------- variants and duplicates


def run_of(tmp_path, **changes):
    return only(foreign(tmp_path / "a.json", **{"model": "zhclip", "pretrained": "thu_ml", **changes}))[0]


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"dataset": "cifar10", "language": "zh"}, ()),
        ({"dataset": "cifar10", "language": "cn"}, ()),
        ({"dataset": "cifar10", "language": "zh-Hant"}, ("zh_Hant",)),
        ({"dataset": "cifar10", "language": "zh_TW_x"}, ("zh_TW_x",)),
        ({"dataset": "cifar10"}, ("en",)),
        ({"dataset": "muge", "language": "en"}, ()),  # clip_benchmark's default; the captions are Chinese
        ({"dataset": "wds/cifar10", "language": "zh", "template_set": "zh", "prompts_version": 2}, ()),
        ({"dataset": "cifar10", "language": "zh", "template_set": "zh"}, ("prompts version 1",)),  # of old, or as now:
        ({"dataset": "digits", "language": "zh", "template_set": "zh"}, ()),
        ({"dataset": "cifar10", "language": "zh", "template_set": "zh", "prompts_version": 1}, ("prompts version 1",)),
        ({"dataset": "cifar10", "language": "zh", "template_set": "zh", "prompts_version": 9}, ("prompts version 9",)),
        (
            {
                "dataset": "dtd",
                "language": "zh",
                "template_set": "name",
                "classname_source": "zhclip_openclip dtd.json",
            },
            ("templates name", "prompts version 1"),
        ),
        (
            {"dataset": "dtd", "language": "zh", "template_set": "name", "classname_source": "/a/names.json"},
            ("templates name",),
        ),
        ({"dataset": "cifar10", "language": "zh", "template_set": "cn_clip"}, ("templates cn_clip",)),
        ({"dataset": "cifar10", "language": "zh", "template_set": "/a/mine.json"}, ("templates mine.json",)),
        ({"dataset": "elevater/cifar-10", "language": "zh", "template_set": "cn_clip"}, ("elevater",)),
        (
            {"dataset": "elevater/cifar-10", "language": "zh", "template_set": "zh", "prompts_version": 2},
            ("templates zh", "elevater"),
        ),
        ({"dataset": "mscoco_captions"}, ()),
        ({"dataset": "xtd200", "language": "zh"}, ("zh",)),  # not of ours: what it is in has to be said
        ({"dataset": "cifar10", "language": "zh", "split": "train"}, ("split train",)),
        ({"dataset": "muge", "split": "valid"}, ()),
        ({"dataset": "muge", "split": "test"}, ("split test",)),
    ],
)
def test_what_tells_a_run_from_the_published_one(tmp_path, changes, expected):
    assert variant(run_of(tmp_path, **changes)) == expected


def test_tags_and_checkpoints(tmp_path):
    given = {
        ("cnclip", "ofa_sys"): "",
        ("cnclip", "qa_clip"): "qa_clip",
        ("cnclip", "/home/me/one/epoch_latest.pt"): "one/epoch_latest.pt",
        ("cnclip", "/home/me/two/epoch_latest.pt"): "two/epoch_latest.pt",
        ("cnclip", "/home/me/best.pt"): "best.pt",
        ("ViT-B-32", "openai"): "openai",
        ("ViT-B-32", ""): "",
        ("hf-hub:org/name", "hf-hub:org/other"): "hf-hub:org/other",
    }
    found = [run_of(tmp_path, model=model, pretrained=pretrained) for model, pretrained in given]
    called = tags(found)
    assert [called[run.model, checkpoint(run)] for run in found] == list(given.values())


def test_the_same_result_twice(tmp_path):
    first = foreign(tmp_path / "a.json", dataset="cifar10", metrics={"acc1": 0.5, "mean_per_class_recall": 0.5})
    second = foreign(tmp_path / "sub" / "a.json", dataset="vtab/cifar10", metrics={"acc1": 0.5 + 1e-8})
    read = read_results([tmp_path])
    shown, problems = without_duplicates(read)
    assert shown == [(0, "")]
    assert str(problems[0]) == f"{second}: the same result as {first}; counted once"


def test_of_equal_results_the_one_with_outcomes_is_shown(tmp_path):
    path = KINDS["per_sample"](tmp_path)
    described = json.loads(path.read_text("utf-8"))
    described.pop("per_sample")
    files.write_json(tmp_path / "0.json", **described)
    read = read_results([tmp_path])
    assert without_duplicates(read)[0] == [(1, "")]


def test_runs_of_one_cell_that_disagree_are_both_shown(tmp_path):
    first = foreign(tmp_path / "x" / "a.json")
    second = foreign(tmp_path / "y" / "a.json", metrics={"acc1": 0.75, "acc5": 0.94, "mean_per_class_recall": 0.7549})
    read = read_results([tmp_path])
    shown, (problem,) = without_duplicates(read)
    assert shown == [(0, ""), (1, "y/a.json")]
    assert str(problem) == (
        f"{second}: another run of the same cell disagrees: acc1 is 0.750000, in {first} 0.755000; both are shown"
    )


def test_results_of_one_cell_without_a_common_metric(tmp_path):
    foreign(tmp_path / "a.json", dataset="muge", metrics={"image_retrieval_recall@5": 0.5})
    foreign(tmp_path / "b.json", dataset="muge", metrics={"image_retrieval_recall@7": 0.6})
    shown, (problem,) = without_duplicates(read_results([tmp_path]))
    assert [label for _, label in shown] == ["", "b.json"] and "none of the metrics of" in str(problem)


@pytest.mark.parametrize(
    "changes", [{"pretrained": "openai"}, {"language": "zh"}, {"template_set": "openai80"}, {"task": "linear_probe"}]
)
def test_variants_are_no_duplicates(tmp_path, changes):
    foreign(tmp_path / "a.json")
    foreign(tmp_path / "b.json", **changes)
    shown, problems = without_duplicates(read_results([tmp_path]))
    assert [label for _, label in shown] == ["", ""] and not problems
    assert runs.SAME < 1e-5
