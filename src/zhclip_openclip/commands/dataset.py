"""`zhclip dataset export|check|show`: retrieval sets and own data as shards, looked through, and looked at."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from zhclip_openclip._errors import printable

app = typer.Typer(help="Export, check and look at the Chinese retrieval sets and at own data.", no_args_is_help=True)

Name = Annotated[
    str,
    typer.Option(
        "--name",
        help="muge, flickr30k-cn, flickr30k-cna, coco-cn, coco-cn-translated, lit-cn, dci-cn, docci-cn, "
        "digits-retrieval, wds, or own/NAME for your own data; by default what SOURCE is called.",
    ),
]
Source = Annotated[Path, typer.Argument(help="The folder with the files of the data set, in any known layout.")]
Split = Annotated[str | None, typer.Option(help="By default the one that published numbers are on.")]
Skip = Annotated[bool, typer.Option("--skip-bad-images", help="Leave out images that cannot be read; they are named.")]
Folder = Annotated[Path | None, typer.Option(help="Where the pictures are, for captions or tables alone.")]
Task = Annotated[str | None, typer.Option(help="Of own data: classification or retrieval, where both fit.")]
Layout = Annotated[
    str | None, typer.Option(help="Of own data: folders, labels, captions or chinese-clip, where several fit.")
]
DataFile = Annotated[str | None, typer.Option("--data-file", help="Of own data: the table, where there are several.")]
Columns = Annotated[str | None, typer.Option(help="Of own data: what the columns are: path=file,label=kind.")]
Links = Annotated[bool, typer.Option("--follow-links", help="Of own data: take what links out of SOURCE lead to.")]


class Format(str, Enum):
    wds = "wds"


def _open(source: Path, name: str, split: str | None, skip: bool, image_folder: Path | None, own_options: tuple):
    """own_options: task, layout, file, columns and links, as `_open_own` takes them."""
    from zhclip_openclip._errors import ZhclipError
    from zhclip_openclip.datasets import flickr30k_cn, own, retrieval
    from zhclip_openclip.datasets.wds_open import open_wds

    if not source.is_dir():
        raise ZhclipError(f"{source} is not a folder")
    if own.is_own(name):
        return _open_own(source, name, split, skip, image_folder, *own_options)
    if any(own_options):
        raise ZhclipError(
            "--task, --layout, --data-file, --columns and --follow-links say how own data are read: add --name own/NAME"
        )
    if name == "wds" or (not name and (source / "dataset_type.txt").is_file()):
        return open_wds(source, split=split or "test", skip_bad_images=skip)
    if not name:
        folders = [source, *(child for child in source.iterdir() if child.is_dir())]
        for folder in folders:
            two = flickr30k_cn.caption_files(folder, split or flickr30k_cn.DEFAULT_SPLIT)
            if len(two) > 1:
                told = " and ".join(f"{path.name} is {one}" for one, path in two.items())
                raise ZhclipError(f"{folder} holds two sets: {told}; say which with --name")
        candidates = [folder.resolve().name for folder in folders]
        names = list(dict.fromkeys(filter(None, map(retrieval.dataset_name, candidates))))
        if len(names) != 1:
            known = ", ".join(retrieval.DATASETS)
            raise ZhclipError(
                f"{source} does not say which data set it is: add --name with one of {known}, wds, own/NAME"
            )
        name = names[0]
    return retrieval.build_retrieval_dataset(name, source, split=split, skip_bad_images=skip, image_folder=image_folder)


def _open_own(source, name, split, skip, image_folder, task, layout, file, columns, links):
    from zhclip_openclip._errors import ZhclipError
    from zhclip_openclip.datasets import own, own_data

    tasks = {None: None, "classification": own.CLASSIFICATION, "retrieval": own.RETRIEVAL}
    tasks |= {meant: meant for meant in tasks.values() if meant}
    if task not in tasks:
        raise ZhclipError(f"--task {task}: own data are for classification or retrieval")
    asked = own.Asked(split, tasks[task], layout, file, columns, links, image_folder)
    dataset = own_data.build(own.recognise(name, source, asked), skip_bad_images=skip)
    typer.echo(dataset.recognised, err=True)
    return dataset


def _progress(what: str):
    """A progress bar, as a context that gives the callback."""
    from contextlib import contextmanager

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def bar():
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns) as progress:
            task = progress.add_task(what, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)

    return bar()


def _tell_skipped(dataset) -> None:
    for skipped in (*dataset.skipped, *getattr(dataset, "skipped_texts", ())):
        typer.echo(printable(f"skipped: {skipped.where}: {skipped.key}: {skipped.reason}"), err=True)


@app.command()
def export(
    source: Source,
    output: Annotated[Path, typer.Option(help="The folder to write, --dataset_root of `wds/NAME` afterwards.")],
    format: Annotated[Format, typer.Option(help="wds: shards as clip_benchmark reads them.")] = Format.wds,
    name: Name = "",
    split: Split = None,
    shard_size: Annotated[int, typer.Option(help="Pictures a shard.")] = 2000,
    skip_bad_images: Skip = False,
    image_folder: Folder = None,
    task: Task = None,
    layout: Layout = None,
    data_file: DataFile = None,
    columns: Columns = None,
    follow_links: Links = False,
) -> None:
    """Write a data set as WebDataset shards with a sidecar of the exact pairs. Goes on where it was interrupted."""
    from zhclip_openclip.datasets._labelled import Labelled
    from zhclip_openclip.datasets.wds_export import export_wds
    from zhclip_openclip.datasets.wds_export_classes import export_classes

    own_options = task, layout, data_file, columns, follow_links
    dataset = _open(source, name, split, skip_bad_images, image_folder, own_options)
    classes = isinstance(dataset, Labelled)
    with _progress("exporting") as progress:
        (export_classes if classes else export_wds)(dataset, output, shard_size, progress)
    _tell_skipped(dataset)
    others = f"{len(dataset.classes):,} classes" if classes else f"{len(dataset.texts):,} texts"
    typer.echo(
        f"{len(dataset):,} images and {others} in {printable(str(output))}; use them with "
        f"--dataset wds/{printable(dataset.name)} --dataset_root {printable(str(output))}"
    )


@app.command()
def check(
    source: Source,
    name: Name = "",
    split: Split = None,
    skip_bad_images: Skip = False,
    image_folder: Folder = None,
    task: Task = None,
    layout: Layout = None,
    data_file: DataFile = None,
    columns: Columns = None,
    follow_links: Links = False,
) -> None:
    """Decode every image, and check that ids are unique and every pair resolves."""
    own_options = task, layout, data_file, columns, follow_links
    dataset = _open(source, name, split, skip_bad_images, image_folder, own_options)
    with _progress("decoding") as progress:
        report = dataset.check(decode=True, progress=progress)
    _tell_skipped(dataset)
    for key, value in report.items():
        typer.echo(printable(f"{key}: {value}"))


@app.command()
def show(
    source: Source,
    output: Annotated[Path, typer.Option(help="Where the contact sheet goes.")] = Path("contact_sheet.png"),
    name: Name = "",
    split: Split = None,
    number: Annotated[int, typer.Option(help="How many pictures.")] = 12,
    font: Annotated[Path | None, typer.Option(help="A font file with Chinese characters.")] = None,
    image_folder: Folder = None,
    task: Task = None,
    layout: Layout = None,
    data_file: DataFile = None,
    columns: Columns = None,
    follow_links: Links = False,
) -> None:
    """Print counts and draw a contact sheet of pictures with their captions."""
    from zhclip_openclip._errors import shorten
    from zhclip_openclip.datasets._labelled import Labelled
    from zhclip_openclip.datasets.contact_sheet import contact_sheet

    dataset = _open(source, name, split, False, image_folder, (task, layout, data_file, columns, follow_links))
    for what in ("name", "split", "layout"):
        typer.echo(printable(f"{'data set' if what == 'name' else what}: {getattr(dataset, what)}"))
    typer.echo(f"images: {len(dataset):,}")
    if isinstance(dataset, Labelled):
        typer.echo(printable(f"classes: {len(dataset.classes):,} ({shorten(dataset.classes, 10)})"))
    else:
        typer.echo(f"texts: {len(dataset.texts):,}")
        typer.echo(f"pairs: {sum(len(images) for images in dataset.text_to_images):,}")
    typer.echo(f"fingerprint: {dataset.fingerprint()}")
    for note in dataset.notes:
        typer.echo(printable(f"note: {note}"))
    typer.echo(printable(f"contact sheet: {contact_sheet(dataset, output, n=number, font=font)}"))
