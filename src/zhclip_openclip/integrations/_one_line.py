"""Errors of ours where a host's own command is the program: it shows a traceback of whatever reaches it."""

from __future__ import annotations

import logging
import sys


def tell_errors_where(host_is_the_program: bool) -> None:
    """In such a process an error of ours ends it with its one line; all other errors are shown as they were."""
    from zhclip_openclip._errors import ZhclipError
    from zhclip_openclip._reading import debug

    if not host_is_the_program or debug():
        return
    before = sys.excepthook

    def excepthook(kind, error, traceback):
        if isinstance(error, ZhclipError):
            print(f"zhclip-openclip: {error}", file=sys.stderr)
            logging.disable(logging.INFO)  # torch's statistics at the end, which would bury the line
        else:
            before(kind, error, traceback)

    sys.excepthook = excepthook
