"""The answers of a search and the labels of a classification as JSON, CSV and a table on a terminal."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhclip_openclip._errors import counted, printable
from zhclip_openclip._files import whole_file
from zhclip_openclip._terminal import literal
from zhclip_openclip.folders._errors import FolderError
from zhclip_openclip.report.views.csv import plain

if TYPE_CHECKING:
    from rich.console import Console

    from zhclip_openclip.folders._model import Opened
    from zhclip_openclip.folders.classify import Classified
    from zhclip_openclip.folders.search import Answer
    from zhclip_openclip.folders.shelf import Shelf

SHARE = "mismatched_below"
#: Forms of an output file by its suffix.
SUFFIXES = {".html": "page", ".htm": "page", ".csv": "csv", ".json": "json"}


def percent(share: float) -> str:
    """99.97%: rounded down, so that what is not above all is never 100%."""
    return f"{math.floor(share * 10_000 + 1e-9) / 100:g}%"


def form_of(output: Path) -> str:
    """'page', 'csv' or 'json'. Raises FolderError: another suffix, a folder, a place that cannot be written to."""
    form = SUFFIXES.get(output.suffix.lower())
    if form is None:
        raise FolderError(f"--output {output}: give it a name that ends in .html, .csv or .json")
    if output.is_dir():
        raise FolderError(f"--output {output}: a folder; name a file in it")
    above = next((folder for folder in output.absolute().parents if folder.exists()), output)
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):  # before an hour's work, and not after it
        what = "not writable" if above.is_dir() else "a file"
        raise FolderError(f"--output {output}: {above} is {what}; give another one")
    return form


def write(output: Path, text: str, for_excel: bool = False) -> None:
    """The whole file or none. for_excel: with the mark by which Excel knows UTF-8. Raises FolderError."""
    try:
        with whole_file(output) as part:
            part.write_text(text, encoding="utf-8-sig" if for_excel else "utf-8", newline="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FolderError(f"--output {output}: cannot be written ({reason}); give another one") from None


def search_json(shelf: Shelf, opened: Opened, answers: Sequence[Answer]) -> str:
    """`mismatched_below` is a share from 0 to 1, null where there are no pairs."""
    return _json(
        {
            **_about(shelf, opened),
            "queries": [
                {
                    "query": printable(answer.query),
                    "kind": answer.kind,
                    "mismatched_pairs": answer.pairs,
                    "notes": answer.notes,
                    "hits": [
                        {
                            "place": hit.place,
                            "picture": printable(hit.name),
                            "score": hit.score,
                            SHARE: hit.share,
                            "copies": [*map(printable, hit.copies)],
                        }
                        for hit in answer.hits
                    ],
                }
                for answer in answers
            ],
        }
    )


def search_csv(answers: Sequence[Answer]) -> str:
    rows = [
        [answer.query, hit.place, hit.name, round(hit.score, 6), _share(hit.share), "|".join(hit.copies)]
        for answer in answers
        for hit in answer.hits
    ]
    return _csv(["query", "place", "picture", "score", SHARE, "copies"], rows)


def classify_json(shelf: Shelf, opened: Opened, result: Classified) -> str:
    names = result.labels.names
    return _json(
        {
            **_about(shelf, opened),
            "labels": list(names),
            "templates": list(result.labels.templates),
            "mismatched_pairs": result.pairs,
            "pictures": [
                {
                    "picture": printable(picture.name),
                    "label": names[picture.label],
                    "score": picture.score,
                    SHARE: picture.share,
                    "second": names[picture.second],
                    "second_score": picture.second_score,
                    "copies": [*map(printable, picture.copies)],
                }
                for picture in result.pictures
            ],
        }
    )


def classify_csv(result: Classified) -> str:
    """One row for each file, copies too, in the order of the names."""
    names = result.labels.names
    rows = [
        [
            name,
            names[picture.label],
            round(picture.score, 6),
            _share(picture.share),
            names[picture.second],
            round(picture.second_score, 6),
        ]
        for picture in result.pictures
        for name in (picture.name, *picture.copies)
    ]
    return _csv(["picture", "label", "score", SHARE, "second", "second_score"], sorted(rows, key=lambda row: row[0]))


def print_search(console: Console, answers: Sequence[Answer]) -> None:
    from rich.table import Table

    for answer in answers:
        table = Table("#", "picture", "score", "above", title=literal(answer.query), title_justify="left")
        table.columns[1].overflow = "fold"
        for column in (0, 2, 3):
            table.columns[column].justify = "right"
            table.columns[column].no_wrap = True
        for hit in answer.hits:
            more = f" (+{counted(len(hit.copies), 'copy', 'copies')})" if hit.copies else ""
            share = percent(hit.share) if hit.share is not None else "-"
            table.add_row(str(hit.place), literal(hit.name) + more, f"{hit.score:.3f}", share)
        console.print(table)
    pairs = {answer.kind: answer.pairs for answer in answers if answer.pairs}
    if "text" in pairs:
        console.print(
            f"above: share of {pairs['text']:,} mismatched pairs (pictures of this folder, unrelated Chinese captions) "
            "that score lower; no probability",
            highlight=False,
        )
    if "picture" in pairs:
        console.print(
            f"above, for a picture: the same of {pairs['picture']:,} pairs of two pictures of this folder",
            highlight=False,
        )


def print_classified(console: Console, result: Classified) -> None:
    from rich.table import Table

    table = Table("label", "pictures", "best picture", "score", "above")
    table.columns[2].overflow = "fold"
    for column in (1, 3, 4):
        table.columns[column].justify = "right"
        table.columns[column].no_wrap = True
    for label, name in enumerate(result.labels.names):
        found = result.of(label)
        if found:
            share = percent(found[0].share) if found[0].share is not None else "-"
            table.add_row(literal(name), f"{len(found):,}", literal(found[0].name), f"{found[0].score:.3f}", share)
        elif len(result.labels.names) <= 30:
            table.add_row(literal(name), "0", "", "", "")
    console.print(table)
    console.print(
        f"above: share of {result.pairs:,} mismatched pairs (pictures of this folder, names of other things) that "
        "score lower; no probability",
        highlight=False,
    )


def _about(shelf: Shelf, opened: Opened) -> dict[str, Any]:
    from zhclip_openclip.features.arithmetic import described
    from zhclip_openclip.features.linear import OneDnnLinear, fast_linear

    # Of models that are not ours it never is: asked of what the passes take.
    onednn = isinstance(fast_linear(opened.module, opened.device, opened.amp), OneDnnLinear)
    return {
        "folder": printable(str(shelf.folder.folder)),
        "model": opened.name,
        "pretrained": printable(opened.pretrained),
        "device": opened.device,
        "arithmetic": described(opened.device, opened.amp, onednn),
        "files": shelf.files,
        "different": len(shelf),
        "encoded": shelf.encoded,
        "skipped": [{"picture": entry.key, "reason": entry.reason} for entry in shelf.skipped],
        "notes": shelf.notes,
    }


def _share(share: float | None) -> float | str:
    return "" if share is None else round(share, 6)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _csv(head: list[str], rows: list[list]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    # A file may be called =1+1.jpg, which a spreadsheet must not compute.
    writer.writerows([plain(printable(cell)) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return buffer.getvalue()
