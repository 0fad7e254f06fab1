"""The data classes of a report, on a page of their own: what makes a report and what shows one both import them.

All values are percent (0..100), as they are published.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from zhclip_openclip._errors import printable

#: What a cell can be told to be, from the best to the least known.
VERDICTS = ("reproduced", "off", "no interval", "not run", "not published")


@dataclass(frozen=True)
class Column:
    """One column of a table.

    key: unique in the table ('text_to_image R@1', 'cifar10'). dataset: canonical name. metric: clip_benchmark's JSON
    key ('image_retrieval_recall@1', 'acc1'). group, group_zh: heading over several columns ('Text-to-Image'), or ''.
    """

    key: str
    dataset: str
    metric: str
    title: str
    title_zh: str
    group: str = ""
    group_zh: str = ""


@dataclass(frozen=True)
class Figure:
    """What another source publishes of a cell: percent, how many decimals it has there, what our value says of it
    (one of `VERDICTS`), and whether it is another figure than the cell's, rounding apart. doubt: why it is not judged,
    nor compared with others; ''."""

    source: str
    value: float
    decimals: int
    verdict: str = "not run"
    differs: bool = False
    doubt: str = ""


@dataclass(frozen=True)
class Cell:
    """One value of a table.

    published, ours: percent, None where there is none. low, high: the interval around ours, None without per-sample
    outcomes. difference: ours - published. verdict: one of `VERDICTS`. best_published, best: the best of the column
    (all of those that tie). samples: queries or images behind ours. run: index into `Report.runs`. source: key into
    `Report.sources` of the published value. also: what other sources publish. leads: in a leaderboard, whether no
    open model of at most a billion parameters is better; `best_published` is of the whole column there.
    """

    published: float | None = None
    ours: float | None = None
    low: float | None = None
    high: float | None = None
    difference: float | None = None
    verdict: str = "not run"
    best_published: bool = False
    best: bool = False
    samples: int | None = None
    run: int | None = None
    source: str = ""
    also: tuple[Figure, ...] = ()
    leads: bool = False


@dataclass(frozen=True)
class Row:
    """One model in a table.

    model: canonical name. title: as published ('CN-CLIP'). source: key into `Report.sources` of the first that
    publishes values of it, or ''. variant: '' or what tells two runs of one model apart (tag, language, template set).
    cells: by column key. about: in a leaderboard, what is known of the model ('958M').
    """

    model: str
    title: str
    source: str = ""
    variant: str = ""
    cells: dict[str, Cell] = field(default_factory=dict)
    about: str = ""

    @property
    def sources(self) -> list[str]:
        """All that publish a value of the row, in the order of its columns; of a row without values, its source."""
        found = {}
        for cell in self.cells.values():
            for key in (cell.source, *(one.source for one in cell.also)):
                if key:
                    found[key] = None
        return list(found) or ([self.source] if self.source else [])

    @property
    def label(self) -> str:
        """Title and variant."""
        return f"{self.title} ({self.variant})" if self.variant else self.title


@dataclass(frozen=True)
class Table:
    """One benchmark, or the zero-shot table of many. key: 'coco-cn', 'flickr30k-cn', 'muge',
    'zeroshot_classification', or the name of another data set."""

    key: str
    title: str
    title_zh: str
    columns: list[Column]
    rows: list[Row]


@dataclass(frozen=True)
class Trained:
    """How a fine-tuned checkpoint was made.

    began: tag or checkpoint that it began from, '' for random weights. data: as its trainer was told. datasets: the
    sets, by canonical name, whose training split is known to be among that.
    """

    began: str
    data: str
    datasets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """One result file.

    path: of the JSON. pretrained: tag or checkpoint. templates: name of the template set, or ''. metrics: its numbers
    as they stand there (0..1), and what follows from them (mean recall, mean per class). samples: the NPZ with
    per-sample outcomes, or None. gallery: relative link to a page beside it, or None. foreign: made without this
    package. facts: fingerprint, split, versions, as far as known. trained: of a fine-tuned checkpoint; None for a model
    that is scored zero-shot.
    """

    path: str
    model: str
    pretrained: str
    dataset: str
    language: str
    task: str
    templates: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    samples: str | None = None
    gallery: str | None = None
    foreign: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    trained: Trained | None = None


@dataclass(frozen=True)
class Comparison:
    """Two of our own runs on the same samples.

    better, worse: labels of their rows. difference: better - worse, with its interval (low, high), in percentage
    points. p: of the paired test named in `test`; p_corrected: after Holm over all comparisons of the report. origin:
    'better' or 'worse', where that is the model that the other one began from; '' for any other two.
    """

    table: str
    column: str
    dataset: str
    better: str
    worse: str
    difference: float
    low: float
    high: float
    samples: int
    p: float
    p_corrected: float
    significant: bool
    test: str
    origin: str = ""


@dataclass(frozen=True)
class Problem:
    """Something that could not be used as it is. where: file (and line) or key. way_out: what to do about it."""

    where: str
    what: str
    way_out: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" + (f"; {self.way_out}" if self.way_out else "")
        return printable(" ".join(text.split()))


@dataclass
class Report:
    """What the views show. sources: source key -> where the published values are from. pairs: of runs that p is
    corrected for, more than `comparisons` has where there are too many to compare them all. leaderboard: a table for
    each data set, its rows from the best down."""

    tables: list[Table] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    level: float = 0.95
    resamples: int = 0
    seed: int = 0
    sources: dict[str, str] = field(default_factory=dict)
    pairs: int = 0
    leaderboard: bool = False

    @property
    def corrected_for(self) -> int:
        return max(self.pairs, len(self.comparisons))
