"""Which runs are of fine-tuned checkpoints, and on what data: the one place that decides.

What can tell, the first that says something being believed:

1. whoever makes the report (`--fine-tuned CHECKPOINT=DATASETS@BEGAN`),
2. the result: `{"trained": {"began": "ofa_sys", "data": "MUGE"}}`, which an evaluation writes,
3. `params.txt` of open_clip_train beside the checkpoint, or `params_TIME.txt` of Chinese-CLIP's trainer, where that
   still lies where the result says.

What one result of a checkpoint says holds for all of them. A checkpoint of which nothing says so counts as zero-shot,
as those that others publish do.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.checkpoints.training_run import training_run
from zhclip_openclip.datasets import retrieval
from zhclip_openclip.datasets._layout import plain_name
from zhclip_openclip.report import _names
from zhclip_openclip.report._model import Problem, Run, Trained

#: Files that `--train-data` may name in the folder of a set.
_TABLES = (".tsv", ".jsonl")


@dataclass(frozen=True)
class Stated:
    """One `--fine-tuned`. checkpoint: a path, the end of one, or a pattern; datasets: canonical names."""

    checkpoint: str
    datasets: tuple[str, ...]
    began: str | None

    def is_about(self, run: Run) -> bool:
        path = "/" + run.pretrained.replace("\\", "/").lstrip("/")
        return fnmatch.fnmatchcase(path, "*/" + self.checkpoint.replace("\\", "/").lstrip("/"))


def parse(texts: Iterable[str]) -> list[Stated]:
    """`CHECKPOINT=DATASET+DATASET@BEGAN`; without @BEGAN it began from the model's default tag.

    Raises ZhclipError: another form, or no such data set.
    """
    found = []
    for text in texts:
        checkpoint, equals, rest = text.rpartition("=")
        names, at, began = rest.partition("@")
        if not equals or not checkpoint or not names or (at and not began):
            raise ZhclipError(f"--fine-tuned {text}: write CHECKPOINT=DATASET, for example epoch_3.pt=muge@ofa_sys")
        datasets = []
        for name in names.split("+"):
            dataset = _names.dataset_name(name)
            if not _names.is_known_dataset(dataset):
                raise ZhclipError(
                    f"--fine-tuned {text}: no data set {name}; {_names.suggest(dataset, _names.known_datasets())}"
                )
            datasets.append(dataset)
        found.append(Stated(checkpoint, tuple(datasets), began or None))
    return found


def tell(runs: Sequence[Run], texts: Iterable[str] = ()) -> tuple[list[Run], list[Problem]]:
    """The runs with what is known of their training, and what is said of statements that fit no run.

    Raises ZhclipError: `texts` of another form; see :func:`parse`.
    """
    known: dict[tuple[str, str], Trained] = {}
    problems = []
    stated = parse(texts)
    for run in runs:
        key = run.model, run.pretrained
        if run.trained is not None:
            known.setdefault(key, run.trained)
        elif key not in known and (found := training_run(run.pretrained)) is not None:
            known[key] = trained(found.began, found.data)
    for one in stated:
        mine = {(run.model, run.pretrained) for run in runs if one.is_about(run)}
        if not mine:
            what, way_out = f"no result is of a checkpoint {one.checkpoint}", "name it as the results do (pretrained)"
            problems.append(Problem("--fine-tuned", what, way_out))
        for key in mine:
            began = known[key].began if one.began is None and key in known else one.began
            began = _names.default_tag(key[0]) if began is None else began
            known[key] = Trained(began, " + ".join(one.datasets), one.datasets)
    return [replace(run, trained=known.get((run.model, run.pretrained))) for run in runs], problems


def trained(began: str, data: str) -> Trained:
    """What is known of a training run by its options."""
    return Trained(began, data, tuple(dict.fromkeys(filter(None, map(_dataset, data.split("::"))))))


def _dataset(name: str) -> str | None:
    """The official set whose training split a part of `--train-data` is; None for any other data, or another split.

    A set is known by the name of its folder, as its readers know it.
    """
    head, colon, split = name.rpartition(":")
    if not colon or "/" in split or "\\" in split:
        head, split = name, ""
    if split not in ("", "train"):
        return None
    path = Path(head)
    folder = path.parent if path.suffix in _TABLES or path.name == "lmdb" else path
    if path.suffix in _TABLES and not path.name.removeprefix("MR_").startswith("train_"):
        return None
    called = plain_name(folder.name)
    for module in retrieval.DATASETS.values():
        if called and called in {plain_name(known) for known in (module.NAME, *module.FOLDERS)}:
            return module.NAME
    return None


# ---------------------------------------------------------------- what it is compared with


def origin(runs: Sequence[Run], index: int, same: Iterable[int]) -> int | None:
    """Of the runs `same`, the one of the model that run `index` began from; None if there is none."""
    began = runs[index].trained.began
    for other in same:
        if other != index and runs[other].model == runs[index].model and _is_of(runs[other], began):
            return other
    return None


def _is_of(run: Run, began: str) -> bool:
    if run.pretrained == began or not (run.pretrained or began):
        return bool(began)
    default = _names.default_tag(run.model)
    if (run.pretrained or default) == began:
        return True
    try:
        return Path(run.pretrained).expanduser().absolute() == Path(began).expanduser().absolute()
    except (OSError, RuntimeError, ValueError):
        return False


def no_origin(run: Run, without_outcomes: bool = False) -> Problem:
    """What is said where the model that a run began from was not run on the same data, or left no outcomes."""
    why = f"has no outcomes of single samples on {run.dataset}" if without_outcomes else f"was not run on {run.dataset}"
    what = f"began from {run.model} {run.trained.began}, which {why}: whether it is better is not known"
    command = f"clip_benchmark eval --model {run.model} --pretrained {run.trained.began} --dataset {run.dataset}"
    return Problem(run.path, what, f"evaluate that too: {command}")


def other_data(run: Run) -> Problem:
    """What is said of a fine-tuned run that is judged by no figure, since what it was trained on is not known."""
    what = (
        f"was trained on {run.trained.data or 'data that nothing names'}, which is not known to be the training split "
        f"of {run.dataset}: not compared with what is published of models fine-tuned on it"
    )
    return Problem(run.path, what, f"if it is, say --fine-tuned {Path(run.pretrained).name}={run.dataset}")
