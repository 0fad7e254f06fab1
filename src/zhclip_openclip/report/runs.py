"""Reading results: the JSON files of clip_benchmark, ours or anybody's, and what was answered to each sample.

Nothing in a folder of results stops the others from being read: what cannot be used becomes a `Problem`.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zhclip_openclip import families
from zhclip_openclip.metrics import per_query, per_sample
from zhclip_openclip.metrics.recall import DIRECTIONS
from zhclip_openclip.prompts import editions, languages, registry
from zhclip_openclip.prompts._errors import PromptError
from zhclip_openclip.report import _names, statistics
from zhclip_openclip.report._model import Problem, Run
from zhclip_openclip.report.statistics import Labels, Outcomes, Ranks, Scores

CLASSIFICATION, RETRIEVAL = "zeroshot_classification", "zeroshot_retrieval"
#: Two values of one metric are the same up to here: clip_benchmark rounds recall to float32, the others differ in the
#: order of a sum.
SAME = 1e-6
_REQUIRED = ("dataset", "model", "metrics")
#: Keys that have a field of their own in `Run`; other short ones are its facts.
_KNOWN = {*_REQUIRED, "pretrained", "task", "language", "template_set", "per_query", "per_sample", "gallery"}
#: What this package adds to a result; one with none of these, of a model that is not ours, is foreign.
_OURS = {"per_query", "per_sample", "template_set", "classname_source", "english_classes", "skipped_images"}


@dataclass
class Results:
    """What was read. outcomes: for each run what it answered, or None."""

    runs: list[Run] = field(default_factory=list)
    outcomes: list[Outcomes | None] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


class _Unusable(Exception):
    """Why a file is left out, or what was answered is."""

    def __init__(self, what: str, way_out: str = "", place: str = "") -> None:
        super().__init__(what)
        self.what, self.way_out, self.place = what, way_out, place

    def problem(self, path: Path) -> Problem:
        return Problem(f"{path}{self.place}", self.what, self.way_out)


def read_results(paths: Iterable[str | os.PathLike[str]], links_from: str | os.PathLike[str] | None = None) -> Results:
    """All results in the files and folders (with the folders below, hidden ones left out), in the order of their paths.

    links_from: the folder that links to galleries start from; by default the current one.
    """
    results = Results()
    for path in _files(paths, results.problems):
        try:
            described = _read_json(path)
            run, problems = _run(path, described, Path(links_from or "."))
            results.problems += problems
        except _Unusable as unusable:
            results.problems.append(unusable.problem(path))
            continue
        outcomes = None
        try:
            outcomes, run = _outcomes(path, described, run)
        except _Unusable as unusable:
            results.problems.append(unusable.problem(path))
        results.runs.append(run)
        results.outcomes.append(outcomes)
    return results


def _files(paths: Iterable[str | os.PathLike[str]], problems: list[Problem]) -> list[Path]:
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if path.is_dir():
            inside = [file for file in path.rglob("*.json") if not _hidden(file.relative_to(path)) and file.is_file()]
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


# ---------------------------------------------------------------- the JSON


def _read_json(path: Path) -> dict[str, Any]:
    again = "evaluate again, or take it away"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _Unusable(f"cannot be read ({error.strerror})") from None
    except json.JSONDecodeError as error:
        raise _Unusable(f"broken JSON ({error.msg})", again, f":{error.lineno}:{error.colno}") from None
    except (ValueError, RecursionError):
        raise _Unusable("is no JSON in UTF-8", again) from None
    missing = [key for key in _REQUIRED if not isinstance(described, dict) or key not in described]
    if missing:
        raise _Unusable(f"is no result of clip_benchmark (has no {' and no '.join(missing)})", "take it away")
    for key in ("dataset", "model"):
        if not isinstance(described[key], str) or not described[key].strip():
            raise _Unusable(f"{key} is {json.dumps(described[key], ensure_ascii=False)}", "it must be a name")
    if not isinstance(described["metrics"], dict):
        raise _Unusable("metrics is no object", again)
    return described


def _run(path: Path, described: dict[str, Any], links_from: Path) -> tuple[Run, list[Problem]]:
    problems = []
    metrics: dict[str, float] = {}
    for key, value in described["metrics"].items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            continue  # metrics by class, and the acc5 of four classes
        if 0 <= value <= 1:
            metrics[key] = float(value)
        else:
            problems.append(Problem(f"{path}: {key}", f"is {value}, no share from 0 to 1", "it is left out"))
    if not metrics:
        raise _Unusable("has no metric that can be reported", "evaluate again, or take it away")
    model, dataset = _names.model_name(described["model"]), _names.dataset_name(described["dataset"])
    problems += _misspelt(path, model, dataset)
    skipped = described.get("skipped_images")
    if isinstance(skipped, dict) and skipped.get("count"):
        what = f"{skipped['count']} images could not be read and are not in its metrics"
        problems.append(Problem(str(path), what, "its figures are of fewer samples than others'"))
    incomplete = described.get("incomplete")
    if isinstance(incomplete, dict):
        what = f"was evaluated on {incomplete.get('images')} images, and {incomplete.get('published')} are published"
        problems.append(Problem(str(path), what, "its figures are of other samples than the published ones"))
    facts = {
        key: value for key, value in described.items() if key not in _KNOWN and isinstance(value, (str, int, float))
    }
    if isinstance(described.get("versions"), dict):
        facts["versions"] = described["versions"]
    run = Run(
        path=str(path),
        model=model,
        pretrained=str(described.get("pretrained") or ""),
        dataset=dataset,
        language=str(described.get("language") or ""),
        task=_task(described, dataset, metrics),
        templates=str(described.get("template_set") or ""),
        metrics=_derived(metrics),
        gallery=_gallery(path, described, links_from),
        foreign=families.find(model) is None and not _OURS & set(described),
        facts={"spelling": described["dataset"], **facts},
    )
    return run, problems


def _task(described: dict[str, Any], dataset: str, metrics: dict[str, float]) -> str:
    task = described.get("task")
    if isinstance(task, str) and task and task != "auto":
        return task
    recall = _names.is_retrieval(dataset) or any(map(_names.RECALL.fullmatch, metrics))
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
        ("dataset", dataset, _names.is_known_dataset(dataset), _names.known_datasets()),
    ):
        way_out = _names.suggest(name, known, cutoff=0.9)
        if not ours and way_out.startswith("did you mean"):
            problems.append(Problem(f"{path}: {what}", f"{name!r} is none that is known here", way_out))
    return problems


def _gallery(path: Path, described: dict[str, Any], links_from: Path) -> str | None:
    """The page that the result names or, by its name, the page beside it; as a link."""
    named = described.get("gallery")
    for name in (named if isinstance(named, str) else None, f"{path.stem}.html", f"{path.stem}_gallery.html"):
        if name and (path.parent / name).is_file():
            return Path(os.path.relpath(path.parent / name, links_from)).as_posix()
    return None


# ---------------------------------------------------------------- what was answered


def _outcomes(path: Path, described: dict[str, Any], run: Run) -> tuple[Outcomes | None, Run]:
    """Each sample's outcome, from the NPZ that the JSON names, and the run with what that file tells."""
    kind = next((key for key in ("per_sample", "per_query") if described.get(key)), None)
    if kind is None:
        return None, run
    name, again = described[kind], "evaluate again; without it there is no interval"
    if not isinstance(name, str) or Path(name).name != name or not (path.parent / name).is_file():
        raise _Unusable(f"its {kind} file {name} is not beside it", again)
    file = path.parent / name
    try:
        if kind == "per_query":
            outcomes, meta = _ranks(per_query.load_per_query(file))
            version = per_query.FORMAT_VERSION
        else:
            outcomes, meta = _labels(per_sample.load_per_sample(file))
            version = per_sample.FORMAT_VERSION
        if meta.get("format") != version:
            raise ValueError(f"format {meta.get('format')!r}, this version reads {version}")
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise _Unusable(f"its {kind} file {name} is damaged ({reason})", again) from None
    _check_same(name, meta, outcomes, described, run)
    facts = {key: meta[key] for key in ("split", "fingerprint", "versions") if meta.get(key)}
    return outcomes, replace(run, samples=str(file), facts={**run.facts, **facts})


def _labels(file: dict[str, Any]) -> tuple[Outcomes, dict[str, Any]]:
    meta, target = file["meta"], file["target"]
    fingerprint = str(meta.get("fingerprint") or "")
    if "scores" in file:
        _require(target.ndim == 2 and file["scores"].shape == target.shape and target.size)
        return Scores(target, file["scores"], fingerprint), meta
    classes = int(meta["classes"])
    _require(target.ndim == 1 and len(target) and target.min() >= 0 and target.max() < classes)
    _require(file["predicted"].shape == target.shape and file["top"].shape == (len(target), min(5, classes)))
    return Labels(target, file["predicted"], file["top"], classes, fingerprint), meta


def _ranks(file: dict[str, Any]) -> tuple[Outcomes, dict[str, Any]]:
    ranks, ids = {}, {}
    for way, key in (("image_retrieval", "text_ids"), ("text_retrieval", "image_ids")):
        if f"{way}_rank" in file:
            counted = file[f"{way}_counted"].astype(bool)
            _require(counted.shape == file[f"{way}_rank"].shape == file[key].shape and counted.any())
            ranks[way], ids[way] = file[f"{way}_rank"][counted], file[key][counted]
    _require(ranks)
    return Ranks(ranks, ids, str(file["meta"].get("fingerprint") or "")), file["meta"]


def _require(fits: Any) -> None:
    if not fits:
        raise ValueError("its arrays do not fit each other")


def _check_same(name: str, meta: dict[str, Any], outcomes: Outcomes, described: dict[str, Any], run: Run) -> None:
    """Whether the outcomes are those of the result: made for the same, and with the same metrics.

    Metrics are computed from the outcomes, so that a file of another run shows whatever it says about itself.
    """
    again = "its interval is left out; evaluate again"
    for key in ("model", "pretrained", "dataset"):
        if key in meta and str(meta[key] or "") != str(described.get(key) or ""):
            raise _Unusable(f"its file {name} is of another run ({key} {meta[key]}, here {described.get(key)})", again)
    for metric, value in run.metrics.items():
        answered = statistics.value(outcomes, metric)
        # Average precision is summed in float32, in an order that depends on the machine.
        if answered is not None and abs(answered - value) > (1e-4 if isinstance(outcomes, Scores) else SAME):
            raise _Unusable(f"its file {name} is stale ({metric} {answered:.6f}, here {value:.6f})", again)


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
    than the one that is scored."""
    from zhclip_openclip.datasets import retrieval

    parts = []
    if _names.is_retrieval(run.dataset):
        split = retrieval.default_split(run.dataset)  # its captions are Chinese, whatever --language said
    else:
        split, expected = "test", languages.SIMPLIFIED if _names.is_known_dataset(run.dataset) else "en"
        if (language := _language(run.language)) not in (expected, ""):
            parts.append(language)
    elevater = str(run.facts.get("spelling", "")).removeprefix("wds/").startswith(registry.ELEVATER)
    if run.templates not in ("", "cn_clip" if elevater else "zh"):  # their defaults
        parts.append(f"templates {Path(run.templates).name}")
    if version := older_version(run):
        parts.append(f"prompts version {version}")
    if elevater:
        parts.append("elevater")
    if run.facts.get("split") not in (None, split):
        parts.append(f"split {run.facts['split']}")
    return tuple(parts)


def older_version(run: Run) -> int | None:
    """The version of its prompts; None for the newest, and where nothing of them is ours."""
    made = editions.made_with(run.dataset, run.templates, run.facts)
    return made.version if made and made.version != made.newest else None


def _language(language: str) -> str:
    try:
        return languages.normalise(language) if language else ""
    except PromptError:
        return language


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
