"""The data sets that are made of what `own.py` has recognised: pictures with labels, or with captions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from zhclip_openclip._errors import printable
from zhclip_openclip._reading import reading
from zhclip_openclip.datasets import chinese_clip_lmdb, chinese_clip_tsv
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._images import FolderImages, Skipped
from zhclip_openclip.datasets._labelled import Labelled
from zhclip_openclip.datasets._layout import Loaded, ReadOptions
from zhclip_openclip.datasets._own_files import Places, refuse_missing
from zhclip_openclip.datasets._own_readings import RETRIEVAL
from zhclip_openclip.datasets._own_tables import read_text, rows_of, texts_of
from zhclip_openclip.datasets._relations import TextRecord, resolve
from zhclip_openclip.datasets._retrieval import RetrievalDataset
from zhclip_openclip.datasets.own import Reading
from zhclip_openclip.datasets.pictures_of import on_stderr
from zhclip_openclip.prompts import _files, for_classes, templates
from zhclip_openclip.prompts._errors import PromptError
from zhclip_openclip.prompts.languages import SIMPLIFIED, TRADITIONAL
from zhclip_openclip.prompts.templates import Templates

DIRECTIONS = ("image_retrieval", "text_retrieval")
#: Templates beside the data, one a line with `{c}` for the class: the first that is there, by language.
TEMPLATES = {
    "zh": ("templates_cn.txt", "templates.txt", "zeroshot_classification_templates.txt"),
    "en": ("templates.txt", "zeroshot_classification_templates.txt"),
}


def build(
    read: Reading,
    transform: Callable[[Any], Any] | None = None,
    skip_bad_images: bool = False,
    language: str | None = None,
    template_file: str | None = None,
    classname_file: str | None = None,
    limit: int | None = None,
) -> Labelled | RetrievalDataset:
    """The data set.

    Args:
        read: what `own.recognise` gave.
        transform: applied to each picture.
        skip_bad_images: leave out what is missing or cannot be read; it is in `.skipped`.
        language: of class names and templates; None for that of the class names.
        template_file: another set of templates, or a file; see `prompts.templates`.
        classname_file: {own/NAME: {folder or label: name}}, or {own/NAME: [name, ...]} in the order of the classes.
        limit: take a sample of so many images; see `_sample.py`.

    Raises:
        DatasetError: whatever is wrong with its files, with the place.
        PromptError: names or templates that do not fit.
    """
    with reading(read.root, DatasetError):
        if read.task == RETRIEVAL:
            return _with_captions(read, transform, skip_bad_images, limit)
        return _with_labels(read, transform, skip_bad_images, language, template_file, classname_file, limit)


# ---------------------------------------------------------------- labels


def _with_labels(
    read: Reading,
    transform: Callable[[Any], Any] | None,
    skip: bool,
    language: str | None,
    template_file: str | None,
    classname_file: str | None,
    limit: int | None,
) -> Labelled:
    labels = read.labels
    labels.refuse_missing(skip)
    classes = read.classes(language, classname_file)
    samples = [(picture.path, classes.index[picture.label]) for picture in labels.pictures]
    result = Labelled(read.name, samples, transform, read.root)
    result.layout, result.split, result.language = read.chosen.title, read.split, classes.language
    result.skipped = [entry.printable() for entry in labels.missing]
    result.notes = [*map(printable, read.notes), *labels.notes, *classes.notes]
    result.limit(limit)
    if skip:
        result.leave_out_unreadable()
    chosen = _templates(read, template_file, classes.language)
    result.classes, result.english_classes = classes.names, classes.english
    result.classname_source, result.recognised = printable(classes.source), f"{read.line()}; {printable(classes.why)}"
    original = classes.english or classes.names
    result.templates, result.template_set = for_classes(chosen, classes.names, original, read.name), chosen.source
    result.prompts_version = chosen.version(None, names_are_ours=False)
    return result


def _templates(read: Reading, template_file: str | None, language: str) -> Templates:
    """Those that are asked for, or lie beside the data, or generic ones of the language."""
    chinese = language in (SIMPLIFIED, TRADITIONAL)
    if template_file is not None:
        templates.refuse_elsewhere(None if chinese else template_file, read.name, language)
        return templates.load(template_file, None, read.name, language if chinese else SIMPLIFIED)
    beside = TEMPLATES["zh" if chinese else "en"]
    path = next((read.root / file for file in beside if (read.root / file).is_file()), None)
    if path is not None:
        return Templates(_lines(path), path.name)
    if chinese:
        return templates.load(None, None, read.name, language)
    if language != "en":
        raise PromptError(
            f"{read.name}: there are templates for zh and en, and none for {language}; write {read.root / beside[0]}, "
            f"one a line with {{c}} for the class, or name a file: {templates.OPTION} FILE"
        )
    return Templates(
        _files.clip_benchmarks("en_zeroshot_classification_templates.json")["imagenet1k"], "clip_benchmark en"
    )


def _lines(path: Path) -> list[str]:
    with reading(path, DatasetError):
        text, _ = read_text(path)
    found = [line.strip() for line in text.splitlines() if line.strip()]
    templates.check(found, str(path))
    return found


# ---------------------------------------------------------------- captions


def _with_captions(
    read: Reading, transform: Callable[[Any], Any] | None, skip: bool, limit: int | None
) -> RetrievalDataset:
    loaded = _chinese_clip(read, skip) if read.chosen.layout == "chinese-clip" else _captions(read, skip)
    result = RetrievalDataset(
        read.name,
        read.split,
        resolve(loaded.images, loaded.records, skip),
        directions=DIRECTIONS,
        transform=transform,
        layout=loaded.layout,
        notes=[*map(printable, read.notes), *loaded.notes],
        skip_bad_images=skip,
        limit=limit,
    )
    result.recognised = read.line()
    return result


def _chinese_clip(read: Reading, skip: bool) -> Loaded:
    for layout in (chinese_clip_tsv, chinese_clip_lmdb):
        loaded = layout.load(read.root, read.split, ReadOptions(skip=skip))
        if loaded is not None:
            return loaded
    raise DatasetError(f"{read.root}: the files of part {read.split} are gone; put them back")


def _captions(read: Reading, skip: bool) -> Loaded:
    """Of a table: a text that stands with several pictures is one query with several right ones, and the reverse."""
    table, columns = read.table, read.chosen.columns
    places = Places(read.root, table.path, read.asked.image_folder, on_stderr(table.path, read.asked.quiet))
    files: dict[str, str] = {}  # what a picture is called -> its file
    missing: dict[str, Skipped] = {}
    texts: dict[str, tuple[str, str, dict[str, None]]] = {}  # text -> id, place, pictures
    for where, row in rows_of(table, columns, read.split):
        keys = []
        for name in texts_of(row[columns.path], f"{where}: {columns.path}"):
            if place := places.find(name, where):
                files.setdefault(place[1], place[0])
                keys.append(place[1])
            else:
                missing.setdefault(name, Skipped(name, where, "is not there"))
                keys.append(name)
        given = [column for column in columns.captions if row.get(column) not in (None, "", [])]
        line, count = where.rsplit(":", 1)[-1], 0
        for column in given or columns.captions[:1]:
            for text in texts_of(row.get(column), f"{where}: {column}"):
                count += 1
                key = line if count == 1 else f"{line}#{count}"
                texts.setdefault(text, (key, where, {}))[2].update(dict.fromkeys(keys))
    refuse_missing(list(missing.values()), len(files) + len(missing), places, skip)
    images = FolderImages(list(files), [Path(path) for path in files.values()])
    images.problems = list(missing.values())
    records = [TextRecord(key, text, list(right), where) for text, (key, where, right) in texts.items()]
    return Loaded(f"{table.form} of paths and captions", images, records, [*table.notes(), *places.notes()])
