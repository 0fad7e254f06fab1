"""Chinese class names of a data set, found by its English ones.

Classes are matched by name and not by position, since the libraries that clip_benchmark builds data sets with do not
agree on the order (Caltech-101, Food-101) or on the spelling (underscores, capitals, Oxford Flowers' `ball moss`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cache

from zhclip_openclip._errors import shorten
from zhclip_openclip.prompts import editions, registry
from zhclip_openclip.prompts._errors import PromptError
from zhclip_openclip.prompts._files import clip_benchmarks, packaged
from zhclip_openclip.prompts.registry import DatasetPrompts

_WORDNET_ID = re.compile(r"n\d{8}")


@cache
def pairs(file: str, edition: int | None = None) -> tuple[tuple[str, str], ...]:
    """(English, Chinese) for each class of `data/classnames/<file>.json`, in its order.

    ImageNet's file holds corrections to the list that clip_benchmark bundles, so that the list itself is not copied.
    edition: of our prompts, None for the newest; see `editions`.
    """
    return editions.names(file, edition, _newest_pairs(file))


def _newest_pairs(file: str) -> tuple[tuple[str, str], ...]:
    content = packaged("classnames", f"{file}.json")
    if "classes" in content:  # a third part, where there is one, is a note about the name
        return tuple((english, chinese) for english, chinese, *_ in content["classes"])
    english = clip_benchmarks("en_classnames.json")[file]
    chinese = list(clip_benchmarks("cn_classnames.json")[file])
    for override in content["overrides"]:
        index = override["index"]
        if (english[index], chinese[index]) != (override["english"], override["base"]):
            raise PromptError(
                f"class {index} of {file} is {chinese[index]!r} ({english[index]}) in the installed clip_benchmark, "
                f"where ours corrects {override['base']!r} ({override['english']}): install clip_benchmark 1.6.2"
            )
        chinese[index] = override["zh"]
    return tuple(zip(english, chinese, strict=True))


def classes(dataset: DatasetPrompts, spelling: str = "", edition: int | None = None) -> tuple[tuple[str, str], ...]:
    """(English, Chinese) of each class that a data set has, in the order of its labels.

    spelling: what the data set is called; TFDS has an order of its own for Food-101, and labels for all of ImageNet
    where an ImageNet variant has 200 of its classes. edition: as in `pairs`.
    """
    table = pairs(dataset.classnames, edition)
    if registry.is_tfds(spelling):
        moved = packaged("label_order.json")["tfds"].get(dataset.classnames, {})
        return tuple(table[moved.get(str(label), label)] for label in range(len(table)))
    lines = part_of_imagenet(dataset, spelling)
    return table if lines is None else tuple(table[line] for line in lines)


def part_of_imagenet(dataset: DatasetPrompts, spelling: str = "") -> list[int] | None:
    """The classes of ImageNet that a variant has, by their numbers there; None for all."""
    if registry.is_tfds(spelling):
        return None
    return packaged("label_order.json")["imagenet_parts"].get(dataset.name)


def key(name: str) -> str:
    """A class name without what the libraries spell differently: capitals, `_`, `-`, `/`, runs of spaces.

    SUN397's `/a/abbey` loses the folder `/a`.
    """
    name = re.sub(r"^/[a-z]/", "", name)
    return re.sub(r"[\s_/-]+", " ", name).strip().casefold()


def translate(dataset: DatasetPrompts, english: Sequence[str], edition: int | None = None) -> list[str]:
    """The Chinese name of each class, in the order of `english`, the names that the data set itself has.

    `english` may be a part of the classes (ImageNet's variants), and may be WordNet ids for ImageNet or bare numbers
    0, 1, ... where TFDS gives the classes no names. edition: as in `pairs`.

    Raises PromptError: a class that has no Chinese name, with the class.
    """
    table = pairs(dataset.classnames, edition)
    names = [str(name) for name in english]
    if dataset.classnames == "imagenet1k" and names and all(map(_WORDNET_ID.fullmatch, names)):
        return [chinese for _, chinese in _from_wordnet_ids(dataset, names, table)]
    if names == [str(number) for number in range(len(table))] and names != [name for name, _ in table]:
        return [chinese for _, chinese in table]
    places = _places(dataset)
    candidates = [places.get(key(name), []) for name in names]
    missing = [name for name, found in zip(names, candidates, strict=True) if not found]
    if missing:
        raise PromptError(
            f"{dataset.title}: there is no Chinese name for the class {shorten(map(repr, missing))}; the names that "
            f"are known: zhclip classnames {dataset.name}; name them yourself with --custom_classname_file FILE"
        )
    indices = _resolve(candidates)
    if len(set(indices)) < len(indices):
        twice = sorted({name for name, index in zip(names, indices, strict=True) if indices.count(index) > 1})
        raise PromptError(f"{dataset.title}: the class {shorten(map(repr, twice))} is in the data set's list twice")
    return [table[index][1] for index in indices]


@cache
def _places(dataset: DatasetPrompts) -> dict[str, list[int]]:
    places: dict[str, list[int]] = defaultdict(list)
    for index, (english, _) in enumerate(pairs(dataset.classnames)):
        places[key(english)].append(index)
    variants = packaged("classification.json")["english_variants"]
    for file in (dataset.classnames, f"{dataset.classnames}_vtab"):
        for variant, english in variants.get(file, {}).items():
            places[key(variant)] = places[key(english)]
    return dict(places)


def _resolve(candidates: list[list[int]]) -> list[int]:
    """One place for each class, where a few names stand for two classes.

    ImageNet has two `missile` (657 the missile, 744 the projectile) and two `sunglasses` (836, 837). All lists that
    hold either are in ImageNet's order, so it is the place between those of the neighbours, and of two in a row the
    first belongs to the first.
    """
    places: list[int] = []
    for position, found in enumerate(candidates):
        if len(found) == 1:
            places.append(found[0])
            continue
        before = places[-1] if places else -1
        after = next((later[0] for later in candidates[position + 1 :] if len(later) == 1), float("inf"))
        fitting = [place for place in found if before < place < after] or found
        places.append(fitting[0])
    return places


def _from_wordnet_ids(dataset: DatasetPrompts, names: list[str], table):
    from clip_benchmark.datasets.builder import all_imagenet_wordnet_ids

    places = {name: index for index, name in enumerate(all_imagenet_wordnet_ids)}
    missing = [name for name in names if name not in places]
    if missing:
        raise PromptError(f"{dataset.title}: {shorten(missing)} is no class of ImageNet-1k")
    return [table[places[name]] for name in names]
