"""docs/performance.md is what benchmarks/run_all.py makes of docs/performance.json."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_page_is_not_stale(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    run_all = importlib.import_module("run_all")
    try:
        results = json.loads(run_all.RESULTS.read_text("utf-8"))
        text = run_all.PAGE.read_text("utf-8")
        assert run_all.page(results, text) == text, "run python benchmarks/run_all.py --render"
        # What a target says is computed from the figures and not written by hand.
        some = next(row for report in results.values() for row in report["rows"] if row["at_least"])
        some["at_least"], before = 10**9, some["at_least"]
        assert run_all.page(results, text) != text and before < 10**9
        assert "missed by 100 %" in run_all.page(results, text)
    finally:
        for name in ("run_all", "_report", "_machine"):
            sys.modules.pop(name, None)
