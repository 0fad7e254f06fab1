"""`zhclip eval`: `clip_benchmark eval`, each evaluation split over the processes that a launcher has started."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

#: How the verb is declared: every option is clip_benchmark's, --help too.
PASSED_ON = {
    "context_settings": {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []},
    "add_help_option": False,
}


def evaluate(
    arguments: Annotated[list[str] | None, typer.Argument(help="The options of clip_benchmark eval.")] = None,
) -> None:
    """Do what clip_benchmark eval does, with its options; started by torchrun, split over all processes."""
    # PyTorch is loaded next. Of a connection that breaks off it would show its own stack, for every process.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from zhclip_openclip.features import ranks

    sys.argv = ["clip_benchmark", "eval", *(arguments or [])]
    if ranks.place_from_environment().size > 1:
        _in_parts()
    else:
        _import_main()()


def _import_main():
    from clip_benchmark import cli

    from zhclip_openclip.integrations.clip_benchmark import register

    register()  # nothing is new to it, unless PyTorch's autoloading is switched off
    return cli.main


def _in_parts() -> None:
    from torch.distributed.elastic.multiprocessing.errors import record

    from zhclip_openclip.features import ranks

    if ranks.place_from_environment().rank:
        os.environ["TQDM_DISABLE"] = "1"  # one bar, and that of rank 0
    try:
        record(_evaluate_part)()  # for torchrun, which shows the first error of all processes
    except ranks.RankFailed as error:
        _end(error)


def _end(error: Exception) -> None:
    if not error.told:
        print(f"zhclip eval: error: {error}", file=sys.stderr, flush=True)
    raise SystemExit(error.code) from error


def _evaluate_part() -> None:
    from zhclip_openclip.features import ranks
    from zhclip_openclip.integrations.clip_benchmark.many_processes import laid_over

    main = _import_main()
    try:
        with ranks.joined(), laid_over():
            try:
                main()
            except SystemExit as error:
                if error.code not in (None, 0):
                    raise
    except ranks.RankFailed as error:
        if error.lost:
            _end(error)  # a consequence of another one's error: not to be taken for the first
        raise
