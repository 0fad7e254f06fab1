"""The pages on performance are what benchmarks/run_all.py makes of the measurements beside them."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_no_page_is_stale(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    run_all = importlib.import_module("run_all")
    try:
        for name in run_all.PAGES:
            measured = run_all.DOCS / f"{name}.json"
            results = json.loads(measured.read_text("utf-8")) if measured.is_file() else {}
            text = (run_all.DOCS / f"{name}.md").read_text("utf-8")
            assert run_all.page(results, text) == text, f"run python benchmarks/run_all.py --render --page {name}"
            assert set(results) <= set(run_all.RUNS), "measurements that no page shows"
            if not results or name == "performance_gpu":  # has no targets
                continue
            # What a target says is computed from the figures and not written by hand.
            rows = [row for report in results.values() for row in report["rows"]]
            some = next(row for row in rows if row["at_least"] or row["at_most"])
            some["at_least"], some["at_most"] = 10**9, None
            assert run_all.page(results, text) != text
            assert "missed by 100 %" in run_all.page(results, text)
    finally:
        for name in ("run_all", "_report", "_machine"):
            sys.modules.pop(name, None)
