"""A whole `clip_benchmark eval` of ZH-CLIP on 20 images, with this package and without.

    python benchmarks/whole_evaluation.py [--isa avx2] [--repeats 1] [--no-amp] [--json out.json]

Data: 20 random images of 32 x 32 pixels in WebDataset shards with the classes of CIFAR-10. Both sides are processes of
their own with clip_benchmark's default options, timed from start to end, imports and loading counted:

  ours   clip_benchmark eval --model zhclip --dataset wds/cifar10 --language zh
  plain  PyTorch's plugins switched off; the same towers from open_clip's own configuration, tokenizer files beside it,
         the same weights under its own names, the same Chinese class names and templates in the data set's folder.
         clip_benchmark 1.6.2 fails in `accuracy` with NumPy 2.4, after everything else is done; that function is mended

Weights are random, which changes no time; both sides have to find the same acc1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _machine import add_isa_option, limit_isa, product_rates
from _report import Report, Row, begin, finish

IMAGES, SHARDS = 20, 4
TARGET = 8.0

_PLAIN = """
import sys
import open_clip
from clip_benchmark import cli
from clip_benchmark.metrics import zeroshot_classification as metrics
def accuracy(output, target, topk=(1,)):
    right = output.topk(max(topk), 1, True, True)[1].eq(target.view(-1, 1))
    return [right[:, :k].float().sum().item() / len(target) for k in topk]
metrics.accuracy = accuracy
assert "zhclip_openclip" not in sys.modules
open_clip.add_model_config(sys.argv.pop(1))
cli.main()
"""


def prepare(folder: Path) -> None:
    """Weights, tokenizer, configuration and data of both sides."""
    import load_checkpoint

    load_checkpoint.prepare(folder)
    import cn_clip.clip
    import numpy as np
    import webdataset
    from PIL import Image

    from zhclip_openclip.families import find
    from zhclip_openclip.prompts import classnames, registry, templates

    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    vocabulary = Path(cn_clip.clip.__file__).with_name("vocab.txt").read_bytes()
    (tokenizer / "vocab.txt").write_bytes(vocabulary)
    (folder / "vocab.txt").write_bytes(vocabulary)
    (tokenizer / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    text = json.loads((folder / "text_config.json").read_text())
    (tokenizer / "config.json").write_text(json.dumps({**text, "model_type": "bert"}))
    config = dict(find("zhclip")[1].config())
    config["text_cfg"] = {
        key: value
        for key, value in config["text_cfg"].items()
        if key in ("context_length", "hf_pooler_type", "hf_proj_type")
    } | {"hf_model_name": str(tokenizer), "hf_tokenizer_name": str(tokenizer), "hf_model_pretrained": False}
    (folder / "configs").mkdir()
    (folder / "configs" / "plain-zhclip.json").write_text(json.dumps(config))

    dataset = registry.find("cifar10")
    pairs = classnames.pairs(dataset.classnames)
    chinese = [pair[1] for pair in pairs], templates.load("zh", dataset, "cifar10").templates
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(IMAGES)]
    for side, names, prompts in (
        ("ours", [pair[0] for pair in pairs], ["a photo of a {c}."]),
        ("plain", *chinese),
    ):
        root = folder / f"data-{side}"
        (root / "test").mkdir(parents=True)
        (root / "classnames.txt").write_text("\n".join(names) + "\n", "utf-8")
        (root / "zeroshot_classification_templates.txt").write_text("\n".join(prompts) + "\n", "utf-8")
        (root / "test" / "nshards.txt").write_text(f"{SHARDS}\n")
        for shard in range(SHARDS):
            with webdataset.TarWriter(str(root / "test" / f"{shard}.tar")) as writer:
                for number in range(shard, IMAGES, SHARDS):
                    writer.write({"__key__": f"s{number:07d}", "png": images[number], "cls": number % 10})


def run(side: str, folder: Path, amp: bool) -> tuple[float, dict]:
    """Seconds of one evaluation, and its metrics."""
    output = folder / f"{side}.json"
    common = ["eval", "--dataset", "wds/cifar10", "--dataset_root", str(folder / f"data-{side}"), "--quiet"]
    common += ["--output", str(output)] + ([] if amp else ["--no_amp"])
    if side == "ours":
        weights = str(folder / "model.safetensors")
        program = [sys.executable, "-m", "clip_benchmark.cli", *common]
        program += ["--model", "zhclip-vit-l-14", "--pretrained", weights, "--language", "zh"]
        environment = {}
    else:
        weights = str(folder / "open_clip" / "model.safetensors")
        program = [sys.executable, "-c", _PLAIN, str(folder / "configs"), *common]
        program += ["--model", "plain-zhclip", "--pretrained", weights]
        environment = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    start = time.perf_counter()
    done = subprocess.run(
        program, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    return seconds, json.loads(output.read_text())["metrics"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--no-amp", action="store_true", help="--no_amp on both sides")
    add_isa_option(parser)
    parser.add_argument("--json", type=Path, help="write the result there")
    args = parser.parse_args()
    limit_isa(args.isa)
    facts = begin("open_clip_torch", "clip_benchmark", "transformers")
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    with tempfile.TemporaryDirectory(prefix="zhclip-whole-") as name:
        folder = Path(name)
        place = str(Path(__file__).resolve().parent)
        code = f"import sys; sys.path.insert(0, {place!r}); import whole_evaluation as w; w.prepare(w.Path({name!r}))"
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        for _ in range(args.repeats):
            metrics = {}
            for side, values in seconds.items():
                taken, metrics[side] = run(side, folder, not args.no_amp)
                values.append(round(taken, 2))
                print(f"{side}: {taken:.1f} s, acc1 {metrics[side]['acc1']}", flush=True)
    kind = "--no_amp" if args.no_amp else "default options"
    row = Row(
        f"whole_evaluation{'_avx2' if args.isa else ''}{'_no_amp' if args.no_amp else ''}",
        f"`clip_benchmark eval`, ZH-CLIP, {IMAGES} images, {kind}{', AVX2 only' if args.isa else ''}",
        "s",
        seconds["ours"],
        "plain clip_benchmark and open_clip",
        seconds["plain"],
        at_least=None if args.no_amp else TARGET,
    )
    same = metrics["ours"]["acc1"] == metrics["plain"]["acc1"]
    note = f"Both sides found acc1 {metrics['ours']['acc1']:.2f}." if same else (
        f"acc1 {metrics['ours']['acc1']:.2f} and {metrics['plain']['acc1']:.2f}: random features that nearly tie."
    )  # fmt: skip
    rates = product_rates()
    note += f" A linear layer runs at {rates['fp32']:,.0f} GFLOP/s in fp32 and {rates['bf16']:,.0f} in bf16."
    report = Report([row], settings={"images": IMAGES, "isa": args.isa, "repeats": args.repeats}, notes=[note])
    report.details = {"metrics": metrics, "median": {side: statistics.median(v) for side, v in seconds.items()}}
    finish(report, facts, args.json)


if __name__ == "__main__":
    main()
