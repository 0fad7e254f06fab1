"""Runs cn_clip's own evaluation scripts, unchanged, on the feature files of several folders.

`make_topk_predictions*.py` move tensors with `.cuda()`; where there is no GPU that one method is made to return the
tensor itself, so that the scripts' own code runs on the CPU. All scripts of all folders run in one process because
importing torch takes longer than they do.
"""

import runpy
import sys
from pathlib import Path

import torch

if not torch.cuda.is_available():
    torch.Tensor.cuda = lambda self, *args, **kwargs: self


def run(script: str, *argv: str) -> None:
    sys.argv = [script, *argv]
    runpy.run_module(f"cn_clip.eval.{script}", run_name="__main__")


for folder in map(Path, sys.argv[1:]):
    features = ["--image-feats", str(folder / "img.jsonl"), "--text-feats", str(folder / "txt.jsonl")]
    batch = ["--top-k", "10", "--eval-batch-size", "64"]
    run("make_topk_predictions", *features, *batch, "--output", str(folder / "ir.jsonl"))
    run("make_topk_predictions_tr", *features, *batch, "--output", str(folder / "tr.jsonl"))
    run("transform_ir_annotation_to_tr", "--input", str(folder / "texts.jsonl"))
    run("evaluation", str(folder / "texts.jsonl"), str(folder / "ir.jsonl"), str(folder / "ir.json"))
    run("evaluation_tr", str(folder / "texts.tr.jsonl"), str(folder / "tr.jsonl"), str(folder / "tr.json"))
