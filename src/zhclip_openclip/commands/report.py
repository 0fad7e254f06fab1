"""`zhclip report`: results beside the published figures."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from zhclip_openclip._terminal import bar


class Format(str, Enum):
    terminal = "terminal"
    markdown = "markdown"
    csv = "csv"
    latex = "latex"
    html = "html"


def report(
    results: Annotated[
        list[Path] | None, typer.Argument(help="Result files of clip_benchmark, and folders of them.")
    ] = None,
    format: Annotated[Format, typer.Option(help="How to show it.")] = Format.terminal,
    output: Annotated[Path | None, typer.Option(help="The file to write; by default the terminal.")] = None,
    published: Annotated[
        list[Path] | None, typer.Option(help="Other people's figures, see docs/reports.md; may be repeated.")
    ] = None,
    sources: Annotated[
        str | None,
        typer.Option(help="All figures of these published tables and no others, with commas between, or 'all'."),
    ] = None,
    leaderboard: Annotated[
        bool, typer.Option("--leaderboard", help="One table a data set, all published and own rows from the best down.")
    ] = False,
    models: Annotated[
        str | None, typer.Option(help="Show these only, with commas between: names, aliases, collections.")
    ] = None,
    datasets: Annotated[str | None, typer.Option(help="Show these only, with commas between.")] = None,
    fine_tuned: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHECKPOINT=DATASET@BEGAN",
            help="Of a checkpoint whose results do not tell: the data set that it was fine-tuned on, and the tag or "
            "checkpoint that it began from; may be repeated.",
        ),
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Of the bootstrap.")] = 9999,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
) -> None:
    """Lay results out beside the published tables: differences, intervals, verdicts, and tests between runs."""
    from zhclip_openclip._errors import ZhclipError, printable
    from zhclip_openclip.report import views
    from zhclip_openclip.report.build import build

    if format is Format.html and output is None and sys.stdout.isatty():
        raise ZhclipError("a page is no text for a terminal: add --output report.html")
    if not results and not (leaderboard or sources):
        raise ZhclipError("no RESULTS; give a folder of them, or --leaderboard or --sources for what is published")
    results = results or []
    _spare_inputs(output, [*results, *(published or ())])
    with bar("intervals and comparisons") as progress:
        made = build(
            results,
            published or (),
            _models(models),
            _names(datasets),
            resamples,
            seed,
            links_from=output.parent if output else None,
            progress=progress,
            fine_tuned=fine_tuned or (),
            sources=None if sources is None else [name.strip() for name in sources.split(",") if name.strip()],
            leaderboard=leaderboard,
        )
    for problem in made.problems:
        typer.echo(f"problem: {problem}", err=True)
    if output is not None:
        typer.echo(printable(f"written: {views.write(made, format.value, output)}"), err=True)
    elif format is Format.terminal and sys.stdout.isatty():
        from rich.console import Console

        from zhclip_openclip.report.views import terminal

        terminal.show(made, Console(emoji=False))
    else:
        sys.stdout.write(views.render(made, format.value))
    if results and not made.runs:
        raise ZhclipError("no result could be read; what is shown is what is published")


def _names(names: str | None) -> list[str] | None:
    """Names between commas."""
    return None if names is None else [name for part in names.split(",") if (name := part.strip())]


def _models(names: str | None) -> list[str] | None:
    """Names between commas; a tag or checkpoint stays with its model, as in `cnclip-vit-l-14,qa_clip`. A collection is
    the models in it."""
    parts = _names(names)
    if parts is None:
        return None
    from zhclip_openclip import families
    from zhclip_openclip.checkpoints import _open_clip_models
    from zhclip_openclip.families._collections import collections
    from zhclip_openclip.report.runs import is_checkpoint_file

    host = _open_clip_models.facts()
    found: list[str] = []
    for name in parts:
        model = families.find(found[-1]) if found else None
        of_host = bool(found) and found[-1] in host and not _is_model(name, host)
        if of_host or model is not None and (name in model[1].tags or is_checkpoint_file(name)):
            found[-1] += f",{name}"
        elif name in collections():
            found += [f"{one},{tag}" if tag else one for one, tag in collections()[name]]
        else:
            found.append(name)
    return found


def _is_model(name: str, host: Iterable[str]) -> bool:
    """Whether it is a model or collection, and no tag. host: the names of open_clip's own."""
    from zhclip_openclip import families
    from zhclip_openclip.families._collections import collections

    return families.find(name) is not None or name in host or name in collections()


def _spare_inputs(output: Path | None, inputs: list[Path]) -> None:
    """Raises ZhclipError where the report would be written over what it is made of."""
    from zhclip_openclip._errors import ZhclipError

    if output is None or not output.exists():
        return
    folders = [path.resolve() for path in inputs if path.is_dir()]
    inside = output.suffix == ".json" and any(folder in output.resolve().parents for folder in folders)
    if inside or any(path.is_file() and path.samefile(output) for path in inputs):
        raise ZhclipError(f"{output}: one of the results; give --output another name")
