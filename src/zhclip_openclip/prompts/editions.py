"""Editions of our prompts: what `zh@1` means, and with which version of a data set's prompts a result was made.

Another class name or template gives other scores. So whatever changes our prompts makes a new edition of all of them,
and the version of a data set's prompts is the edition that last changed its class names or templates: of two results of
one data set, equal versions mean equal prompts. `zh@1`, or any other set with an edition behind it, gives the prompts
of that edition, class names too.

    data/prompt_versions.json    for each list of class names and each list of templates: edition that changed it ->
                                 digest of what it was from then on
    data/superseded/N.json       what edition N had and edition N+1 has not: class names one by one, templates by data
                                 set

docs/chinese_names.md says how an edition is made; tests/prompts/test_editions.py notices a change without one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zhclip_openclip.prompts import registry
from zhclip_openclip.prompts._errors import PromptError
from zhclip_openclip.prompts._files import packaged
from zhclip_openclip.prompts.registry import DatasetPrompts

#: What a result says that was made before there were editions.
FIRST = 1
#: The templates that a data set without its own gets.
FALLBACK = "imagenet1k"
_OURS = "zhclip_openclip "


def newest() -> int:
    """The edition that is used if none is asked for."""
    table = packaged("prompt_versions.json")
    return max(int(edition) for kind in ("classnames", "templates") for one in table[kind].values() for edition in one)


def split(name: str, place: str) -> tuple[str, int | None]:
    """`zh@1` -> zh and 1; `zh` -> zh and None, the newest. place: the option, for the error.

    Raises PromptError: there is no such edition.
    """
    bare, at, edition = name.partition("@")
    if not at:
        return name, None
    return bare, check(edition, f"{place} {name}")


def check(edition: str, place: str) -> int:
    """The number of an edition. Raises PromptError, naming `place`: there is no such edition."""
    known = [str(number) for number in range(FIRST, newest() + 1)]
    if edition not in known:
        raise PromptError(f"{place}: our prompts have the editions {known[0]} to {known[-1]}; without one, the last")
    return int(edition)


def version(dataset: DatasetPrompts | None, names: bool, templates: bool, edition: int | None = None) -> int | None:
    """The version of a data set's prompts in an edition; None if nothing of them is ours.

    dataset: None for one that has no Chinese prompts, and gets ImageNet's templates. names, templates: whether the
    class names are ours, and the templates.
    """
    table = packaged("prompt_versions.json")
    used = [table["classnames"][dataset.classnames]] if names and dataset else []
    used += [table["templates"][dataset.name if dataset else FALLBACK]] if templates else []
    limit = newest() if edition is None else edition
    return max((int(one) for parts in used for one in parts if int(one) <= limit), default=None)


@dataclass(frozen=True)
class MadeWith:
    """What of a result's prompts is ours, and its version. dataset: our name for it. newest: of the same parts."""

    dataset: str
    names: bool
    templates: bool
    version: int
    newest: int


def made_with(dataset_name: str, template_set: str, facts: Mapping[str, Any]) -> MadeWith | None:
    """What a result says of its prompts; None if nothing of them is ours.

    facts: its `classname_source` and `prompts_version`. One that says no version was made before there were any.
    """
    dataset = registry.find(dataset_name)
    names, templates = str(facts.get("classname_source", "")).startswith(_OURS), template_set == "zh"
    recorded, last = facts.get("prompts_version"), version(dataset, names, templates)
    if last is None:
        return None
    return MadeWith(
        dataset.name if dataset else dataset_name,
        names,
        templates,
        recorded if isinstance(recorded, int) else FIRST,
        last,
    )


def source(dataset: DatasetPrompts) -> str:
    """What a result calls `classname_source` where the names are ours."""
    return f"{_OURS}{dataset.classnames}.json"


def names(file: str, edition: int | None, current: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """(English, Chinese) of `data/classnames/<file>.json` as they were in an edition, from what they are."""
    result = list(current)
    for older in range(newest() - 1, (newest() if edition is None else edition) - 1, -1):
        for index, english, chinese in packaged("superseded", f"{older}.json")["classnames"].get(file, ()):
            if result[index][0] != english:
                raise PromptError(
                    f"superseded/{older}.json: class {index} of {file} is {result[index][0]}, not {english}"
                )
            result[index] = english, chinese
    return tuple(result)


def templates(dataset: str, edition: int | None, current: list[str]) -> list[str]:
    """Our templates of a data set as they were in an edition, from what they are."""
    for older in range(newest() if edition is None else edition, newest()):
        found = packaged("superseded", f"{older}.json")["templates"]
        if dataset in found:
            return found[dataset]
    return current


def digest(lines: Sequence) -> str:
    """Of a list of names or templates, as `data/prompt_versions.json` has it."""
    return hashlib.sha256(json.dumps(lines, ensure_ascii=False).encode()).hexdigest()[:16]
