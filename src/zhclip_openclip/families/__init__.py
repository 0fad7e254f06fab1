"""The families of models. Built-in ones enter by the door that is open to everyone: an entry point of the group
`zhclip_openclip.families` that names a :class:`Family`."""

from __future__ import annotations

import functools
from importlib.metadata import entry_points

from zhclip_openclip import autoload
from zhclip_openclip.families._family import Family, Layout, Model, Tag

__all__ = ["Family", "Layout", "Model", "Tag", "all_families", "all_names", "find"]


@functools.cache
def all_families() -> dict[str, Family]:
    """Every installed family by name. Those that cannot be loaded are left out; one warning says which, and why."""
    families: dict[str, Family] = {}
    taken: dict[str, str] = {}
    left_out: list[str] = []
    for point in sorted(entry_points(group="zhclip_openclip.families"), key=lambda point: point.name):
        try:
            family = point.load()
            if not isinstance(family, Family):
                raise TypeError(f"{point.value} is a {type(family).__name__}, not a Family")
            names = [model.name for model in family.models] + list(family.aliases)
            for name in names:
                if name in taken:
                    raise ValueError(f"the model name {name!r} is taken by {taken[name]}")
            taken.update(dict.fromkeys(names, point.value))
            families[family.name] = family
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also SystemExit: a family of somebody else's ends nobody's program
            left_out.append(f"the model family {point.name!r} is left out ({type(error).__name__}: {error})")
    if left_out:
        autoload.tell(f"zhclip-openclip: {'; '.join(left_out)}")
    return families


def all_names() -> list[str]:
    """All model names, aliases included, sorted."""
    return sorted(
        name for family in all_families().values() for name in [*(m.name for m in family.models), *family.aliases]
    )


@functools.cache
def find(name: str) -> tuple[Family, Model] | None:
    """The family and the model behind a model name or an alias; None for a name that is not ours."""
    name = name.replace("/", "-")  # as open_clip does
    for family in all_families().values():
        wanted = family.aliases.get(name, name)
        for model in family.models:
            if model.name == wanted:
                return family, model
    return None
