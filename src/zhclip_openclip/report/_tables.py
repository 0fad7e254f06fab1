"""Which tables a report has, with which columns and rows: the published ones as published, and what was run beyond."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from zhclip_openclip import families
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.checkpoints import _open_clip_models
from zhclip_openclip.prompts import registry
from zhclip_openclip.report import _names
from zhclip_openclip.report._model import Column
from zhclip_openclip.report.published import ModelKey, Source
from zhclip_openclip.report.runs import CLASSIFICATION, RETRIEVAL, Results, checkpoint, handling_of, tags, variant

#: (task, data set)
Benchmark = tuple[str, str]


@dataclass(frozen=True)
class Group:
    """The runs of one row: a model, its tag as it is called ('' for the default), and what else tells them apart.

    cells: benchmark -> index of the run.
    """

    model: str
    checkpoint: str
    tag: str
    parts: tuple[str, ...]
    cells: dict[Benchmark, int] = field(default_factory=dict)

    def variant(self, published: ModelKey | None = None) -> str:
        """What they differ in from the model as published under a key."""
        own_tag = [self.tag] if self.tag and (published is None or published[1] != self.checkpoint) else []
        return ", ".join([*own_tag, *self.parts])


@dataclass(frozen=True)
class PlannedRow:
    """group: its runs, None for a model that was not run. source: of the published figures, None for none."""

    model: str
    title: str
    group: Group | None
    source: Source | None
    published: ModelKey

    @property
    def variant(self) -> str:
        return self.group.variant(self.published if self.source else None) if self.group else ""


@dataclass(frozen=True)
class PlannedTable:
    key: str
    title: str
    title_zh: str
    task: str
    columns: list[Column]
    rows: list[PlannedRow]


def groups(read: Results, shown: list[tuple[int, str]]) -> list[Group]:
    """The runs (index, label) by row; a label, of runs that disagree with another, makes a row of its own."""
    called = tags(read.runs)
    result: dict[tuple, Group] = {}
    for index, label in shown:
        run = read.runs[index]
        own, parts = checkpoint(run), (*variant(run), *([label] if label else []))
        group = result.setdefault((run.model, own, parts), Group(run.model, own, called[run.model, own], parts))
        group.cells[run.task, run.dataset] = index
    return [result[key] for key in sorted(result, key=lambda key: (*key[:2], len(key[2]), key[2]))]


class Layout:
    """models, datasets: show these only; None for no such limit.

    Raises ZhclipError: a name that nothing here has.
    """

    def __init__(
        self,
        sources: list[Source],
        read: Results,
        shown: list[tuple[int, str]],
        models: Sequence[str] | None = None,
        datasets: Sequence[str] | None = None,
    ) -> None:
        self.sources, self.read = sources, read
        self.groups = groups(read, shown)
        self.described = _names.layout()
        self.models = None if models is None else [self._asked_model(name) for name in models]
        self.datasets = None if datasets is None else [self._asked_dataset(name) for name in datasets]
        self.groups = [group for group in self.groups if self._is_shown(group.model, group.checkpoint)]

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
        """The published tables, then those of other data sets and metrics; none without a row or a column."""
        tables = [self._published_table(entry) for entry in self.described["tables"]]
        laid_out = [((table.task, column.dataset), column.metric) for table in tables for column in table.columns]
        for benchmark in self._further():
            tables.append(self._further_table(benchmark, [metric for other, metric in laid_out if other == benchmark]))
        return [table for table in tables if table.columns and table.rows]

    def _published_table(self, entry: dict) -> PlannedTable:
        source = next(source for source in self.sources if source.key == self.described["layout"])
        if "dataset" in entry:
            task = RETRIEVAL
            metrics = [metric for dataset, metric in source.values if dataset == entry["dataset"]]
            columns = [self._column(entry["dataset"], metric) for metric in sorted(metrics, key=_names.order)]
        else:
            task = CLASSIFICATION
            columns = [
                Column(one["dataset"], one["dataset"], "acc1", one["title"], one["title_zh"])
                for one in entry["columns"]
            ]
        if self.datasets is not None:
            columns = [column for column in columns if column.dataset in self.datasets]
        rows = self._rows(task, columns, always=source)
        return PlannedTable(entry["key"], entry["title"], entry["title_zh"], task, columns, rows)

    def _further(self) -> list[Benchmark]:
        """Benchmarks that may need a table of their own: what was run, and what is asked for by name."""
        found = {benchmark for group in self.groups for benchmark in group.cells}
        for source in self.sources:
            for (dataset, metric), column in source.values.items():
                if any(map(self._is_asked, column)) or dataset in (self.datasets or ()):
                    found.add((_task_of(metric), dataset))
        if self.datasets is not None:
            found = {(task, dataset) for task, dataset in found if dataset in self.datasets}
        return sorted(found, key=lambda benchmark: benchmark[::-1])

    def _further_table(self, benchmark: Benchmark, laid_out: list[str]) -> PlannedTable:
        """laid_out: the metrics of this benchmark that the published tables have."""
        task, dataset = benchmark
        metrics = self._further_metrics(benchmark, in_published_table=bool(laid_out))
        columns = [self._column(dataset, metric) for metric in metrics if metric not in laid_out]
        title, title_zh = self._titles(benchmark)
        key = dataset if task in (CLASSIFICATION, RETRIEVAL) else f"{dataset} {task}"
        return PlannedTable(
            key, title, title_zh, task, columns, self._rows(task, columns, asked=dataset in (self.datasets or ()))
        )

    def _further_metrics(self, benchmark: Benchmark, in_published_table: bool) -> list[str]:
        """What is published of the models that were run or are asked for; and what was measured, unless the data set
        is in a published table, which has what its readers expect."""
        task, dataset = benchmark
        ran = [group for group in self.groups if benchmark in group.cells]
        found = set()
        for source in self.sources:
            for (name, metric), column in source.values.items():
                if (_task_of(metric), name) == benchmark:
                    told = any(self._is_asked(key) or any(_fits(group, key) for group in ran) for key in column)
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
        self, task: str, columns: list[Column], always: Source | None = None, asked: bool = False
    ) -> list[PlannedRow]:
        """Source by source in their order, each model before its variants; then what no source has.

        always: all models of this source have a row; those of others where they were run or are asked for. asked:
        whether the data set is asked for by name, and with it all that is published of it.
        """
        ran = [group for group in self.groups if any((task, column.dataset) in group.cells for column in columns)]
        rows: list[PlannedRow] = []
        for source in self.sources if task in (CLASSIFICATION, RETRIEVAL) else ():  # what is published is zero-shot
            for key, title in source.models.items():
                if not _publishes(source, key, columns):
                    continue
                mine = [group for group in ran if _closest(source, group) == key and self._same_text(source, group)]
                mine.sort(key=lambda group: bool(group.variant(key)))
                unrun = not mine or mine[0].variant(key)
                wanted = self._is_asked(key) or ((asked or source is always) and self._is_shown(*key))
                if unrun and wanted:
                    rows.append(PlannedRow(key[0], title, None, source, key))
                rows += [PlannedRow(key[0], title, group, source, key) for group in mine]
        placed = {id(row.group) for row in rows}
        for group in ran:
            if id(group) not in placed:
                key = group.model, group.checkpoint
                rows.append(PlannedRow(group.model, self._title(key), group, None, key))
        return rows

    def _same_text(self, source: Source, group: Group) -> bool:
        """Whether Chinese text has reached the model as in the publication, as far as both say."""
        told = {handling_of(self.read.runs[index]) for index in group.cells.values()} - {""}
        return not source.text_handling or told <= {source.text_handling}

    def _is_asked(self, key: ModelKey) -> bool:
        return self.models is not None and key in self.models

    def _title(self, key: ModelKey) -> str:
        keys = key, (key[0], "")
        titles = [source.models[key] for key in keys for source in self.sources if key in source.models]
        return titles[0] if titles else key[0]


def _task_of(metric: str) -> str:
    return RETRIEVAL if _names.RECALL.fullmatch(metric) else CLASSIFICATION


def _fits(group: Group, key: ModelKey) -> bool:
    """Whether figures that are published of a model (or its tag) are about these runs, variants among them."""
    return group.model == key[0] and key[1] in ("", group.checkpoint)


def _closest(source: Source, group: Group) -> ModelKey:
    """Where a source may have figures of a group: under its very tag, else under the model."""
    own = group.model, group.checkpoint
    return own if own in source.models else (group.model, "")


def _publishes(source: Source, key: ModelKey, columns: Iterable[Column]) -> bool:
    return any(source.value(key, column.dataset, column.metric) is not None for column in columns)
