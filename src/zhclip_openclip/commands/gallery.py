"""`zhclip gallery`: a page of a result's worst, best and random queries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zhclip_openclip._errors import printable
from zhclip_openclip._terminal import bar


def gallery(
    result: Annotated[Path, typer.Argument(help="The result JSON of clip_benchmark, or the NPZ beside it.")],
    output: Annotated[Path, typer.Option(help="The page to write.")],
    dataset_root: Annotated[
        str | None,
        typer.Option(help="The data that was scored, or the URL of its shards; by default the folder of RESULT."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="By default the one that was scored.")] = None,
    number: Annotated[int, typer.Option(min=1, help="Queries a section; a page has 200 MB of pictures at most.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Of the random queries.")] = 0,
    image_folder: Annotated[Path | None, typer.Option(help="Where the pictures are, if not below the data.")] = None,
) -> None:
    """Write one HTML file that shows what a model found: worst, best and random queries. Opens offline."""
    from zhclip_openclip.galleries.queries import write_gallery

    with bar("pictures") as progress:
        path = write_gallery(result, output, dataset_root, split, number, seed, image_folder, progress)
    typer.echo(f"{printable(str(path))}: {path.stat().st_size / 1e6:,.1f} MB, opens in any browser without a network")
