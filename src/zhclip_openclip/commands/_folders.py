"""What `zhclip search` and `zhclip classify` have in common: options, and the way from a folder to its features."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zhclip_openclip._errors import ZhclipError, counted, printable

if TYPE_CHECKING:
    from zhclip_openclip.folders._model import Opened
    from zhclip_openclip.folders.shelf import Shelf

#: Of moderate size, so that a laptop without a GPU gets through some thousand pictures.
MODEL = "cnclip-vit-b-16"


class Format(str, Enum):
    table = "table"
    json = "json"
    csv = "csv"


FOLDER = Annotated[Path, typer.Argument(help="The folder with the pictures; folders below it count.")]
ModelName = Annotated[str, typer.Option("--model", help="Of `zhclip models`, or of open_clip.")]
Pretrained = Annotated[
    str | None, typer.Option(help="Tag, file, folder or hf-hub:ORG/NAME; of our models by default the published ones.")
]
OutputFormat = Annotated[Format, typer.Option("--format", help="Of what is printed.")]
Output = Annotated[
    list[Path] | None,
    typer.Option(help="A file to write, by its end: .html (a page that opens offline), .csv or .json. Several may be."),
]
FollowLinks = Annotated[bool, typer.Option("--follow-links", help="Also links that lead out of the folder.")]
CacheFolder = Annotated[
    Path | None,
    typer.Option("--cache", help="Where features are kept; by default $ZHCLIP_FEATURE_CACHE, else the user's cache."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; by default the GPU if there is one.")]
Amp = Annotated[
    bool | None,
    typer.Option("--amp/--no-amp", help="Mixed precision, or none; by default on a GPU, and fp32 on a CPU."),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures at once.")]
Workers = Annotated[int | None, typer.Option(min=0, help="Processes that read pictures; by default one a core.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No bars and no notes; errors and results alone.")]


@contextlib.contextmanager
def opened(
    folder: Path,
    model: str,
    pretrained: str | None,
    follow_links: bool,
    cache: Path | None,
    device: str | None,
    amp: bool | None,
    batch_size: int,
    workers: int | None,
    quiet: bool,
    queries: Sequence[str] = (),
) -> Iterator[tuple[Shelf, Opened, Callable[[str], None]]]:
    """The folder's pictures with their features, the model, and what prints a note. queries: as they were given."""
    from zhclip_openclip.datasets.pictures_of import list_pictures, on_stderr
    from zhclip_openclip.features.settings import from_environment, users_folder, using

    def note(text: str) -> None:
        if not quiet:
            print(printable(text), file=sys.stderr)

    if not folder.exists():
        _say_what_was_meant(folder, queries)
    pictures = list_pictures(folder, follow_links, on_stderr(folder, quiet), skip_unreadable=True)
    kept = cache.expanduser() if cache else from_environment().cache or users_folder()
    _writable(kept)
    from zhclip_openclip.folders._model import open_model
    from zhclip_openclip.folders.shelf import open_shelf

    with using(cache=kept, quiet=quiet):
        if not pictures.names:  # before a model is loaded for nothing
            open_shelf(pictures, None)
        model_opened = open_model(model, pretrained, device, amp)
        if amp and not model_opened.amp:
            note("Note: --amp changes nothing here: bf16 is not faster than fp32 on this processor")
        shelf = open_shelf(pictures, model_opened, batch_size, workers, note)
        for text in [*pictures.notes(), *shelf.notes]:
            note(f"Note: {text}")
        if not model_opened.ours:
            note(f"Note: shares are counted over Chinese captions, and mean nothing if {model} knows no Chinese")
        for entry in shelf.skipped[:20]:
            note(f"skipped: {entry.key}: {entry.reason}")
        more = f"; {len(shelf.skipped) - 20:,} more are not named here" if len(shelf.skipped) > 20 else ""
        copies = shelf.files - len(shelf.skipped) - len(shelf)
        note(
            f"{counted(shelf.files, 'picture')} in {folder}: {shelf.encoded:,} encoded now"
            + (f", {counted(copies, 'copy', 'copies')} of others" if copies else "")
            + (f", {len(shelf.skipped):,} that cannot be read{more}" if shelf.skipped else "")
        )
        yield shelf, model_opened, note


def _say_what_was_meant(folder: Path, queries: Sequence[str]) -> None:
    """Raises ZhclipError for a folder that is not there, where one can tell what was meant."""
    given = str(folder)
    if given != given.strip() and Path(given.strip()).is_dir():
        raise ZhclipError(f"{given!r} is not there, and {given.strip()!r} is: take out the blanks around it")
    if swapped := next((query for query in queries if os.path.isdir(query)), None):
        raise ZhclipError(f"{given} is not there: the folder comes first, and then the queries: {swapped} {given}")


def _writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ZhclipError(
            f"{folder}: features cannot be kept there ({error.strerror}); give another folder as --cache"
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ZhclipError(f"{folder}: features cannot be kept there (not writable); give another folder as --cache")


def hand_out(
    format: Format,
    forms: Mapping[Path, str],
    quiet: bool,
    table: Callable[[], None],
    csv: Callable[[], str],
    json: Callable[[], str],
    page: Callable[[Callable[[int, int], None] | None], str],
) -> None:
    """Print a result in a format, and write it to files. forms: what each file is, see `written.form_of`. table prints
    it, the others give it as text; page is told whom to tell how far it is."""
    from zhclip_openclip.folders import written

    if format is Format.table:
        table()
    else:
        typer.echo(csv() if format is Format.csv else json(), nl=False)
    for path, form in forms.items():
        if form == "page":
            with _progress(quiet) as tell:
                text = page(tell)
        else:
            text = csv() if form == "csv" else json()
        written.write(path, text, for_excel=form == "csv")
        _say_written(path, quiet)


def _say_written(path: Path, quiet: bool) -> None:
    if not quiet:
        length = path.stat().st_size
        size = f"{length / 1e6:,.1f} MB" if length >= 100_000 else f"{length / 1e3:,.1f} kB"
        offline = ", opens in any browser without a network" if path.suffix.lower() in (".html", ".htm") else ""
        print(printable(f"{path}: {size}{offline}"), file=sys.stderr)


def _progress(quiet: bool):
    """A bar for the pictures of a page."""
    from zhclip_openclip._terminal import bar

    return contextlib.nullcontext() if quiet else bar("pictures of the page")
