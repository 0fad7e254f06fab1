"""`elevater/NAME`: Chinese-CLIP's evaluation data as people download it (one zip of 20 data sets).

    <root>/label_cn.txt    Chinese class names, one a line: line i (from 0) belongs to the folder i
    <root>/label.txt       the English ones
    <root>/test/000/...    images of class 0; the folders are called 0, 1, ... where there are at most ten classes
    <root>/train/000/...
    <root>/index.json      in some of them: the test images in the order that a submission to ELEVATER has

Source: zeroshot_dataset_en.md of OFA-Sys/Chinese-CLIP and `cn_clip/eval/zeroshot_evaluation.py`; the benchmark is
ELEVATER (Li et al. 2022, arXiv:2204.08790).
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from zhclip_openclip._errors import ZhclipError, printable, shorten
from zhclip_openclip._reading import read_json, reading
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._labelled import EXTENSIONS, Labelled
from zhclip_openclip.datasets._text_lines import decode
from zhclip_openclip.prompts import _files, for_classes, own_names, registry, templates
from zhclip_openclip.prompts._errors import PromptError
from zhclip_openclip.prompts.languages import SIMPLIFIED, TRADITIONAL, normalise, write
from zhclip_openclip.prompts.templates import Templates

#: And what else may be a picture: left out as it is by torchvision's ImageFolder, and counted in a note.
_NOT_READ = (".gif", ".jfif", ".avif", ".heic", ".heif", ".jp2", ".jxl", ".svg", ".tga", ".ico")
LABELS = {"zh": "label_cn.txt", "en": "label.txt"}
#: Bytes of a file of class names; that of ImageNet has 30 thousand.
_LONGEST_LABELS = 16 * 2**20


class Elevater(Labelled):
    """A data set of Chinese-CLIP's evaluation data.

    order: the places of the images in a submission to ELEVATER (`index.json`), or None.
    """

    order: list[int] | None = None

    def keep(self, positions: Sequence[int]) -> None:
        if self.order is not None:
            moved = {old: new for new, old in enumerate(positions)}
            self.order = [moved[place] for place in self.order if place in moved]
        super().keep(positions)


def build(
    name: str,
    root: str | os.PathLike,
    transform: Callable | None = None,
    split: str = "test",
    skip_bad_images: bool = False,
    language: str = "zh",
    template_file: str | None = None,
    classname_file: str | None = None,
    limit: int | None = None,
) -> Elevater:
    """The data set `elevater/<name>`.

    Meant for the patch of `build_dataset`, for names that begin with `elevater/`.

    name: its folder (`caltech-101`), with or without `elevater/`, or our name for it (`caltech101`).
    root: that folder, or the one that it is in.
    skip_bad_images: read every image once now and leave out those that cannot be read; they are in `.skipped`.
        Without it, the first one that cannot be read is an error when its turn comes.
    language: zh takes `label_cn.txt` and Chinese-CLIP's own templates; en takes `label.txt` and clip_benchmark's.
    template_file: another set of templates, or a file; see `prompts.templates`.
    classname_file: other names: {data set: [name, ...]} in the order of `label_cn.txt`, or {data set: {English: name}}
        with the names of `label.txt`.
    limit: take a sample of so many images; see `_sample.py`.

    Raises DatasetError: files or folders that are missing or do not fit each other; an unreadable image.
        PromptError: a template set that is not there; class names that are broken or do not fit.
    """
    with reading(root, DatasetError):
        return _build(name, root, transform, split, skip_bad_images, language, template_file, classname_file, limit)


def _build(name, root, transform, split, skip_bad_images, language, template_file, classname_file, limit) -> Elevater:
    name = name.removeprefix(registry.ELEVATER)
    dataset = registry.find(registry.ELEVATER + name) or registry.find(name)
    folder = _find(name, dataset, Path(root).expanduser())
    normal = normalise(language)
    english = normal == "en"
    if not english and normal not in (SIMPLIFIED, TRADITIONAL):
        raise DatasetError(f"elevater/{name} has labels in zh and en, not in {language}; use --language zh")
    chosen = _templates(name, dataset, template_file, None if english else normal)
    labels = LABELS["en" if english else "zh"]
    if split != "test" and not (folder / labels).is_file():
        # clip_benchmark builds the train split of a linear probe without a language; nothing is made of its names.
        labels = next(file for file in LABELS.values() if (folder / file).is_file())
    names, source = _names(folder, labels)
    in_english = _names(folder, LABELS["en"])[0] if (folder / LABELS["en"]).is_file() else None
    original = in_english if in_english and len(in_english) == len(names) else names
    if classname_file:
        names, source = own_names(classname_file, registry.ELEVATER + name, original)
    else:
        names = write(names, normal)
    samples, notes = _samples(folder / split, len(names))
    result = Elevater(registry.ELEVATER + name, samples, transform)
    result.notes = notes
    if split == "test":
        try:
            result.order = _order(folder / "index.json", len(result.samples))
        except ZhclipError as error:  # it is of use for a submission alone
            result.notes.append(f"left alone, as only a submission to ELEVATER needs it: {error}")
    result.limit(limit)
    if skip_bad_images:
        result.leave_out_unreadable()
    result.classes, result.classname_source, result.english_classes = names, str(source), in_english
    result.templates, result.template_set = for_classes(chosen, names, original, name), chosen.source
    result.prompts_version = chosen.version(dataset, names_are_ours=False)
    return result


def _templates(name: str, dataset, template_file: str | None, chinese: str | None) -> Templates:
    """chinese: how it is written; None for English."""
    if chinese is None and template_file is None:
        bundled = _files.clip_benchmarks("en_zeroshot_classification_templates.json")
        key = dataset.name if dataset and dataset.name in bundled else "imagenet1k"
        return Templates(bundled[key], "clip_benchmark en")
    full = registry.ELEVATER + name
    try:
        return templates.load(template_file or templates.default(full), dataset, full, chinese or SIMPLIFIED)
    except PromptError as error:
        if template_file is None:
            raise PromptError(f"{full} takes the prompts that it is published with: {error}") from None
        raise


def _find(name: str, dataset, root: Path) -> Path:
    """The folder with the labels: `root` itself, or one below it by any of the data set's names."""
    names = dict.fromkeys([name, *([dataset.elevater, dataset.name] if dataset else [])])
    candidates = [root, *(root / candidate for candidate in names if candidate)]
    for candidate in candidates:
        if any((candidate / file).is_file() for file in LABELS.values()):
            return candidate
    beside = sorted(path.parent.name for path in root.glob("*/label_cn.txt")) if root.is_dir() else []
    there = f"; there are {shorten(beside, 20)}" if beside else ""
    raise DatasetError(
        f"elevater/{name}: no label_cn.txt in {root} nor in {root / name}{there}; --dataset_root is the folder of the "
        "unpacked zip or of the data set"
    )


def _names(folder: Path, file: str) -> tuple[list[str], Path]:
    path = folder / file
    if not path.exists():
        raise DatasetError(f"{path} is missing; it has the class names, one a line")
    with reading(path, DatasetError, "write the class names in it, one a line"):
        size = path.stat().st_size
        if size > _LONGEST_LABELS:
            raise DatasetError(f"{path} has {size:,} bytes: it is no list of class names; fetch it again")
        raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DatasetError(f"{path} is not UTF-8 but UTF-16; save it as UTF-8")
    names = [line.strip() for line in decode(raw, str(path), path).splitlines()]
    while names and not names[-1]:
        names.pop()
    empty = [number for number, name in enumerate(names, 1) if not name]
    if empty or not names:
        raise DatasetError(f"{path}, line {empty[0] if empty else 1}: there is no class name; each line is one class")
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:  # the published labels are kept letter by letter, also where nothing can tell two classes apart
        warnings.warn(f"{path} has the class name {shorten(twice)} more than once", stacklevel=3)
    return names, path


def _samples(folder: Path, classes: int) -> tuple[list[tuple[str, int]], list[str]]:
    """(path, label) of each image: folders by name, then paths by name; and notes on what is left out."""
    if not folder.is_dir():
        beside = sorted(path.name for path in folder.parent.iterdir() if path.is_dir())
        raise DatasetError(f"{folder} is missing; --split is one of {', '.join(beside) or 'none, the folder is empty'}")
    samples: list[tuple[str, int]] = []
    others: Counter[str] = Counter()
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        if not (path.name.isascii() and path.name.isdigit()):
            raise DatasetError(f"{path}: a folder of images is called by the number of its class, 000, 001, ...")
        label = int(path.name[-9:])
        if label >= classes or path.name[:-9].strip("0"):
            number = path.name.lstrip("0")[:20]
            raise DatasetError(
                f"{path}: there is no class {number}, the labels end at {classes - 1}; look at label_cn.txt"
            )
        files = (Path(place, file) for place, _, found in os.walk(path) for file in found)
        for file in sorted(files):
            suffix = file.suffix.lower()
            if suffix in EXTENSIONS:
                samples.append((str(file), label))
            elif suffix in _NOT_READ:
                others[suffix] += 1
    kinds = ", ".join(sorted(others))
    if not samples:
        there = f" ({others.total()} of kinds that are not read: {kinds}; convert them)" if others else ""
        raise DatasetError(f"{folder} has no images in folders 000, 001, ...{there}; unpack the zip there")
    note = f"{others.total()} files of other kinds ({kinds}) in {folder} are not read; convert them to count them"
    return samples, [printable(note)] if others else []


def _order(path: Path, images: int) -> list[int] | None:
    if not path.is_file():
        return None
    order = read_json(path, DatasetError, list)
    if not all(type(place) is int for place in order):
        raise DatasetError(f"{path} is no list of whole numbers; download it again")
    outside = [place for place in order if not 0 <= place < images]
    if outside:
        raise DatasetError(f"{path} names image {outside[0]}, and there are {images} (0 to {images - 1})")
    return order
