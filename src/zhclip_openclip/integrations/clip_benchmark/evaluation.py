"""The evaluation that clip_benchmark is in: what it was asked, what it reads, what is added to its result.

clip_benchmark calls the functions that we replace one by one and hands on nothing of ours, so the evaluation stands in
a context variable for as long as `run` takes: :func:`current` gives it, to this thread and this evaluation alone.
"""

from __future__ import annotations

import argparse
import contextlib
import contextvars
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from zhclip_openclip.integrations.clip_benchmark import options

_current: contextvars.ContextVar[Evaluation | None] = contextvars.ContextVar("zhclip_evaluation", default=None)


class Output(str):
    """The template of the output file. clip_benchmark fills it in at the beginning of an evaluation, and writes to what
    it gets.

    begin: from the path that it means to the one that is written to; None for the same. path: the latter, once it is
    known.
    """

    path: str | None = None
    begin: Callable[[str], str] | None = None

    def format(self, *args, **kwargs):
        self.path = super().format(*args, **kwargs)
        if self.path and self.begin:
            self.path = self.begin(self.path)
        return self.path


@dataclass
class Evaluation:
    """One evaluation.

    args: clip_benchmark's arguments. options: ours. read: its data set, read before the model. dataset: the one that
    clip_benchmark has got, and whether any of it is ours. transform: the preprocessing of the model. proportion:
    --val_proportion, which we split off features and not off images. added: what goes into its result file beside
    clip_benchmark's own, where it is. text_handling: what its result file says of how texts reach the model.
    """

    args: object
    options: argparse.Namespace
    output: Output
    read: object = None
    dataset: object = None
    ours: bool = False
    transform: Callable | None = None
    proportion: float | None = None
    added: dict = field(default_factory=dict)
    text_handling: dict = field(default_factory=dict)

    def has_read(self, name: str, split: str) -> bool:
        """Whether `read` is the data set of that name and split."""
        return self.read is not None and (name, split) == (self.args.dataset, self.args.split)

    def described(self) -> dict:
        """What a file of results for each query or image tells about itself."""
        told = {key: getattr(self.args, key) for key in ("model", "pretrained", "dataset", "language")}
        if getattr(self.args, "zhclip_own", None) is not None:
            told["fingerprint"] = self.dataset.fingerprint()
        return told


def current() -> Evaluation | None:
    """The evaluation that is running in this context, if any."""
    return _current.get()


def is_ours() -> bool:
    """Whether an evaluation is running whose data set or prompts are ours."""
    running = current()
    return running is not None and running.ours


def current_options() -> argparse.Namespace:
    """Our options of the evaluation that is running; the defaults where none is."""
    running = current()
    return running.options if running else options.defaults()


def say(text: str) -> None:
    """Print a note for people, unless the evaluation is a quiet one."""
    evaluation = current()
    if evaluation is None or getattr(evaluation.args, "verbose", True):
        print(f"Note: {text}")


@contextlib.contextmanager
def running(evaluation: Evaluation) -> Iterator[None]:
    """`evaluation` is the current one until the end of the block."""
    token = _current.set(evaluation)
    try:
        yield
    finally:
        _current.reset(token)
