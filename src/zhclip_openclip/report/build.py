"""The report: the published tables with our own values beside them, intervals, verdicts and comparisons.

The four tables of ZH-CLIP's README are always there, with its six systems. Models of other sources have rows where they
were run or are asked for, and data sets beyond these tables have tables of their own. A verdict asks whether the
published value, before it was rounded, can lie in the interval around ours.

Each pair of our runs on a data set is compared by accuracy (acc1), or by R@1 and the mean recall in each direction: the
metrics that models are ranked by. R@5 and R@10 are left out, for each further question makes all corrected p larger.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from zhclip_openclip.prompts import editions
from zhclip_openclip.report import _names, statistics
from zhclip_openclip.report._model import VERDICTS, Cell, Column, Comparison, Problem, Report, Row, Run, Table
from zhclip_openclip.report._tables import Layout, PlannedRow, PlannedTable
from zhclip_openclip.report.published import load_published
from zhclip_openclip.report.runs import PROBE, Results, older_version, read_results, without_duplicates

__all__ = ["VERDICTS", "Cell", "Column", "Comparison", "Problem", "Report", "Row", "Run", "Table", "build"]

#: What runs are compared by: the first of these that a classification has.
_RANKED_BY = (
    *("acc1", "mean_average_precision", "map_11_points", "mean_per_class_recall", "mean_per_class_accuracy"),
    *("lp_acc1", "lp_mean_per_class_recall"),
)
#: Values that differ by less are equal: clip_benchmark rounds to float32, and these are percent.
_EQUAL = 1e-4
#: Runs on one data set up to which each pair of them is compared: 120 pairs, and with several labels an image, where a
#: pair takes seconds, 10. Of more, each is compared with the best.
ALL_PAIRS, ALL_SLOW_PAIRS = 16, 5


def build(
    results: Iterable[str | os.PathLike[str]],
    published: Iterable[str | os.PathLike[str]] = (),
    models: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    resamples: int = statistics.RESAMPLES,
    seed: int = 0,
    links_from: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Reads results and lays them out beside what is published.

    Args:
        results: result files of clip_benchmark, and folders of them.
        published: other people's figures, in the form of docs/reports.md, beside those of the package.
        models: show these only, by name, alias, or `name,tag`; with their published figures even if they were not run.
        datasets: show these only.
        resamples: of the bootstrap.
        seed: of the bootstrap. The same results, seed and resamples give the same report.
        links_from: the folder that links to galleries start from; by default the current one.
        progress: called with (done, all) intervals and comparisons.

    Raises:
        ZhclipError: `models` or `datasets` names what neither the package, nor the results, nor the published files
            have. Whatever is wrong with files is in the report's `problems`.
    """
    sources, problems = load_published(published)
    read = read_results(results, links_from)
    shown, duplicates = without_duplicates(read)
    planned = Layout(sources, read, shown, models, datasets).tables()
    figures = _Figures(read, resamples, seed)
    questions, unasked, left_out = _questions(planned, figures)
    cells = [column.metric for table in planned for column in table.columns for _ in table.rows]
    count = _Count(sum(map(_cost, [*cells, *(one.column.metric for one in questions)])), progress)
    tables = [_table(table, figures, count) for table in planned]
    comparisons, unpaired = _comparisons(questions, unasked, figures, count)
    used = {row.source for table in tables for row in table.rows if row.source}
    return Report(
        tables=tables,
        comparisons=comparisons,
        problems=[*problems, *read.problems, *duplicates, *left_out, *unpaired],
        runs=read.runs,
        level=statistics.LEVEL,
        resamples=resamples,
        seed=seed,
        pairs=len(comparisons) + unasked,
        sources={source.key: source.text for source in sources if source.key in used},
    )


class _Count:
    """Tells how far it is."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def step(self, metric: str) -> None:
        for _ in range(_cost(metric)):
            self.done += 1
            if self.progress:
                self.progress(self.done, self.total)


def _cost(metric: str) -> int:
    """How much longer the figures of a metric take than those of others, so that a bar tells the time that is left."""
    return 50 if metric in _names.SEVERAL_LABELS else 1


# ---------------------------------------------------------------- cells


class _Figures:
    """What the runs say, in percent; an interval is computed once, however many rows a run is in."""

    def __init__(self, read: Results, resamples: int, seed: int) -> None:
        self.read, self.resamples, self.seed = read, resamples, seed
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


def _table(planned: PlannedTable, figures: _Figures, count: _Count) -> Table:
    rows = []
    for row in planned.rows:
        cells = {}
        for column in planned.columns:
            cells[column.key] = _cell(row, column, planned.task, figures)
            count.step(column.metric)
        source = row.source.key if row.source else ""
        rows.append(Row(row.model, row.title, source, row.variant, cells))
    for column in planned.columns:
        _mark_best(rows, column, figures.read.runs)
    return Table(planned.key, planned.title, planned.title_zh, planned.columns, rows)


def _cell(row: PlannedRow, column: Column, task: str, figures: _Figures) -> Cell:
    published = row.source.value(row.published, column.dataset, column.metric) if row.source else None
    best = row.source.best(column.dataset, column.metric) if row.source else None
    run = row.group.cells.get((task, column.dataset)) if row.group else None
    ours = None if run is None else figures.value(run, column.metric)
    if run is not None and "limit" in figures.read.runs[run].facts:
        published = None  # what is published is of all images
    cell = Cell(published, best_published=published is not None and published == best)
    if ours is None:
        return cell
    low, high = figures.interval(run, column.metric) or (None, None)
    return replace(
        cell,
        ours=ours,
        low=low,
        high=high,
        difference=None if published is None else ours - published,
        verdict=verdict(published, low, high, row.source.rounding if row.source else 0.0),
        samples=figures.samples(run, column.metric),
        run=run,
    )


def verdict(published: float | None, low: float | None, high: float | None, rounding: float) -> str:
    """Of a cell that was run. low, high: of its interval. rounding: how far the published value may be from itself
    before it was rounded."""
    if published is None:
        return "not published"
    if low is None or high is None:
        return "no interval"
    tiny = 1e-9  # 64.1 + 0.05 is not 64.15
    return "reproduced" if low - rounding - tiny <= published <= high + rounding + tiny else "off"


def _mark_best(rows: list[Row], column: Column, runs: Sequence[Run]) -> None:
    """Marks the best of our values in a column where there are two runs to choose from; of each version of the prompts
    and each size of a sample by itself."""
    by_version: dict[tuple, dict[int, float]] = {}
    for cell in (row.cells[column.key] for row in rows):
        if cell.ours is not None:
            run = runs[cell.run]
            by_version.setdefault((older_version(run), run.facts.get("limit")), {})[cell.run] = cell.ours
    best = {run for ours in by_version.values() if len(ours) > 1 for run in _highest(ours)}
    for row in rows:
        cell = row.cells[column.key]
        if cell.run in best:
            row.cells[column.key] = replace(cell, best=True)


def _highest(ours: dict[int, float]) -> list[int]:
    return [run for run, value in ours.items() if value >= max(ours.values()) - _EQUAL]


# ---------------------------------------------------------------- comparisons


@dataclass(frozen=True)
class _Question:
    """Is one of two runs better by the metric of a column? runs: (index, label of its row), twice."""

    table: PlannedTable
    column: Column
    runs: tuple[tuple[int, str], tuple[int, str]]


def _questions(tables: list[PlannedTable], figures: _Figures) -> tuple[list[_Question], int, list[Problem]]:
    """The pairs of runs to compare by the metrics of their data set that models are ranked by, each pair once; how many
    pairs are not compared, since there are too many runs; and where that is so."""
    questions: list[_Question] = []
    asked: set[tuple] = set()
    many: dict[str, int] = {}
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
            for pair in pairs:
                key = column.dataset, column.metric, frozenset(index for index, _ in pair)
                if key not in asked:
                    asked.add(key)
                    questions.append(_Question(table, column, pair))
    return questions, unasked, [_too_many(dataset, number) for dataset, number in many.items()]


def _same_part(pair: tuple[tuple[int, str], ...], runs: Sequence[Run]) -> bool:
    """Whether two runs are of the whole both, or of samples of one size."""
    (first, _), (second, _) = pair
    return runs[first].facts.get("limit") == runs[second].facts.get("limit")


def _with_best(runs: dict[int, str], metric: str, figures: _Figures) -> list[tuple[tuple[int, str], tuple[int, str]]]:
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


def _comparisons(
    questions: list[_Question], unasked: int, figures: _Figures, count: _Count
) -> tuple[list[Comparison], list[Problem]]:
    found: list[tuple[_Question, statistics.Paired]] = []
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


def _comparison(question: _Question, paired: statistics.Paired, p: float, significant: bool) -> Comparison:
    (_, one), (_, other) = question.runs
    difference, low, high = 100 * paired.difference, 100 * paired.low, 100 * paired.high
    if difference < 0:
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
    )
