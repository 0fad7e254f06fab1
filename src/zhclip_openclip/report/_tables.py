"""Which tables a report has, with which columns and rows: the published ones as published, and what was run beyond.

Fine-tuned checkpoints have tables of their own, with what is published of models that were fine-tuned; no row of theirs
and no figure stands in a table of zero-shot ones.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace

from zhclip_openclip import families
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.checkpoints import _open_clip_models
from zhclip_openclip.prompts import registry
from zhclip_openclip.report import _names
from zhclip_openclip.report._model import Column, Problem, Run, Trained
from zhclip_openclip.report.fine_tuned import other_data
from zhclip_openclip.report.published import ModelKey, Source
from zhclip_openclip.report.runs import CLASSIFICATION, RETRIEVAL, Results, checkpoint, handling_of, tags, variant

#: (task, data set)
Benchmark = tuple[str, str]


@dataclass(frozen=True)
class Group:
    """The runs of one row: a model, its tag as it is called ('' for the default), and what else tells them apart.

    cells: benchmark -> index of the run. trained: of a fine-tuned checkpoint, else None.
    """

    model: str
    checkpoint: str
    tag: str
    parts: tuple[str, ...]
    cells: dict[Benchmark, int] = field(default_factory=dict)
    trained: Trained | None = None

    def is_judged(self, dataset: str) -> bool:
        """Whether figures that are published of models trained alike, on a data set, are about these runs."""
        return self.trained is None or dataset in self.trained.datasets

    def variant(self, published: ModelKey | None = None) -> str:
        """What they differ in from the model as published under a key."""
        own_tag = [self.tag] if self.tag and (published is None or published[1] != self.checkpoint) else []
        return ", ".join([*own_tag, *self.parts])


@dataclass(frozen=True)
class PlannedRow:
    """group: its runs, None for a model that was not run. sources: of its published figures, in their order."""

    model: str
    title: str
    group: Group | None
    sources: list[Source]
    published: ModelKey

    @property
    def variant(self) -> str:
        return self.group.variant(self.published if self.sources else None) if self.group else ""

    def figures(self, column: Column) -> list[tuple[Source, float]]:
        """What is published of a cell, and where. Nothing, if what was run is something else than what is published."""
        if self.group is not None and not self.group.is_judged(column.dataset):
            return []
        found = [(source, source.value(self.published, column.dataset, column.metric)) for source in self.sources]
        return [(source, value) for source, value in found if value is not None]


@dataclass(frozen=True)
class PlannedTable:
    key: str
    title: str
    title_zh: str
    task: str
    columns: list[Column]
    rows: list[PlannedRow]
    fine_tuned: bool = False


def groups(read: Results, shown: list[tuple[int, str]]) -> list[Group]:
    """The runs (index, label) by row; a label, of runs that disagree with another, makes a row of its own."""
    called = tags(read.runs)
    result: dict[tuple, Group] = {}
    for index, label in shown:
        run = read.runs[index]
        own, parts = checkpoint(run), (*_training(run), *variant(run), *([label] if label else []))
        new = Group(run.model, own, called[run.model, own], parts, trained=run.trained)
        group = result.setdefault((run.model, own, parts), new)
        group.cells[run.task, run.dataset] = index
    return [result[key] for key in sorted(result, key=lambda key: (*key[:2], len(key[2]), key[2]))]


def _training(run: Run) -> list[str]:
    if run.trained is None:
        return []
    return [f"fine-tuned on {', '.join(run.trained.datasets) or run.trained.data or 'other data'}"]


def same_text(source: Source, run: Run) -> bool:
    """Whether Chinese text has reached the model of a run as in a publication, as far as both say."""
    return not source.text_handling or handling_of(run) in ("", source.text_handling)


class Layout:
    """models, datasets: show these only; None for no such limit. whole: keys of the sources that are shown whether
    their models were run or not.

    Raises ZhclipError: a name that nothing here has.
    """

    def __init__(
        self,
        sources: list[Source],
        read: Results,
        shown: list[tuple[int, str]],
        models: Sequence[str] | None = None,
        datasets: Sequence[str] | None = None,
        whole: Iterable[str] = (),
    ) -> None:
        self.sources, self.read, self.whole = sources, read, frozenset(whole)
        self.groups = groups(read, shown)
        self.described = _names.layout()
        self.models = None if models is None else [self._asked_model(name) for name in models]
        self.datasets = None if datasets is None else [self._asked_dataset(name) for name in datasets]
        self.groups = [group for group in self.groups if self._is_shown(group.model, group.checkpoint)]
        self.problems: list[Problem] = []

    def _asked_model(self, spelling: str) -> ModelKey:
        known = {key for source in self.sources for key in source.models}
        known |= {(group.model, tag) for group in self.groups for tag in ("", group.checkpoint)}
        for family in families.all_families().values():
            known |= {(model.name, tag) for model in family.models for tag in ("", *model.tags)}
        key = _names.model_and_tag(spelling)
        if key not in known and key[0] not in _open_clip_models.facts():
            names = sorted({*families.all_names(), *_open_clip_models.facts(), *(name for name, _ in known)})
            raise ZhclipError(f"--models {spelling}: no such model; {_names.suggest(key[0], names)}")
        return key

    def _asked_dataset(self, spelling: str) -> str:
        known = {*_names.known_datasets(), *(dataset for source in self.sources for dataset, _ in source.values)}
        known |= {dataset for group in self.groups for _, dataset in group.cells}
        name = _names.dataset_name(spelling)
        if name not in known:
            raise ZhclipError(f"--datasets {spelling}: no such data set; {_names.suggest(name, sorted(known))}")
        return name

    def _is_shown(self, model: str, tag: str) -> bool:
        return self.models is None or (model, tag) in self.models or (model, "") in self.models

    # ------------------------------------------------------------ tables

    def tables(self) -> list[PlannedTable]:
        """The published tables, then those of other data sets and metrics, then those of fine-tuned models; none
        without a row or a column."""
        tables = [self._published_table(entry) for entry in self.described["tables"]]
        laid_out = [((table.task, column.dataset), column.metric) for table in tables for column in table.columns]
        for benchmark in self._further(fine_tuned=False):
            tables.append(self._further_table(benchmark, [metric for other, metric in laid_out if other == benchmark]))
        tables += [self._fine_tuned_table(benchmark) for benchmark in self._further(fine_tuned=True)]
        return [table for table in tables if table.columns and table.rows]

    def board(self) -> list[PlannedTable]:
        """A table for each data set, zero-shot and fine-tuned apart, with all that is published and was run of it."""
        order = [entry["dataset"] for entry in self.described["tables"] if "dataset" in entry]
        zero_shot = sorted(self._further(fine_tuned=False), key=lambda one: (_place(one, order), one[0], one[1]))
        tables = [self._further_table(benchmark, []) for benchmark in zero_shot]
        tables += [self._fine_tuned_table(benchmark) for benchmark in self._further(fine_tuned=True)]
        tables = [replace(table, columns=list(filter(_is_ranked, table.columns))) for table in tables]
        rows = [[replace(row, title=self._full_title(row)) for row in table.rows] for table in tables]
        tables = [replace(table, rows=its) for table, its in zip(tables, rows, strict=True)]
        return [table for table in tables if table.columns and table.rows]

    def _full_title(self, row: PlannedRow) -> str:
        """That of a source beside ZH-CLIP's, whose names are for six systems of one size each."""
        titles = [one.models[row.published] for one in row.sources if one.key != self.described["layout"]]
        return titles[0] if titles else row.title

    def _published_table(self, entry: dict) -> PlannedTable:
        shown = [source for source in self.sources if source.key in self.whole and not source.fine_tuned]
        shown = [source for source in shown if source.key == self.described["layout"]] or shown
        published = {column for source in shown for column in source.values}
        if "dataset" in entry:
            task = RETRIEVAL
            metrics = [metric for dataset, metric in published if dataset == entry["dataset"]]
            columns = [self._column(entry["dataset"], metric) for metric in sorted(metrics, key=_names.order)]
        else:
            task = CLASSIFICATION
            columns = [
                Column(one["dataset"], one["dataset"], "acc1", one["title"], one["title_zh"])
                for one in entry["columns"]
                if (one["dataset"], "acc1") in published
            ]
        if self.datasets is not None:
            columns = [column for column in columns if column.dataset in self.datasets]
        rows = self._rows(task, columns)
        return PlannedTable(entry["key"], entry["title"], entry["title_zh"], task, columns, rows)

    def _further(self, fine_tuned: bool) -> list[Benchmark]:
        """Benchmarks that may need a table of their own: what was run, and what is asked for by name."""
        found = {benchmark for group in self._groups(fine_tuned) for benchmark in group.cells}
        for source in self._published(fine_tuned):
            for (dataset, metric), column in source.values.items():
                asked = dataset in (self.datasets or ()) or any(map(self._is_asked, column))
                if source.key in self.whole or (asked and not fine_tuned):
                    found.add((_task_of(metric), dataset))
        if self.datasets is not None:
            found = {(task, dataset) for task, dataset in found if dataset in self.datasets}
        return sorted(found, key=lambda benchmark: benchmark[::-1])

    def _groups(self, fine_tuned: bool) -> list[Group]:
        return [group for group in self.groups if (group.trained is not None) is fine_tuned]

    def _published(self, fine_tuned: bool) -> list[Source]:
        return [source for source in self.sources if source.fine_tuned is fine_tuned]

    def _further_table(self, benchmark: Benchmark, laid_out: list[str]) -> PlannedTable:
        """laid_out: the metrics of this benchmark that the published tables have."""
        task, dataset = benchmark
        metrics = self._further_metrics(benchmark, in_published_table=bool(laid_out))
        columns = [self._column(dataset, metric) for metric in metrics if metric not in laid_out]
        title, title_zh = self._titles(benchmark)
        key = dataset if task in (CLASSIFICATION, RETRIEVAL) else f"{dataset} {task}"
        rows = self._rows(task, columns, asked=dataset in (self.datasets or ()))
        return PlannedTable(key, title, title_zh, task, columns, rows)

    def _fine_tuned_table(self, benchmark: Benchmark) -> PlannedTable:
        """Of one data set, with all that is published of models fine-tuned on it: there are few."""
        task, dataset = benchmark
        columns = [self._column(dataset, metric) for metric in self._further_metrics(benchmark, fine_tuned=True)]
        title, title_zh = self._titles(benchmark)
        rows = self._rows(task, columns, asked=True, fine_tuned=True)
        for group in self._groups(True):
            published = any(
                _publishes(source, _closest(source.models, group), columns) for source in self._published(True)
            )
            if benchmark in group.cells and published and not group.trained.datasets:
                self.problems.append(other_data(self.read.runs[group.cells[benchmark]]))
        of = self.described["fine_tuned"]
        key = f"{dataset} fine-tuned" if task in (CLASSIFICATION, RETRIEVAL) else f"{dataset} {task} fine-tuned"
        return PlannedTable(key, title + of["title"], title_zh + of["title_zh"], task, columns, rows, fine_tuned=True)

    def _further_metrics(
        self, benchmark: Benchmark, in_published_table: bool = False, fine_tuned: bool = False
    ) -> list[str]:
        """What is published of the models that were run or are asked for; and what was measured, unless the data set
        is in a published table, which has what its readers expect."""
        task, dataset = benchmark
        ran = [group for group in self._groups(fine_tuned) if benchmark in group.cells]
        found = set()
        for source in self._published(fine_tuned):
            for (name, metric), column in source.values.items():
                if (_task_of(metric), name) == benchmark:
                    told = any(self._is_asked(key) or any(_fits(group, key) for group in ran) for key in column)
                    told = told or source.key in self.whole
                    found |= {metric} if told or not in_published_table else set()
        if not in_published_table:
            measured = {metric for group in ran for metric in self.read.runs[group.cells[benchmark]].metrics}
            found |= measured - {
                "mean_per_class_accuracy",
                "lp_mean_per_class_accuracy",
            }  # the same number as mean_per_class_recall
        return sorted(found, key=_names.order)

    def _column(self, dataset: str, metric: str) -> Column:
        recall = _names.RECALL.fullmatch(metric)
        if not recall:
            titles = self.described["metrics"].get(metric, {"title": metric, "title_zh": metric})
            return Column(metric, dataset, metric, titles["title"], titles["title_zh"])
        way, titles = self.described["directions"][recall[1]], self.described["metrics"]["mean_recall"]
        if recall[2]:
            titles = {"title": f"R@{recall[2]}", "title_zh": f"R@{recall[2]}"}
        key = f"{way['key']} {titles['title']}"
        return Column(key, dataset, metric, titles["title"], titles["title_zh"], way["title"], way["title_zh"])

    def _titles(self, benchmark: Benchmark) -> tuple[str, str]:
        task, dataset = benchmark
        known = registry.all_datasets().get(dataset)
        named = (known.title, known.title) if known else (dataset, dataset)
        for source in self.sources:
            named = source.titles.get(dataset, named)
        if dataset in self.described["datasets"]:
            named = tuple(self.described["datasets"][dataset][key] for key in ("title", "title_zh"))
        kind = self.described["tasks"].get(task, {"title": task, "title_zh": task})
        return f"{named[0]}: {kind['title']}", f"{named[1]}：{kind['title_zh']}"

    # ------------------------------------------------------------ rows

    def _rows(
        self, task: str, columns: list[Column], asked: bool = False, fine_tuned: bool = False
    ) -> list[PlannedRow]:
        """Source by source in their order, each model once and before its variants; then what no source has.

        asked: whether the data set is asked for by name, and with it all that is published of it.
        """
        groups = self._groups(fine_tuned)
        # What is published is zero-shot, or fine-tuned, and no linear probe.
        sources = self._published(fine_tuned) if task in (CLASSIFICATION, RETRIEVAL) else []
        ran = [group for group in groups if any((task, column.dataset) in group.cells for column in columns)]
        published: dict[ModelKey, list[Source]] = {}
        for source in sources:
            for key in source.models:
                if _publishes(source, key, columns):
                    published.setdefault(key, []).append(source)
        judged = [group for group in ran if any(group.is_judged(column.dataset) for column in columns)]
        rows: list[PlannedRow] = []
        for key, of_it in published.items():
            title = of_it[0].models[key]
            mine = [group for group in judged if _closest(published, group) == key and self._same_text(of_it, group)]
            mine.sort(key=lambda group: bool(group.variant(key)))
            unrun = not mine or (mine[0].variant(key) and not fine_tuned)
            whole = any(source.key in self.whole for source in of_it)
            if unrun and (self._is_asked(key) or ((asked or whole) and self._is_shown(*key))):
                rows.append(PlannedRow(key[0], title, None, of_it, key))
            rows += [PlannedRow(key[0], title, group, of_it, key) for group in mine]
        placed = {id(row.group) for row in rows}
        for group in ran:
            if id(group) not in placed:
                key = group.model, group.checkpoint
                rows.append(PlannedRow(group.model, self._title(key), group, [], key))
        return rows

    def _same_text(self, sources: list[Source], group: Group) -> bool:
        """Whether Chinese text has reached the model as in one of the publications, as far as all say."""
        return any(same_text(source, self.read.runs[index]) for source in sources for index in group.cells.values())

    def _is_asked(self, key: ModelKey) -> bool:
        return self.models is not None and key in self.models

    def _title(self, key: ModelKey) -> str:
        keys = key, (key[0], "")
        titles = [source.models[key] for key in keys for source in self.sources if key in source.models]
        return titles[0] if titles else key[0]


def _place(benchmark: Benchmark, order: list[str]) -> int:
    """The published order, then other retrieval, then classification, its largest first."""
    task, dataset = benchmark
    if dataset in order:
        return order.index(dataset)
    return len(order) + (task != RETRIEVAL) + (task != RETRIEVAL and dataset != "imagenet1k")


def _is_ranked(column: Column) -> bool:
    """Few publish a mean of recalls, and it follows from them."""
    return not column.metric.endswith("_mean_recall")


def _task_of(metric: str) -> str:
    return RETRIEVAL if _names.RECALL.fullmatch(metric) else CLASSIFICATION


def _fits(group: Group, key: ModelKey) -> bool:
    """Whether figures that are published of a model (or its tag) are about these runs, variants among them."""
    return group.model == key[0] and key[1] in ("", group.checkpoint)


def _closest(published: Container[ModelKey], group: Group) -> ModelKey:
    """Under which key figures of a group may be published: its very tag, else the model."""
    own = group.model, group.checkpoint
    return own if own in published else (group.model, "")


def _publishes(source: Source, key: ModelKey, columns: Iterable[Column]) -> bool:
    return any(source.value(key, column.dataset, column.metric) is not None for column in columns)
