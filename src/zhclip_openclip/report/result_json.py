"""Reading one result JSON, of this package or anybody's: what is believed of it is looked at first.

A result names a model and a data set and has metrics; all else may be there. Whatever a file holds, reading it gives a
`Result` or raises `Unusable`, whose `problem` says what is wrong and what to do about it.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip._reading import JSON_LIMIT, kind_of, parse_json, reading, reason_of
from zhclip_openclip.report._model import Problem

AGAIN = "evaluate again, or take it away"
#: Characters of a name; the longest path of a checkpoint that Linux takes has so many bytes.
NAME_LIMIT = 4096
#: Characters of a fact that are shown, and how many facts of one result.
FACT_LIMIT, FACTS = 500, 100
#: Metrics of one result: each is a column of a table.
METRICS = 64
_REQUIRED = ("dataset", "model", "metrics")
_TEXTS = ("pretrained", "task", "language", "template_set")
#: Keys that have a field of their own; other short ones are facts.
_KNOWN = {*_REQUIRED, *_TEXTS, "per_query", "per_sample", "gallery", "versions", "trained"}
#: What this package adds to a result; one with none of these, of a model that is not ours, is foreign.
_OURS = {
    "per_query",
    "per_sample",
    "template_set",
    "classname_source",
    "prompts_version",
    "english_classes",
    "skipped_images",
    "text_handling",
    "probe",
    "limit",
    "own",
    "trained",
}
#: What clip_benchmark puts among the metrics of a linear probe and is none.
_SETTINGS = ("weight_decay", "epochs", "seed", "fewshot_k", "normalized")


class Unusable(ZhclipError):
    """Why a file is left out, or what was answered is."""

    def __init__(self, where: str | os.PathLike[str], what: str, way_out: str = "") -> None:
        self.problem = Problem(str(where), what, way_out)
        super().__init__(self.problem)


@dataclass(frozen=True)
class Result:
    """A result JSON as far as it can be believed.

    metrics: shares, 0..1. outcomes: key and value of what names the NPZ of single samples, or None. gallery: the page
    beside it, or None. skipped: images that could not be read. made_here: whether this package has added to it. facts:
    its other texts and numbers. trained: what the checkpoint began from and the data it was trained on, as its trainer
    was told; None if the result does not say. problems: what could not be used of it.
    """

    path: Path
    model: str
    dataset: str
    metrics: dict[str, float]
    pretrained: str = ""
    task: str = ""
    language: str = ""
    templates: str = ""
    outcomes: tuple[str, Any] | None = None
    gallery: Path | None = None
    skipped: int = 0
    made_here: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    trained: tuple[str, str] | None = None
    problems: list[Problem] = field(default_factory=list)


def read_result(path: Path) -> Result:
    """Raises Unusable: it cannot be read, or is no result."""
    described = read_object(path)
    missing = [key for key in _REQUIRED if key not in described]
    if missing:
        raise Unusable(path, f"is no result of clip_benchmark (has no {' and no '.join(missing)})", "take it away")
    for key in ("dataset", "model"):
        if not isinstance(described[key], str) or not described[key].strip():
            raise Unusable(path, f"{key} is {shown(described[key])}", "it must be a name")
    texts = {key: described.get(key) or "" for key in _TEXTS}
    for key, text in {**texts, "dataset": described["dataset"], "model": described["model"]}.items():
        if not isinstance(text, str):
            raise Unusable(path, f"{key} is {shown(text)}", "it must be a name")
        if len(text) > NAME_LIMIT:
            raise Unusable(path, f"{key} has {len(text):,} characters", f"a name has {NAME_LIMIT:,} at most")
    if not isinstance(described["metrics"], dict):
        raise Unusable(path, "metrics is no object", AGAIN)
    metrics, settings = described["metrics"], {}
    if is_probe(texts["task"], metrics):
        settings = _settings(described)
        metrics = {key: value for key, value in metrics.items() if key not in _SETTINGS}
    metrics, problems = shares(path, metrics)
    if not metrics:
        raise Unusable(path, "has no metric that can be reported", AGAIN)
    skipped, wrong = _skipped(path, described.get("skipped_images"))
    wrong += _incomplete(path, described.get("incomplete")) + _sample(path, described)
    began_and_data, untold = _trained(path, described.get("trained"))
    kind = next((key for key in ("per_sample", "per_query") if described.get(key)), None)
    return Result(
        path=path,
        model=described["model"],
        dataset=described["dataset"],
        metrics=metrics,
        pretrained=texts["pretrained"],
        task=texts["task"],
        language=texts["language"],
        templates=texts["template_set"],
        outcomes=kind and (kind, described[kind]),
        gallery=_gallery(path, described.get("gallery")),
        skipped=skipped,
        made_here=bool(_OURS & set(described)),
        facts={**_facts(described), **settings},
        trained=began_and_data,
        problems=[*problems, *wrong, *untold],
    )


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises Unusable: there is none."""
    value = read_value(path)
    if not isinstance(value, dict):
        raise Unusable(path, f"is no result of clip_benchmark (has no {' and no '.join(_REQUIRED)})", "take it away")
    return value


def read_value(path: Path, way_out: str = AGAIN) -> Any:
    """The JSON value in a file; `way_out`: for a file that has none. Raises Unusable: cannot be read, or is no JSON."""
    what = ""
    try:
        with reading(path):
            size = path.stat().st_size
            if size > JSON_LIMIT:
                raise Unusable(path, f"has {size:,} bytes, and {JSON_LIMIT:,} are read at most", "take it away")
            raw = path.read_bytes()
            what = kind_of(path)
        return parse_json(raw, path)
    except Unusable:
        raise
    except ZhclipError as error:
        cause = error.__cause__
        if isinstance(cause, OSError):
            raise Unusable(path, reason_of(cause)) from cause
        if what and what not in ("a JSON text", "an empty file"):
            raise Unusable(path, f"is no JSON in UTF-8 but {what}", way_out) from cause
        if isinstance(cause, json.JSONDecodeError):
            place = f"{path}:{cause.lineno}:{cause.colno}"
            raise Unusable(place, f"broken JSON ({cause.msg})", way_out) from cause
        told = reason_of(cause) if cause else "half a surrogate pair in it"
        raise Unusable(path, f"is no JSON in UTF-8 ({told})", way_out) from cause


def is_probe(task: str, metrics: dict[str, Any]) -> bool:
    """Whether a result is of a linear probe."""
    return task == "linear_probe" or (task in ("", "auto") and any(key.startswith("lp_") for key in metrics))


def _settings(described: dict[str, Any]) -> dict[str, Any]:
    """How a linear probe was trained, as facts; clip_benchmark's own results say nothing of their classifier."""
    metrics, probe = described["metrics"], described.get("probe")
    found = {"probe": "adamw", **{key: metrics[key] for key in _SETTINGS if _plain(metrics.get(key))}}
    if isinstance(probe, dict):
        told = {
            "probe": probe.get("classifier"),
            **{key: probe.get(key) for key in ("train_split", "fewshot_k", "loaded")},
        }
        seeds = probe.get("seeds")
        told["seeds"] = len(seeds) if isinstance(seeds, list) else None
        spread = probe.get("std")
        told |= {f"std of {key}": value for key, value in spread.items()} if isinstance(spread, dict) else {}
        found |= {_short(key): fact(value) for key, value in list(told.items())[:FACTS] if _plain(value)}
    return found


def shares(path: str | os.PathLike[str], metrics: Any) -> tuple[dict[str, float], list[Problem]]:
    """The metrics that are shares from 0 to 1, and what is said of those that should be and are not.

    Of an object (metrics by class), of a switch, and of the acc5 of fewer than five classes, which is not a number by
    its definition, nothing is said.
    """
    found: dict[str, float] = {}
    problems: list[Problem] = []
    for key, value in metrics.items() if isinstance(metrics, dict) else ():
        if isinstance(value, (bool, dict)):
            continue
        number = _number(value)
        if number is not None and 0 <= number <= 1 and len(key) <= NAME_LIMIT:
            found[key] = number
        elif (
            number is not None and math.isnan(number) and key.endswith("acc5") and _number(metrics.get(key[:-1] + "1"))
        ):
            continue
        elif number is not None and not math.isfinite(number):
            what = f"is {shown(value)}: the features of the model were not finite, perhaps"
            problems.append(Problem(f"{path}: {_short(key)}", what, "it is left out; evaluate again with --no_amp"))
        else:
            what = f"is {shown(value)}, no share from 0 to 1"
            problems.append(Problem(f"{path}: {_short(key)}", what, "it is left out"))
    if len(found) > METRICS:
        what = f"has {len(found):,} metrics, and {METRICS} of a result are shown"
        problems.append(Problem(str(path), what, f"the first {METRICS} are taken"))
    return dict(list(found.items())[:METRICS]), _few(path, problems)


def beside(path: Path, name: Any) -> Path | None:
    """The file of this name in the folder of `path`; None if there is none, or it is no bare name."""
    try:
        if isinstance(name, str) and Path(name).name == name and (path.parent / name).is_file():
            return path.parent / name
    except (OSError, ValueError):  # too long a name
        pass
    return None


def shown(value: Any) -> str:
    """A value of a JSON for a message, cut where it is long."""
    return _short(json.dumps(value, ensure_ascii=False), 60)


def named(value: Any) -> str:
    """What stands where a name should, for a message."""
    return _short(value, 300) if isinstance(value, str) else shown(value)


def _short(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[:limit]} ..."


def _number(value: Any) -> float | None:
    """A number of a JSON; None for anything else. One that no float holds is infinite, as JSON's own 1e999."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _few(path: str | os.PathLike[str], problems: list[Problem], most: int = 20) -> list[Problem]:
    """Of one file no more than a page of problems."""
    if len(problems) <= most:
        return problems
    return [*problems[:most], Problem(str(path), f"{len(problems) - most:,} more metrics are no shares", "left out")]


def _skipped(path: Path, skipped: Any) -> tuple[int, list[Problem]]:
    if skipped is None:
        return 0, []
    count = skipped.get("count") if isinstance(skipped, dict) else None
    if type(count) is not int or count < 0:
        return 0, [Problem(f"{path}: skipped_images", f"is {shown(skipped)}", "evaluate again to know what is missing")]
    if not count:
        return 0, []
    what = f"{_short(str(count))} images could not be read and are not in its metrics"
    return count, [Problem(str(path), what, "its figures are of fewer samples than others'")]


def _incomplete(path: Path, incomplete: Any) -> list[Problem]:
    if not isinstance(incomplete, dict):
        return []
    here, published = shown(incomplete.get("images")), shown(incomplete.get("published"))
    what = f"was evaluated on {here} images, and {published} are published"
    return [Problem(str(path), what, "its figures are of other samples than the published ones")]


def limit_of(described: dict[str, Any]) -> int | None:
    """How many images a result of a sample was asked for (`--limit`); None for one of all."""
    said = described.get("limit")
    asked = said.get("asked") if isinstance(said, dict) else None
    return asked if type(asked) is int and asked > 0 else None


def _sample(path: Path, described: dict[str, Any]) -> list[Problem]:
    if "limit" not in described:
        return []
    if limit_of(described) is None:
        return [
            Problem(f"{path}: limit", f"is {shown(described['limit'])}", "evaluate again to know of how many images")
        ]
    said = described["limit"]
    what = f"was evaluated on a sample of {shown(said.get('images'))} of {shown(said.get('of'))} images"
    return [Problem(str(path), what, "its figures stand in a row of their own; leave --limit out for the whole")]


def _trained(path: Path, trained: Any) -> tuple[tuple[str, str] | None, list[Problem]]:
    if trained is None:
        return None, []
    told = [trained.get(key) for key in ("began", "data")] if isinstance(trained, dict) else [None]
    if not all(isinstance(text, str) and len(text) <= NAME_LIMIT for text in told):
        what = f"is {shown(trained)}, and not what the checkpoint began from and was trained on"
        return None, [Problem(f"{path}: trained", what, "evaluate again, or say it with --fine-tuned")]
    return tuple(told), []


def _gallery(path: Path, named: Any) -> Path | None:
    """The page that the result names or, by its name, the page beside it."""
    pages = (beside(path, name) for name in (named, f"{path.stem}.html", f"{path.stem}_gallery.html"))
    return next(filter(None, pages), None)


def _facts(described: dict[str, Any]) -> dict[str, Any]:
    """What else is short: texts and numbers, and the versions of packages."""
    facts: dict[str, Any] = {"spelling": described["dataset"]}
    if "limit" in described:
        facts["limit"] = limit_of(described) or "unknown"
    for key, value in described.items():
        if key not in _KNOWN | {"spelling", "limit"} and _plain(value) and len(facts) < FACTS:
            facts[_short(key)] = fact(value)
    return {**facts, **versions_of(described)}


def versions_of(described: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """`{"versions": {package: version}}` if they are told, else nothing."""
    versions = described.get("versions")
    if not isinstance(versions, dict):
        return {}
    return {"versions": {_short(name): fact(one) for name, one in list(versions.items())[:FACTS] if _plain(one)}}


def _plain(value: Any) -> bool:
    return isinstance(value, (str, int, float))


def fact(value: str | int | float) -> Any:
    """A text or number, cut where it is long."""
    return value if isinstance(value, bool) or len(str(value)) <= FACT_LIMIT else _short(str(value), FACT_LIMIT)
