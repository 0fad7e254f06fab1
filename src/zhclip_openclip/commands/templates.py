"""`zhclip templates`: the template sets, and the prompts that a data set gets from one."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def templates(
    dataset: Annotated[
        str | None, typer.Argument(help="Print the templates of this data set, in any of clip_benchmark's spellings.")
    ] = None,
    template_set: Annotated[
        str | None,
        typer.Option(
            "--set",
            help="zh, openai80, cn_clip, name, one of them with an edition (zh@1), or a file as --custom_template_file "
            "takes it; without it, what an evaluation takes.",
        ),
    ] = None,
    language: Annotated[str, typer.Option(help="zh, or zh_Hant for traditional characters.")] = "zh",
    as_json: Annotated[bool, typer.Option("--json", help="In the form that --custom_template_file reads.")] = False,
) -> None:
    """List the template sets, or print the templates of a data set."""
    from zhclip_openclip.prompts import registry
    from zhclip_openclip.prompts import templates as sets
    from zhclip_openclip.prompts._errors import PromptError
    from zhclip_openclip.prompts.languages import normalise

    if dataset is None:
        if as_json:
            typer.echo(json.dumps(sets.SETS, ensure_ascii=False, indent=2))
            return
        for name, what in sets.SETS.items():
            typer.echo(f"{name:10}{what}")
        typer.echo("SET@N     the set with edition N of our templates and class names, such as zh@1")
        typer.echo("FILE      a JSON file: {data set: [template with {c}, ...]}")
        typer.echo("\nPrint one: zhclip templates DATASET --set SET. Use one: --custom_template_file SET")
        return
    found = registry.find(dataset)
    template_set = template_set or sets.default(dataset)
    if found is None and sets.is_ours(template_set):
        raise PromptError(f"{dataset} has no Chinese prompts; the data sets that have them: zhclip classnames")
    chosen = sets.load(template_set, found, dataset, normalise(language)).templates
    if as_json:
        typer.echo(json.dumps({dataset: chosen}, ensure_ascii=False, indent=2))
    elif isinstance(chosen, dict):
        for name, prompts in chosen.items():
            typer.echo(f"{name}\t{' | '.join(prompts)}")
    else:
        typer.echo("\n".join(chosen))
