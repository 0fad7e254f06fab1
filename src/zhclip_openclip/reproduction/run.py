"""Running the cells of a plan through clip_benchmark, one after another, so that a kill costs no finished work.

Each cell is `clip_benchmark eval` in this process: its parser, its `main_eval`, with the patches of this package. It
writes into a folder of its own, `.part/NAME` in the results folder, which is locked meanwhile; when it is through, its
files are moved in place, the JSON last: a cell whose JSON is there is whole. Inside a cell the feature cache keeps
finished blocks of images. What clip_benchmark prints goes to `logs/NAME.log`. Results hold no time, duration or path of
the run, so that an interrupted and resumed run leaves the same bytes as one that was not.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from zhclip_openclip import _workplace
from zhclip_openclip._errors import CheckpointError, ZhclipError, one_line
from zhclip_openclip._reading import read_json, reading
from zhclip_openclip.datasets.at_hand import Found
from zhclip_openclip.datasets.own_at_hand import template_file
from zhclip_openclip.reproduction._streams import Streams
from zhclip_openclip.reproduction.finished import state_of
from zhclip_openclip.reproduction.plan import Cell, Plan, workers_for
from zhclip_openclip.reproduction.weights import Weights
from zhclip_openclip.towers import text_handling

PARTS, LOGS, FEATURES, REPORT = ".part", "logs", "features", "report.html"
#: Seconds that are waited at the end for cells that another run is at, between two looks, and for another report.
WAIT, PAUSE, REPORT_WAIT = 10.0, 0.5, 60.0


class Watcher(Protocol):
    """Who is told what happens: a display."""

    def start(self, cell: Cell) -> None:
        """The cell begins."""

    def progress(self, stage: str, done: int, total: int | None, reused: int) -> None:
        """Inside a cell; stage is 'images', 'texts' or 'prompts'; reused: how many came from the feature cache."""

    def end(self, cell: Cell, failure: str | None, note: str) -> None:
        """The cell is finished, or has failed with this line."""

    def elsewhere(self, cell: Cell, finished: bool) -> None:
        """Another run is at the cell, or has finished it, so that it does not begin here; not now at least."""


@dataclass(frozen=True)
class Outcome:
    """What became of a cell that was to run. failure: one line, or None. note: what else there is to say.
    elsewhere: it is not finished, because another run is at it."""

    cell: Cell
    failure: str | None = None
    note: str = ""
    elsewhere: bool = False


def run(
    plan: Plan,
    watcher: Watcher,
    cache: Path | None = None,
    wait: float = WAIT,
    spent: dict[str, float] | None = None,
) -> list[Outcome]:
    """Run the cells of the plan that are to run, and make galleries that finished ones lack.

    cache: folder of the feature cache; by default `features` in the results folder. A cell that fails is told, and the
    others go on; a model that cannot be loaded is tried once. KeyboardInterrupt goes through; nothing is half-written.

    wait: seconds. Cells that another run is at are looked at again when all others are through, for so long: one that
    the other has finished is finished, one that it has left is run here, and what is still being run there then is
    told as an outcome of its own.

    spent: where the seconds of each stage are added up, see `features/spent.py`.

    Raises ZhclipError: the results folder cannot be written, and there is something to run.
    """
    output = plan.output
    lacking = [cell for cell in plan.cells if _lacks_gallery(cell, output)]
    if not lacking and not plan.of("run"):
        return []
    try:
        for folder in (output, output / PARTS, output / LOGS):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if not plan.of("run"):  # what is finished is whole without its pages
            return []
        raise ZhclipError(f"{output}: cannot be written ({error.strerror}); give another --output") from None
    try:
        with Streams() as streams, _evaluation(cache or output / FEATURES, watcher, spent) as evaluate:
            runner = _Runner(output, watcher, evaluate, streams)
            for cell in plan.cells:
                if cell in lacking:
                    runner.add_gallery(cell)
                elif cell.state == "run":
                    runner.run(cell)
            runner.look_again(wait)
        return [runner.outcomes[cell.name] for cell in plan.of("run")]
    finally:
        _tidy(output / PARTS)


class _Runner:
    """outcomes: name of a cell -> what has become of it."""

    def __init__(self, output: Path, watcher: Watcher, evaluate: Callable, streams: Streams):
        self._output, self._watcher, self._evaluate, self._streams = output, watcher, evaluate, streams
        self._unloadable: dict[Weights, str] = {}
        self.outcomes: dict[str, Outcome] = {}

    def run(self, cell: Cell) -> None:
        """Unless another run is at it."""
        if cell.weights in self._unloadable:
            self._watcher.start(cell)
            self._end(Outcome(cell, self._unloadable[cell.weights]))
            return
        before = self.outcomes.get(cell.name)
        try:
            with _workplace.workplace(self._output / PARTS, cell.name) as part:
                if part is None:
                    self.outcomes[cell.name] = Outcome(cell, note="another run is at it", elsewhere=True)
                    if before is None:
                        self._watcher.elsewhere(cell, finished=False)
                elif state_of(cell, self._output)[0] == "finished":
                    self.outcomes[cell.name] = Outcome(cell, note="another run has finished it")
                    self._watcher.elsewhere(cell, finished=True)
                else:
                    self._watcher.start(cell)
                    with self._streams.to(self._log(cell)):
                        outcome = self._run(cell, part)
                    self._end(outcome)
        except OSError as error:  # of the lock, the folder or the log
            self._end(Outcome(cell, one_line(error)))

    def look_again(self, seconds: float) -> None:
        """At the cells that other runs are at, for so long: until none is left."""
        end = time.monotonic() + seconds
        while left := [outcome.cell for outcome in self.outcomes.values() if outcome.elsewhere]:
            if time.monotonic() >= end:
                return
            time.sleep(PAUSE)
            for cell in left:
                self.run(cell)

    def add_gallery(self, cell: Cell) -> None:
        """Of a finished cell that should have one."""
        result = self._output / f"{cell.name}.json"
        with contextlib.suppress(OSError), self._streams.to(self._log(cell), "a"):
            _gallery(cell, result, result.with_suffix(".html"))

    def _run(self, cell: Cell, part: Path) -> Outcome:
        try:
            made = part / f"{cell.name}.json"
            if note := cell.incomplete():
                print(f"Note: {note}: the data set at hand is not what was published")
            self._evaluate(arguments(cell, made))
            note = _complete(cell, made)
            _workplace.move(part, self._output, made.name)
            return Outcome(cell, None, note)
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            reason = one_line(error)
            if isinstance(error, CheckpointError):
                self._unloadable[cell.weights] = reason
            return Outcome(cell, reason)

    def _end(self, outcome: Outcome) -> None:
        self.outcomes[outcome.cell.name] = outcome
        self._watcher.end(outcome.cell, outcome.failure, outcome.note)

    def _log(self, cell: Cell) -> Path:
        return self._output / LOGS / f"{cell.name}.log"


def arguments(cell: Cell, made: Path) -> list[str]:
    """The words after `clip_benchmark` that evaluate the cell and write `made`."""
    options, weights = cell.options, cell.weights
    words = ["eval", "--model", weights.model, "--pretrained", weights.pretrained, "--dataset", cell.data.spelling]
    if cell.data.root is not None:
        words += ["--dataset_root", _no_template(cell.data.root)]
    words += ["--language", cell.entry.language, "--output", _no_template(made)]
    words += ["--batch_size", str(options.batch_size), "--num_workers", str(workers_for(cell))]
    if chosen := template_file(cell.entry.name, cell.templates):
        words += ["--custom_template_file", chosen]
    if options.limit is not None:
        words += ["--limit", str(options.limit)]
    if not options.amp:
        words.append("--no_amp")
    if options.skip_bad_images:
        words.append("--skip-bad-images")
    if cell.text_handling:
        words += [text_handling.OPTION, cell.text_handling]
    return words


def _no_template(path: Path) -> str:
    """clip_benchmark fills {dataset} and the like into these paths."""
    return str(path).replace("{", "{{").replace("}", "}}")


# ---------------------------------------------------------------- clip_benchmark in this process


@contextlib.contextmanager
def _evaluation(cache: Path, watcher: Watcher, spent: dict[str, float] | None) -> Iterator[Callable]:
    """A function that runs one command line of clip_benchmark; models stay loaded from one to the next."""
    from clip_benchmark import cli

    from zhclip_openclip.features import using

    def evaluate(words: Sequence[str]) -> None:
        before, sys.argv = sys.argv, ["clip_benchmark", *words]
        try:
            _, base = cli.get_parser_args()
            cli.main_eval(base)
        finally:
            sys.argv = before

    # clip_benchmark asks every data set to download itself; here it is the user who does.
    with using(cache=cache, progress=watcher.progress, kept={}, download=False, spent=spent):
        yield evaluate


# ---------------------------------------------------------------- files


def _complete(cell: Cell, made: Path) -> str:
    """Put what we know of the cell into its JSON, and a gallery beside it; returns what there is to say."""
    if not made.is_file():
        raise ZhclipError(f"clip_benchmark wrote no result for {cell.title}; its log says why")
    result = read_json(made)
    result["cell"] = cell.described()
    if cell.data.fingerprint and cell.options.limit is None:
        result.setdefault("fingerprint", cell.data.fingerprint)
    result["device"] = _device()
    notes = []
    skipped = _skipped(result)
    if skipped:
        notes.append(f"{skipped:,} bad images left out")
    images = _images(made, result)
    if images is not None and (note := cell.incomplete(images + skipped)):
        result["incomplete"] = {"images": images + skipped, "published": cell.data.expected}
        notes.append(note)
        print(f"Note: {note}: the data set at hand is not what was published")
    made.write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
    if cell.options.galleries and cell.entry.has_gallery and result.get("per_query"):
        notes += _gallery(cell, made, made.with_suffix(".html"))
    return "; ".join(notes)


def _skipped(result: dict[str, Any]) -> int:
    told = result.get("skipped_images")
    return told.get("count", 0) if isinstance(told, dict) else 0


def _images(made: Path, result: dict[str, Any]) -> int | None:
    """How many images an evaluation has met, from the outcomes that it has written; None where there are none."""
    import numpy as np

    for key, array in (("per_query", "image_ids"), ("per_sample", "target")):
        if name := result.get(key):
            with reading(made.parent / name), np.load(made.parent / name, allow_pickle=False) as file:
                return len(file[array])
    return None


def _gallery(cell: Cell, result: Path, page: Path) -> list[str]:
    from zhclip_openclip.galleries.queries import write_gallery

    try:
        write_gallery(result, page, cell.data.root)
    except (ZhclipError, OSError) as error:  # the numbers are right without it
        print(f"no gallery: {one_line(error)}")
        return ["without a gallery; its log says why"]
    return []


def _lacks_gallery(cell: Cell, output: Path) -> bool:
    """Whether a finished cell should have a page and has none."""
    wanted = cell.options.galleries and cell.entry.has_gallery and isinstance(cell.data, Found)
    return wanted and cell.state == "finished" and not (output / f"{cell.name}.html").exists()


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _tidy(parts: Path) -> None:
    _workplace.tidy(parts)
    with contextlib.suppress(OSError):
        parts.rmdir()  # if nobody else is at work there


# ---------------------------------------------------------------- the report


def write_report(output: Path) -> tuple[Path, list[str]]:
    """`report.html` in the results folder, and what could not be used as it is.

    Runs that end together write one after another, so that the last one has the results of all; a run that is stuck in
    its report is not waited for longer than a minute.

    Raises ZhclipError: it cannot be written.
    """
    from zhclip_openclip.report import views
    from zhclip_openclip.report.build import build

    page, parts = output / REPORT, output / PARTS
    end = time.monotonic() + REPORT_WAIT
    try:
        parts.mkdir(parents=True, exist_ok=True)
        while True:
            with _workplace.locked(parts / f"{REPORT}.lock") as mine:
                if mine or time.monotonic() >= end:
                    report = build([output], links_from=output)
                    with _workplace.nameless(parts) as part:  # which the next run takes away after a kill
                        views.write(report, "html", part / page.name)
                        _workplace.move(part, output, page.name)
                    return page, [str(problem) for problem in report.problems]
            time.sleep(PAUSE)
    except OSError as error:
        raise ZhclipError(f"{page}: cannot be written ({error.strerror}); give another --output") from None
    finally:
        _tidy(parts)
