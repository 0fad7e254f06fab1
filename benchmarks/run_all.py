"""Runs the benchmarks one after another and writes the table of docs/performance.md from what they measured.

    python benchmarks/run_all.py               # all, about 15 minutes on two idle cores
    python benchmarks/run_all.py --only loading classifier
    python benchmarks/run_all.py --render      # only the page, from docs/performance.json

Each script runs in a process of its own; results are kept in docs/performance.json, so that one can be measured again
without the others. tests/test_performance_page.py notices when the page is not what this makes of that file.
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
PAGE, RESULTS = HERE.parent / "docs" / "performance.md", HERE.parent / "docs" / "performance.json"
BEGIN, END = "<!-- made by benchmarks/run_all.py: begin -->", "<!-- end -->"

#: name -> title of its section, script and arguments.
RUNS = {
    "classifier": ("Building a zero-shot classifier", "zero_shot_classifier.py --classes 6 --repeats 1"),
    "classifier_avx2": (
        "The same without bf16 units",
        "zero_shot_classifier.py --classes 2 --repeats 1 --isa avx2",
    ),
    "retrieval": ("Retrieval scoring at MUGE's size", "retrieval_scoring.py"),
    "loading": ("Loading ZH-CLIP from a file", "load_checkpoint.py --repeat 3"),
    "image_tower": ("The image tower", "image_tower.py"),
    "whole": ("A whole evaluation", "whole_evaluation.py"),
    "whole_avx2": ("The same without bf16 units", "whole_evaluation.py --isa avx2"),
    "scaling": ("How scoring grows", "scaling.py --million"),
}
#: Why a target is missed, by the key of its row.
REASONS = {
    "classifier_default": "the target is for a CPU without bf16 units, where clip_benchmark's default is emulated; "
    "this one has them, and both sides use them",
    "classifier_no_amp": "the ratio moves with what else the cores do; both sides are limited by the same products",
    "whole_evaluation": "the target is for a CPU without bf16 units; here both sides use them, and the 20 images cost "
    "both the same",
    "whole_evaluation_avx2": "the 20 images and the imports cost both sides the same",
}


# ---------------------------------------------------------------- scripts with a form of their own


def from_loading(data: dict) -> list[Row]:
    ways = {way: [entry["seconds"] for entry in found["rounds"]] for way, found in data["ways"].items()}
    size = data["file_bytes"]
    peak = {way: [entry["peak_bytes"] / size for entry in found["rounds"]] for way, found in data["ways"].items()}
    return [
        Row("loading", "create_model with a file of 2.5 GB", "s", ways["ours"], "the bare reading", ways["read"],
            "ours / theirs", at_most=1.5),
        Row("loading_open_clip", "the same", "s", ways["ours"], "plain open_clip", ways["open_clip"]),
        Row("loading_transformers", "the same", "s", ways["ours"], "transformers", ways["transformers"]),
        Row("loading_memory", "peak memory, of the file", "", peak["ours"], "plain open_clip", peak["open_clip"]),
    ]  # fmt: skip


def from_classifier(data: dict) -> list[Row]:
    times, limited = data["milliseconds_a_prompt"], bool(data["machine"].get("onednn_limit"))
    end = ", AVX2 only" if limited else ""
    return [
        Row(f"classifier_no_amp{'_avx2' if limited else ''}", f"--no_amp{end}", "ms a prompt", times["ours fp32"],
            "clip_benchmark", times["clip_benchmark --no_amp"], at_least=7),
        Row(f"classifier_default{'_avx2' if limited else ''}", f"default precision{end}", "ms a prompt",
            times["ours default"], "clip_benchmark", times["clip_benchmark default"], at_least=40),
    ]  # fmt: skip


def from_retrieval(data: dict) -> list[Row]:
    runs = data["scoring"]["runs"]
    ours, theirs, cn_clip = runs["ours"], runs["clip_benchmark"], runs["cn_clip"]

    def own(run: dict) -> float:
        return run["recalls"] - run["recalls_products"]

    return [
        Row("retrieval", "its functions: recalls at 1, 5, 10", "s", [own(run) for run in ours], "clip_benchmark",
            [run["functions"] for run in theirs], ratio=data["scoring"]["functions_ratio"], at_least=50),
        Row("retrieval_whole", "with the matrix products", "s", [run["recalls"] for run in ours], "clip_benchmark",
            [run["functions"] + run["products"] for run in theirs], ratio=data["scoring"]["whole_ratio"]),
        Row("retrieval_cn_clip", "its functions", "s", [own(run) for run in ours], "cn_clip.eval",
            [run["functions"] for run in cn_clip]),
        Row("retrieval_memory", "memory, theirs / ours", "", [data["scoring"]["memory_ratio"]], at_least=10),
    ]  # fmt: skip


ADAPTERS = {"loading": from_loading, "classifier": from_classifier, "retrieval": from_retrieval}


def report_of(name: str, data: dict, command: str, date: str) -> Report:
    """The common form of what the script of this name has written."""
    adapter = ADAPTERS.get(name.removesuffix("_avx2"))
    if adapter is None:
        return Report.read(data)
    notes = []
    if "largest_difference_fp32" in data:
        notes.append(f"The classifiers differ by at most {data['largest_difference_fp32']:.0e} in fp32.")
    return Report(
        adapter(data), notes=notes, command=command, date=date, machine={"onednn_limit": None, **data["machine"]}
    )


# ---------------------------------------------------------------- the page


def render(results: dict[str, dict]) -> str:
    """The generated part of the page."""
    reports = {name: Report.read(results[name]) for name in RUNS if name in results}
    lines = ["| | ours | the other side | ratio | target | |", "|---|---|---|---|---|---|"]
    for name, report in reports.items():
        for row in report.rows:
            if row.met is not None:
                lines.append(_line(row, prefix=f"{RUNS[name][0]}: "))
    lines.append("")
    missed = [row for report in reports.values() for row in report.rows if row.met is False]
    for row in missed:
        reason = REASONS.get(row.key, "")
        lines.append(f"- {row.what}: missed by {100 * row.missed_by:.0f} %{', because ' + reason if reason else ''}.")
    for name, report in reports.items():
        lines += ["", f"## {RUNS[name][0]}", ""]
        lines.append(f"`{report.command}` on {report.date}. {describe_machine(report.machine)}; "
                     f"{describe_versions(report.machine)}.")  # fmt: skip
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


def page(results: dict[str, dict], text: str) -> str:
    """`text` with its generated part made anew."""
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return text[:start] + "\n" + render(results) + text[end:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(RUNS), help="measure these; the others stay as they were")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    args = parser.parse_args()
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
    failed = []
    for name in [] if args.render else args.only or RUNS:
        script, *arguments = RUNS[name][1].split()
        print(f"== {RUNS[name][1]}", flush=True)
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            done = subprocess.run([sys.executable, str(HERE / script), *arguments, "--json", file.name])
            if done.returncode:
                failed.append(name)
                continue
            import datetime

            data = json.loads(Path(file.name).read_text("utf-8"))
            command = f"python benchmarks/{RUNS[name][1]}"
            results[name] = report_of(name, data, command, datetime.date.today().isoformat()).as_json()
        write_json(RESULTS, results)
    temporary = PAGE.with_name(PAGE.name + ".tmp")
    temporary.write_text(page(results, PAGE.read_text("utf-8")), "utf-8")
    temporary.replace(PAGE)
    if failed:
        raise SystemExit(f"failed, and left as they were: {', '.join(failed)}")


if __name__ == "__main__":
    main()
