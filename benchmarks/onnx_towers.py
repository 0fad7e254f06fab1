"""Inputs a second of both towers in onnxruntime, as `zhclip convert --format onnx` writes them, against our torch path.

    python benchmarks/onnx_towers.py                       # cnclip-vit-b-16, about 5 minutes on two cores
    python benchmarks/onnx_towers.py --layers 2 --turns 1  # does it run?

Ours is what an evaluation runs in fp32: the image pass (`features/image_pass.py`) and the text tower, which cuts a
batch to its longest text. The other side is onnxruntime on the CPU with as many threads, in fp32 and in int8, in turns.
Texts have 12 tokens, as a query has: ours is given them padded to the context length, as open_clip's tokenizer gives
them, onnxruntime not padded, as the written `tokenizer.json` gives them. Weights are random, which changes no time;
features in fp32 have to be equal.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _report import Report, Row, begin, finish

MODEL = "cnclip-vit-b-16"
TOKENS = 12
BATCHES = (1, 32)
PRECISIONS = ("fp32", "int8")
TOLERANCE = 1e-4
#: Inputs of one measurement, at least.
INPUTS = {"image": 32, "text": 512}


def load(layers: int | None):
    """The model with random weights, of as many layers a tower, as what `export` writes from."""
    import open_clip

    from zhclip_openclip.export._source import Source
    from zhclip_openclip.families import find

    model = open_clip.create_model(MODEL, pretrained_text=False).eval().requires_grad_(False)
    if layers:
        model.visual.transformer.resblocks = model.visual.transformer.resblocks[:layers]
        model.text.transformer.encoder.layer = model.text.transformer.encoder.layer[:layers]
    family, spec = find(MODEL)
    length = spec.config()["text_cfg"]["context_length"]
    return Source(model, SimpleNamespace(context_length=length, pad_token_id=0), None, family, spec, "random")


def inputs(source, tower: str, batch: int):
    """(ours, onnxruntime's): the same content as each side is given it."""
    import torch

    generator = torch.Generator().manual_seed(0)
    if tower == "image":
        pixels = torch.randn(batch, 3, source.image_size, source.image_size, generator=generator)
        return pixels, pixels.numpy()
    ids = torch.randint(110, 21000, (batch, TOKENS), generator=generator)
    padded = torch.full((batch, source.context_length), source.pad)
    padded[:, :TOKENS] = ids
    return padded, ids.numpy()


def sides(source, folder: Path, tower: str) -> dict[str, Callable]:
    """Ours and one of onnxruntime's for each precision: functions from its inputs to features of unit length."""
    import torch

    from zhclip_openclip.export.onnx_pair import session
    from zhclip_openclip.features.image_pass import encoder

    encode = encoder(source.module, "cpu", amp=False) if tower == "image" else source.module.encode_text

    def ours(given):
        with torch.no_grad():
            return torch.nn.functional.normalize(encode(given), dim=-1)

    result = {"ours": ours}
    for precision in PRECISIONS:
        one = session(folder / f"{tower}.{precision}.onnx")
        result[precision] = lambda given, one=one: torch.as_tensor(one.run(None, {tower: given})[0])
    return result


def rates(run: dict[str, Callable], given: dict, batch: int, count: int, turns: int) -> dict[str, list[float]]:
    """Inputs a second of each side, a figure for each turn."""
    calls = max(1, count // batch)
    found: dict[str, list[float]] = {name: [] for name in run}
    for name in run:
        run[name](given[name])  # the first call warms up
    for _ in range(turns):
        for name in run:
            start = time.perf_counter()
            for _ in range(calls):
                run[name](given[name])
            found[name].append(calls * batch / (time.perf_counter() - start))
    return found


def measure(source, folder: Path, turns: int, report: Report) -> None:
    """Fill the report; stops the program where the two sides are not the same model."""
    for tower in ("image", "text"):
        run = sides(source, folder, tower)
        for batch in BATCHES:
            ours, theirs = inputs(source, tower, batch)
            given = {name: ours if name == "ours" else theirs for name in run}
            expected = run["ours"](ours)
            difference = {name: (run[name](theirs) - expected).abs().max().item() for name in PRECISIONS}
            if difference["fp32"] > TOLERANCE:
                sys.exit(f"the {tower} towers differ by {difference['fp32']:.1e} in fp32: no comparison")
            found = rates(run, given, batch, INPUTS[tower], turns)
            for precision in PRECISIONS:
                what = f"{tower} tower, {batch} at once, {precision}"
                key = f"onnx_{tower}_{batch}_{precision}"
                peer = f"onnxruntime {precision}"
                unit = {"image": "images/s", "text": "texts/s"}[tower]
                row = Row(key, what, unit, found["ours"], peer, found[precision], "theirs / ours")
                report.rows.append(row)
            report.details[f"{tower}_{batch}_difference"] = difference


def notes(report: Report, sizes: dict[str, int], seconds: float) -> list[str]:
    """What was slower, and how large the files are, in words."""
    slower = [row.what for row in report.rows if statistics.median(row.theirs) < statistics.median(row.ours)]
    told = ", ".join(f"`{name}` {size / 2**20:,.0f} MiB" for name, size in sizes.items())
    worst = {
        precision: max(told[precision] for told in report.details.values() if isinstance(told, dict))
        for precision in PRECISIONS
    }
    return [
        f"onnxruntime is slower than torch here for: {'; '.join(slower)}."
        if slower
        else "onnxruntime is faster in all.",
        f"Features differ by at most {worst['fp32']:.0e} in fp32 and {worst['int8']:.0e} in int8 (random weights).",
        f"Written in {seconds:.0f} s: {told}.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, help="fewer layers than the model has, to try the script out")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the result there")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    facts = begin("open_clip_torch", "onnxruntime", "onnx")
    from zhclip_openclip.export import _onnx_export

    source = load(args.layers)
    report = Report([], settings={"model": MODEL, "layers": args.layers or 12, "tokens": TOKENS})
    with tempfile.TemporaryDirectory() as place:
        folder, start = Path(place), time.perf_counter()
        for precision in PRECISIONS:
            paths = (folder / f"{tower}.{precision}.onnx" for tower in ("image", "text"))
            _onnx_export.write(source, *paths, _onnx_export.Form(precision=precision))
        seconds = time.perf_counter() - start
        sizes = _onnx_export.sizes(folder)
        measure(source, folder, args.turns, report)
    report.notes += notes(report, sizes, seconds)
    finish(report, facts, args.json)


if __name__ == "__main__":
    main()
