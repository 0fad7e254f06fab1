"""`zhclip models`: every model, where its weights come from and whether they are here."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def rows(family: str | None = None) -> list[dict]:
    """One entry for each model and tag, as the table and `--json` show them.

    Raises ZhclipError: no such family.
    """
    from zhclip_openclip._errors import ZhclipError
    from zhclip_openclip.checkpoints import _files, _load
    from zhclip_openclip.families import all_families

    families = all_families()
    if family is not None and family not in families:
        raise ZhclipError(f"there is no family {family!r}; there are {', '.join(sorted(families))}")
    result = []
    for name, entry in families.items():
        if family not in (None, name):
            continue
        for model in entry.models:
            facts = _load.model_facts().get(model.name, {})
            for tag_name, tag in model.tags.items():
                here = tag.path if tag.path is not None else _files.cached(tag.repo, tag.files)
                image = _files.cached(tag.image_repo, tag.image_files) if tag.image_repo else here
                result.append(
                    {
                        "family": name,
                        "model": model.name,
                        "aliases": [alias for alias, target in entry.aliases.items() if target == model.name],
                        "tag": tag_name,
                        "parameters": facts.get("parameters"),
                        "image_size": model.config()["vision_cfg"].get("image_size", 224),
                        "source": tag.repo or "in the package",
                        "image_source": tag.image_repo or None,
                        "licence": tag.licence,
                        "note": tag.note,
                        "on_this_machine": str(here) if here and image else None,
                    }
                )
    return result


def models(
    family: Annotated[str | None, typer.Argument(help="Show one family only.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with licences, notes and local paths.")] = False,
) -> None:
    """List the models: name, alias, tags, parameters, image size, source, and whether the weights are here."""
    entries = rows(family)
    if as_json:
        typer.echo(json.dumps(entries, indent=2, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    from zhclip_openclip._terminal import literal

    # Sources are long: each stands on a line of its own under the name, so that the table fits 80 columns.
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model = alias\n[dim]source", overflow="fold")
    table.add_column("tag", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("pixels", justify="right", no_wrap=True)
    table.add_column("here", no_wrap=True)
    for entry in entries:
        names = " = ".join([f"[bold]{literal(entry['model'])}[/]", *map(literal, entry["aliases"])])
        source = [entry["source"]]
        if entry["image_source"]:
            source.append(f"+ {entry['image_source']} (image tower)")
        lines = "\n".join(map(literal, source))
        table.add_row(
            f"{names}\n[dim]{lines}[/]",
            literal(entry["tag"]),
            f"{entry['parameters'] / 1e6:,.1f} M" if entry["parameters"] else "?",
            str(entry["image_size"]),
            "[green]yes[/]" if entry["on_this_machine"] else "no",
        )
    Console(emoji=False).print(table)
