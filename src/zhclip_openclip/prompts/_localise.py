"""Turning a data set that clip_benchmark has built in English into the same data set in Chinese.

Meant for the patch of `clip_benchmark.datasets.builder.build_dataset`, which knows no Chinese but for ImageNet and ends
in a TypeError:

    if task in ("zeroshot_classification", "linear_probe") and prompts.is_chinese(dataset_name, language):
        arguments = prompts.chinese_arguments(dataset_name, language, template_file, classname_file)
        dataset = original(dataset_name, ..., **arguments)
        prompts.localise(dataset, dataset_name, language, template_file, classname_file)
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from zhclip_openclip._errors import shorten
from zhclip_openclip.prompts import _files, checks, classnames, editions, languages, registry, templates
from zhclip_openclip.prompts._errors import PromptError
from zhclip_openclip.prompts.templates import Templates

CLASSNAME_OPTION = "--custom_classname_file"
#: clip_benchmark's data sets without classes: captions, or questions about two of them. Their languages are their own.
_NOT_CLASSIFICATION = (
    "crossmodal3600",
    "flickr30k",
    "flickr30k-200",
    "flickr8k",
    "mscoco_captions",
    "multilingual_mscoco_captions",
    "winoground",
    "xtd10",
    "xtd200",
)


#: What clip_benchmark's files of Babel-ImageNet are written in, which is how its figures are made.
_BABEL_NAMES = "Babel-ImageNet's class names are in simplified and in traditional characters"
_BABEL_SCRIPT = (
    f"{_BABEL_NAMES}, and most of its prompts, which a machine translated, in traditional ones: --language zh leaves "
    "them as they are, zh_Hant makes all traditional"
)


def is_chinese(dataset_name: str, language: str) -> bool:
    """Whether this is a classification data set asked for in Chinese, so that the functions below are to be called.

    Babel-ImageNet is one too. Retrieval data sets are not: their language codes are left to clip_benchmark.

    Raises PromptError: a language that looks like Chinese and is none of the known spellings.
    """
    name = dataset_name.removeprefix("wds/")
    if name in _NOT_CLASSIFICATION or name.startswith("sugar_crepe"):
        return False
    if registry.find(dataset_name) is None and not _known_classification(name):
        return False
    return languages.is_chinese(language)


def _known_classification(name: str) -> bool:
    table = _files.packaged("classification.json")
    return name in table["without_chinese"] + table["left_alone"] or name.startswith(("vtab/", "tfds/"))


@dataclass(frozen=True)
class Prepared:
    """What can be said before the data set is there: language, templates, and names of the user's own."""

    language: str
    templates: Templates
    names: list[str] | dict[str, str] | None
    names_source: str


def prepare(
    dataset_name: str, language: str, template_file: str | None = None, classname_file: str | None = None
) -> Prepared:
    """Read and check everything that does not need the data, so that nothing is downloaded for a mistake.

    Raises PromptError: see `localise`.
    """
    normal = languages.normalise(language)
    dataset = registry.find(dataset_name)
    if dataset is None and not classname_file and not registry.is_left_alone(dataset_name):
        raise PromptError(
            f"{dataset_name} has no Chinese class names; give them with {CLASSNAME_OPTION} FILE, or take a data set "
            "that has them: zhclip classnames"
        )
    languages.write([""], normal)  # says it now if the library for zh_Hant is missing
    names, source = None, editions.source(dataset) if dataset else ""
    if classname_file:
        names, source = _names_from_file(classname_file, dataset, dataset_name)
    return Prepared(normal, templates.load(template_file, dataset, dataset_name, normal), names, source)


def chinese_arguments(
    dataset_name: str, language: str, template_file: str | None = None, classname_file: str | None = None
) -> dict:
    """`language`, `custom_template_file` and `custom_classname_file` to build the data set with, before `localise`.

    Everything is prepared first, so a mistake is found before anything is downloaded. Raises PromptError as `localise`.
    """
    prepare(dataset_name, language, template_file, classname_file)
    if registry.is_left_alone(dataset_name):
        return {"language": "zh", "custom_template_file": None, "custom_classname_file": None}
    arguments = {"language": "en", "custom_template_file": None, "custom_classname_file": None}
    if dataset_name.startswith("wds/"):
        # Without zeroshot_classification_templates.txt in the folder, clip_benchmark stops at an assertion.
        arguments["custom_template_file"] = "en_zeroshot_classification_templates.json"
    if dataset_name == "imagenet-w":
        # clip_benchmark 1.6.2 looks its classes up in the user's file only, under two names.
        arguments["custom_classname_file"] = str(_imagenet_w_names())
    return arguments


@cache
def _imagenet_w_names() -> Path:
    folder = tempfile.mkdtemp(prefix="zhclip-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    names = _files.clip_benchmarks("en_classnames.json")["imagenet1k"]
    path = Path(folder) / "imagenet-w.json"
    path.write_text(json.dumps({"imagenet1k": names, "imagenet-w": names}), encoding="utf-8")
    return path


def localise(
    dataset,
    dataset_name: str,
    language: str,
    template_file: str | None = None,
    classname_file: str | None = None,
) -> None:
    """Give a classification data set that was built in English its Chinese classes and templates.

    Sets `.classes` and `.templates`, and for the result file `.english_classes`, `.template_set`, `.classname_source`
    and `.prompts_version` (see `editions`). Babel-ImageNet keeps its own Chinese. Doing it twice is doing it once.

    template_file: see `templates`. classname_file: {data set: [name, ...]} in the order of the classes, or
    {data set: {English: Chinese}}.

    Raises PromptError: no Chinese names for the data set or one of its classes, a list of another length, two classes
    of one name, a broken file, a template without `{c}`, an unknown language.
    """
    prepared = prepare(dataset_name, language, template_file, classname_file)
    if registry.is_left_alone(dataset_name):
        dataset.english_classes = None
        dataset.classes = languages.write(dataset.classes, prepared.language)
        if template_file:
            dataset.templates, dataset.template_set = prepared.templates.templates, prepared.templates.source
            dataset.prompts_version = prepared.templates.version(None, names_are_ours=False)
        else:
            dataset.templates = languages.write(dataset.templates, prepared.language)
            dataset.template_set = "babel_imagenet"
        if prepared.language == languages.SIMPLIFIED:
            dataset.notes = [_BABEL_SCRIPT if not template_file else _BABEL_NAMES]
        dataset.classname_source = "babel_imagenet"
        return
    english = getattr(dataset, "english_classes", None) or dataset.classes
    if english is None:
        raise PromptError(f"{dataset_name}: the data set does not say what its classes are (no classnames.txt)")
    english = [str(name) for name in english]
    checks.folders(dataset, english, dataset_name)
    known = registry.find(dataset_name)
    if prepared.names is None:
        names = classnames.translate(known, english, prepared.templates.edition)
        names = languages.write(names, prepared.language)
    else:
        names = _apply_names(prepared.names, english, dataset_name, prepared.names_source)
        checks.same_name(names, english, dataset_name)
    dataset.english_classes = english
    dataset.classes = names
    dataset.templates = for_classes(prepared.templates, names, english, dataset_name)
    dataset.template_set = prepared.templates.source
    dataset.classname_source = prepared.names_source
    dataset.prompts_version = prepared.templates.version(known, names_are_ours=prepared.names is None)


def own_names(classname_file: str, dataset_name: str, english: Sequence[str]) -> tuple[list[str], str]:
    """The names that a file of the user gives the classes `english`, in their order, and the file.

    Raises PromptError: a broken file, no names for the data set or one of its classes, a list of another length, two
    classes of one name.
    """
    names, source = _names_from_file(classname_file, registry.find(dataset_name), dataset_name)
    names = _apply_names(names, english, dataset_name, source)
    checks.same_name(names, english, dataset_name)
    return names, source


def _names_from_file(name: str, dataset, dataset_name: str) -> tuple[list[str] | dict[str, str], str]:
    path = _files.find(name, CLASSNAME_OPTION)
    content = _files.read(path, CLASSNAME_OPTION)
    if not isinstance(content, dict):
        raise PromptError(f'{CLASSNAME_OPTION}: {path} is no {{"data set": ["class name", ...]}}')
    keys = templates.file_keys(dataset, dataset_name)
    if dataset and dataset.classnames == "imagenet1k":
        keys.append("imagenet1k")  # its variants derive from it, here as in clip_benchmark
    found = next((candidate for candidate in keys if candidate in content), None)
    if found is None:
        raise PromptError(
            f"{CLASSNAME_OPTION}: {path} has no names for {dataset_name}; it has {shorten(content)}, and it may have "
            f"them under {' or '.join(keys)}"
        )
    names = content[found]
    values = list(names.values()) if isinstance(names, dict) else names
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise PromptError(f"{CLASSNAME_OPTION}: {path}, {found}: a list of class names is needed, not {names!r:.80}")
    part = classnames.part_of_imagenet(dataset, dataset_name) if dataset else None
    if found == "imagenet1k" and isinstance(names, list) and part is not None:
        names = _part_of_imagenet(names, part, path)
    return names, str(path)


def _part_of_imagenet(names: list[str], part: list[int], path: Path) -> dict[str, str]:
    """English -> the user's name of each class that a variant has of ImageNet's 1,000."""
    english = _files.clip_benchmarks("en_classnames.json")["imagenet1k"]
    if len(names) != len(english):
        raise PromptError(f"{CLASSNAME_OPTION}: {path}, imagenet1k has {len(names)} names for {len(english)} classes")
    return {english[line]: names[line] for line in part}


def _apply_names(names, english: Sequence[str], dataset_name: str, source: str) -> list[str]:
    if isinstance(names, dict):
        by_key = {classnames.key(name): chinese for name, chinese in names.items()}
        missing = [name for name in english if classnames.key(name) not in by_key]
        if missing:
            raise PromptError(f"{source} has no name for the class {shorten(map(repr, missing))} of {dataset_name}")
        return [by_key[classnames.key(name)] for name in english]
    if len(names) != len(english):
        raise PromptError(f"{source} has {len(names)} class names, and {dataset_name} has {len(english)} classes")
    return list(names)


def for_classes(chosen: Templates, names: list[str], english: list[str], dataset_name: str):
    """Templates as they are; prompts that were written for each class, under the names the classes now have."""
    if not isinstance(chosen.templates, dict):
        return list(chosen.templates)
    result, missing = {}, []
    for name, original in zip(names, english, strict=True):
        if name in chosen.templates:
            result[name] = chosen.templates[name]
        elif original in chosen.templates:
            result[name] = chosen.templates[original]
        else:
            missing.append(name)
    if missing:
        raise PromptError(f"{chosen.source}: there are no prompts for the class {shorten(missing)} of {dataset_name}")
    return result
