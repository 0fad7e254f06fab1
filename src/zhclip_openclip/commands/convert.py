"""`zhclip convert`: any checkpoint of ours as a folder that open_clip reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[str, typer.Argument(help="A tag, a file or a folder, as for `pretrained`.")],
    model: Annotated[str, typer.Option(help="The model that it is a checkpoint of: see `zhclip models`.")],
    output: Annotated[Path, typer.Option(help="The folder to write; must not exist, or be empty.")],
) -> None:
    """Write an open_clip folder (config, safetensors, tokenizer) that loads with `local-dir:DIR`."""
    import open_clip

    from zhclip_openclip._errors import ZhclipError
    from zhclip_openclip.export import open_clip_folder
    from zhclip_openclip.families import find

    if find(model) is None:
        raise ZhclipError(f"there is no model {model!r}: see `zhclip models`")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ZhclipError(f"{output} exists and is not an empty folder: name another one")
    built = open_clip.create_model(model, pretrained=source)
    tokenizer = open_clip.get_tokenizer(model, pretrained=source)
    spec = find(built.zhclip_model)[1]  # the twin, where a config.json asked for it
    open_clip_folder.write(built, tokenizer, spec, str(source), output)
    typer.echo(f"{output}: {spec.name}; load it with open_clip.create_model('local-dir:{output}')")
    if not open_clip_folder.loads_without_us(spec):
        typer.echo("Stock open_clip has no text tower like this one: the folder needs zhclip-openclip to be installed.")
