"""Labels that pictures are sorted by, and their templates, read before a model is opened for them."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from zhclip_openclip._errors import shorten
from zhclip_openclip._reading import kind_of, reading
from zhclip_openclip.datasets._text_lines import text_lines
from zhclip_openclip.folders._errors import FolderError
from zhclip_openclip.prompts import classnames, registry, templates
from zhclip_openclip.prompts._errors import PromptError

#: Labels that mean none of the others; what they stand for is said at `classify.classify`.
OTHER = ("其他", "其它", "其余", "别的", "都不是", "以上都不是", "other", "others", "none")
_SEPARATORS = re.compile("[,，、;；]")


@dataclass(frozen=True)
class Labels:
    """names: in their order. dataset: whose class names they are, "" for the user's own. templates: with `{c}`.
    other: number of the label that means none of the others, or None."""

    names: tuple[str, ...]
    templates: tuple[str, ...]
    dataset: str = ""
    other: int | None = None


def read_labels(
    labels: str | None = None, file: Path | None = None, dataset: str | None = None, template_set: str | None = None
) -> Labels:
    """Labels out of one of three places, with templates.

    labels: separated by commas, also Chinese ones. file: one a line. dataset: a classification data set with Chinese
    class names. template_set: see `prompts/templates.py`.

    Raises FolderError: none or several of the places; no labels, one, or one twice; no such data set or templates.
    DatasetError: a file that cannot be read.
    """
    given = [option for option in (labels, file, dataset) if option is not None]
    if len(given) != 1:
        raise FolderError("give the labels in one of --labels 猫,狗,其他, --labels-file FILE, --dataset-names food101")
    found = None
    if dataset is not None:
        found = registry.find(dataset)
        if found is None:
            known = list(registry.all_datasets())
            close = difflib.get_close_matches(dataset, known, 3, 0.4) or known
            raise FolderError(
                f"--dataset-names {dataset}: no Chinese class names; did you mean {shorten(close, 3)}? `zhclip "
                "classnames` lists all"
            )
        names, where = [chinese for _, chinese in classnames.classes(found, dataset)], f"--dataset-names {dataset}"
    elif file is not None:
        with reading(file, FolderError):
            if file.is_dir():
                raise FolderError(f"--labels-file {file}: a folder; give a text file with one label a line")
            if kind_of(file).endswith((" picture", " archive", "a PDF")):
                raise FolderError(f"--labels-file {file}: {kind_of(file)}; give a text file with one label a line")
        names, where = [line.strip() for _, line, _ in text_lines(Path(file))], f"--labels-file {file}"
    else:
        names, where = [name.strip() for name in _SEPARATORS.split(labels)], f"--labels {labels}"
    names = [name for name in names if name]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise FolderError(f"{where}: {shorten(map(repr, twice))} is there twice; keep one of each")
    if len(names) < 2:
        what = f"{names[0]!r} alone" if names else "none"
        if labels is not None and names and Path(names[0]).is_file():
            raise FolderError(f"{where}: a file; give it as --labels-file {names[0]}")
        if labels is not None and names and len(names[0].split()) > 1:
            raise FolderError(f"{where}: labels are separated by commas: --labels {','.join(names[0].split())}")
        raise FolderError(f"{where}: {what}; two labels are needed, as every picture would get the only one: add 其他")
    other = [number for number, name in enumerate(names) if name.lower() in OTHER] if dataset is None else []
    if len(other) > 1:
        raise FolderError(f"{where}: {shorten(names[number] for number in other)} mean the same; keep one")
    try:
        taken = templates.load(template_set, found, found.name if found else "").templates
    except PromptError as error:
        raise FolderError(str(error).replace(templates.OPTION, "--templates")) from error
    if isinstance(taken, dict):
        raise FolderError("templates that are finished prompts for each class fit that data set alone; give a list")
    return Labels(tuple(names), tuple(taken), found.name if found else "", other[0] if other else None)
