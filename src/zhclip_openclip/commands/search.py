"""`zhclip search`: a text or a picture against a folder of pictures."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from zhclip_openclip.commands import _folders
from zhclip_openclip.commands._folders import Format


class Kind(str, Enum):
    auto = "auto"
    text = "text"
    picture = "picture"


def search(
    folder: _folders.FOLDER,
    query: Annotated[list[str], typer.Argument(help="Texts, or paths of pictures; each is a query of its own.")],
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="Pictures a query.")] = 10,
    kind: Annotated[Kind, typer.Option("--as", help="What the queries are, where that is not plain.")] = Kind.auto,
    format: _folders.OutputFormat = Format.table,
    output: _folders.Output = None,
    model: _folders.ModelName = _folders.MODEL,
    pretrained: _folders.Pretrained = None,
    follow_links: _folders.FollowLinks = False,
    cache: _folders.CacheFolder = None,
    device: _folders.Device = None,
    amp: _folders.Amp = None,
    batch_size: _folders.BatchSize = 32,
    workers: _folders.Workers = None,
    quiet: _folders.Quiet = False,
) -> None:
    """Find the pictures of a folder that fit a text, or are like a picture. The second search encodes only what is new.

    zhclip search ~/Pictures 海边的日落 --output page.html
    """
    from rich.console import Console

    from zhclip_openclip.folders import written
    from zhclip_openclip.folders.queries import read_queries

    forms = {path: written.form_of(path) for path in output or []}
    # Of a folder that is not there `opened` says what was meant; its queries are not looked at.
    queries = read_queries(query, kind.value if folder.exists() else "text")
    with _folders.opened(
        folder, model, pretrained, follow_links, cache, device, amp, batch_size, workers, quiet, query
    ) as (
        shelf,
        opened,
        note,
    ):
        from zhclip_openclip.folders import page
        from zhclip_openclip.folders.search import search as find

        answers = find(shelf, opened, queries, number)
        for answer in answers:
            for text in answer.notes:
                note(f"Note: {text}")
        _folders.hand_out(
            format,
            forms,
            quiet,
            table=lambda: written.print_search(Console(emoji=False), answers),
            csv=lambda: written.search_csv(answers),
            json=lambda: written.search_json(shelf, opened, answers),
            page=lambda tell: page.search_page(shelf, opened, queries, answers, tell),
        )
