"""`zhclip reproduce`: the published tables, evaluated on this machine, cell by cell.

Exit codes: 0 all cells that have their data are there; 1 a cell failed, or the page could not be made; 2 nothing to do
(no data, or a word that is not understood); 130 interrupted.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from zhclip_openclip.datasets.at_hand import Found
    from zhclip_openclip.results.plan import Cell, Plan, Weights
    from zhclip_openclip.results.reproduce import Outcome

_WORDS = "to run", "finished", "no data"
_DEMO_MODELS, _DEMO_DATASETS, _DEMO_TEMPLATES = (
    "zhclip-tiny",
    "digits,digits-retrieval",
    {"digits": ["name", "openai80"]},
)


def reproduce(
    models: Annotated[
        list[str] | None,
        typer.Option(
            help="Names, separated by commas or one option each; after a name its tag, or a checkpoint: "
            "zhclip,cnclip,epoch_latest.pt. By default the six systems of the published tables."
        ),
    ] = None,
    datasets: Annotated[
        list[str] | None, typer.Option(help="Names, likewise. By default the 14 data sets of the published tables.")
    ] = None,
    data_root: Annotated[Path | None, typer.Option(help="The folder that holds the data sets.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="The results folder; by default zhclip-results, zhclip-demo for the demo.")
    ] = None,
    templates: Annotated[str, typer.Option(help="zh, cn_clip, openai80, name, or a file.")] = "zh",
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 64,
    num_workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that read images; by default one a core, 8 at most.")
    ] = None,
    no_amp: Annotated[bool, typer.Option("--no-amp", help="Full precision.")] = False,
    cache: Annotated[
        Path | None,
        typer.Option(help="The feature cache; by default $ZHCLIP_FEATURE_CACHE, or features in the results folder."),
    ] = None,
    skip_bad_images: Annotated[
        bool, typer.Option("--skip-bad-images", help="Leave out images that cannot be read; results name them.")
    ] = False,
    report: Annotated[bool, typer.Option(help="Write report.html at the end.")] = True,
    galleries: Annotated[bool, typer.Option(help="Write a page with queries for each retrieval result.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The plan as JSON, with --dry-run.")] = False,
    offline_demo: Annotated[
        bool, typer.Option("--offline-demo", help="The whole way with the embedded model and data, without a network.")
    ] = False,
) -> None:
    """Evaluate the models of the published tables on the data at hand, and report it. Goes on where it was stopped."""
    from rich.console import Console

    from zhclip_openclip._errors import ZhclipError
    from zhclip_openclip.results.plan import Options, make_plan

    if as_json and not dry_run:
        raise typer.BadParameter("--json shows the plan alone; add --dry-run")
    console = Console(highlight=False, soft_wrap=False)
    if offline_demo:
        if models or datasets or data_root:
            raise typer.BadParameter("--offline-demo has its own model and data; leave out --models and the like")
        _go_offline()
        models, datasets = [_DEMO_MODELS], [_DEMO_DATASETS]
    output = output or Path("zhclip-demo" if offline_demo else "zhclip-results")
    options = Options(batch_size, num_workers, not no_amp, skip_bad_images, galleries)
    with _looking(console, as_json):
        plan = make_plan(
            models or [],
            [name.strip() for word in datasets or [] for name in word.split(",") if name.strip()],
            data_root,
            output,
            options,
            templates,
            _DEMO_TEMPLATES if offline_demo else None,
        )
    if as_json:
        typer.echo(json.dumps(plan.as_json(), indent=2, ensure_ascii=False))
    else:
        show(plan, console)
    if not plan.of("run") and not plan.of("finished"):
        _no_data(plan, data_root)
    if dry_run:
        return
    try:
        outcomes = _run(plan, console, cache)
        code = 1 if any(outcome.failure for outcome in outcomes) else 0
        if report:
            _report(output, console)
    except KeyboardInterrupt:
        console.print("[yellow]stopped[/]: what is finished is kept; the same command goes on from there")
        raise typer.Exit(130) from None
    except ZhclipError as error:
        typer.echo(f"zhclip: error: {error}", err=True)
        raise typer.Exit(1) from None
    raise typer.Exit(code)


def _go_offline() -> None:
    """No question to any hub, from here on."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True  # it may have read the environment before


def _looking(console: Console, quiet: bool):
    from contextlib import nullcontext

    return nullcontext() if quiet or not console.is_terminal else console.status("looking at data, weights and machine")


def _no_data(plan: Plan, data_root: Path | None) -> None:
    wanted = f"none of {len(plan.datasets)} data sets"
    where = f"in {data_root}" if data_root else "at hand: give --data-root"
    typer.echo(
        f"zhclip: error: {wanted} {where}; docs/reproducing.md says where each is to be got and put, and "
        "--offline-demo shows the whole way without any",
        err=True,
    )
    raise typer.Exit(2)


def _run(plan: Plan, console: Console, cache: Path | None) -> list[Outcome]:
    from zhclip_openclip.results import reproduce

    if not plan.of("run"):
        console.print("Nothing is left to run.")
    cache = cache or (Path(folder).expanduser() if (folder := os.environ.get("ZHCLIP_FEATURE_CACHE")) else None)
    with (Live if console.is_terminal else Plain)(plan, console) as display:
        outcomes = reproduce.run(plan, display, cache)
    failed = [outcome for outcome in outcomes if outcome.failure]
    if failed:
        console.print(f"[red]{len(failed)} of {len(outcomes)} cells failed[/]; the same command tries them again")
    return outcomes


def _report(output: Path, console: Console) -> None:
    from rich.markup import escape

    from zhclip_openclip.results.reproduce import write_report

    page, problems = write_report(output)
    for problem in problems:
        console.print(f"[yellow]note[/]: {escape(problem)}", soft_wrap=True)
    console.print(f"report: {page}", markup=False, soft_wrap=True)


# ---------------------------------------------------------------- the plan


def show(plan: Plan, console: Console) -> None:
    """Print what will be run, what is missing and where to get it, gigabytes, and about how long."""
    _show_models(plan, console)
    _show_cells(plan, console)
    _show_missing(plan, console)
    count = {state: len(plan.of(state)) for state in ("run", "finished", "missing")}
    console.print(
        f"\n[bold]{count['run']} cell{'s' * (count['run'] != 1)} to run[/], {count['finished']} finished, "
        f"{count['missing']} without data"
    )
    if count["run"]:
        images = sum(cell.data.images for cell in plan.of("run"))
        fetch = sum(weights.bytes for weights in plan.to_fetch) / 1e9
        machine = plan.machine
        measured = f", measured: {machine.rate / 1e9:,.0f} GFLOP/s on {machine.device}" if machine else ""
        console.print(f"time: about {duration(plan.seconds)} for {images:,} images{measured}")
        console.print(f"weights to fetch: {f'about {fetch:,.1f} GB' if fetch else 'none'}\n")


def _columns(plan: Plan) -> list[tuple[Weights, str]]:
    """The columns of the table of cells: a model, once for each set of templates."""
    with_templates = list(dict.fromkeys((cell.weights, cell.templates) for cell in plan.cells if cell.templates))
    return with_templates or list(dict.fromkeys((cell.weights, "") for cell in plan.cells))


def _show_models(plan: Plan, console: Console) -> None:
    from rich.markup import escape

    columns = _columns(plan)
    several = len({templates for _, templates in columns}) > 1
    for number, (weights, templates) in enumerate(columns, 1):
        size = f"{weights.bytes / 1e9:,.1f} GB"
        where = f"{size} here" if weights.here else f"[yellow]about {size} to fetch[/] from {escape(weights.source)}"
        with_templates = f", templates {escape(templates)}" if several else ""
        console.print(f"[bold]{number:>2}[/] {escape(weights.title)}{with_templates}: {where}", soft_wrap=True)
    console.print()


def _show_cells(plan: Plan, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    signs = {"run": "[bold cyan]●[/]", "finished": "[green]✓[/]", "missing": "[dim]–[/]"}
    columns = _columns(plan)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("data set", no_wrap=True)
    table.add_column("images", justify="right", no_wrap=True)
    table.add_column("read as", overflow="fold")
    for number in range(1, len(columns) + 1):
        table.add_column(str(number), justify="center", no_wrap=True)
    for entry in plan.datasets:
        cells = [cell for cell in plan.cells if cell.entry == entry]
        found = next((cell.data for cell in cells if hasattr(cell.data, "spelling")), None)
        by_column = {(cell.weights, cell.templates): signs[cell.state] for cell in cells}
        firsts = {weights: columns.index((weights, templates)) for weights, templates in reversed(columns)}
        for cell in cells:  # retrieval has no templates: it stands in the first column of its model
            if not cell.templates:
                by_column[columns[firsts[cell.weights]]] = signs[cell.state]
        table.add_row(
            entry.name,
            f"{(found or entry).images:,}",
            _read_as(found) if found else "",
            *(by_column.get(column, "") for column in columns),
        )
    console.print(table)
    console.print("  ".join(f"{sign} {word}" for sign, word in zip(signs.values(), _WORDS, strict=True)))
    for cell in plan.cells:
        if cell.note and cell.state != "missing":
            console.print(f"[yellow]{escape(cell.title)}[/]: {escape(cell.note)}", soft_wrap=True)


def _read_as(found: Found) -> str:
    """`elevater/cifar-10` says it all; of `muge` the layout is worth saying."""
    return found.spelling if "/" in found.spelling else f"{found.spelling}[dim], {found.layout}[/]"


def _show_missing(plan: Plan, console: Console) -> None:
    from rich.markup import escape

    if not plan.missing:
        return
    known = sum(entry.gb or 0 for entry, _ in plan.missing)
    console.print(f"\n[bold]Missing[/]: {len(plan.missing)} data sets, {known:,.1f} GB where the size is known")
    for entry, data in plan.missing:
        size = f"{entry.gb:g} GB" if entry.gb is not None else "size unknown"
        console.print(f"  [bold]{entry.name}[/] ({size}): {escape(entry.get)}", soft_wrap=True)
        console.print(f"    [dim]{escape(entry.place)}[/]", soft_wrap=True)
        if not data.absent:
            console.print(f"    [yellow]there, but: {escape(data.reason)}[/]", soft_wrap=True)


def duration(seconds: float) -> str:
    """'20 s', '3 min', '2.5 h', '4 days': as rough as an estimate is."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


# ---------------------------------------------------------------- while it runs


class Plain:
    """One line a cell, and one now and then inside a long one: for logs and pipes."""

    every = 30.0  # seconds between two lines inside a cell

    def __init__(self, plan: Plan, console: Console):
        self._plan, self._console = plan, console
        self._total, self._number = len(plan.of("run")), 0
        self._begun = self._told = 0.0
        self._new, self._first_new = 0, 0.0
        self._ahead = plan.seconds
        self._spent = self._planned = 0.0

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        pass

    def start(self, cell: Cell) -> None:
        self._number += 1
        self._cell = cell
        self._begun = self._told = time.monotonic()
        self._new, self._first_new = 0, 0.0
        self._say(f"[{self._number}/{self._total}] {cell.title}: loading")

    def progress(self, stage: str, done: int, total: int | None, reused: int) -> None:
        now = time.monotonic()
        if stage == "images":
            if not self._first_new and done > reused:
                self._first_new = now
            self._new = done - reused
        if now - self._told >= self.every:
            self._told = now
            of = f" of {total:,}" if total else ""
            self._say(f"[{self._number}/{self._total}] {stage}: {done:,}{of}{self._rate()}; {self._left(done, total)}")

    def end(self, cell: Cell, failure: str | None, note: str) -> None:
        self._spent += time.monotonic() - self._begun
        self._planned += cell.seconds
        self._ahead -= cell.seconds
        self._say(f"[{self._number}/{self._total}] {self._line(cell, failure, note)}")

    def _line(self, cell: Cell, failure: str | None, note: str) -> str:
        if failure:
            return f"{cell.title}: FAILED: {failure} (log: {self._plan.output / 'logs' / (cell.name + '.log')})"
        took = duration(time.monotonic() - self._begun)
        return f"{cell.title}: {result_line(self._plan, cell)} ({took}{self._rate()}){'; ' + note if note else ''}"

    def _rate(self) -> str:
        passed = time.monotonic() - self._first_new
        return f", {self._new / passed:,.0f} images/s" if self._first_new and passed > 0.5 else ""

    def _left(self, done: int, total: int | None) -> str:
        share = done / total if total else 0.0
        seconds = self._ahead - share * self._cell.seconds
        slower = self._spent / self._planned if self._planned else 1.0  # than was planned
        return f"about {duration(max(0.0, seconds * slower))} left"

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)


class Live(Plain):
    """Bars for the cells and for the images of the current one; finished cells scroll by above them."""

    def __init__(self, plan: Plan, console: Console):
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        super().__init__(plan, console)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeRemainingColumn(),
            console=console,
            redirect_stdout=False,
            redirect_stderr=False,
            speed_estimate_period=600,
        )
        # The bar of all cells goes by estimated seconds, so that a big cell counts as more than a small one.
        self._all = self._bars.add_task("cells", total=sum(map(self._weight, plan.of("run"))), count="")
        self._one = self._bars.add_task("", total=None, count="", visible=False)
        self._before = 0.0

    @staticmethod
    def _weight(cell: Cell) -> float:
        return cell.seconds + 1.0

    def __enter__(self):
        self._bars.start()
        return self

    def __exit__(self, *error) -> None:
        self._bars.stop()

    def start(self, cell: Cell) -> None:
        super().start(cell)
        self._bars.update(self._all, count=f"{self._number}/{self._total}")
        self._bars.reset(self._one, total=None, description=f"{cell.title}: loading", count="", visible=True)

    def progress(self, stage: str, done: int, total: int | None, reused: int) -> None:
        super().progress(stage, done, total, reused)
        of = f"/{total:,}" if total else ""
        count = f"{done:,}{of} {stage}{self._rate() if stage == 'images' else ''}"
        self._bars.update(self._one, description=self._cell.title, completed=done, total=total, count=count)
        if stage == "images" and total:
            self._bars.update(self._all, completed=self._before + self._weight(self._cell) * 0.95 * done / total)

    def end(self, cell: Cell, failure: str | None, note: str) -> None:
        super().end(cell, failure, note)
        self._before += self._weight(cell)
        self._bars.update(self._all, completed=self._before)
        self._bars.update(self._one, visible=False)

    def _say(self, line: str) -> None:
        if not line.endswith(": loading") and " left" not in line:  # the bars say that
            self._bars.console.print(line, markup=False, soft_wrap=True)


def result_line(plan: Plan, cell: Cell) -> str:
    """The first figures of a result, in percent."""
    try:
        metrics = json.loads((plan.output / f"{cell.name}.json").read_text(encoding="utf-8"))["metrics"]
    except (OSError, ValueError, KeyError):
        return "done"
    names = {
        "image_retrieval_recall@1": "text to image R@1",
        "text_retrieval_recall@1": "image to text R@1",
        "acc1": "acc1",
        "mean_average_precision": "mAP",
    }
    return ", ".join(f"{name} {100 * metrics[key]:.2f}" for key, name in names.items() if key in metrics) or "done"
