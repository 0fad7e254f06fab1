"""The entry point that `import torch` calls.

A module of its own, which lies as a file in site-packages whatever becomes of the package: an editable clone that was
deleted, an upgrade that was cut off. Nothing but a warning can come of it.
"""

from __future__ import annotations


def autoload() -> None:
    """Start the plugin. Raises nothing but KeyboardInterrupt: torch would take any other error for its own end."""
    try:
        from zhclip_openclip.autoload import autoload as start

        start()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        _tell(
            f"zhclip-openclip is installed, but cannot be started ({type(error).__name__}: {error}): its models are "
            "not there, everything else works. Install it again, or take it away: pip uninstall zhclip-openclip"
        )


def _tell(text: str) -> None:
    try:
        import warnings

        warnings.warn(text, RuntimeWarning, stacklevel=2)
    except Exception:  # where warnings are errors nobody is to be stopped by ours
        import sys

        print(text, file=sys.stderr)
