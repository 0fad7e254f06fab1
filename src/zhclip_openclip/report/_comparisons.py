"""Which of our own runs is better: pairs of them on the same samples, tested in pairs.

Each pair of our runs on a data set is compared by accuracy (acc1), or by R@1 and the mean recall in each direction: the
metrics that models are ranked by. R@5 and R@10 are left out, for each further question makes all corrected p larger. A
fine-tuned checkpoint is compared with others that were fine-tuned, and with the model that it began from.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zhclip_openclip.prompts import editions
from zhclip_openclip.report import _names, fine_tuned, statistics
from zhclip_openclip.report._model import Column, Comparison, Problem, Row, Run
from zhclip_openclip.report._tables import PlannedTable
from zhclip_openclip.report.runs import PROBE, Results, older_version, variant

#: What runs are compared by: the first of these that a classification has.
_RANKED_BY = (
    *("acc1", "mean_average_precision", "map_11_points", "mean_per_class_recall", "mean_per_class_accuracy"),
    *("lp_acc1", "lp_mean_per_class_recall"),
)
#: Runs on one data set up to which each pair of them is compared: 120 pairs, and with several labels an image, where a
#: pair takes seconds, 10. Of more, each is compared with the best.
ALL_PAIRS, ALL_SLOW_PAIRS = 16, 5


class Count:
    """Tells how far it is."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def step(self, metric: str) -> None:
        for _ in range(cost(metric)):
            self.done += 1
            if self.progress:
                self.progress(self.done, self.total)


def cost(metric: str) -> int:
    """How much longer the figures of a metric take than those of others, so that a bar tells the time that is left."""
    return 50 if metric in _names.SEVERAL_LABELS else 1


class Figures:
    """What the runs say, in percent; an interval is computed once, however many rows a run is in."""

    def __init__(self, read: Results, resamples: int, seed: int) -> None:
        self.read, self.resamples, self.seed = read, resamples, seed
        #: Why a run is not compared with a source, by the path of the one and the key of the other.
        self.problems: dict[tuple[str, str], Problem] = {}
        self._intervals: dict[tuple[int, str], tuple[float, float] | None] = {}

    def value(self, run: int, metric: str) -> float | None:
        """As the result file has it; else from what was answered."""
        value, outcomes = self.read.runs[run].metrics.get(metric), self.read.outcomes[run]
        if value is None and outcomes is not None:
            value = statistics.value(outcomes, metric)
        return None if value is None else 100 * value

    def interval(self, run: int, metric: str) -> tuple[float, float] | None:
        if self.read.outcomes[run] is None:
            return None
        if (run, metric) not in self._intervals:
            ends = statistics.interval(self.read.outcomes[run], metric, self.resamples, seed=self.seed)
            self._intervals[run, metric] = ends and (100 * ends[0], 100 * ends[1])
        return self._intervals[run, metric]

    def samples(self, run: int, metric: str) -> int | None:
        outcomes = self.read.outcomes[run]
        return None if outcomes is None else statistics.samples(outcomes, metric)


@dataclass(frozen=True)
class Question:
    """Is one of two runs better by the metric of a column? runs: (index, label of its row), twice. origin: whether the
    first began from the second."""

    table: PlannedTable
    column: Column
    runs: tuple[tuple[int, str], tuple[int, str]]
    origin: bool = False


def questions(tables: list[PlannedTable], figures: Figures) -> tuple[list[Question], int, list[Problem]]:
    """The pairs of runs to compare by the metrics of their data set that models are ranked by, each pair once; how many
    pairs are not compared, since there are too many runs; and where that is so."""
    questions: list[Question] = []
    asked: set[tuple] = set()
    many: dict[str, int] = {}
    alone: dict[int, Problem] = {}
    unasked = 0
    for table in tables:
        for column in table.columns:
            if not _ranks(column, tables, table.task):
                continue
            runs: dict[int, str] = {}
            for row in table.rows:
                index = row.group.cells.get((table.task, column.dataset)) if row.group else None
                if index is not None and figures.samples(index, column.metric):
                    runs.setdefault(index, Row(row.model, row.title, variant=row.variant).label)
            pairs = [pair for pair in itertools.combinations(runs.items(), 2) if _same_part(pair, figures.read.runs)]
            if len(runs) > (ALL_SLOW_PAIRS if column.metric in _names.SEVERAL_LABELS else ALL_PAIRS):
                with_best = _with_best(runs, column.metric, figures)
                unasked += len(pairs) - len(with_best)
                pairs, many[column.dataset] = with_best, len(runs)
            began = []
            for run in runs.items() if table.fine_tuned else ():
                before, problem = _origin(run[0], column, figures)
                if before is not None:
                    began.append((run, before))
                elif problem is not None:
                    alone.setdefault(run[0], problem)
            for pair in (*began, *pairs):
                key = column.dataset, column.metric, frozenset(index for index, _ in pair)
                if key not in asked:
                    asked.add(key)
                    questions.append(Question(table, column, pair, origin=pair in began))
    return questions, unasked, [*(_too_many(dataset, number) for dataset, number in many.items()), *alone.values()]


def _origin(index: int, column: Column, figures: Figures) -> tuple[tuple[int, str] | None, Problem | None]:
    """The run of the model that a fine-tuned one began from, with its label; or why there is none to compare with."""
    runs = figures.read.runs
    run = runs[index]
    if run.trained is None or not run.trained.began:
        return None, None
    same = [i for i, one in enumerate(runs) if (one.task, one.dataset) == (run.task, run.dataset)]
    same = [i for i in same if i != index and variant(runs[i]) == variant(run)]
    before = fine_tuned.origin(runs, index, [i for i in same if figures.samples(i, column.metric)])
    if before is None:
        return None, fine_tuned.no_origin(run, fine_tuned.origin(runs, index, same) is not None)
    return (before, Row(run.model, run.model, variant=run.trained.began).label), None


def _same_part(pair: tuple[tuple[int, str], ...], runs: Sequence[Run]) -> bool:
    """Whether two runs are of the whole both, or of samples of one size."""
    (first, _), (second, _) = pair
    return runs[first].facts.get("limit") == runs[second].facts.get("limit")


def _with_best(runs: dict[int, str], metric: str, figures: Figures) -> list[tuple[tuple[int, str], tuple[int, str]]]:
    """Each run with the best of those on the same samples, with the same version of the prompts. The best is known from
    the data, so that the correction has to count all pairs."""
    groups: dict[tuple, list[int]] = {}
    for index in runs:
        run = figures.read.runs[index]
        key = figures.read.outcomes[index].fingerprint, older_version(run), run.facts.get("limit")
        groups.setdefault(key, []).append(index)
    pairs = []
    for group in groups.values():
        best = max(group, key=lambda index: figures.value(index, metric))
        pairs += [((best, runs[best]), (index, runs[index])) for index in group if index != best]
    return pairs


def _too_many(dataset: str, runs: int) -> Problem:
    return Problem(
        dataset,
        f"{runs:,} runs make {runs * (runs - 1) // 2:,} pairs: each is compared with the best alone, and p is "
        "corrected for all pairs",
        "--models names fewer",
    )


def _ranks(column: Column, tables: list[PlannedTable], task: str) -> bool:
    recall = _names.RECALL.fullmatch(column.metric)
    if recall:
        return recall[2] in ("1", None)
    metrics = {
        other.metric
        for table in tables
        for other in table.columns
        if table.task == task and other.dataset == column.dataset
    }
    return column.metric == next((metric for metric in _RANKED_BY if metric in metrics), None)


def compared(
    questions: list[Question], unasked: int, figures: Figures, count: Count
) -> tuple[list[Comparison], list[Problem]]:
    found: list[tuple[Question, statistics.Paired]] = []
    problems: dict[frozenset[int], Problem] = {}
    outcomes = figures.read.outcomes
    for question in questions:
        count.step(question.column.metric)
        (one, _), (other, _) = question.runs
        if older := _older_prompts(figures.read.runs, one, other):
            problems.setdefault(frozenset(older[:1]), older[1])  # once, however many are newer
            continue
        try:
            paired = statistics.compare(
                outcomes[one], outcomes[other], question.column.metric, figures.resamples, seed=figures.seed
            )
        except statistics.NotPaired as error:
            paths = [figures.read.runs[run].path for run in (other, one)]
            what = f"cannot be compared with {paths[1]}: {error}"
            problems.setdefault(frozenset((one, other)), Problem(paths[0], what, "evaluate both on the same files"))
            continue
        if paired is not None:
            found.append((question, paired))
    corrected = statistics.holm([paired.p for _, paired in found], unasked)
    comparisons = [
        _comparison(question, paired, p, significant)
        for (question, paired), (p, significant) in zip(found, corrected, strict=True)
    ]
    return comparisons, list(problems.values())


def _older_prompts(runs: Sequence[Run], one: int, other: int) -> tuple[int, Problem] | None:
    """The run of two that was made with an older version of the same prompts of ours, and what to say; or None.

    Runs with two template sets are compared: their rows say so.
    """
    both = {index: runs[index] for index in (one, other)}
    if any(run.task == PROBE for run in both.values()):  # prompts have no part in it
        return None
    made = {index: editions.made_with(run.dataset, run.templates, run.facts) for index, run in both.items()}
    if None in made.values() or made[one].version == made[other].version:
        return None
    if (made[one].names, made[one].templates) != (made[other].names, made[other].templates):
        return None
    older, newer = sorted(made, key=lambda index: made[index].version)
    run, version = runs[older], made[older].version
    what = (
        f"is of version {version} of the prompts of {run.dataset}; not compared with those of version "
        f"{made[newer].version}, such as {runs[newer].path}"
    )
    way_out = f"evaluate again, or those with --custom_template_file {run.templates}@{version}"
    return older, Problem(run.path, what, way_out)


def _comparison(question: Question, paired: statistics.Paired, p: float, significant: bool) -> Comparison:
    (_, one), (_, other) = question.runs
    difference, low, high = 100 * paired.difference, 100 * paired.low, 100 * paired.high
    turned = difference < 0
    if turned:
        one, other, difference, low, high = other, one, -difference, -high, -low
    return Comparison(
        table=question.table.key,
        column=question.column.key,
        dataset=question.column.dataset,
        better=one,
        worse=other,
        difference=difference,
        low=low,
        high=high,
        samples=paired.samples,
        p=paired.p,
        p_corrected=p,
        significant=significant,
        test=paired.test,
        origin="" if not question.origin else "better" if turned else "worse",
    )
