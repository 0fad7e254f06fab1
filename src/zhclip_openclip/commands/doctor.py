"""`zhclip doctor`: whether everything works on this machine, and what to do where it does not."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from zhclip_openclip import _paths
from zhclip_openclip._cores import cores
from zhclip_openclip._errors import ZhclipError

#: The newest series of each host package that the tests of this package have passed with, to as many places as count.
TESTED: dict[str, str] = json.loads((_paths.DATA / "tested_versions.json").read_text(encoding="utf-8"))
PACKAGES = tuple(TESTED)
#: Each host, and the module of it that loads all that we hook.
_HOSTS = {
    "open_clip": "open_clip.factory",
    "clip_benchmark": "clip_benchmark.cli",
    "open_clip_train": "open_clip_train.main",
    "mteb": "mteb.models.model_implementations",
}
#: Of these the ones that need not be there: what installs them.
_OPTIONAL = {"mteb": "pip install 'zhclip-openclip[mteb]'"}
#: Below this much free disk a checkpoint may not fit: ZH-CLIP's file has 2.5 GB.
_LOW_DISK = 5e9


@dataclass
class Finding:
    """One line of the report.

    problem: what to do, or "" where all is well. warning: what to know, though it is no problem yet.
    """

    topic: str
    state: str
    problem: str = ""
    warning: str = ""


def examine() -> list[Finding]:
    """Everything that `zhclip doctor` reports, in order."""
    return [*_versions(), *_plugin(), *_devices(), *_files()]


def _versions() -> list[Finding]:
    from zhclip_openclip import __version__

    findings = [
        Finding("python", sys.version.split()[0]),
        Finding("zhclip-openclip", __version__),
    ]
    needed = _needed()
    for package in PACKAGES:
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            findings.append(Finding(package, "not installed", f"pip install {package}"))
            continue
        findings.append(judge(package, version, needed.get(package, "")))
    return findings


def _needed() -> dict[str, str]:
    """What this package asks of each of its hosts, as `>=3.3`; "" for nothing."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    try:
        lines = metadata.requires("zhclip-openclip") or []
    except metadata.PackageNotFoundError:  # run from its source, without being installed
        return {}
    asked = {canonicalize_name(required.name): str(required.specifier) for required in map(Requirement, lines)}
    return {package: asked.get(canonicalize_name(package), "") for package in PACKAGES}


def judge(package: str, version: str, needed: str) -> Finding:
    """A host's version against what is asked for (`>=3.3`) and what was tested."""
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion, Version

    try:
        installed = Version(version)
    except InvalidVersion:
        return Finding(package, version, warning="a version that says nothing: it cannot be compared with those tested")
    if not SpecifierSet(needed).contains(installed, prereleases=True):
        return Finding(package, f"{version}, and {needed} is needed", f"pip install '{package}{needed}'")
    tested = TESTED[package]
    series = tuple(int(place) for place in tested.split("."))
    if installed.release[: len(series)] > series:
        above = ".".join(map(str, (*series[:-1], series[-1] + 1)))
        return Finding(
            package,
            f"{version}, newer than what was tested ({tested})",
            warning=f"if something fails with it, pip install '{package}<{above}', and report it",
        )
    return Finding(package, version)


def _plugin() -> list[Finding]:
    import importlib

    from zhclip_openclip import autoload, list_models

    findings = []
    if autoload.disabled():
        findings.append(
            Finding(
                "autoload",
                "switched off by TORCH_DEVICE_BACKEND_AUTOLOAD=0",
                "unset it, or write `import zhclip_openclip` before open_clip; "
                "the clip_benchmark command stays without our models until it is unset",
            )
        )
    else:
        points = [point for point in metadata.entry_points(group="torch.backends") if point.name == "zhclip_openclip"]
        findings.append(
            Finding("autoload", "on")
            if points
            else Finding("autoload", "no entry point", "install the package: pip install zhclip-openclip")
        )
    for host, module in _HOSTS.items():
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name == host and host in _OPTIONAL:
                findings.append(Finding(host, f"not installed; for its tasks: {_OPTIONAL[host]}"))
                continue
            if host == "open_clip_train":  # its libraries do not come with open_clip, and only training needs them
                advice = f"to train with it: pip install {error.name}"
                findings.append(Finding(host, f"cannot be imported ({error.name} is missing)", warning=advice))
                continue
            findings.append(Finding(host, f"cannot be imported ({error})", "reinstall it"))
            continue
        except Exception as error:
            findings.append(Finding(host, f"cannot be imported ({type(error).__name__}: {error})", "reinstall it"))
            continue
        hooks = [name for name in autoload.HOOKS if name.startswith(f"{host}.")]
        failed = {name: why for name, why in autoload.FAILED.items() if name in hooks}
        if failed:
            name, why = next(iter(failed.items()))
            findings.append(
                Finding(host, f"not hooked: {why} in {name}", f"report this with the version of {host} above")
            )
        elif any(name in sys.modules and name not in autoload.DONE for name in hooks):
            findings.append(Finding(host, "not hooked", "import zhclip_openclip before it"))
        else:
            version = f", {metadata.version(host)}" if host in _OPTIONAL else ""
            findings.append(Finding(host, f"plugin active{version}"))
    if not any(finding.problem for finding in findings):
        import open_clip

        missing = sorted(set(list_models()) - set(open_clip.list_models()))
        findings.append(
            Finding("models", f"{len(list_models())} names in open_clip")
            if not missing
            else Finding("models", f"open_clip does not know {', '.join(missing)}", "report this")
        )
    return findings


def _devices() -> list[Finding]:
    import torch

    from zhclip_openclip._precision import cpu_has_bf16

    bf16 = "bf16 units" if cpu_has_bf16() else "no bf16 units"
    findings = [Finding("cpu", f"{cores()} cores, {torch.get_num_threads()} threads, {bf16}"), _arithmetic()]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
            memory = properties.total_memory / 2**30
            findings.append(Finding(f"cuda:{index}", f"{properties.name}, {memory:.0f} GiB, {bf16}"))
    else:
        findings.append(Finding("cuda", "no GPU that torch can use"))
    return findings


def _arithmetic() -> Finding:
    """What a CPU computes towers in; found out here without measuring it."""
    from zhclip_openclip.features import arithmetic, linear

    try:
        decision, measured = arithmetic.known()
        with arithmetic.taken(decision):
            onednn = linear.used("cpu")
    except ZhclipError as error:
        return Finding("arithmetic", "not known", str(error))
    default = "bf16 by default" if decision.bf16 else "fp32 by default"
    products = "fp32 products by oneDNN" if onednn else "fp32 products as PyTorch computes them"
    again = f"; `zhclip doctor --measure` measures it {'again' if measured else 'now'}"
    return Finding("arithmetic", f"{default}, {products} ({decision.why}{again})")


def _files() -> list[Finding]:
    from huggingface_hub import constants

    from zhclip_openclip.checkpoints import _files

    findings = []
    folder = _files.models_dir()
    if folder is None:
        findings.append(Finding(_files.MODELS_DIR, "not set"))
    elif folder.is_dir():
        findings.append(Finding(_files.MODELS_DIR, str(folder)))
    else:
        findings.append(
            Finding(_files.MODELS_DIR, f"{folder} is not a folder", f"create it or unset {_files.MODELS_DIR}")
        )
    cache = Path(constants.HF_HUB_CACHE)
    existing = next(path for path in [cache, *cache.parents] if path.exists())
    free = shutil.disk_usage(existing).free
    findings.append(
        Finding(
            "hub cache",
            f"{cache}, {free / 1e9:.0f} GB free",
            "" if free > _LOW_DISK else "free some disk, or set HF_HOME to another one",
        )
    )
    offline = " (offline: HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
    findings.append(Finding("hub", _files.endpoint() + offline))
    return findings


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Measure anew which arithmetic is the fastest on this CPU, and keep to that."),
    ] = False,
    patches: Annotated[bool, typer.Option("--patches", help="List what is replaced or added to in the hosts.")] = False,
) -> None:
    """Check versions, plugin, devices, caches and the hub's address; exit code 1 if something needs doing."""
    if measure:
        from zhclip_openclip.features import arithmetic

        try:
            arithmetic.measure_again()
        except ZhclipError as error:
            typer.echo(f"zhclip: error: {error}", err=True)
            raise typer.Exit(1) from None
    findings = examine()
    if patches:
        from zhclip_openclip.integrations import _patching

        for patch in _patching.APPLIED:
            typer.echo(f"{patch.module}.{patch.name}: {patch.why}")
        return
    problems = [finding for finding in findings if finding.problem]
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
        raise typer.Exit(1 if problems else 0)
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        mark = "[red]✗[/]" if finding.problem else "[yellow]![/]" if finding.warning else "[green]✓[/]"
        table.add_row(mark, finding.topic, escape(finding.state))
    console.print(table)
    warned = [finding for finding in findings if finding.warning]
    if warned:
        console.print(f"\n[bold yellow]{len(warned)} to know:[/]")
    for finding in warned:
        console.print(f"  {escape(finding.topic)}: {escape(finding.warning)}")
    if not problems:
        console.print(
            "\n[bold green]All is well.[/] Try: clip_benchmark eval --model zhclip-tiny --dataset digits --language zh"
        )
        return
    console.print(f"\n[bold red]{len(problems)} to look at:[/]")
    for finding in problems:
        console.print(f"  {escape(finding.topic)}: {escape(finding.problem)}")
    raise typer.Exit(1)
