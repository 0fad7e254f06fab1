"""A leaderboard: the rows of a table from the best down, and which of them is the best open model of moderate size.

A model stands where its published value puts it, and where nothing is published where ours does; doubtful figures put
it nowhere.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from zhclip_openclip import families
from zhclip_openclip._paths import DATA
from zhclip_openclip.report import _names
from zhclip_openclip.report._model import Cell, Column, Row

#: A model of moderate size has at most so many millions of parameters.
MODERATE = 1000


@dataclass(frozen=True)
class System:
    """millions: of parameters, None where they are not known. is_open: whether its weights can be had, None where that
    is not known."""

    millions: float | None = None
    is_open: bool | None = None

    @property
    def is_moderate(self) -> bool:
        return self.is_open is True and self.millions is not None and self.millions <= MODERATE

    @property
    def about(self) -> str:
        """`958M`, `14B`, `882M, closed`; '' where nothing is known."""
        size = ""
        if self.millions:
            size = f"{self.millions / 1000:.3g}B" if self.millions >= 1000 else f"{self.millions:.0f}M"
        return ", ".join(filter(None, (size, "closed" if self.is_open is False else "")))


def system(model: str) -> System:
    """What is known of a model, by its name."""
    if families.find(model) is not None:
        parameters = _facts().get(model, {}).get("parameters")
        return System(parameters / 1e6 if parameters else None, True)
    told = _others().get(model, {})
    return System(told.get("millions"), told.get("open"))


@cache
def _facts() -> dict[str, Any]:
    return json.loads((DATA / "model_facts.json").read_text(encoding="utf-8"))


@cache
def _others() -> dict[str, Any]:
    return json.loads((_names.PUBLISHED / "systems.json").read_text(encoding="utf-8"))["systems"]


def ranked(rows: Sequence[Row], columns: Sequence[Column]) -> list[Row]:
    """From the best down by the first column; those without a value in it by the next, behind those with one."""
    rows = [_marked(row, columns, rows) for row in rows]
    values = {id(row): [standing(row.cells[column.key]) for column in columns] for row in rows}
    return sorted(rows, key=lambda row: [1.0 if value is None else -value for value in values[id(row)]])


def standing(cell: Cell) -> float | None:
    """The value that a model stands by."""
    return cell.ours if cell.published is None else cell.published


def _marked(row: Row, columns: Sequence[Column], rows: Sequence[Row]) -> Row:
    cells = {}
    for column in columns:
        cell = row.cells[column.key]
        own = standing(cell)
        every = [(standing(other.cells[column.key]), system(other.model).is_moderate) for other in rows]
        values = [value for value, _ in every if value is not None]
        moderate = [value for value, is_moderate in every if value is not None and is_moderate]
        several = own is not None and len(values) > 1  # of one there is no best
        cells[column.key] = replace(
            cell,
            best_published=several and own == cell.published == max(values),
            leads=several and system(row.model).is_moderate and own == max(moderate),
        )
    return replace(row, about=system(row.model).about, cells=cells)
