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
            literal(entry.name),
            f"{(found or entry).images:,}",
            _read_as(found) if found else "",
            *(by_column.get(column, "") for column in columns),
        )
    console.print(table)
    console.print("  ".join(f"{sign} {word}" for sign, word in zip(signs.values(), _WORDS, strict=True)))
    notes: dict[str, list[str]] = {}
    for cell in plan.cells:
        if cell.note and cell.state != "missing":
            notes.setdefault(cell.note, []).append(cell.title)
        if incomplete := cell.incomplete():
            told = notes.setdefault(f"{incomplete}: not what was published; is the copy complete?", [])
            told += [cell.entry.name] if cell.entry.name not in told else []
    for note, titles in notes.items():
        console.print(f"[yellow]{literal(shorten(titles))}[/]: {literal(note)}", soft_wrap=True)


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
