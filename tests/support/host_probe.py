"""clip_benchmark's own linear probe with what asks for CUDA taken out of its text, so that it runs here. Not a test."""

from __future__ import annotations

import inspect
import types
from pathlib import Path

import torch


def on_cpu() -> types.ModuleType:
    """`clip_benchmark.metrics.linear_probe`, as it was written but for CUDA."""
    from clip_benchmark.metrics import linear_probe

    text = Path(inspect.getsourcefile(linear_probe)).read_text(encoding="utf-8")
    assert text.count("assert device == 'cuda'") == 1 and text.count(".cuda()") == 4 and "pin_memory=True" in text
    text = text.replace("assert device == 'cuda'", "assert device == 'cpu'")
    text = text.replace(".cuda()", "").replace("pin_memory=True", "pin_memory=False")
    module = types.ModuleType("clip_benchmark.metrics.linear_probe_on_cpu")
    module.__package__ = "clip_benchmark.metrics"
    exec(compile(text, "linear_probe on a CPU", "exec"), vars(module))
    return module


def evaluate(host, folder: Path, splits: dict[str, tuple[torch.Tensor, torch.Tensor]], seed: int = 0, **given):
    """What its `evaluate` says of features (n, d) and labels (n,) of `train`, `test` and, if there, `val`."""
    (folder / "features").mkdir(parents=True)
    for name, (features, labels) in splits.items():
        torch.save(features, folder / "features" / f"features_{name}.pt")
        torch.save(labels, folder / "features" / f"targets_{name}.pt")
    how = {"fewshot_k": -1, "batch_size": 64, "num_workers": 0, "lr": 0.1, "epochs": 10, "amp": False, **given}
    torch.manual_seed(seed)
    return host.evaluate(
        torch.nn.Identity(), None, None, model_id="features", seed=seed, feature_root=str(folder), device="cpu",
        val_dataloader=splits.get("val"), **how,
    )  # fmt: skip
