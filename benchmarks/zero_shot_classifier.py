"""How much faster is our zero-shot classifier than clip_benchmark's, for ZH-CLIP's text tower?

    python benchmarks/zero_shot_classifier.py                  # 12 classes of ImageNet, 80 templates, about 10 minutes
    python benchmarks/zero_shot_classifier.py --dataset cifar10 --templates zh --json result.json
    python benchmarks/zero_shot_classifier.py --tune           # time per token by batch size, on this machine

The other side is what somebody without this package has: clip_benchmark's function, class by class, on open_clip's own
HFTextEncoder with the same weights, every prompt padded to 77 tokens; once with --no_amp, once with clip_benchmark's
default, bf16. Each of its classes takes as long as the next, so it is timed on --peer-classes of them, and the figures
are milliseconds a prompt. Ours is timed in fp32 against the first, and in the precision that `_precision.use_amp`
chooses on this machine against the second. Weights are random, which changes no time. The sides take turns; figures
are medians, on the clock and in processor time, which says more where other programs take their share of the cores.

Targets: 7 times (--no_amp) and 40 times (default). The second was set on a CPU without bf16 units, where bf16 is
emulated; where it is in hardware, both sides use it and the ratio is about that of fp32.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import torch
from _machine import add_isa_option, limit_isa, machine_facts, print_facts

from zhclip_openclip import _precision
from zhclip_openclip.prompts import classnames, registry, templates
from zhclip_openclip.prompts.classifier import TOKENS_PER_BATCH, zero_shot_classifier

MODEL = "zhclip-vit-l-14"
TARGETS = {"no_amp": 7, "default": 40}


def vocabulary() -> Path:
    """The folder with the real 21,128-token vocabulary, from the package cn_clip."""
    spec = importlib.util.find_spec("cn_clip")
    if spec is None:
        sys.exit("the vocabulary is read from the package cn_clip: pip install cn_clip")
    return Path(spec.submodule_search_locations[0]) / "clip"


def sides(layers: int | None, device: str):
    """(ours, open_clip's own, tokenizer): two models with `encode_text` and the same weights."""
    import open_clip
    from open_clip.hf_model import HFTextEncoder

    from zhclip_openclip.towers import text_configs
    from zhclip_openclip.towers.text import ChineseTextEncoder
    from zhclip_openclip.towers.tokenizer import ChineseTokenizer

    text = open_clip.get_model_config(MODEL)["text_cfg"]
    config = text_configs.load(text["hf_model_name"])
    if layers:
        config.num_hidden_layers = layers
    arguments = {"pooler_type": text["hf_pooler_type"], "proj_type": text["hf_proj_type"], "pretrained": False}
    torch.manual_seed(0)
    ours = ChineseTextEncoder(text["hf_model_name"], 768, config=config, **arguments).eval().to(device)
    plain = HFTextEncoder(text["hf_model_name"], 768, config=config, **arguments).eval().to(device)
    missing, unexpected = plain.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected and all("pooler" in name for name in missing), (missing, unexpected)
    tokenizer = ChineseTokenizer(vocabulary(), "BertTokenizerFast", text["context_length"])
    return (
        SimpleNamespace(text=ours, encode_text=ours),
        SimpleNamespace(text=plain, encode_text=plain),
        tokenizer,
    )


def prompts(dataset: str, template_set: str, count: int) -> tuple[list[str], list[str]]:
    """`count` class names spread evenly over the data set, and its templates."""
    found = registry.find(dataset)
    if found is None:
        sys.exit(f"{dataset} has no Chinese prompts: zhclip classnames")
    names = [chinese for _, chinese in classnames.pairs(found.classnames)]
    step = max(len(names) // count, 1)
    return names[step // 2 :: step][:count], templates.load(template_set, found).templates


def timed(function, device: str) -> tuple[float, float, torch.Tensor]:
    """(seconds on the clock, seconds of the processor, result)."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    clock, processor = time.perf_counter(), time.process_time()
    result = function()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - clock, time.process_time() - processor, result


def tune(model, tokenizer, names: list[str], chosen: list[str], device: str, amp: bool) -> dict[int, float]:
    """Tokens in a batch -> milliseconds a prompt, the best of two."""
    result = {}
    for budget in (128, 256, 512, 1024, 2048, 4096, 8192, 16384):
        seconds = min(
            timed(lambda b=budget: zero_shot_classifier(model, tokenizer, names, chosen, device, amp, b), device)[0]
            for _ in range(2)
        )
        result[budget] = round(1000 * seconds / (len(names) * len(chosen)), 2)
        print(f"{budget:6} tokens a batch: {result[budget]:8.2f} ms a prompt")
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="imagenet1k")
    parser.add_argument("--classes", type=int, default=12, help="as many classes, spread over the data set")
    parser.add_argument(
        "--peer-classes", type=int, default=1, help="how many of them clip_benchmark's side is timed on"
    )
    parser.add_argument("--templates", default="openai80", help="zh, openai80, cn_clip, name or a file")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, help="fewer layers than ZH-CLIP has, to try the script out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tune", action="store_true", help="time batch sizes instead")
    parser.add_argument("--json", type=Path, help="write the result there")
    add_isa_option(parser)
    args = parser.parse_args()
    limit_isa(args.isa)
    warnings.simplefilter("ignore")

    from clip_benchmark.metrics import zeroshot_classification

    theirs = zeroshot_classification.zero_shot_classifier
    theirs = getattr(theirs, "__zhclip_original__", theirs)
    facts = machine_facts("open_clip_torch", "clip_benchmark", "transformers")
    print_facts(facts)
    ours, plain, tokenizer = sides(args.layers, args.device)
    names, chosen = prompts(args.dataset, args.templates, args.classes)
    amp = _precision.use_amp(args.device, True)
    print(
        f"{args.dataset}: {len(names)} classes x {len(chosen)} templates ({args.templates}); here ours chooses ", end=""
    )
    print("bf16" if amp else "fp32")
    result = {
        "machine": facts,
        "dataset": args.dataset,
        "classes": len(names),
        "templates": args.templates,
        "prompts": len(names) * len(chosen),
        "layers": args.layers or 24,
        "device": args.device,
        "tokens_per_batch": TOKENS_PER_BATCH.get(args.device),
    }
    if args.tune:
        result["milliseconds_a_prompt"] = tune(ours, tokenizer, names, chosen, args.device, amp)
    else:
        few = names[: args.peer_classes]
        runs = {
            "ours fp32": (names, lambda: zero_shot_classifier(ours, tokenizer, names, chosen, args.device, False)),
            "clip_benchmark --no_amp": (few, lambda: theirs(plain, tokenizer, few, chosen, args.device, False)),
            "ours default": (names, lambda: zero_shot_classifier(ours, tokenizer, names, chosen, args.device, amp)),
            "clip_benchmark default": (few, lambda: theirs(plain, tokenizer, few, chosen, args.device, True)),
        }
        zero_shot_classifier(ours, tokenizer, names[:1], chosen[:8], args.device, False)  # the first call warms up
        theirs(plain, tokenizer, names[:1], chosen[:8], args.device, False)
        clock: dict[str, list[float]] = {name: [] for name in runs}
        processor: dict[str, list[float]] = {name: [] for name in runs}
        found: dict[str, torch.Tensor] = {}
        for _ in range(args.repeats):
            for name, (classes, run) in runs.items():
                seconds, processor_seconds, found[name] = timed(run, args.device)
                clock[name].append(round(1000 * seconds / len(classes) / len(chosen), 2))
                processor[name].append(round(1000 * processor_seconds / len(classes) / len(chosen), 2))
        for name, values in clock.items():
            print(f"{name:26} {statistics.median(values):8.2f} ms a prompt, of {values}; processor {processor[name]}")
        ratios = {}
        for name, other, own in (
            ("no_amp", "clip_benchmark --no_amp", "ours fp32"),
            ("default", "clip_benchmark default", "ours default"),
        ):
            ratios[name] = statistics.median(clock[other]) / statistics.median(clock[own])
            ratios[f"{name}, processor"] = statistics.median(processor[other]) / statistics.median(processor[own])
        for name, ratio in ratios.items():
            print(f"{name:26} {ratio:8.1f} x   target {TARGETS[name.split(',')[0]]} x")
        difference = (found["ours fp32"][:, : len(few)] - found["clip_benchmark --no_amp"]).abs().max().item()
        print(f"largest difference in fp32 {difference:.1e}")
        result |= {"peer_classes": len(few), "milliseconds_a_prompt": clock, "processor_milliseconds": processor}
        result |= {"ratios": ratios, "largest_difference_fp32": difference}
        result["ours_chooses"] = "bf16" if amp else "fp32"
    if args.json:
        args.json.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
