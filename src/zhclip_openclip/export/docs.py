"""The table of `docs/deploying.md`, made from what `zhclip convert` itself goes by.

python -m zhclip_openclip.export.docs docs/deploying.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from zhclip_openclip._generated import put_between
from zhclip_openclip.export._export_error import ExportError
from zhclip_openclip.export._formats import FORMATS
from zhclip_openclip.families import Family, Model, all_families

BEGIN = "<!-- made by `python -m zhclip_openclip.export.docs`; a test notices when it is stale -->"
END = "<!-- end of what is made -->"


def cell(family: Family, model: Model, name: str) -> str:
    """What a model's form in a format is called, or that it is refused and why."""
    form = FORMATS[name]
    reason = form.refused(family, model)
    return f"refused: {reason}" if reason else form.home(family, model)


def rows() -> Iterator[tuple[Family, list[Model], list[str]]]:
    """The models of each built-in family with equal cells, and these cells, in the order of the formats."""
    for family in all_families().values():
        if family.configs is not None:
            continue
        groups: dict[tuple[str, ...], list[Model]] = {}
        for model in family.models:
            groups.setdefault(tuple(cell(family, model, name) for name in FORMATS), []).append(model)
        for cells, models in groups.items():
            yield family, models, list(cells)


def table() -> str:
    """Markdown: models and formats, then how each format is checked and what it needs."""
    lines = ["| models | " + " | ".join(f"`{name}`" for name in FORMATS) + " |", "|---|" + "---|" * len(FORMATS)]
    for family, models, cells in rows():
        names = "" if len(models) == len(family.models) else f": {', '.join(f'`{model.name}`' for model in models)}"
        lines.append("| " + " | ".join([family.title + names, *cells]) + " |")
    lines += [
        "",
        "Cells that are not refused are exact. What is written is read back before the folder appears:",
        "",
    ]
    lines += ["| format | read by, with the largest difference that is let through | needs |", "|---|---|---|"]
    for form in FORMATS.values():
        needs = f"`pip install 'zhclip-openclip[{form.extra}]'`" if form.extra else ""
        lines.append(f"| `{form.name}` | {form.checked} | {needs} |")
    return "\n".join(lines)


def put_in(path: Path) -> bool:
    """Write the table between its two marks in a Markdown file; whether that changed the file.

    Raises ExportError: it has no such marks.
    """
    return put_between(path, BEGIN, END, table(), ExportError)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name}: {'written' if put_in(Path(name)) else 'up to date'}")
