"""Somebody's own data among those that `zhclip reproduce` may find below its --data-root."""

from __future__ import annotations

from pathlib import Path

from zhclip_openclip._content import Content
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.datasets import _bound, own, own_data
from zhclip_openclip.datasets._at_hand import Entry, Found, Missing
from zhclip_openclip.datasets._retrieval import RetrievalDataset
from zhclip_openclip.prompts import templates


def folder(name: str, root: Path | None) -> Path | None:
    """The folder of `own/NAME`: DIR/own/NAME, or DIR/NAME."""
    names = name, name.removeprefix(own.PREFIX)
    return next((root / one for one in names if (root / one).is_dir()), None) if root is not None else None


def entry(name: str, root: Path | None) -> Entry:
    """What stands for `own/NAME` in a plan. Where its files tell no task, `look` says why."""
    task = "classification"
    place = folder(name, root)
    if place is not None:
        try:
            task = "retrieval" if own.recognise(name, place).task == own.RETRIEVAL else task
        except ZhclipError:
            pass
    get = f"put the folder into DIR/{name} or DIR/{name.removeprefix(own.PREFIX)}"
    return Entry(name, name, task, 0, "your own data", get, "yours")


def look(entry: Entry, root: Path | None, template_set: str, skip_bad_images: bool) -> Found | Missing:
    """Raises ZhclipError: it is there and cannot be read."""
    place = folder(entry.name, root)
    if place is None:
        return Missing(f"no folder {entry.name} nor {entry.name.removeprefix(own.PREFIX)} in {root}", absent=True)
    read = own.recognise(entry.name, place)
    asked = template_file(entry.name, template_set)
    dataset = own_data.build(read, None, skip_bad_images, "zh", asked)
    layout, spelling = read.chosen.title, entry.name
    if isinstance(dataset, RetrievalDataset):
        counts = len(dataset), len(dataset.texts), dataset.fingerprint()
        return Found(spelling, place, layout, *counts, pictures=_bound.pictures(dataset))
    chosen = dataset.templates
    texts = sum(map(len, chosen.values())) if isinstance(chosen, dict) else len(chosen) * len(dataset.classes)
    bound = {
        "prompts": _bound.prompts_digest(dataset.classes, chosen),
        "pictures": Content([Path(path) for path, _ in dataset.samples]),
    }
    return Found(spelling, place, layout, len(dataset), texts, dataset.fingerprint(), **bound)


def template_file(name: str, template_set: str) -> str | None:
    """What --custom_template_file is for a data set: nothing where own data are to take the default, so that templates
    beside them count."""
    return None if own.is_own(name) and template_set == templates.DEFAULT else template_set
