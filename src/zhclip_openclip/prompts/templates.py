"""Template sets: what is written around a class name, by the name that `--custom_template_file` takes.

zh          ours, one list for each data set (`data/templates/zh.json`); the default
openai80    clip_benchmark's own translation of OpenAI's 80 ImageNet prompts, for every data set
cn_clip     Chinese-CLIP's, read from the installed `cn_clip`, with the choice that its evaluation makes
name        the class name and nothing else
SET@N       the set with edition N of our templates and class names, for results that were made with them
FILE        clip_benchmark's form: {data set: [template, ...]} or {data set: {class: [prompt, ...]}}
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from zhclip_openclip._errors import shorten
from zhclip_openclip.prompts import _files, editions, languages, registry
from zhclip_openclip.prompts._errors import PromptError
from zhclip_openclip.prompts.registry import DatasetPrompts

SETS = {
    "zh": "ours, written for each data set's subject; the default",
    "openai80": "clip_benchmark's own translation of OpenAI's 80 ImageNet prompts, for every data set",
    "cn_clip": "Chinese-CLIP's, read from the installed cn_clip, with the choice that its evaluation makes",
    "name": "the bare class name",
}
DEFAULT = "zh"
OPTION = "--custom_template_file"


@dataclass(frozen=True)
class Templates:
    """Templates with a `{c}` for the class name, or a dictionary class name -> finished prompts; and where from.

    edition: of our prompts, None for the newest; the class names are to be of the same.
    """

    templates: list[str] | dict[str, list[str]]
    source: str
    edition: int | None = None

    def version(self, dataset: DatasetPrompts | None, names_are_ours: bool) -> int | None:
        """Of the prompts that these templates give a data set; None if nothing of them is ours. See `editions`."""
        return editions.version(dataset, names_are_ours, self.source == DEFAULT, self.edition)


def default(dataset_name: str) -> str:
    """The set that an evaluation takes if it is told nothing: Chinese-CLIP's own for its data, otherwise ours."""
    return "cn_clip" if dataset_name.startswith(registry.ELEVATER) else DEFAULT


def is_ours(name: str | None) -> bool:
    """Whether the value of `--custom_template_file` names one of our sets, so that it must not reach clip_benchmark."""
    return name is not None and name.partition("@")[0] in SETS


def later_version(name: str, spelling: str) -> int | None:
    """The version of our prompts that a data set gets with a set or file, None for the first, or if none are ours.

    Meant for what a finished evaluation is known by again: results of the first version do not say so.
    """
    if not name:
        return None
    bare, edition = editions.split(name, OPTION) if is_ours(name) else (name, None)
    names_are_ours = not spelling.removeprefix("wds/").startswith(registry.ELEVATER)
    version = editions.version(registry.find(spelling), names_are_ours, bare == DEFAULT, edition)
    return version if version != editions.FIRST else None


def refuse_elsewhere(name: str | None, dataset_name: str, language: str) -> None:
    """Raise PromptError if `name` is one of our sets where no Chinese is asked for.

    Meant for the patch of `build_dataset`, before what is not ours goes to the original, which would look for
    a file of that name.
    """
    if is_ours(name):
        raise PromptError(
            f"{OPTION} {name}: this set is for Chinese classification, and {dataset_name} is asked for in {language}; "
            "add --language zh (data sets that have Chinese: zhclip classnames)"
        )


def load(
    name: str | None, dataset: DatasetPrompts | None, dataset_name: str = "", language: str = languages.SIMPLIFIED
) -> Templates:
    """The templates of a data set.

    name: one of :data:`SETS`, with or without an edition (`zh@1`), a file, or None for the default.
    dataset: None for a data set that has no Chinese prompts of ours; it gets ImageNet's.
    dataset_name: the spelling that the user gave, which a file may have as its key.
    language: zh_Hant converts our sets to traditional characters; a file is taken as it is written.

    Raises PromptError: no such set or edition, a broken file, a template without `{c}`.
    """
    name = name or DEFAULT
    if not is_ours(name):
        return _from_file(name, dataset, dataset_name)
    name, edition = editions.split(name, OPTION)
    templates = _zh(dataset, edition) if name == DEFAULT else _OTHERS[name](dataset)
    return Templates(languages.write(templates, language), name, edition)


def _zh(dataset: DatasetPrompts | None, edition: int | None) -> list[str]:
    name = dataset.name if dataset else editions.FALLBACK
    return editions.templates(name, edition, _files.packaged("templates", "zh.json")[name])


def _openai80(dataset: DatasetPrompts | None) -> list[str]:
    return _files.clip_benchmarks("cn_zeroshot_classification_templates.json")["imagenet1k"]


def _name(dataset: DatasetPrompts | None) -> list[str]:
    return ["{c}"]


def _cn_clip(dataset: DatasetPrompts | None) -> list[str]:
    wanted = dataset.cn_clip if dataset else DatasetPrompts.cn_clip
    try:
        module = importlib.import_module("cn_clip.eval.cvinw_zeroshot_templates")
        functions = getattr(module, wanted)
    except (ImportError, AttributeError) as error:
        raise PromptError(
            f"the template set cn_clip is read from the package cn_clip ({wanted} of "
            f"cn_clip.eval.cvinw_zeroshot_templates: {error}); pip install cn_clip, or use another set, which gives "
            f"other numbers than the published ones: {OPTION} zh"
        ) from error
    return [function("{c}") for function in functions]


_OTHERS = {"openai80": _openai80, "cn_clip": _cn_clip, "name": _name}


def _from_file(name: str, dataset: DatasetPrompts | None, dataset_name: str) -> Templates:
    try:
        path = _files.find(name, OPTION)
    except PromptError as error:
        raise PromptError(f"{error}; the sets that have a name: {', '.join(SETS)}") from None
    content = _files.read(path, OPTION)
    if not isinstance(content, dict):
        raise PromptError(f'{OPTION}: {path} is no {{"data set": ["template with {{c}}", ...]}}')
    keys = file_keys(dataset, dataset_name)
    found = next((candidate for candidate in [*keys, editions.FALLBACK] if candidate in content), None)
    if found is None:
        raise PromptError(
            f"{OPTION}: {path} has no templates for {dataset_name}; it has {shorten(content)}, and it may have them "
            f"under {' or '.join(keys)}"
        )
    templates = content[found]
    check(templates, f"{OPTION}: {path}, {found}")
    return Templates(templates, str(path))


def file_keys(dataset: DatasetPrompts | None, dataset_name: str) -> list[str]:
    """The keys that a user's file may have for a data set: as given, without `wds/`, without any prefix, our name."""
    without = dataset_name.removeprefix("wds/")
    bare = without
    for prefix in ("vtab/", "tfds/", "elevater/", "own/"):
        bare = bare.removeprefix(prefix)
    return list(dict.fromkeys([dataset_name, without, bare, *([dataset.name] if dataset else [])]))


def check(templates, place: str) -> None:
    """Raise PromptError, naming `place`, unless these are templates that each put the class name somewhere."""
    if isinstance(templates, dict):
        for name, prompts in templates.items():
            if not _is_texts(prompts):
                raise PromptError(f"{place}: the class {name!r} needs a list of prompts, and has {prompts!r:.80}")
        if not templates:
            raise PromptError(f"{place} is empty")
        return
    if not _is_texts(templates):
        raise PromptError(f"{place} needs a list of templates, and has {templates!r:.80}")
    for number, template in enumerate(templates, 1):
        try:
            filled = template.format(c="\0")
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise PromptError(
                f"{place}: template {number}, {template!r}, has a brace that is not {{c}}; write {{{{ for a brace"
            ) from error
        if "\0" not in filled:
            raise PromptError(f"{place}: template {number}, {template!r}, has no {{c}} for the class name")


def _is_texts(value) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)
