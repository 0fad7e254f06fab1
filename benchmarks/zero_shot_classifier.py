"""How much faster is our zero-shot classifier than clip_benchmark's, for ZH-CLIP's text tower?

    python benchmarks/zero_shot_classifier.py                  # 4 classes of ImageNet, 80 templates, about 4 minutes
    python benchmarks/zero_shot_classifier.py --dataset cifar10 --templates zh --json result.json
    python benchmarks/zero_shot_classifier.py --tune           # time a prompt by size of the batches, on this machine

The other side is what somebody without this package has: clip_benchmark's function, class by class, on open_clip's own
HFTextEncoder with the same weights, every prompt padded to 77 tokens; once with --no_amp, once with clip_benchmark's
default, bf16. Each of its classes takes as long as the next, so it is timed on --peer-classes of them, and the figures
are milliseconds a prompt. Ours is timed in fp32 against the first, and in the precision that `_precision.use_amp`
chooses on this machine against the second. Weights are random, which changes no time. The sides take turns; figures
are medians, on the clock; those in processor time say more where other programs take their share of the cores.

Targets: 7 times (--no_amp) and 40 times (default). The second was set on a CPU without bf16 units, where bf16 is
emulated; where it is in hardware, both sides use it and the ratio is about that of fp32.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import torch
from _machine import add_isa_option, limit_isa
from _report import Report, Row, Table, begin, finish, number

from zhclip_openclip import _precision
from zhclip_openclip.features import using
from zhclip_openclip.features.text_batches import TOKENS_PER_BATCH
from zhclip_openclip.prompts import classnames, registry, templates
from zhclip_openclip.prompts.classifier import zero_shot_classifier

MODEL = "zhclip-vit-l-14"
#: precision -> (ours, the other side, the target)
SIDES = {
    "no_amp": ("ours fp32", "clip_benchmark --no_amp", 7),
    "default": ("ours default", "clip_benchmark default", 40),
}
BUDGETS = (256, 512, 1024, 2048, 4096, 8192, 16384)


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
        SimpleNamespace(text=ours, encode_text=ours, zhclip_model=MODEL),
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


def tune(model, tokenizer, names: list[str], chosen: list[str], device: str, amp: bool, turns: int) -> Table:
    """Milliseconds a prompt by tokens in a batch, in fp32 and in the precision that this machine chooses."""
    ways = [(budget, mixed) for budget in BUDGETS for mixed in sorted({False, amp})]
    taken: dict[tuple[int, bool], list[float]] = {way: [] for way in ways}
    for turn in range(turns):
        for budget, mixed in ways if turn % 2 == 0 else reversed(ways):
            seconds = timed(
                lambda b=budget, m=mixed: zero_shot_classifier(model, tokenizer, names, chosen, device, m, b), device
            )[0]
            taken[budget, mixed].append(1000 * seconds / (len(names) * len(chosen)))
    head = ["tokens a batch", "fp32, ms a prompt"] + (["mixed precision"] if amp else [])
    rows = [
        [f"{budget:,}", *(number(statistics.median(taken[budget, mixed])) for mixed in sorted({False, amp}))]
        for budget in BUDGETS
    ]
    return Table(f"Sizes of batches, {turns} turns", head, rows)


def compare(ours, plain, tokenizer, names: list[str], chosen: list[str], args, amp: bool) -> tuple[dict, float]:
    """Way -> {"clock", "processor"} milliseconds a prompt, one for each turn; largest difference in fp32."""
    from clip_benchmark.metrics import zeroshot_classification

    theirs = zeroshot_classification.zero_shot_classifier
    theirs = getattr(theirs, "__zhclip_original__", theirs)
    few, device = names[: args.peer_classes], args.device
    runs = {
        "ours fp32": (names, lambda: zero_shot_classifier(ours, tokenizer, names, chosen, device, False)),
        "clip_benchmark --no_amp": (few, lambda: theirs(plain, tokenizer, few, chosen, device, False)),
        "ours default": (names, lambda: zero_shot_classifier(ours, tokenizer, names, chosen, device, amp)),
        "clip_benchmark default": (few, lambda: theirs(plain, tokenizer, few, chosen, device, True)),
    }
    zero_shot_classifier(ours, tokenizer, names[:1], chosen[:8], device, False)  # the first call warms up
    theirs(plain, tokenizer, names[:1], chosen[:8], device, False)
    taken: dict[str, dict[str, list[float]]] = {name: {"clock": [], "processor": []} for name in runs}
    found: dict[str, torch.Tensor] = {}
    for _ in range(args.repeats):
        for name, (classes, run) in runs.items():
            seconds, processor_seconds, found[name] = timed(run, device)
            per_prompt = 1000 / (len(classes) * len(chosen))
            taken[name]["clock"].append(round(seconds * per_prompt, 2))
            taken[name]["processor"].append(round(processor_seconds * per_prompt, 2))
            print(f"{name:24} {taken[name]['clock'][-1]:8.2f} ms a prompt", flush=True)
    return taken, (found["ours fp32"][:, : len(few)] - found["clip_benchmark --no_amp"]).abs().max().item()


def rows_of(taken: dict, isa: str | None) -> list[Row]:
    suffix, words = (f"_{isa}", f", {isa.upper()} only") if isa else ("", "")
    names = {"no_amp": "--no_amp", "default": "default precision"}
    rows = []
    for kind, (own, peer, target) in SIDES.items():
        for unit in ("clock", "processor"):
            what = f"{names[kind]}{words}{', processor time' if unit == 'processor' else ''}"
            key = f"classifier_{kind}{suffix}{'_processor' if unit == 'processor' else ''}"
            row = Row(key, what, "ms a prompt", taken[own][unit], "clip_benchmark", taken[peer][unit])
            row.at_least = target if unit == "clock" else None
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="imagenet1k")
    parser.add_argument("--classes", type=int, default=4, help="as many classes, spread over the data set")
    parser.add_argument(
        "--peer-classes", type=int, default=1, help="how many of them clip_benchmark's side is timed on"
    )
    parser.add_argument("--templates", default="openai80", help="zh, openai80, cn_clip, name or a file")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, help="fewer layers than ZH-CLIP has, to try the script out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tune", action="store_true", help="time sizes of batches instead")
    parser.add_argument("--json", type=Path, help="write the result there")
    add_isa_option(parser)
    args = parser.parse_args()
    limit_isa(args.isa)
    warnings.simplefilter("ignore")
    facts = begin("open_clip_torch", "clip_benchmark", "transformers")
    ours, plain, tokenizer = sides(args.layers, args.device)
    names, chosen = prompts(args.dataset, args.templates, args.classes)
    amp = _precision.use_amp(args.device, True)
    report = Report([], settings={"dataset": args.dataset, "templates": args.templates, "device": args.device})
    report.settings |= {"layers": args.layers or 24, "tokens_per_batch": TOKENS_PER_BATCH.get(args.device)}
    what = f"{len(names)} classes of {args.dataset} x {len(chosen)} templates ({args.templates})"
    with using(progress=lambda *_: None):  # no bars between the figures
        if args.tune:
            report.tables = [tune(ours, tokenizer, names, chosen, args.device, amp, args.repeats)]
        else:
            taken, difference = compare(ours, plain, tokenizer, names, chosen, args, amp)
            report.rows, report.details = rows_of(taken, args.isa), taken
            what += (
                f", clip_benchmark timed on {args.peer_classes} of the classes; by default ours takes "
                f"{'bf16' if amp else 'fp32'} here. The classifiers differ by at most {difference:.0e} in fp32"
            )
    report.notes.append(f"{what}.")
    finish(report, facts, args.json)


if __name__ == "__main__":
    main()
