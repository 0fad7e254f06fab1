"""`zhclip classnames`: the data sets that have Chinese class names, and the names of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def classnames(
    dataset: Annotated[
        str | None, typer.Argument(help="Print the classes of this data set, in any of clip_benchmark's spellings.")
    ] = None,
    language: Annotated[str, typer.Option(help="zh, or zh_Hant for traditional characters.")] = "zh",
    edition: Annotated[int | None, typer.Option(help="The names of this edition of our prompts (of zh@1: 1).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="In the form that --custom_classname_file reads.")] = False,
    table: Annotated[bool, typer.Option("--table", help="All data sets as the Markdown table of the docs.")] = False,
    write: Annotated[
        Path | None,
        typer.Option("--write", help="Put it and the classes that are alike into this file, between its marks."),
    ] = None,
) -> None:
    """List the classification data sets that speak Chinese, or print the class names of one."""
    from zhclip_openclip.prompts import classnames as names
    from zhclip_openclip.prompts import docs, editions, languages, registry
    from zhclip_openclip.prompts._errors import PromptError

    if write is not None:
        typer.echo(f"{write}: {'written' if docs.put_in(write) else 'up to date'}")
        return
    if table:
        typer.echo(docs.table())
        return
    if dataset is None:
        rows = docs.rows()
        if as_json:
            typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
            return
        typer.echo(f"{'data set':32}{'classes':>8}{'templates':>10}  spellings, each also with wds/")
        for row in rows:
            typer.echo(f"{row['name']:32}{row['classes']:>8}{row['templates']:>10}  {' '.join(row['spellings'])}")
        return
    found = registry.find(dataset)
    if found is None:
        raise PromptError(f"{dataset} has no Chinese class names; the data sets that have them: zhclip classnames")
    if dataset.startswith(registry.ELEVATER):
        raise PromptError(
            f"{dataset} has the class names of its own label_cn.txt; ours for the same classes: "
            f"zhclip classnames {found.name}"
        )
    if edition is not None:
        editions.check(str(edition), f"--edition {edition}")
    english, chinese = zip(*names.classes(found, dataset, edition), strict=True)
    chinese = languages.write(chinese, languages.normalise(language))
    if as_json and len(set(english)) < len(english):  # ImageNet's two `missile`: by position, then
        typer.echo(json.dumps({dataset: chinese}, ensure_ascii=False, indent=2))
    elif as_json:
        typer.echo(json.dumps({dataset: dict(zip(english, chinese, strict=True))}, ensure_ascii=False, indent=2))
    else:
        for number, (left, right) in enumerate(zip(english, chinese, strict=True)):
            typer.echo(f"{number}\t{left}\t{right}")
