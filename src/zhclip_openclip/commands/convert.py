"""`zhclip convert`: any checkpoint of ours for another program, read back and compared before it is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[str, typer.Argument(help="A tag, a file or a folder, as for `pretrained`.")],
    model: Annotated[str, typer.Option(help="The model that it is a checkpoint of: see `zhclip models`.")],
    output: Annotated[Path, typer.Option(help="The folder to write; must not exist, or be empty.")],
    format: Annotated[
        str, typer.Option(help="open_clip, transformers, onnx, cn_clip, immich or sentence-transformers.")
    ] = "open_clip",
    force: Annotated[bool, typer.Option("--force", help="Replace a folder of the same kind that is there.")] = False,
    precision: Annotated[str, typer.Option(help="onnx, immich: fp32, fp16 or int8.")] = "fp32",
    raw: Annotated[bool, typer.Option("--raw", help="onnx: features as they come, not of unit length.")] = False,
    opset: Annotated[int, typer.Option(help="onnx, immich: version of ONNX's operators.")] = 18,
    check_data: Annotated[
        str, typer.Option(help="onnx: NAME or NAME:FOLDER of a retrieval data set, to measure the loss in recall.")
    ] = "",
    result: Annotated[
        Path | None, typer.Option(help="transformers, sentence-transformers: a result JSON for the model card.")
    ] = None,
) -> None:
    """Write a checkpoint for another program, and verify it with that program's own library.

    Both towers of what was written are compared with the source, and the largest differences are printed. Where one is
    over its bound, nothing is left behind. See docs/deploying.md for what each format is checked with.
    """
    from zhclip_openclip.export import _formats, _source, immich_folder, open_clip_folder
    from zhclip_openclip.export._export_error import ExportError
    from zhclip_openclip.export._folder import refuse_taken
    from zhclip_openclip.export._options import Options
    from zhclip_openclip.families import find

    output = Path(os.path.abspath(output))  # `.` has no name; links stay links
    options = Options(precision, raw, opset, check_data, result, output.name)
    form, found = _formats.find(format), find(model)
    if found is None:
        raise ExportError(
            f"there is no model {model!r} in this package, and others are not converted: see `zhclip models`"
        )
    refuse_taken(output, force)
    _formats.prepare(form, *found, options)
    loaded = _source.load(source, model)
    for difference in _formats.write(form, loaded, output, options, force):
        typer.echo(difference)
    typer.echo(f"{output}: {loaded.model.name} as {form.name} ({form.home(loaded.family, loaded.model)})")
    if form.name == "open_clip":
        typer.echo(f"Load it with open_clip.create_model('local-dir:{output}').")
        if not open_clip_folder.loads_without_us(loaded.model):
            typer.echo("Stock open_clip has no text tower like this one: the folder needs zhclip-openclip.")
    elif form.name == "immich":
        typer.echo(immich_folder.told(loaded, options))
