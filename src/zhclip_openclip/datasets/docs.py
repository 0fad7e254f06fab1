"""The tables of `docs/reproducing.md`, made from `data/datasets.json`, which `zhclip reproduce` uses.

python -m zhclip_openclip.datasets.docs docs/reproducing.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from zhclip_openclip._generated import put_between
from zhclip_openclip.datasets import at_hand
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.prompts._files import packaged

BEGIN = "<!-- made by `python -m zhclip_openclip.datasets.docs`; a test notices when it is stale -->"
END = "<!-- end of what is made -->"


def table() -> str:
    """Markdown: where to get each data set and where to put it, then the folders that are looked for."""
    lines = [
        "| data set | images | texts | GB | where to get it | where to put it | licence |",
        "|---|---:|---:|---:|---|---|---|",
    ]
    for entry in at_hand.entries().values():
        if not entry.embedded:
            lines.append("| " + " | ".join(_cells(entry)) + " |")
    lines += ["", "One download for several of them:", ""]
    for collection in packaged("datasets.json")["collections"].values():
        lines.append(
            f"- {collection['title']}: {_linked(collection['get'])}, {collection['what']}; {collection['place']}."
        )
    lines += [
        "",
        "Looked for below `--data-root`, in this order:",
        "",
        "| data set | read as | folders | files there |",
    ]
    lines.append("|---|---|---|---|")
    for entry in at_hand.entries().values():
        lines += [f"| {' | '.join(row)} |" for row in _looked_for(entry)]
    return "\n".join(lines)


def _cells(entry: at_hand.Entry) -> list[str]:
    images = "?" if entry.images is None else f"{entry.images:,}"
    for layout, number in entry.images_elsewhere.items():
        images += f"<br>{number:,} ({layout})"
    notes = [note for note in (entry.images_note, entry.note) if note]
    size = "?" if entry.gb is None else f"{entry.gb:g}"
    return [
        f"`{entry.name}`" + "".join(f"<br><sub>{note}</sub>" for note in notes),
        images,
        f"{entry.texts:,}" if entry.texts else "",
        size + (f"<br><sub>{entry.gb_note}</sub>" if entry.gb_note else ""),
        _linked(entry.get),
        entry.place,
        entry.licence,
    ]


def _linked(text: str) -> str:
    """Addresses in angle brackets, as Markdown has links without a name."""
    words = text.split(" ")
    for number, word in enumerate(words):
        start = word.find("http")
        if start >= 0:
            address = word[start:].rstrip(";:,.)")
            words[number] = word.replace(address, f"<{address}>")
    return " ".join(words)


def _looked_for(entry: at_hand.Entry) -> list[list[str]]:
    if entry.embedded:
        return []
    if entry.host:
        host = entry.host
        names = ", ".join(f"`{name}`" for name in dict.fromkeys((host["name"], *host["folders"])))
        files = f"`{host['captions']}`" + (f" or {_all(host['made_from'])}" if len(host["made_from"]) > 1 else "")
        read = f"`{host['name']}`, `--language {entry.language}`"
        return [[f"`{entry.name}`", read, names, f"{files}, with the pictures in `{host['made_from'][0]}`"]]
    if entry.task == "retrieval":
        from zhclip_openclip.datasets.retrieval import DATASETS

        names = ", ".join(f"`{name}`" for name in (entry.name, *DATASETS[entry.name].FOLDERS))
        return [[f"`{entry.name}`", f"`{entry.name}`", names, "see [datasets_retrieval.md](datasets_retrieval.md)"]]
    rows = []
    for layout in at_hand.layouts(entry):
        folders = ", ".join(f"`{folder}`" for folder in dict.fromkeys(layout["folders"]))
        files = ", ".join(f"`{file}`" for file in layout["files"])
        needs = f" (needs {layout['needs']})" if layout.get("needs") else ""
        rows.append(["" if rows else f"`{entry.name}`", f"`{layout['dataset']}`{needs}", folders, files])
    return rows


def _all(files: list[str]) -> str:
    return " and ".join(f"`{file}`" for file in files[1:])


def put_in(path: Path) -> bool:
    """Write the tables between their two marks in a Markdown file; whether that changed the file.

    Raises DatasetError: it has no such marks.
    """
    return put_between(path, BEGIN, END, table(), DatasetError)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name}: {'written' if put_in(Path(name)) else 'up to date'}")
