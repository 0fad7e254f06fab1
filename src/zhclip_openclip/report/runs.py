"""Reading results: the JSON files of clip_benchmark, ours or anybody's, and what was answered to each sample.

Nothing in a folder of results stops the others from being read: what cannot be used becomes a `Problem`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zhclip_openclip import families
from zhclip_openclip._errors import ZhclipError, printable
from zhclip_openclip._reading import reading
from zhclip_openclip.metrics import per_query, per_sample
from zhclip_openclip.metrics._npz import OutcomeError, require, text_of
from zhclip_openclip.metrics.recall import DIRECTIONS
from zhclip_openclip.prompts import editions, languages, registry
from zhclip_openclip.report import _names, fine_tuned, same_set, statistics
from zhclip_openclip.report._model import Problem, Run
from zhclip_openclip.report.result_json import Result, Unusable, beside, fact, is_probe, named, read_result, versions_of
from zhclip_openclip.report.statistics import Labels, Outcomes, Ranks, Scores
from zhclip_openclip.towers import text_handling

_CHINESE = (languages.SIMPLIFIED, languages.TRADITIONAL)
CLASSIFICATION, RETRIEVAL, PROBE = "zeroshot_classification", "zeroshot_retrieval", "linear_probe"
#: Two values of one metric are the same up to here: clip_benchmark rounds recall to float32, the others differ in the
#: order of a sum.
SAME = 1e-6


@dataclass
class Results:
    """What was read. outcomes: for each run what it answered, or None."""

    runs: list[Run] = field(default_factory=list)
    outcomes: list[Outcomes | None] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def read_results(
    paths: Iterable[str | os.PathLike[str]],
    links_from: str | os.PathLike[str] | None = None,
    fine_tuned_ones: Iterable[str] = (),
) -> Results:
    """All results in the files and folders (with the folders below, hidden ones left out), in the order of their paths.

    links_from: the folder that links to galleries start from; by default the current one. fine_tuned_ones: what is said
    of checkpoints; see `fine_tuned.parse`.

    Raises ZhclipError: `fine_tuned_ones` of another form.
    """
    results = Results()
    for path in _files(paths, results.problems):
        with _noting(results.problems, path):
            result = read_result(path)
            run, outcomes, problems = _run(result, Path(links_from or "."))
            if (wrong := same_set.wrong_set(run, outcomes)) is not None:
                results.problems.append(wrong)
                continue
            results.problems += problems
            results.runs.append(run)
            results.outcomes.append(outcomes)
    for run, problem in same_set.same_data(zip(results.runs, results.outcomes, strict=True)):
        place = results.runs.index(run)
        del results.runs[place], results.outcomes[place]
        results.problems.append(problem)
    results.runs, untold = fine_tuned.tell(results.runs, fine_tuned_ones)
    results.problems += untold
    return results


@contextlib.contextmanager
def _noting(problems: list[Problem], path: Path) -> Iterator[None]:
    """The boundary around one result: whatever is wrong with it is a problem, and the others are read."""
    try:
        with reading(path, advice="take it away"):
            yield
    except Unusable as unusable:
        problems.append(unusable.problem)
    except ZhclipError as error:
        problems.append(Problem(str(path), str(error).removeprefix(f"{printable(str(path))}: ")))


def _files(paths: Iterable[str | os.PathLike[str]], problems: list[Problem]) -> list[Path]:
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        with _noting(problems, path):
            if path.is_dir():
                inside = [file for file in path.rglob("*.json") if not _hidden(file.relative_to(path))]
                inside = [file for file in inside if file.is_file()]
                if not inside:
                    way_out = "give the folder that clip_benchmark eval --output writes to"
                    problems.append(Problem(str(path), "no result in this folder", way_out))
                for file in sorted(inside):
                    found.setdefault(file.resolve(), file)
            elif path.is_file():
                found.setdefault(path.resolve(), path)
            else:
                problems.append(Problem(str(path), "no such file or folder", "give the result JSON of clip_benchmark"))
    return list(found.values())


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


# ---------------------------------------------------------------- one result


def _run(result: Result, links_from: Path) -> tuple[Run, Outcomes | None, list[Problem]]:
    model, dataset = _names.model_name(result.model), _names.dataset_name(result.dataset)
    run = Run(
        path=str(result.path),
        model=model,
        pretrained=result.pretrained,
        dataset=dataset,
        language=result.language,
        task=_task(result, dataset),
        templates=result.templates,
        metrics=_derived(result.metrics),
        gallery=result.gallery and Path(os.path.relpath(result.gallery, links_from)).as_posix(),
        foreign=families.find(model) is None and not result.made_here,
        facts=result.facts,
        trained=result.trained and fine_tuned.trained(*result.trained),
    )
    problems = [*result.problems, *_misspelt(result.path, model, dataset)]
    try:
        outcomes, run = _outcomes(result, run)
    except Unusable as unusable:
        return run, None, [*problems, unusable.problem]
    return run, outcomes, problems


def _task(result: Result, dataset: str) -> str:
    if result.task not in ("", "auto"):
        return result.task
    if is_probe(result.task, result.metrics):
        return PROBE
    recall = _names.is_retrieval(dataset) or any(map(_names.RECALL.fullmatch, result.metrics))
    return RETRIEVAL if recall else CLASSIFICATION


def _derived(metrics: dict[str, float]) -> dict[str, float]:
    """With what follows from other metrics, for results that were made without this package."""
    result = dict(metrics)
    if "mean_per_class_recall" in metrics:
        result.setdefault("mean_per_class_accuracy", metrics["mean_per_class_recall"])
    for way in DIRECTIONS:
        recalls = [metrics.get(f"{way}_recall@{k}") for k in statistics.MEAN_RECALL_KS]
        if None not in recalls:
            result.setdefault(f"{way}_mean_recall", sum(recalls) / len(recalls))
    return result


def _misspelt(path: Path, model: str, dataset: str) -> list[Problem]:
    """A name that is nearly one of ours stands in a row of its own; somebody may wonder why."""
    problems = []
    for what, name, ours, known in (
        ("model", model, families.find(model) is not None, families.all_names()),
        (
            "dataset",
            dataset,
            _names.is_known_dataset(dataset) or dataset in _names.layout()["chinese"],
            _names.known_datasets(),
        ),
    ):
        way_out = _names.suggest(name, known, cutoff=0.9)
        if not ours and not name.startswith("own/") and way_out.startswith("did you mean"):
            problems.append(Problem(f"{path}: {what}", f"{name!r} is none that is known here", way_out))
    return problems


# ---------------------------------------------------------------- what was answered


def _outcomes(result: Result, run: Run) -> tuple[Outcomes | None, Run]:
    """Each sample's outcome, from the NPZ that the JSON names, and the run with what that file tells."""
    if result.outcomes is None:
        return None, run
    (kind, name), again = result.outcomes, "evaluate again; without it there is no interval"
    file = beside(result.path, name)
    if file is None:
        raise Unusable(result.path, f"its {kind} file {named(name)} is not beside it", again)
    try:
        with reading(file, OutcomeError):
            outcomes, meta = _ranks(file) if kind == "per_query" else _labels(file)
            _check_same(meta, outcomes, result, run)
    except OutcomeError as error:
        reason = str(error).removeprefix(f"{printable(str(file))}: ")
        raise Unusable(result.path, f"its {kind} file {name} is damaged ({reason})", again) from error
    facts = {key: fact(meta[key]) for key in ("split", "fingerprint") if meta.get(key)}
    return outcomes, replace(run, samples=str(file), facts={**run.facts, **facts, **versions_of(meta)})


def _labels(file: Path) -> tuple[Outcomes, dict[str, Any]]:
    arrays = per_sample.load_per_sample(file)
    meta, target = arrays["meta"], arrays["target"]
    require(file, target.size)
    if "scores" in arrays:
        return Scores(target, arrays["scores"], text_of(file, meta, "fingerprint")), meta
    outcomes = Labels(target, arrays["predicted"], arrays["top"], meta["classes"], text_of(file, meta, "fingerprint"))
    return outcomes, meta


def _ranks(file: Path) -> tuple[Outcomes, dict[str, Any]]:
    arrays = per_query.load_per_query(file)
    ranks, ids = {}, {}
    for way, key in (("image_retrieval", "text_ids"), ("text_retrieval", "image_ids")):
        if f"{way}_rank" in arrays:
            counted = arrays[f"{way}_counted"]
            require(file, counted.any())
            ranks[way], ids[way] = arrays[f"{way}_rank"][counted], arrays[key][counted]
    require(file, ranks)
    return Ranks(ranks, ids, text_of(file, arrays["meta"], "fingerprint")), arrays["meta"]


def _check_same(meta: dict[str, Any], outcomes: Outcomes, result: Result, run: Run) -> None:
    """Whether the outcomes are those of the result: made for the same, and with the same metrics.

    Metrics are computed from the outcomes, so that a file of another run shows whatever it says about itself.
    """
    again, name = "its interval is left out; evaluate again", result.outcomes[1]
    for key in ("model", "pretrained", "dataset"):
        here = getattr(result, key)
        if key in meta and (meta[key] or "") != here:
            what = f"its file {name} is of another run ({key} {named(meta[key])}, here {named(here)})"
            raise Unusable(result.path, what, again)
    for key in ("split", "fingerprint"):
        text_of(result.path.parent / name, meta, key)
    for metric, value in run.metrics.items():
        answered = statistics.value(outcomes, metric)
        # Average precision is summed in float32, in an order that depends on the machine.
        if answered is not None and abs(answered - value) > (1e-4 if isinstance(outcomes, Scores) else SAME):
            what = f"its file {name} is stale ({metric} {answered:.6f}, here {value:.6f})"
            raise Unusable(result.path, what, again)


# ---------------------------------------------------------------- variants and duplicates


def checkpoint(run: Run) -> str:
    """The tag or file of a run, '' for the default tag of a model of ours."""
    return "" if run.pretrained == _names.default_tag(run.model) else run.pretrained


def tags(runs: Iterable[Run]) -> dict[tuple[str, str], str]:
    """(model, checkpoint) -> how to call it: a tag as it is, a file by its name, with its folder if that tells."""
    found: dict[str, set[str]] = {}
    for run in runs:
        found.setdefault(run.model, set()).add(checkpoint(run))
    result = {}
    for model, names in found.items():
        paths = [Path(name) for name in names if is_checkpoint_file(name)]
        for name in names:
            result[model, name] = _apart(Path(name), paths) if is_checkpoint_file(name) else name
    return result


def is_checkpoint_file(pretrained: str) -> bool:
    """Whether it is a path and no tag."""
    return pretrained.startswith((".", "~", "/", "\\")) or Path(pretrained).suffix in (".pt", ".bin", ".safetensors")


def variant(run: Run) -> tuple[str, ...]:
    """What else tells a run from the one that published figures are compared with: another language than Chinese,
    another template set than `zh`, an older version of our prompts, Chinese-CLIP's copy of a data set, another split
    than the one that is scored, a sample in place of the whole, open_clip's handling of the text where the model's
    authors have another. Of a linear probe how it was trained, and nothing of prompts, which it has none of."""
    from zhclip_openclip.datasets import retrieval

    parts = []
    own = run.dataset.startswith("own/")
    if run.task == PROBE:
        split, parts = "test", _trained(run.facts)
        if own:
            split = run.facts.get("split")
    elif own and run.task == RETRIEVAL:
        split = run.facts.get("split")  # its captions are what they are
    elif _names.is_retrieval(run.dataset):
        split = retrieval.default_split(run.dataset)  # its captions are Chinese, whatever --language said
    else:
        chinese = own or _names.is_known_dataset(run.dataset) or run.dataset in _names.layout()["chinese"]
        split, expected = "test", languages.SIMPLIFIED if chinese else "en"
        if (language := _names.language(run.language)) not in (expected, ""):
            parts.append(language)
    elevater = str(run.facts.get("spelling", "")).removeprefix("wds/").startswith(registry.ELEVATER)
    defaults = ("cn_clip",) if elevater else ("zh", "clip_benchmark en") if own else ("zh",)
    if run.task != PROBE and run.templates not in ("", *defaults):
        parts.append(f"templates {Path(run.templates).name}")
    if version := older_version(run):
        parts.append(f"prompts version {version}")
    if elevater:
        parts.append("elevater")
    if run.facts.get("split") not in (None, split):
        parts.append(f"split {run.facts['split']}")
    if "limit" in run.facts:
        parts.append(f"sample of {run.facts['limit']}")
    if run.task != PROBE and (handling := handling_of(run)) == text_handling.HOST:
        parts.append(f"text handling {handling}")
    return tuple(parts)


def handling_of(run: Run) -> str:
    """How Chinese text has reached the model: 'authors' or 'host'; '' where there is one way alone.

    A result that does not say was made without this package, by open_clip's own way.
    """
    told = run.facts.get("text_handling")
    if families.find(run.model) is not None or text_handling.of_authors(run.model) is None:
        # A name may say nothing of a model of the hub, whose tokenizer did.
        return told if told == text_handling.AUTHORS else ""
    chinese = _names.is_retrieval(run.dataset) or _names.language(run.language) in _CHINESE
    return (told or text_handling.HOST) if chinese or told else ""


def _trained(facts: dict[str, Any]) -> list[str]:
    """What tells a linear probe from one of all images of the split `train` by logistic regression."""
    parts = []
    shots, seeds = facts.get("fewshot_k"), facts.get("seeds", 1)
    if type(shots) is int and shots > 0:
        parts.append(f"{shots} shot{'s' if shots > 1 else ''}")
    if type(seeds) is int and seeds > 1:
        parts.append(f"{seeds} seeds")
    if facts.get("probe") != "logistic":
        parts.append({"adamw": "AdamW"}.get(facts.get("probe"), str(facts.get("probe"))))
    if facts.get("train_split") not in (None, "train"):
        parts.append(f"trained on {facts['train_split']}")
    if facts.get("loaded"):
        parts.append(f"probe {facts['loaded']}")
    return parts


def older_version(run: Run) -> int | None:
    """The version of its prompts; None for the newest, where nothing of them is ours, and of a linear probe."""
    if run.task == PROBE:
        return None
    made = editions.made_with(run.dataset, run.templates, run.facts)
    return made.version if made and made.version != made.newest else None


def without_duplicates(results: Results) -> tuple[list[tuple[int, str]], list[Problem]]:
    """The runs to show, each as (index, label), one for each different value of a cell.

    Of runs of one cell with equal values the one that tells most is shown. Runs that disagree are all shown, the
    second and later ones labelled by their files. Either is a problem that names the files.
    """
    cells: dict[tuple, list[int]] = {}
    for index, run in enumerate(results.runs):
        cells.setdefault((run.model, checkpoint(run), variant(run), run.task, run.dataset), []).append(index)
    shown: list[tuple[int, str]] = []
    problems: list[Problem] = []
    for same in cells.values():
        kept: list[int] = []
        for index in same:
            run = results.runs[index]
            twin = next((other for other in kept if _difference(results.runs[other], run) == ""), None)
            if twin is None:
                kept.append(index)
                continue
            first = results.runs[twin].path
            problems.append(Problem(run.path, f"the same result as {first}", "counted once"))
            if _tells(results, index) > _tells(results, twin):
                kept[kept.index(twin)] = index
        paths = [Path(results.runs[index].path) for index in kept]
        labels = [""] + [_apart(path, paths) for path in paths[1:]]
        for index in kept[1:]:
            what = f"another run of the same cell disagrees: {_difference(results.runs[kept[0]], results.runs[index])}"
            problems.append(Problem(results.runs[index].path, what, "both are shown"))
        shown += zip(kept, labels, strict=True)
    return sorted(shown), problems


def _difference(first: Run, second: Run) -> str:
    """A metric that both have with different values, and these; '' if there is none."""
    common = [metric for metric in first.metrics if metric in second.metrics]
    for metric in common:
        one, other = first.metrics[metric], second.metrics[metric]
        if abs(one - other) > SAME:
            return f"{metric} is {other:.6f}, in {first.path} {one:.6f}"
    return "" if common else f"it has none of the metrics of {first.path}"


def _tells(results: Results, index: int) -> tuple[bool, int]:
    return results.outcomes[index] is not None, len(results.runs[index].metrics)


def _apart(path: Path, others: list[Path]) -> str:
    """The shortest end of a path that no other path has."""
    for length in range(1, len(path.parts) + 1):
        end = path.parts[-length:]
        if sum(other.parts[-length:] == end for other in others) == 1:
            return "/".join(end)
    return str(path)
