"""`zhclip classify`: the pictures of a folder under labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zhclip_openclip.commands import _folders
from zhclip_openclip.commands._folders import Format


def classify(
    folder: _folders.FOLDER,
    labels: Annotated[str | None, typer.Option(help="With commas: 猫,狗,其他. 其他 is none of the others.")] = None,
    labels_file: Annotated[Path | None, typer.Option(help="A file with one label a line.")] = None,
    dataset_names: Annotated[
        str | None, typer.Option(help="The Chinese class names of a data set of `zhclip classnames`, such as food101.")
    ] = None,
    templates: Annotated[str | None, typer.Option(help="A set of `zhclip templates`, or a file.")] = None,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="Pictures a label on the page.")] = 12,
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
    """Put each picture of a folder under one of your labels, with Chinese templates.

    zhclip classify ~/Pictures --labels 猫,狗,其他 --output labels.csv --output labels.html
    """
    from rich.console import Console

    from zhclip_openclip.folders import written
    from zhclip_openclip.folders.labels import read_labels

    forms = {path: written.form_of(path) for path in output or []}
    wanted = read_labels(labels, labels_file, dataset_names, templates)
    with _folders.opened(folder, model, pretrained, follow_links, cache, device, amp, batch_size, workers, quiet) as (
        shelf,
        opened,
        note,
    ):
        from zhclip_openclip.folders import page
        from zhclip_openclip.folders.classify import classify as sort

        result = sort(shelf, opened, wanted)
        for text in result.notes:
            note(f"Note: {text}")
        _folders.hand_out(
            format,
            forms,
            quiet,
            table=lambda: written.print_classified(Console(emoji=False), result),
            csv=lambda: written.classify_csv(result),
            json=lambda: written.classify_json(shelf, opened, result),
            page=lambda tell: page.classify_page(shelf, opened, result, number, tell),
        )
