"""The tables of `docs/datasets_classification.md`, made from the data that evaluations use."""

from __future__ import annotations

from pathlib import Path

from zhclip_openclip._generated import put_between
from zhclip_openclip.prompts import classnames, editions, registry, templates
from zhclip_openclip.prompts._errors import PromptError
from zhclip_openclip.prompts._files import packaged

BEGIN = "<!-- made by `zhclip classnames --table`; tests/prompts/test_docs.py notices when it is stale -->"
END = "<!-- end of the tables -->"
ALIKE = """## Classes that are alike

Names that a reader can hardly tell apart, most often because the data set itself has two classes of one thing, or one
that holds another. No name stands for two classes, and none is the same tokens as another to BERT's vocabulary."""


def rows() -> list[dict]:
    """One dictionary for each data set: name, title, spellings, classes, templates, version, metric, source, elevater.

    other_counts: the spellings under which it has another number of classes.
    """
    result = []
    for dataset in registry.all_datasets().values():
        counts = {spelling: len(classnames.classes(dataset, spelling)) for spelling in dataset.spellings}
        count = counts[dataset.spellings[0]]
        result.append(
            {
                "name": dataset.name,
                "title": dataset.title,
                "spellings": list(dataset.spellings),
                "classes": count,
                "other_counts": {spelling: other for spelling, other in counts.items() if other != count},
                "templates": len(templates.load("zh", dataset).templates),
                "version": editions.version(dataset, names=True, templates=True),
                "metric": dataset.published_metric or "acc1",
                "classnames": f"{dataset.classnames}.json",
                "source": packaged("classnames", f"{dataset.classnames}.json")["english"],
                "elevater": dataset.elevater,
                "cn_clip": dataset.cn_clip,
            }
        )
    return result


def table() -> str:
    """Markdown: every data set with its spellings, classes, templates and the source of its English names."""
    lines = [
        "| data set | `--dataset` | classes | templates (`zh`) | version | published as | names "
        "| source of the English names |",
        "|---|---|---:|---:|---:|---|---|---|",
    ]
    for row in rows():
        spellings = [*row["spellings"], *([f"elevater/{row['elevater']}"] if row["elevater"] else [])]
        others = "".join(f"<br>`{spelling}`: {count}" for spelling, count in row["other_counts"].items())
        cells = [
            row["title"],
            "<br>".join(f"`{spelling}`" for spelling in spellings),
            f"{row['classes']}{others}",
            str(row["templates"]),
            str(row["version"]),
            f"`{row['metric']}`",
            f"[{row['classnames']}](../src/zhclip_openclip/data/classnames/{row['classnames']})",
            row["source"].replace("|", "\\|"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def alike() -> str:
    """Markdown: the classes that a reader can hardly tell apart by their names, or by what they show."""
    lines = ["| names | class names of | why |", "|---|---|---|"]
    files: dict[str, list[str]] = {}  # Caltech-101 has its names twice, in two orders
    for file in dict.fromkeys(dataset.classnames for dataset in registry.all_datasets().values()):
        for names, why in packaged("classnames", f"{file}.json").get("alike", ()):
            files.setdefault(f"{'、'.join(names)} | {{}} | {why}", []).append(f"`{file}`")
    return "\n".join([*lines, *(f"| {line.format(', '.join(found))} |" for line, found in files.items())])


def put_in(path: Path) -> bool:
    """Write both tables between the two marks in a Markdown file; whether that changed the file.

    Raises PromptError: it has no such marks.
    """
    return put_between(path, BEGIN, END, f"{table()}\n\n{ALIKE}\n\n{alike()}", PromptError)
