"""`zhclip cache`: what the feature cache holds, and emptying it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from zhclip_openclip._errors import ZhclipError, printable

app = typer.Typer(help="The feature cache: image features that evaluations have in common.", no_args_is_help=True)
Folder = Annotated[
    Path | None,
    typer.Option("--cache", help="The folder; by default $ZHCLIP_FEATURE_CACHE, else what `zhclip search` keeps."),
]


@app.command()
def info(
    cache: Folder = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List what is kept: of which data set, images, bytes, seconds that they took, last use."""
    found = _cache(cache)
    entries = found.entries()
    if as_json:
        print(json.dumps({"folder": str(found.folder), "limit": found.limit, "entries": [vars(e) for e in entries]}))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Texts and not strings: rich would take brackets in a name for its markup.
    table = Table("name", "of", "images", "MB", "seconds", "last used", title=Text(_folder(found)))
    for entry in entries:
        table.add_row(
            entry.name[:12],
            Text(printable(_what(entry.what)) + ("" if entry.complete else " (not complete)")),
            f"{entry.rows:,}",
            f"{entry.size / 1e6:,.1f}",
            f"{entry.seconds:,.1f}",
            _date(entry.used),
        )
    console = Console()
    console.print(table)
    size = sum(entry.size for entry in entries) / 1e9
    console.print(f"{len(entries)} names, {size:.2f} of {found.limit / 1e9:.0f} GB", highlight=False)
    if left := found.leftovers():
        text = f"{left / 1e6:,.1f} MB left by programs that were killed: the next that writes takes them away"
        console.print(text, highlight=False)


@app.command()
def clear(
    cache: Folder = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Take all of it away; other files in the folder stay."""
    found = _cache(cache)
    if not yes:
        typer.confirm(f"Take {len(found.entries())} names out of {_folder(found)}?", abort=True)
    count, size = found.clear()
    print(f"{count} names, {size / 1e6:,.1f} MB taken out of {_folder(found)}")


def _cache(folder: Path | None):
    from zhclip_openclip.features.cache import FeatureCache
    from zhclip_openclip.features.settings import CACHE, from_environment, users_folder

    settings = from_environment()
    folder = folder.expanduser() if folder else settings.cache
    if folder is None and users_folder().is_dir():
        folder = users_folder()
    if folder is None:
        raise ZhclipError(f"no feature cache: set {CACHE} to a folder, or give it as --cache")
    if not folder.is_dir():
        raise ZhclipError(f"{folder}: no such folder; it is made when the first features are kept")
    return FeatureCache(folder, settings.limit)


def _folder(found) -> str:
    return printable(str(found.folder))


def _what(text: str) -> str:
    try:
        facts = json.loads(text)
        return f"{facts['dataset'] or 'a data set'} on {facts['device']}{', mixed precision' if facts['amp'] else ''}"
    except Exception:  # somebody else's, or damaged in any way
        return text if len(text) < 200 else f"{text[:200]} ..."


def _date(seconds: float) -> str:
    import datetime

    try:
        return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):  # after the year 9999
        return "?"
