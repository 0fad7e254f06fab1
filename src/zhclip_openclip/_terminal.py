"""What commands have in common on a terminal: names as they are, and bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from zhclip_openclip._errors import printable


def literal(text: object) -> str:
    """Markup for rich that shows a text as it is: rich reads `[...]` as markup, and a terminal control characters as
    commands. For a console with `emoji=False`, as others make pictures of `:bomb:`."""
    from rich.markup import escape

    return escape(printable(str(text)))


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on the standard error while the block runs, as the callback (done, all) of what works."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if not (console := Console(stderr=True)).is_terminal:  # where a bar is an empty line
        yield lambda done, total: None
        return
    columns = TextColumn(literal(what)), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
