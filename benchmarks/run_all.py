"""Runs the benchmarks one after another and writes the tables of a page in docs/ from what they measured.

    python benchmarks/run_all.py               # all, about an hour on two idle cores
    python benchmarks/run_all.py --only loading classifier
    python benchmarks/run_all.py --render      # only the page, from docs/performance.json
    python benchmarks/run_all.py --page performance_bf16    # docs/performance_bf16.md, of a machine with bf16 units

Each script runs in a process of its own; results are kept in a JSON file beside the page, so that one can be measured
again without the others. tests/test_performance_page.py notices when a page is not what this makes of its file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _machine import describe_machine, describe_versions
from _report import Report, Row, number, quantity, target, verdict, write_json

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
#: One page for each kind of machine, `docs/NAME.md`, and beside it what was measured there, `docs/NAME.json`.
PAGES = ("performance", "performance_bf16", "performance_amx", "performance_gpu")
BEGIN, END = "<!-- made by benchmarks/run_all.py: begin -->", "<!-- end -->"

#: name -> title of its section, script and arguments.
RUNS = {
    "classifier": ("Building a zero-shot classifier", "zero_shot_classifier.py"),
    "classifier_tune": (
        "Building a zero-shot classifier, by size of the batches",
        "zero_shot_classifier.py --tune --layers 4",
    ),
    "retrieval": ("Retrieval scoring at MUGE's size", "retrieval_scoring.py"),
    "million": ("Retrieval scoring, a million images", "retrieval_scoring.py --million"),
    "loading": ("Loading ZH-CLIP from a file", "load_checkpoint.py --repeat 3"),
    "image_tower": ("The image tower", "image_tower.py"),
    "image_tower_tune": ("The image tower, run in other ways", "image_tower.py --tune --layers 4 --batch 8"),
    "whole": ("A whole evaluation", "whole_evaluation.py --repeats 2"),
    "scaling": ("How scoring grows", "scaling.py --million"),
    "import": ("`import torch`", "import_time.py"),
    "training": ("Training", "training.py"),
    "onnx": ("Both towers in onnxruntime", "onnx_towers.py"),
    "folder": ("Searching a folder of 100,000 pictures again", "folder_search.py"),
    "captions": ("Captions in the order of their length", "caption_order.py"),
    "memory": ("Image towers in memory that is kept", "freed_memory.py"),
    "prediction": ("How long a reproduction takes, and what was predicted", "whole_reproduction.py"),
    "first": ("The README's first command", "first_command.py"),
    "gpu": ("On a GPU", "gpu.py"),
}
#: What is measured where nothing is named: `gpu.py` alone on its page, everything else on the others.
MEASURED = {page: ["gpu"] if page == "performance_gpu" else [name for name in RUNS if name != "gpu"] for page in PAGES}
UNMEASURED = "Nobody has measured a GPU yet: none was at hand. Tests and script ran on a CPU in small sizes.\n"
#: Why a target is missed, by the key of its row.
REASONS = {
    "loading_transformers": "transformers maps the file, which costs no copy; a file that is written over or cut short "
    "under a map changes the weights of a running model or ends it, so that ours reads it (docs/loading.md)",
    "classifier_no_amp": "both sides spend their time in the same matrix products, so that the ratio is about that of "
    "the tokens they are given, and moves with what else the cores do",
    "classifier_default": "the target is for a CPU without bf16 units, where clip_benchmark's default is emulated; "
    "this one has them, and both sides use them",
    "whole_evaluation": "the target is for a CPU without bf16 units, where clip_benchmark's default is emulated; this "
    "one has them, both sides use them, and the imports and the 20 images cost both the same",
}


# ---------------------------------------------------------------- the page


def render(results: dict[str, dict]) -> str:
    """The generated part of the page."""
    reports = {name: Report.read(results[name]) for name in RUNS if name in results}
    if not reports:
        return UNMEASURED
    lines = ["| | ours | the other side | ratio | target | |", "|---|---|---|---|---|---|"]
    for name, report in reports.items():
        for row in report.rows:
            if row.met is not None:
                lines.append(_line(row, prefix=f"{RUNS[name][0]}: "))
    lines.append("")
    for name, report in reports.items():
        for row in report.rows:
            if row.met is False:
                reason = f", because {REASONS[row.key]}" if row.key in REASONS else ""
                lines.append(
                    f"- {RUNS[name][0]}: {row.what}: missed by {100 * row.missed_by:.0f} %{reason}{_turns(row)}."
                )
    for name, report in reports.items():
        lines += ["", f"## {RUNS[name][0]}", ""]
        lines.append(f"`{report.command}` on {report.date}. {describe_machine(report.machine)}; "
                     f"{describe_versions(report.machine)}.")  # fmt: skip
        if report.rows:
            lines += ["", "| | ours | the other side | ratio | target | |", "|---|---|---|---|---|---|"]
            lines += [_line(row) for row in report.rows]
        for table in report.tables:
            lines += ["", f"{table.title}:", "", "| " + " | ".join(table.head) + " |", "|" + "---|" * len(table.head)]
            lines += ["| " + " | ".join(cells) + " |" for cells in table.rows]
        lines += ["", *report.notes] if report.notes else []
    return "\n".join(lines).strip() + "\n"


def _line(row: Row, prefix: str = "") -> str:
    other = f"{quantity(row.theirs, row.unit)} ({row.peer})" if row.theirs else ""
    ratio = f"{number(row.ratio)} ({row.ratio_is})" if row.ratio is not None else ""
    return (
        f"| {prefix}{row.what} | {quantity(row.ours, row.unit)} | {other} | {ratio} | {target(row)} | {verdict(row)} |"
    )


def _turns(row: Row) -> str:
    """How far the ratios of the single turns lie apart; nothing where there was one turn, or no other side."""
    if len(row.ours) < 2 or len(row.ours) != len(row.theirs):
        return ""
    pairs = zip(row.ours, row.theirs, strict=True)
    ratios = [theirs / ours if row.ratio_is == "theirs / ours" else ours / theirs for ours, theirs in pairs]
    return f" ({number(min(ratios))} to {number(max(ratios))} in single turns)"


def page(results: dict[str, dict], text: str) -> str:
    """`text` with its generated part made anew."""
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return text[:start] + "\n" + render(results) + text[end:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(RUNS), help="measure these; the others stay as they were")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    parser.add_argument("--page", choices=PAGES, default=PAGES[0], help="which page to write, by kind of machine")
    args = parser.parse_args()
    text_file, results_file = DOCS / f"{args.page}.md", DOCS / f"{args.page}.json"
    results = json.loads(results_file.read_text("utf-8")) if results_file.is_file() else {}
    failed = []
    for name in [] if args.render else args.only or MEASURED[args.page]:
        script, *arguments = RUNS[name][1].split()
        print(f"== {RUNS[name][1]}", flush=True)
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            done = subprocess.run([sys.executable, str(HERE / script), *arguments, "--json", file.name])
            if done.returncode:
                failed.append(name)
                continue
            results[name] = Report.read(json.loads(Path(file.name).read_text("utf-8"))).as_json()
        write_json(results_file, results)
    temporary = text_file.with_name(text_file.name + ".tmp")
    temporary.write_text(page(results, text_file.read_text("utf-8")), "utf-8")
    temporary.replace(text_file)
    if failed:
        raise SystemExit(f"failed, and left as they were: {', '.join(failed)}")


if __name__ == "__main__":
    main()
