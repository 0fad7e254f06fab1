"""A page in headless Chromium, for the tests of pages. Not a test."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")


def browse(page, tmp_path, *options):
    """Headless Chromium on a page of its own profile; returns what it printed, and the addresses it asked for."""
    log = tmp_path / "net.json"
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
            *("--disable-dev-shm-usage", "--hide-scrollbars", "--enable-logging=stderr", "--v=0"),
            *(f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}", *options, page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # One event a line; what the browser wants for itself (the time, updates) has no origin, and resolves to nothing.
    lines = [line for line in log.read_text("utf-8", errors="replace").splitlines() if '"initiator":' in line]
    asked = "\n".join(line for line in lines if '"initiator":"not an origin"' not in line)
    return done, set(re.findall(r'"url":"((?:https?|wss?|ftp)://[^"]*)"', asked))
