"""A plan as a person reads it: what will be run, what is missing and where to get it, and about how long it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zhclip_openclip._errors import shorten
from zhclip_openclip._terminal import literal
from zhclip_openclip.reproduction._words import cells, duration

if TYPE_CHECKING:
    from rich.console import Console

    from zhclip_openclip.datasets.at_hand import Found
    from zhclip_openclip.reproduction.plan import Plan
    from zhclip_openclip.reproduction.weights import Weights

_WORDS = "to run", "finished", "no data"
_SIGNS = {"run": "[bold cyan]●[/]", "finished": "[green]✓[/]", "missing": "[dim]–[/]"}
#: Of the columns before those of the models, in characters.
_WIDTH = 52


def show(plan: Plan, console: Console) -> None:
    """Print what will be run, what is missing and where to get it, gigabytes, and about how long."""
    _show_models(plan, console)
    _show_cells(plan, console)
    _show_missing(plan, console)
    count = {state: len(plan.of(state)) for state in ("run", "finished", "missing")}
    console.print(
        f"\n[bold]{cells(count['run'])} to run[/], {count['finished']} finished, {count['missing']} without data"
    )
    if count["run"]:
        images = sum(cell.images for cell in plan.of("run"))
        fetch = sum(weights.bytes for weights in plan.to_fetch) / 1e9
        machine = plan.machine
        measured = f", measured: {machine.rate / 1e9:,.0f} GFLOP/s on {literal(machine.device)}" if machine else ""
        console.print(f"time: about {duration(plan.seconds)} for {images:,} images{measured}")
        console.print(f"weights to fetch: {f'about {fetch:,.1f} GB' if fetch else 'none'}\n")


def show_profile(spent: dict[str, float], taken: float, predicted: dict[str, float], console: Console) -> None:
    """Print where the time of a run went, so that a reader knows what would make it shorter.

    spent: seconds by stage. taken: of the whole run; what no stage has is the rest. predicted: what the plan said.
    """
    from rich.table import Table

    from zhclip_openclip.features.spent import REST, STAGES

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("where the time went", no_wrap=True)
    for name in ("seconds", "share", "predicted"):
        table.add_column(name, justify="right", no_wrap=True)
    rest = max(0.0, taken - sum(spent.values()))
    for stage, seconds in [*((stage, spent.get(stage, 0.0)) for stage in STAGES), (REST, rest)]:
        about = f"{predicted.get(stage, 0.0):,.1f}"
        table.add_row(stage, f"{seconds:,.1f}", f"{seconds / max(taken, 1e-9):.0%}", about)
    table.add_row(*(f"[bold]{word}[/]" for word in ("all", f"{taken:,.1f}", "", f"{sum(predicted.values()):,.1f}")))
    console.print(table)


def _columns(plan: Plan) -> list[tuple[Weights, str]]:
    """The columns of the table of cells: a model, once for each set of templates."""
    with_templates = list(dict.fromkeys((cell.weights, cell.templates) for cell in plan.cells if cell.templates))
    return with_templates or list(dict.fromkeys((cell.weights, "") for cell in plan.cells))


def _show_models(plan: Plan, console: Console) -> None:
    columns = _columns(plan)
    several = len({templates for _, templates in columns}) > 1
    for number, (weights, templates) in enumerate(columns, 1):
        size = f"{weights.bytes / 1e9:,.1f} GB"
        where = f"{size} here" if weights.here else f"[yellow]about {size} to fetch[/] from {literal(weights.source)}"
        with_templates = f", templates {literal(templates)}" if several else ""
        console.print(f"[bold]{number:>2}[/] {literal(weights.title)}{with_templates}: {where}", soft_wrap=True)
    console.print()


def _show_cells(plan: Plan, console: Console) -> None:
    columns = _signs(plan)
    fit = max(4, (console.width - _WIDTH) // 4)
    titled = [(str(number), signs) for number, signs in enumerate(columns, 1)]
    if len(columns) > fit:  # a whole field: neighbours with the same signs are one column
        fit, titled = max(4, (console.width - _WIDTH) // 7), _merged(columns)
    for first in range(0, len(titled), fit):
        _show_table(plan, console, titled[first : first + fit])
    console.print("  ".join(f"{sign} {word}" for sign, word in zip(_SIGNS.values(), _WORDS, strict=True)))
    notes: dict[str, list[str]] = {}
    for cell in plan.cells:
        if cell.note and cell.state != "missing":
            notes.setdefault(cell.note, []).append(cell.title)
        if incomplete := cell.incomplete():
            told = notes.setdefault(f"{incomplete}: not what was published; is the copy complete?", [])
            told += [cell.entry.name] if cell.entry.name not in told else []
    for note, titles in notes.items():
        console.print(f"[yellow]{literal(shorten(titles))}[/]: {literal(note)}", soft_wrap=True)


def _signs(plan: Plan) -> list[tuple[str, ...]]:
    """The sign of each data set, for each of the columns."""
    columns = _columns(plan)
    firsts = {weights: columns.index((weights, templates)) for weights, templates in reversed(columns)}
    signs = [dict.fromkeys((entry.name for entry in plan.datasets), "") for _ in columns]
    for cell in plan.cells:  # retrieval has no templates: it stands in the first column of its model
        at = columns.index((cell.weights, cell.templates)) if cell.templates else firsts[cell.weights]
        signs[at][cell.entry.name] = _SIGNS[cell.state]
    return [tuple(column.values()) for column in signs]


def _merged(columns: list[tuple[str, ...]]) -> list[tuple[str, tuple[str, ...]]]:
    """Columns with their titles, neighbours that are alike as one: `1-12`."""
    found: list[tuple[int, int, tuple[str, ...]]] = []
    for number, signs in enumerate(columns, 1):
        if found and found[-1][2] == signs:
            found[-1] = found[-1][0], number, signs
        else:
            found.append((number, number, signs))
    return [(str(first) if first == last else f"{first}-{last}", signs) for first, last, signs in found]


def _show_table(plan: Plan, console: Console, columns: list[tuple[str, tuple[str, ...]]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("data set", no_wrap=True)
    table.add_column("images", justify="right", no_wrap=True)
    table.add_column("read as", overflow="fold")
    for title, _ in columns:
        table.add_column(title, justify="center", no_wrap=True)
    for at, entry in enumerate(plan.datasets):
        cells = [cell for cell in plan.cells if cell.entry == entry]
        found = next((cell.data for cell in cells if hasattr(cell.data, "spelling")), None)
        table.add_row(
            literal(entry.name),
            "?" if (images := (found or entry).images) is None else f"{images:,}",
            _read_as(found) if found else "",
            *(signs[at] for _, signs in columns),
        )
    console.print(table)


def _read_as(found: Found) -> str:
    """`elevater/cifar-10` says it all; of `muge` the layout is worth saying."""
    spelling, layout = literal(found.spelling), literal(found.layout)
    named = "/" in spelling and not spelling.startswith("own/")
    return spelling if named else f"{spelling}[dim], {layout}[/]"


def _show_missing(plan: Plan, console: Console) -> None:
    if not plan.missing:
        return
    known = sum(entry.gb or 0 for entry, _ in plan.missing)
    console.print(f"\n[bold]Missing[/]: {len(plan.missing)} data sets, {known:,.1f} GB where the size is known")
    for entry, data in plan.missing:
        size = f"{entry.gb:g} GB" if entry.gb is not None else "size unknown"
        console.print(f"  [bold]{entry.name}[/] ({size}): {literal(entry.get)}", soft_wrap=True)
        console.print(f"    [dim]{literal(entry.place)}[/]", soft_wrap=True)
        if not data.absent:
            console.print(f"    [yellow]there, but: {literal(data.reason)}[/]", soft_wrap=True)
