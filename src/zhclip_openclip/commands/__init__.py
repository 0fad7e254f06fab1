"""The `zhclip` command: one file a verb. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import sys

import typer

from zhclip_openclip._last_frame import last_line, spell_out
from zhclip_openclip.commands.cache import app as cache
from zhclip_openclip.commands.classify import classify
from zhclip_openclip.commands.classnames import classnames
from zhclip_openclip.commands.convert import convert
from zhclip_openclip.commands.dataset import app as dataset
from zhclip_openclip.commands.doctor import doctor
from zhclip_openclip.commands.eval import PASSED_ON, evaluate
from zhclip_openclip.commands.gallery import gallery
from zhclip_openclip.commands.models import models
from zhclip_openclip.commands.report import report
from zhclip_openclip.commands.reproduce import reproduce
from zhclip_openclip.commands.search import search
from zhclip_openclip.commands.templates import templates

app = typer.Typer(
    name="zhclip",
    help="Chinese CLIP models in open_clip and clip_benchmark: what there is, and whether it works here.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(models)
app.command()(doctor)
app.command()(convert)
app.command()(classnames)
app.command()(templates)
app.command()(search)
app.command()(classify)
app.command()(gallery)
app.command()(reproduce)
app.command()(report)
app.command("eval", **PASSED_ON)(evaluate)
app.add_typer(dataset, name="dataset")
app.add_typer(cache, name="cache")


def main() -> None:
    """Entry point of the console script: an error is one line and exit code 1."""
    spell_out()
    try:
        app()
    except Exception as error:
        print(f"zhclip: error: {last_line(error)}", file=sys.stderr)
        raise SystemExit(1) from error
