"""Running the cells of a plan through clip_benchmark, one after another, so that a kill costs no finished work.

Each cell is `clip_benchmark eval` in this process: its parser, its `main_eval`, with the patches of this package. It
writes into a folder of its own, `.part/NAME` in the results folder; when it is through, its files are moved in place,
the JSON last: a cell whose JSON is there is whole. Inside a cell the feature cache keeps finished blocks of images.
What clip_benchmark prints goes to `logs/NAME.log`. Results hold no time, duration or path of the run, so that an
interrupted and resumed run leaves the same bytes as one that was not.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

from zhclip_openclip._errors import CheckpointError, ZhclipError
from zhclip_openclip.datasets.at_hand import Found
from zhclip_openclip.reproduction.plan import LANGUAGE, Cell, Plan, state_of, workers_for
from zhclip_openclip.reproduction.weights import Weights

try:
    import fcntl
except ImportError:  # not on Windows, where two runs must not share a results folder
    fcntl = None

PARTS, LOGS, FEATURES, REPORT = ".part", "logs", "features", "report.html"


class Watcher(Protocol):
    """Who is told what happens: a display."""

    def start(self, cell: Cell) -> None:
        """The cell begins."""

    def progress(self, stage: str, done: int, total: int | None, reused: int) -> None:
        """Inside a cell; stage is 'images', 'texts' or 'prompts'; reused: how many came from the feature cache."""

    def end(self, cell: Cell, failure: str | None, note: str) -> None:
        """The cell is finished, or has failed with this line."""


@dataclass(frozen=True)
class Outcome:
    """What became of a cell that was to run. failure: one line, or None. note: what else there is to say."""

    cell: Cell
    failure: str | None = None
    note: str = ""


def run(plan: Plan, watcher: Watcher, cache: Path | None = None) -> list[Outcome]:
    """Run the cells of the plan that are to run, and make galleries that finished ones lack.

    cache: folder of the feature cache; by default `features` in the results folder. A cell that fails is told, and the
    others go on; a model that cannot be loaded is tried once. KeyboardInterrupt goes through; nothing is half-written.

    Raises ZhclipError: the results folder cannot be written.
    """
    output = plan.output
    try:
        for folder in (output, output / PARTS, output / LOGS):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ZhclipError(f"{output}: cannot be written ({error.strerror}); give another --output") from None
    outcomes: list[Outcome] = []
    unloadable: dict[Weights, str] = {}
    try:
        with _Streams() as streams, _evaluation(cache or output / FEATURES, watcher) as evaluate:
            for cell in plan.cells:
                log = output / LOGS / f"{cell.name}.log"
                if _lacks_gallery(cell, output):
                    with streams.to(log, "a"):
                        _gallery(cell, output / f"{cell.name}.json", output / f"{cell.name}.html")
                if cell.state != "run":
                    continue
                watcher.start(cell)
                if cell.weights in unloadable:
                    outcome = Outcome(cell, unloadable[cell.weights])
                else:
                    outcome = _run(cell, output, evaluate, lambda log=log: streams.to(log), unloadable)
                outcomes.append(outcome)
                watcher.end(cell, outcome.failure, outcome.note)
    finally:
        _tidy(output / PARTS)
    return outcomes


def _run(cell: Cell, output: Path, evaluate: Callable, logged: Callable, unloadable: dict[Weights, str]) -> Outcome:
    with _lock(output / PARTS / f"{cell.name}.lock") as free:
        if not free:
            return Outcome(cell, None, "another run is at it")
        if state_of(cell, output)[0] == "finished":
            return Outcome(cell, None, "another run has finished it")
        part = output / PARTS / cell.name
        shutil.rmtree(part, ignore_errors=True)
        with logged():
            try:
                part.mkdir(parents=True)
                made = part / f"{cell.name}.json"
                evaluate(arguments(cell, made))
                note = _complete(cell, made)
                _move(part, output, cell.name)
                return Outcome(cell, None, note)
            except (Exception, SystemExit) as error:
                traceback.print_exc()
                reason = one_line(error)
                if isinstance(error, CheckpointError):
                    unloadable[cell.weights] = reason
                return Outcome(cell, reason)
            finally:
                shutil.rmtree(part, ignore_errors=True)


def arguments(cell: Cell, made: Path) -> list[str]:
    """The words after `clip_benchmark` that evaluate the cell and write `made`."""
    options, weights = cell.options, cell.weights
    words = ["eval", "--model", weights.model, "--pretrained", weights.pretrained, "--dataset", cell.data.spelling]
    if cell.data.root is not None:
        words += ["--dataset_root", _no_template(cell.data.root)]
    words += ["--language", LANGUAGE, "--output", _no_template(made)]
    words += ["--batch_size", str(options.batch_size), "--num_workers", str(workers_for(cell))]
    if cell.templates:
        words += ["--custom_template_file", cell.templates]
    if not options.amp:
        words.append("--no_amp")
    if options.skip_bad_images:
        words.append("--skip-bad-images")
    return words


def _no_template(path: Path) -> str:
    """clip_benchmark fills {dataset} and the like into these paths."""
    return str(path).replace("{", "{{").replace("}", "}}")


# ---------------------------------------------------------------- clip_benchmark in this process


@contextlib.contextmanager
def _evaluation(cache: Path, watcher: Watcher) -> Iterator[Callable]:
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
    with using(cache=cache, progress=watcher.progress, kept={}, download=False):
        yield evaluate


def one_line(error: BaseException) -> str:
    """What a person is told of an error; the log has the rest."""
    text = str(error).strip()
    if "Original Traceback" in text:  # torch puts a worker's whole traceback into the message
        text = text.splitlines()[-1].partition(": ")[2] or text.splitlines()[-1]
    elif not isinstance(error, (ZhclipError, SystemExit)):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return " ".join(text.split())[:500]


# ---------------------------------------------------------------- files


def _complete(cell: Cell, made: Path) -> str:
    """Put what we know of the cell into its JSON, and a gallery beside it; returns what there is to say."""
    if not made.is_file():
        raise ZhclipError(f"clip_benchmark wrote no result for {cell.title}; its log says why")
    result = json.loads(made.read_text(encoding="utf-8"))
    result["cell"] = cell.identity()
    if cell.data.fingerprint:
        result.setdefault("fingerprint", cell.data.fingerprint)
    result["device"] = _device()
    made.write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
    skipped = result.get("skipped_images", {}).get("count")
    notes = [f"{skipped:,} bad images left out"] if skipped else []
    if cell.options.galleries and result.get("per_query"):
        notes += _gallery(cell, made, made.with_suffix(".html"))
    return "; ".join(notes)


def _gallery(cell: Cell, result: Path, page: Path) -> list[str]:
    from zhclip_openclip.galleries.queries import write_gallery

    try:
        write_gallery(result, page, cell.data.root)
    except ZhclipError as error:  # the numbers are right without it
        print(f"no gallery: {error}")
        return ["without a gallery; its log says why"]
    return []


def _lacks_gallery(cell: Cell, output: Path) -> bool:
    """Whether a finished cell should have a page and has none."""
    wanted = cell.options.galleries and cell.entry.task == "retrieval" and isinstance(cell.data, Found)
    return wanted and cell.state == "finished" and not (output / f"{cell.name}.html").exists()


def _move(part: Path, output: Path, name: str) -> None:
    """The JSON last: where it is, all is. An older one must not stand beside newer outcomes."""
    last = f"{name}.json"
    (output / last).unlink(missing_ok=True)
    for path in sorted(part.iterdir()):
        if path.name != last:
            os.replace(path, output / path.name)
    os.replace(part / last, output / last)


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Whether this cell is ours to run; the kernel frees the lock of a process that dies."""
    if fcntl is None:
        yield True
        return
    file = _locked(path)
    if file is None:
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _locked(path: Path) -> TextIO | None:
    """The file, locked; None if another process has it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = open(path, "w")  # noqa: SIM115
        except FileNotFoundError:  # another run has just tidied up
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError:  # a file system without locks
            return file
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # somebody removed it between the two steps, and it locks nothing any more


def _tidy(parts: Path) -> None:
    """Take away what runs that were killed have left, but nothing of those that are at work."""
    for path in parts.glob("*.lock"):
        with _lock(path) as free:
            if free:
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
    with contextlib.suppress(OSError):
        parts.rmdir()  # if nobody else is at work there


# ---------------------------------------------------------------- what is printed


class _Stream(io.TextIOBase):
    """Stands in for stdout or stderr: writes to the log of the cell, and to the original between cells.

    Handlers of logging keep the stream that they were made with, so one object serves for all logs.
    """

    def __init__(self, original: TextIO):
        self._original = original
        self.log: TextIO | None = None

    @property
    def encoding(self) -> str:
        return "utf-8"

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return (self.log or self._original).fileno()

    def write(self, text: str) -> int:
        return (self.log or self._original).write(text)

    def flush(self) -> None:
        (self.log or self._original).flush()


class _Streams:
    """Stand-ins for both streams, also in the handlers of logging that exist already."""

    def __init__(self) -> None:
        self._originals = sys.stdout, sys.stderr
        self._ours = tuple(map(_Stream, self._originals))
        self._handlers: list[tuple[logging.StreamHandler, TextIO]] = []

    def __enter__(self) -> _Streams:
        loggers = [logging.root, *logging.root.manager.loggerDict.values()]
        for handler in [one for logger in loggers for one in getattr(logger, "handlers", ())]:
            if isinstance(handler, logging.StreamHandler) and handler.stream in self._originals:
                self._handlers.append((handler, handler.stream))
                handler.setStream(self._ours[self._originals.index(handler.stream)])
        sys.stdout, sys.stderr = self._ours
        return self

    def __exit__(self, *error) -> None:
        sys.stdout, sys.stderr = self._originals
        for handler, stream in self._handlers:
            handler.setStream(stream)

    @contextlib.contextmanager
    def to(self, path: Path, mode: str = "w") -> Iterator[None]:
        """Into this log, until the end of the block."""
        # By lines: a reader process that is forked must not inherit half-written ones.
        with open(path, mode, encoding="utf-8", buffering=1) as log:
            for stream in self._ours:
                stream.log = log
            try:
                yield
            finally:
                for stream in self._ours:
                    stream.log = None


# ---------------------------------------------------------------- the report


def write_report(output: Path) -> tuple[Path, list[str]]:
    """`report.html` in the results folder, and what could not be used as it is.

    Raises ZhclipError: it cannot be written.
    """
    from zhclip_openclip.report.build import build
    from zhclip_openclip.report.views.html import render

    report = build([output], links_from=output)
    page = output / REPORT
    part = page.with_name(page.name + ".part")
    try:
        part.write_text(render(report), encoding="utf-8")
        os.replace(part, page)
    except OSError as error:
        raise ZhclipError(f"{page}: cannot be written ({error.strerror}); give another --output") from None
    return page, [str(problem) for problem in report.problems]
