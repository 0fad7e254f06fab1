"""`zhclip reproduce`: the published tables, evaluated on this machine, cell by cell.

Exit codes: 0 all cells that have their data are there; 1 a cell failed, or the page could not be made; 2 nothing to do
(no data, or a word that is not understood); 3 some are being run by another process; 130 interrupted.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from zhclip_openclip.reproduction.plan import Plan
    from zhclip_openclip.reproduction.run import Outcome

_DEMO_MODELS, _DEMO_DATASETS, _DEMO_TEMPLATES = (
    "zhclip-tiny",
    "digits,digits-retrieval",
    {"digits": ["name", "openai80"]},
)


def reproduce(
    models: Annotated[
        list[str] | None,
        typer.Option(
            help="Names, separated by commas or one option each; after a name its tag, or a checkpoint: "
            "zhclip,cnclip,epoch_latest.pt. Also models of open_clip's own, ViT-B-16-SigLIP2,webli, and collections: "
            "multilingual,chinese_clip. By default the six systems of the published tables, chinese_clip."
        ),
    ] = None,
    datasets: Annotated[
        list[str] | None,
        typer.Option(
            help="Names, likewise; own/NAME for your own. By default the 14 data sets of the published tables; also "
            "flickr30k-cna, coco-cn-translated, lit-cn, dci-cn, docci-cn, crossmodal3600, xtd10, xtd200, flickr30k-200 "
            "and babel_imagenet."
        ),
    ] = None,
    data_root: Annotated[Path | None, typer.Option(help="The folder that holds the data sets.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="The results folder; by default zhclip-results, zhclip-demo for the demo.")
    ] = None,
    templates: Annotated[str, typer.Option(help="zh, cn_clip, openai80, name, or a file.")] = "zh",
    text_handling: Annotated[
        str,
        typer.Option(
            help="Of models that are not of this package: authors (Chinese reaches them as their authors feed it) or "
            "host (as open_clip and clip_benchmark do). docs/multilingual.md"
        ),
    ] = "authors",
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 64,
    num_workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that read images; by default one a core, 8 at most.")
    ] = None,
    no_amp: Annotated[bool, typer.Option("--no-amp", help="Full precision.")] = False,
    cache: Annotated[
        Path | None,
        typer.Option(help="The feature cache; by default $ZHCLIP_FEATURE_CACHE, or features in the results folder."),
    ] = None,
    skip_bad_images: Annotated[
        bool, typer.Option("--skip-bad-images", help="Leave out images that cannot be read; results name them.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="A fixed sample of so many images of each data set; kept apart from the whole."),
    ] = None,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait, when all else is through, for cells that another run is at.")
    ] = 10.0,
    report: Annotated[bool, typer.Option(help="Write report.html at the end.")] = True,
    galleries: Annotated[bool, typer.Option(help="Write a page with queries for each retrieval result.")] = True,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show at the end where the time went, and what was predicted.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The plan as JSON, with --dry-run.")] = False,
    offline_demo: Annotated[
        bool, typer.Option("--offline-demo", help="The whole way with the embedded model and data, without a network.")
    ] = False,
) -> None:
    """Evaluate the models of the published tables on the data at hand, and report it. Goes on where it was stopped."""
    from rich.console import Console

    from zhclip_openclip._errors import ZhclipError
    from zhclip_openclip.reproduction.plan import Options, make_plan
    from zhclip_openclip.reproduction.show import show

    if as_json and not dry_run:
        raise typer.BadParameter("--json shows the plan alone; add --dry-run")
    console = Console(highlight=False, soft_wrap=False, emoji=False)
    if offline_demo:
        if models or datasets or data_root:
            raise typer.BadParameter("--offline-demo has its own model and data; leave out --models and the like")
        _go_offline()
        models, datasets = [_DEMO_MODELS], [_DEMO_DATASETS]
    output = output or Path("zhclip-demo" if offline_demo else "zhclip-results")
    options = Options(batch_size, num_workers, not no_amp, skip_bad_images, galleries, text_handling, limit)
    with _looking(console, as_json):
        plan = make_plan(
            models or [],
            [name.strip() for word in datasets or [] for name in word.split(",") if name.strip()],
            data_root,
            output,
            options,
            templates,
            _DEMO_TEMPLATES if offline_demo else None,
        )
    if as_json:
        typer.echo(_json(plan))
    else:
        show(plan, console)
    if not plan.of("run") and not plan.of("finished"):
        _no_data(plan, data_root)
    if dry_run:
        return
    try:
        outcomes = _run(plan, console, cache, wait, profile)
        code = 1 if any(outcome.failure for outcome in outcomes) else 3 * any(one.elsewhere for one in outcomes)
        if report:
            _report(output, console, needed=bool(outcomes))
    except KeyboardInterrupt:
        console.print("[yellow]stopped[/]: what is finished is kept; the same command goes on from there")
        raise typer.Exit(130) from None
    except ZhclipError as error:
        typer.echo(f"zhclip: error: {error}", err=True)
        raise typer.Exit(1) from None
    raise typer.Exit(code)


def _go_offline() -> None:
    """No question to any hub, from here on."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True  # it may have read the environment before


def _looking(console: Console, quiet: bool):
    from contextlib import nullcontext

    return nullcontext() if quiet or not console.is_terminal else console.status("looking at data, weights and machine")


def _no_data(plan: Plan, data_root: Path | None) -> None:
    wanted = f"none of {len(plan.datasets)} data sets"
    where = f"in {data_root}" if data_root else "at hand: give --data-root"
    typer.echo(
        f"zhclip: error: {wanted} {where}; docs/reproducing.md says where each is to be got and put, and "
        "--offline-demo shows the whole way without any",
        err=True,
    )
    raise typer.Exit(2)


def _json(plan: Plan) -> str:
    text = json.dumps(plan.as_json(), indent=2, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a path that is not UTF-8
        return json.dumps(plan.as_json(), indent=2)
    return text


def _run(plan: Plan, console: Console, cache: Path | None, wait: float, profile: bool) -> list[Outcome]:
    from zhclip_openclip.reproduction._words import cells
    from zhclip_openclip.reproduction.display import Live, Plain
    from zhclip_openclip.reproduction.run import run
    from zhclip_openclip.reproduction.show import show_profile

    if not plan.of("run"):
        console.print("Nothing is left to run.")
    cache = cache or (Path(folder).expanduser() if (folder := os.environ.get("ZHCLIP_FEATURE_CACHE")) else None)
    with (Live if console.is_terminal else Plain)(plan, console) as display:
        spent: dict[str, float] = {}
        begun = time.perf_counter()
        outcomes = run(plan, display, cache, wait, spent if profile else None)
        taken = time.perf_counter() - begun
    if profile and outcomes:
        show_profile(spent, taken, plan.stages, console)
    failed = [outcome for outcome in outcomes if outcome.failure]
    if failed:
        console.print(f"[red]{len(failed)} of {len(outcomes)} cells failed[/]; the same command tries them again")
    if elsewhere := sum(outcome.elsewhere for outcome in outcomes):
        be = "is" if elsewhere == 1 else "are"
        console.print(f"[yellow]{cells(elsewhere)} {be} being run elsewhere[/]; the same command looks at them again")
    return outcomes


def _report(output: Path, console: Console, needed: bool) -> None:
    """needed: there are new results, so that a page that cannot be written is an error."""
    from zhclip_openclip._errors import ZhclipError, printable
    from zhclip_openclip._terminal import literal
    from zhclip_openclip.reproduction.run import write_report

    try:
        page, problems = write_report(output)
    except ZhclipError as error:
        if needed or "cannot be written" not in str(error):
            raise
        console.print(f"[yellow]note[/]: {literal(str(error))}; nothing new would be in it", soft_wrap=True)
        return
    for problem in problems:
        console.print(f"[yellow]note[/]: {literal(problem)}", soft_wrap=True)
    console.print(printable(f"report: {page}"), markup=False, soft_wrap=True)
