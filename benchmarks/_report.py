"""The one form in which every benchmark writes what it measured, and in which `run_all.py` reads it. Standard library.

A report holds rows: ours against somebody else's in the same run, or a figure of ours alone, each with its target if
there is one. What is asked of a row is asked of its `figure`: the ratio where there is another side, else our median.
"""

from __future__ import annotations

import datetime
import json
import math
import shlex
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from _machine import machine_facts, print_facts

FORM = 1
_started = time.perf_counter()


@dataclass
class Row:
    """key: what a reason for missing the target is found by. what: the row in words. unit: of `ours` and `theirs`,
    one figure for each turn. peer: who the other side is. ratio: how the sides compare, and `ratio_is` which way round:
    'theirs / ours' or 'ours / theirs'; where it is not given, that of the medians. at_least, at_most: the target.
    """

    key: str
    what: str
    unit: str
    ours: list[float]
    peer: str = ""
    theirs: list[float] = field(default_factory=list)
    ratio_is: str = "theirs / ours"
    ratio: float | None = None
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self):
        if self.ratio is None and self.theirs:
            ours, theirs = statistics.median(self.ours), statistics.median(self.theirs)
            self.ratio = theirs / ours if self.ratio_is == "theirs / ours" else ours / theirs

    @property
    def figure(self) -> float:
        return statistics.median(self.ours) if self.ratio is None else self.ratio

    @property
    def met(self) -> bool | None:
        """None without a target."""
        if self.at_least is None and self.at_most is None:
            return None
        return self.missed_by <= 0

    @property
    def missed_by(self) -> float:
        """Share of the target that is missing; 0 or less where it is met."""
        below = 1 - self.figure / self.at_least if self.at_least is not None else -math.inf
        above = self.figure / self.at_most - 1 if self.at_most is not None else -math.inf
        return max(below, above)


@dataclass
class Table:
    """More figures of a run, as the script words them: a title, a head, and rows of cells."""

    title: str
    head: list[str]
    rows: list[list[str]]


@dataclass
class Report:
    """What one run of a script found. notes: sentences for the page, with figures of this run in them.
    details: anything else, for who wants to compute with it; not on the page.
    """

    rows: list[Row]
    settings: dict[str, Any] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    date: str = ""
    seconds: float = 0.0
    machine: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, data: dict[str, Any]) -> Report:
        """Of what `write` has written. Raises ValueError: another form."""
        if data.get("form") != FORM:
            raise ValueError(f"a report of form {data.get('form')}, and this is for form {FORM}: measure again")
        values = {key: value for key, value in data.items() if key != "form"}
        values["rows"] = [Row(**row) for row in values["rows"]]
        values["tables"] = [Table(**table) for table in values["tables"]]
        return cls(**values)

    def as_json(self) -> dict[str, Any]:
        return {"form": FORM, **asdict(self)}

    def print(self) -> None:
        for row in self.rows:
            print(f"{row.what}: {describe(row)}")
        for table in self.tables:
            print(f"\n{table.title}")
            widths = [max(len(line[column]) for line in [table.head, *table.rows]) for column in range(len(table.head))]
            for line in [table.head, *table.rows]:
                print("  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
        for note in self.notes:
            print(note)


def begin(*packages: str) -> dict[str, Any]:
    """Facts of the machine, printed. Call it before anything is measured: `load_average` is of that moment."""
    facts = machine_facts("zhclip-openclip", *packages)
    print_facts(facts)
    return facts


def finish(report: Report, facts: dict[str, Any], path: Path | None) -> None:
    """Complete the report, print it and write it to `path`, if there is one."""
    report.machine = facts
    report.command = command_line()
    report.date = datetime.date.today().isoformat()
    report.seconds = round(time.perf_counter() - _started, 1)
    report.print()
    if path is not None:
        write_json(path, report.as_json())


def command_line() -> str:
    """How this script was called, from the repository's root and without `--json FILE`."""
    arguments = sys.argv[1:]
    for place, argument in enumerate(arguments):
        if argument == "--json":
            del arguments[place : place + 2]
            break
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *arguments])


def write_json(path: Path, data: Any) -> None:
    """Under another name first, so that a reader never finds half of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def number(value: float) -> str:
    """Three digits that count: 1,234 and 12.3 and 0.0123."""
    rounded = float(f"{value:.3g}")
    digits = 2 - math.floor(math.log10(abs(rounded))) if rounded else 0
    return f"{value:,.{max(digits, 0)}f}"


def quantity(values: list[float], unit: str) -> str:
    return f"{number(statistics.median(values))} {unit}".rstrip() if values else ""


def target(row: Row) -> str:
    if row.met is None:
        return ""
    limits = {"at least": row.at_least, "at most": row.at_most}
    unit = f" {row.unit}" if row.ratio is None and row.unit else ""
    return ", ".join(f"{kind} {value:g}{unit}" for kind, value in limits.items() if value is not None)


def verdict(row: Row) -> str:
    if row.met is None:
        return ""
    return "met" if row.met else f"missed by {100 * row.missed_by:.0f} %"


def describe(row: Row) -> str:
    """One line on a row, for the terminal."""
    parts = [f"ours {quantity(row.ours, row.unit)}"]
    if row.theirs:
        parts.append(f"{row.peer} {quantity(row.theirs, row.unit)}")
    if row.ratio is not None:
        parts.append(f"{row.ratio_is} = {number(row.ratio)}")
    if row.met is not None:
        parts.append(f"target {target(row)}: {verdict(row)}")
    return ", ".join(parts)
