"""Which of the data sets of the published tables lie in a folder, and under which name clip_benchmark reads them there.

What is looked for, and where each data set can be got, is in `data/datasets.json`. In this order: Chinese-CLIP's
evaluation data (`elevater/NAME`), WebDataset shards (`wds/NAME`), the files as their authors published them; retrieval
sets in all the layouts of `retrieval.py`, clip_benchmark's own Chinese ones as it keeps them. Nothing is fetched or
written, but for the index of a large TSV beside it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip._reading import reading
from zhclip_openclip.datasets import _bound, elevater, host_sets, own, own_at_hand, retrieval
from zhclip_openclip.datasets._at_hand import Entry, Found, Missing
from zhclip_openclip.datasets._dataset_error import DatasetError, OtherSet
from zhclip_openclip.datasets._layout import candidate_folders, plain_name
from zhclip_openclip.datasets._shards import shard_paths
from zhclip_openclip.datasets.wds_open import open_wds
from zhclip_openclip.prompts import classnames, registry, templates
from zhclip_openclip.prompts._files import clip_benchmarks, packaged


@cache
def entries() -> dict[str, Entry]:
    """Name -> data set, in the order of the file."""
    table = packaged("datasets.json")["datasets"]
    return {
        name: Entry(name, **{**entry, "published": tuple(entry.get("published", ()))}) for name, entry in table.items()
    }


def of_tables() -> list[str]:
    """The data sets of the published tables, in their order."""
    tables = packaged("published", "tables.json")["tables"]
    return [column["dataset"] for table in tables for column in table.get("columns", [table])]


def find_entry(name: str, root: Path | None = None) -> Entry:
    """The data set that is meant by a name in any spelling (`Flickr30K_CN`, `vtab/pcam`, `elevater/cifar-10`), or
    somebody's own, `own/NAME`, whose task the files below `root` tell.

    Raises DatasetError: none of `data/datasets.json`; with the closest names.
    """
    if own.is_own(name):
        own.check_name(name)
        return own_at_hand.entry(name, root)
    known = entries()
    dataset = registry.find(name)
    plain = {plain_name(entry): entry for entry in known}.get(plain_name(name))
    ours = retrieval.dataset_name(name.removeprefix("wds/"))
    for candidate in (name, ours, dataset.name if dataset else None, plain):
        if candidate in known:
            return known[candidate]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
    raise DatasetError(f"{name} is not a data set that is known here; {hint}")


def look(entry: Entry, root: Path | None, template_set: str, skip_bad_images: bool = False) -> Found | Missing:
    """Where and as what a data set lies below `root`, or below `root`/datasets, where Chinese-CLIP's guide puts it.

    template_set: the templates that a class list will be filled into, to count the prompts.
    skip_bad_images: pictures that cannot be read are no reason to leave the data set out.

    Whatever is wrong with the files of a data set is the reason why it is missing, never an error: the others are
    looked for all the same.
    """
    try:
        with reading(root or entry.name, DatasetError):
            return _look(entry, root, template_set, skip_bad_images)
    except ZhclipError as error:
        return Missing(str(error))


def _look(entry: Entry, root: Path | None, template_set: str, skip_bad_images: bool) -> Found | Missing:
    if entry.embedded:
        return _embedded(entry, template_set)
    if own.is_own(entry.name):
        return own_at_hand.look(entry, root, template_set, skip_bad_images)
    if root is None:
        return Missing("no --data-root was given", absent=True)
    if not root.is_dir():
        return Missing(f"{root} is not a folder", absent=True)
    problems = []
    for base in filter(Path.is_dir, (root, root / "datasets")):
        for found in _tries(entry, base, template_set, skip_bad_images):
            if isinstance(found, Found):
                return found
            problems.append(found)
    there = [problem for problem in problems if not problem.absent]
    return next(iter([*there, *problems]), Missing(f"not in {root}", absent=True))


def _tries(entry: Entry, base: Path, template_set: str, skip_bad_images: bool) -> Iterator[Found | Missing]:
    if entry.host:
        return _hosts(entry, base)
    if entry.task == "retrieval":
        return _retrieval(entry, base, skip_bad_images)
    return _classification(entry, base, template_set)


def _hosts(entry: Entry, base: Path) -> Iterator[Found | Missing]:
    for found in host_sets.find(entry.host, base):
        if isinstance(found, ZhclipError):
            yield Missing(str(found))
            continue
        folder, count, listing = found
        images = entry.images if count is None else count
        bound = {"listing": listing, "expected": entry.images}
        yield Found(entry.host["name"], folder, "clip_benchmark's own", images, images, **bound)


def _embedded(entry: Entry, template_set: str) -> Found:
    if entry.task == "classification":
        classes, chosen = _prompts_of(entry.name, template_set)
        prompts = _bound.prompts_digest(classes, chosen)
        return Found(entry.name, None, "embedded", entry.images, _count(classes, chosen), prompts=prompts)
    return _of_retrieval(entry.name, None, retrieval.build_retrieval_dataset(entry.name, Path()), entry)


def _of_retrieval(spelling: str, folder: Path | None, dataset, entry: Entry) -> Found:
    counts = len(dataset), len(dataset.texts), dataset.fingerprint()
    bound = {"pictures": _bound.pictures(dataset), "expected": entry.images}
    return Found(spelling, folder, dataset.layout, *counts, **bound)


def _retrieval(entry: Entry, root: Path, skip_bad_images: bool) -> Iterator[Found | Missing]:
    module = retrieval.DATASETS[entry.name]
    names = (module.NAME, *module.FOLDERS)
    here, *below = candidate_folders(root, names)
    # The files of the three sets have the same names, so those of a folder that is called otherwise may be anybody's.
    folders = [here] if plain_name(root.name) in map(plain_name, names) else below
    for folder in folders:
        try:
            dataset = retrieval.build_retrieval_dataset(entry.name, folder)
        except ZhclipError as error:
            if "one of these is needed" in str(error):  # nothing of it is there
                continue
            if skip_bad_images and not isinstance(error, OtherSet):
                layout = "with bad images, which will be left out"
                yield Found(entry.name, folder, layout, entry.images or 0, entry.texts or 0)
            yield Missing(str(error))
        else:
            yield _of_retrieval(entry.name, folder, dataset, entry)
    general = packaged("datasets.json")["layouts"]["webdataset"]
    for name in general["folders"]:
        folder = root / name.format(spelling=entry.name, dashed=entry.name)
        if (folder / "test" / "nshards.txt").is_file():
            try:
                dataset = open_wds(folder, name=entry.name)
            except ZhclipError as error:
                yield Missing(str(error))
            else:
                yield _of_retrieval(f"wds/{entry.name}", folder, dataset, entry)


def _classification(entry: Entry, root: Path, template_set: str) -> Iterator[Found | Missing]:
    for layout in layouts(entry):
        for folder in dict.fromkeys(root / name for name in layout["folders"]):
            if all((folder / file).exists() for file in layout["files"]):
                try:
                    with reading(folder, DatasetError):
                        found: Found | Missing = _described(entry, layout, folder, template_set)
                except ZhclipError as error:
                    found = Missing(str(error))
                yield found


def layouts(entry: Entry) -> list[dict]:
    """{layout, title, dataset, folders, files, needs} of a classification set, in the order in which they are tried."""
    dataset = registry.find(entry.name)
    words = [("elevater", {"elevater": dataset.elevater})] if dataset and dataset.elevater else []
    for spelling in dataset.spellings if dataset else ():
        if not spelling.startswith("tfds/"):
            words.append(("webdataset", {"spelling": spelling, "dashed": spelling.replace("/", "-")}))
    result = []
    for layout, word in words:
        general = packaged("datasets.json")["layouts"][layout]
        folders = [folder.format(**word) for folder in general["folders"]]
        made = {"dataset": general["dataset"].format(**word), "folders": folders, "files": general["files"]}
        result.append({"layout": layout, "title": general["title"], **made})
    for published in entry.published:
        result.append({"layout": "published", "title": "as published", "dataset": entry.name, **published})
    return result


def _described(entry: Entry, layout: dict, folder: Path, template_set: str) -> Found:
    """Raises DatasetError: it is there and cannot be read."""
    needs = layout.get("needs")
    if needs and find_spec(needs) is None:
        raise DatasetError(f"{folder}: reading {entry.name} needs {needs}: pip install {needs}")
    images = expected = entry.images_elsewhere.get(layout["layout"], entry.images)
    shards = None
    classes, chosen = _prompts_of(entry.name, template_set)
    texts = _count(classes, chosen)
    if layout["layout"] == "elevater":
        dataset = elevater.build(layout["dataset"], folder, template_file=template_set)
        images, classes, chosen = len(dataset), dataset.classes, dataset.templates
    elif layout["layout"] == "webdataset":
        shards = len(shard_paths(folder / "test"))
    elif layout.get("one_file_an_image"):
        images = _bound.images_below(folder, layout["files"])
    bound = {
        "listing": _bound.listing(folder, layout["files"]),
        "prompts": _bound.prompts_digest(classes, chosen),
        "expected": expected,
    }
    return Found(layout["dataset"], folder, layout["title"], images, texts, shards=shards, **bound)


def _prompts_of(name: str, template_set: str) -> tuple[list[str], list[str] | dict[str, list[str]]]:
    """Class names and templates."""
    dataset = registry.find(name)
    if dataset is None:  # clip_benchmark's own
        classes = clip_benchmarks("babel_imagenet.json")["ZH"][1]
        return classes, clip_benchmarks("nllb_dist13b_prompts.json")["ZH"]
    return classnames.classes(dataset, name), templates.load(template_set, dataset, name).templates


def _count(classes: list[str], chosen: list[str] | dict[str, list[str]]) -> int:
    """How many prompts a class list makes."""
    return sum(map(len, chosen.values())) if isinstance(chosen, dict) else len(chosen) * len(classes)
