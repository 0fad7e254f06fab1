"""The report: the published tables with our own values beside them, intervals, verdicts and comparisons.

The four tables of ZH-CLIP's README are always there, with its six systems. Models of other sources have rows where they
were run or are asked for, and data sets beyond these tables have tables of their own. A verdict asks whether the
published value, before it was rounded, can lie in the interval around ours. `_comparisons.py` says which runs are
compared with each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.report import _leaderboard, _names, same_set, statistics
from zhclip_openclip.report._comparisons import Count, Figures, compared, cost, questions
from zhclip_openclip.report._model import VERDICTS, Cell, Column, Comparison, Figure, Problem, Report, Row, Run, Table
from zhclip_openclip.report._tables import Layout, PlannedRow, PlannedTable, same_text
from zhclip_openclip.report.published import Source, load_published
from zhclip_openclip.report.runs import older_version, read_results, without_duplicates

__all__ = ["VERDICTS", "Cell", "Column", "Comparison", "Problem", "Report", "Row", "Run", "Table", "build"]

#: Values that differ by less are equal: clip_benchmark rounds to float32, and these are percent.
_EQUAL = 1e-4
#: Among names of sources: each of them.
ALL = "all"


def build(
    results: Iterable[str | os.PathLike[str]],
    published: Iterable[str | os.PathLike[str]] = (),
    models: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    resamples: int = statistics.RESAMPLES,
    seed: int = 0,
    links_from: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    fine_tuned: Iterable[str] = (),
    sources: Sequence[str] | None = None,
    leaderboard: bool = False,
) -> Report:
    """Reads results and lays them out beside what is published.

    Args:
        results: result files of clip_benchmark, and folders of them.
        published: other people's figures, in the form of docs/reports.md, beside those of the package; all of them are
            shown.
        models: show these only, by name, alias, or `name,tag`; with their published figures even if they were not run.
        datasets: show these only.
        resamples: of the bootstrap.
        seed: of the bootstrap. The same results, seed and resamples give the same report.
        links_from: the folder that links to galleries start from; by default the current one.
        progress: called with (done, all) intervals and comparisons.
        fine_tuned: what nothing else tells of checkpoints: `CHECKPOINT=DATASET@BEGAN`, see `fine_tuned.py`.
        sources: all figures of these of the package, and no others', by name or `all`; by default ZH-CLIP's tables, and
            of the others what was run or is asked for.
        leaderboard: one table for each data set, with every row of all sources, or of `sources`, from the best down.

    Raises:
        ZhclipError: `sources`, `models` or `datasets` names what neither the package, nor the results, nor the
            published files have; `fine_tuned` of another form. Whatever is wrong with files is in the report's
            `problems`.
    """
    given: list[str] = []
    every, problems = load_published(published, given)
    asked_for = _asked(sources, every) if sources or leaderboard else None
    if asked_for is not None:
        every = [source for source in every if source.key in {*asked_for, *given}]
    whole = {_names.layout()["layout"], *given} if asked_for is None else {*asked_for, *given}
    read = read_results(results, links_from, fine_tuned)
    shown, duplicates = without_duplicates(read)
    layout = Layout(every, read, shown, models, datasets, whole)
    planned = layout.board() if leaderboard else layout.tables()
    figures = Figures(read, resamples, seed)
    asked, unasked, left_out = questions(planned, figures)
    cells = [column.metric for table in planned for column in table.columns for _ in table.rows]
    count = Count(sum(map(cost, [*cells, *(one.column.metric for one in asked)])), progress)
    tables = [_table(table, figures, count, leaderboard) for table in planned]
    comparisons, unpaired = compared(asked, unasked, figures, count)
    used = {source for table in tables for row in table.rows for source in row.sources}
    return Report(
        tables=tables,
        comparisons=comparisons,
        problems=[
            *problems,
            *read.problems,
            *duplicates,
            *layout.problems,
            *figures.problems.values(),
            *left_out,
            *unpaired,
        ],
        runs=read.runs,
        level=statistics.LEVEL,
        resamples=resamples,
        seed=seed,
        pairs=len(comparisons) + unasked,
        sources={source.key: source.text for source in every if source.key in used},
        leaderboard=leaderboard,
    )


def _asked(names: Sequence[str] | None, every: Sequence[Source]) -> list[str]:
    """Keys of sources. Raises ZhclipError: a name that none has."""
    known = [source.key for source in every]
    for name in names or ():
        if name not in (*known, ALL):
            raise ZhclipError(f"--sources {name}: no such source; {_names.suggest(name, [*known, ALL])}")
    return known if not names or ALL in names else list(names)


# ---------------------------------------------------------------- cells


def _table(planned: PlannedTable, figures: Figures, count: Count, ranked: bool) -> Table:
    rows = []
    for row in planned.rows:
        cells = {}
        for column in planned.columns:
            cells[column.key] = _cell(row, column, planned.task, figures)
            count.step(column.metric)
        source = row.sources[0].key if row.sources else ""
        rows.append(Row(row.model, row.title, source, row.variant, cells))
    for column in planned.columns:
        _mark_best(rows, column, figures.read.runs)
    if ranked:
        rows = _leaderboard.ranked(rows, planned.columns)
    return Table(planned.key, planned.title, planned.title_zh, planned.columns, rows)


def _cell(row: PlannedRow, column: Column, task: str, figures: Figures) -> Cell:
    """The figure of the first source that is sure of it is the one to be compared with; the others stand beside it."""
    run = row.group.cells.get((task, column.dataset)) if row.group else None
    published = row.figures(column) if run is None else _about(run, row, column, figures)
    ours = None if run is None else figures.value(run, column.metric)
    low, high = (None, None) if ours is None else figures.interval(run, column.metric) or (None, None)

    def judged(value: float | None, rounding: float) -> str:
        return "not run" if ours is None else verdict(value, low, high, rounding)

    doubts = {source.key: source.doubt(row.published, column.dataset) for source, _ in published}
    first = next((one for one in published if not doubts[one[0].key]), None)
    source, value = first or (None, None)
    also = []
    for one, its in published:
        if one is not source:
            differs = source is not None and abs(its - value) > one.rounding + source.rounding + 1e-9
            said = "not run" if doubts[one.key] else judged(its, one.rounding)
            also.append(Figure(one.key, its, one.decimals, said, differs and not doubts[one.key], doubts[one.key]))
    cell = Cell(value, source=source.key if source else "", also=tuple(also))
    if source is not None:
        cell = replace(cell, best_published=value == source.best(column.dataset, column.metric))
    if ours is None:
        return cell
    return replace(
        cell,
        ours=ours,
        low=low,
        high=high,
        difference=None if value is None else ours - value,
        verdict=judged(value, source.rounding if source else 0.0),
        samples=figures.samples(run, column.metric),
        run=run,
    )


def _about(run: int, row: PlannedRow, column: Column, figures: Figures) -> list[tuple[Source, float]]:
    """What is published of a cell, of the data that it was run on, all of them, and of the way the texts went; what is
    of other data is told."""
    found, ran, outcomes = [], figures.read.runs[run], figures.read.outcomes[run]
    for source, value in row.figures(column):
        if "limit" in ran.facts or not same_text(source, ran):  # the row says so
            continue
        other = same_set.other_data(ran, source.language, source.sizes.get(column.dataset, {}), outcomes)
        if not other:
            found.append((source, value))
            continue
        what = f"is not compared with {source.key}: {other}"
        figures.problems[ran.path, source.key] = Problem(ran.path, what, "evaluate on the data that it is about")
    return found


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
