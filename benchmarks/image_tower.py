"""Images a second of ZH-CLIP's image tower, against transformers and against the matrix products of this machine.

    python benchmarks/image_tower.py                       # ViT-L/14 in fp32, about 3 minutes on two cores
    python benchmarks/image_tower.py --tune --layers 6     # what else was tried, and sizes of batches
    python benchmarks/image_tower.py --layers 1 --batch 2 --turns 1     # does it run?
    python benchmarks/image_tower.py --device cuda --precision fp16 --batch 256

Ours is the image pass of an evaluation (`features/image_pass.py`: so many images at once, and on some CPUs the linear
layers of `features/linear.py`) over the tower of `zhclip-vit-l-14`; the other side is transformers' CLIPVisionModel
with the same weights, to which features have to be equal. Weights are random, which changes no time. What the machine
can do is measured before and after each of the two, since it changes within minutes where others share it: `torch.mm`
of a large square and of the shape of the tower's first MLP layer (the faster of the two counts as the rate of its
sgemm), and that shape as oneDNN computes it, which on some CPUs is faster. Shares are medians over the turns of
(tower / mean of before and after). FLOPs are counted by formula, `flops`.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _machine import product_rates
from _report import Report, Row, Table, begin, finish, number

MODEL = "zhclip-vit-l-14"
WIDTH, MLP, HEADS, LAYERS, PATCH, PIXELS = 1024, 4096, 16, 24, 14, 224
TOKENS = (PIXELS // PATCH) ** 2 + 1
SQUARE = {"cpu": 2048, "cuda": 8192}
TOLERANCE = 1e-4


def flops(layers: int, features: int = 768) -> float:
    """Of one image: 162e9 for 24 layers. A multiplication and an addition are two."""
    layer = 2 * TOKENS * (4 * WIDTH**2 + 2 * WIDTH * MLP) + 4 * TOKENS**2 * WIDTH
    return layers * layer + 2 * (TOKENS - 1) * 3 * PATCH**2 * WIDTH + 2 * WIDTH * features


# ---------------------------------------------------------------- the two sides


def towers(layers: int, name: str = MODEL):
    """(ours, transformers'): modules from pixels to features with the same weights."""
    import open_clip
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    from zhclip_openclip.checkpoints._load import plan
    from zhclip_openclip.checkpoints._no_init import NoInit
    from zhclip_openclip.families.zhclip import FAMILY

    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            activation = "quick_gelu" if "quickgelu" in name else "gelu"
            sizes = {"hidden_size": WIDTH, "intermediate_size": MLP, "image_size": PIXELS, "patch_size": PATCH}
            config = CLIPVisionConfig(
                **sizes, num_hidden_layers=layers, num_attention_heads=HEADS, hidden_act=activation
            )
            self.vision = CLIPVisionModel(config)
            self.visual_projection = torch.nn.Linear(WIDTH, 768)

        def forward(self, images):
            return self.visual_projection(self.vision(images).pooler_output)

    class Ours(torch.nn.Module):
        zhclip_model = name  # the image pass asks whether a model is one of ours

        def __init__(self):
            super().__init__()
            config = open_clip.get_model_config(name)
            self.visual = open_clip.model._build_vision_tower(config["embed_dim"], config["vision_cfg"])
            self.visual.trunk.blocks = self.visual.trunk.blocks[:layers]

        def encode_image(self, images):
            return self.visual(images)

        forward = encode_image

    torch.manual_seed(0)
    theirs = Theirs().eval().requires_grad_(False)
    with NoInit():
        ours = Ours().eval().requires_grad_(False)
    state = {
        re.sub(r"^vision\.(vision_model\.)?", "vision_model.", key): tensor
        for key, tensor in theirs.state_dict().items()
    }
    layout = FAMILY.layouts[0]
    parameters = dict(ours.named_parameters())
    loaded = {
        target: torch.cat([state[source.key] for source in sources]).view_as(parameters[target])
        for target, sources in plan(layout, {key: tuple(tensor.shape) for key, tensor in state.items()}).items()
    }
    ours.load_state_dict(loaded)
    return ours, theirs


class Precision:
    """How both sides are run on a device: fp32, or autocast to bf16 or fp16."""

    def __init__(self, device: str, name: str):
        import torch

        self.device, self.kind, self.name = device, torch.device(device).type, name
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]

    def autocast(self):
        import torch

        if self.name == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.kind, dtype=self.dtype)

    def run(self, module) -> Callable:
        import torch

        def run(images):
            with torch.no_grad(), self.autocast():
                return module(images)

        return run

    def seconds(self, function: Callable, *given) -> float:
        import torch

        wait = torch.cuda.synchronize if self.kind == "cuda" else lambda: None
        wait()
        start = time.perf_counter()
        function(*given)
        wait()
        return time.perf_counter() - start


class Products:
    """What the machine can do: GFLOP/s of its matrix products in a precision, each measured for about as long."""

    def __init__(self, precision: Precision, images: int):
        import torch

        make = {"device": precision.device, "dtype": precision.dtype}
        n, rows = SQUARE[precision.kind], TOKENS * images
        a, b = torch.randn(n, n, **make), torch.randn(n, n, **make)
        x, w = torch.randn(rows, WIDTH, **make), torch.randn(MLP, WIDTH, **make)
        self._precision = precision
        self._calls = {
            f"torch.mm {n} x {n}": (lambda: torch.mm(a, b), 2 * n**3),
            f"torch.mm {rows} x {WIDTH} x {MLP}": (lambda: torch.mm(x, w.t()), 2 * rows * WIDTH * MLP),
        }
        if precision.kind == "cpu" and precision.name == "fp32":
            self._calls[f"oneDNN {rows} x {WIDTH} x {MLP}"] = (lambda: onednn(x, w), 2 * rows * WIDTH * MLP)
        self._repeats = {
            name: max(1, round(self._calls[f"torch.mm {n} x {n}"][1] / count))
            for name, (_, count) in self._calls.items()
        }
        self.measure()  # the first call warms up

    def measure(self) -> dict[str, float]:
        rates = {}
        for name, (call, count) in self._calls.items():
            repeats = self._repeats[name]
            seconds = self._precision.seconds(lambda call=call, repeats=repeats: [call() for _ in range(repeats)])
            rates[name] = repeats * count / seconds / 1e9
        return rates


def onednn(layer_input, weight, bias=None):
    """A linear layer as oneDNN computes it."""
    import torch

    from zhclip_openclip.features.linear import OneDnnLinear

    with torch.no_grad(), OneDnnLinear():
        return torch.nn.functional.linear(layer_input, weight, bias)


# ---------------------------------------------------------------- ours, transformers, the machine


def compare(ours, theirs, precision: Precision, batch: int, layers: int, turns: int) -> dict:
    """Images a second of both sides, and of the machine if it did nothing but products, a figure for each turn."""
    import torch

    from zhclip_openclip.features.image_pass import IMAGES_AT_ONCE, encoder

    images = torch.randn(batch, 3, PIXELS, PIXELS, device=precision.device)
    at_once = min(batch, IMAGES_AT_ONCE.get(precision.kind, batch))
    products = Products(precision, at_once)
    encode = encoder(ours, precision.device, amp=precision.name != "fp32")  # within an autocast that says which
    sides = {"ours": precision.run(encode), "theirs": precision.run(theirs)}
    warm = images[: min(batch, at_once)]
    for run in sides.values():
        run(warm)
    found: dict[str, list] = {"ours": [], "theirs": [], "ours_products": [], "theirs_products": []}
    before = products.measure()
    for turn in range(turns):
        for name in ("ours", "theirs") if turn % 2 == 0 else ("theirs", "ours"):
            found[name].append(batch / precision.seconds(sides[name], images))
            after = products.measure()
            rate = {key: (before[key] + after[key]) / 2 * 1e9 / flops(layers) for key in after}
            found[f"{name}_products"].append(rate)
            before = after
    return {"batch": batch, "at_once": at_once, **found}


def share(found: dict, side: str, among: Callable[[str], bool]) -> tuple[list[float], float]:
    """Images a second of the fastest of these products in each turn, and the median share of it that a side has."""
    best = [max(rate for name, rate in rates.items() if among(name)) for rates in found[f"{side}_products"]]
    return best, statistics.median(own / limit for own, limit in zip(found[side], best, strict=True))


def rows_of(found: dict, precision: Precision, layers: int) -> list[Row]:
    asked = precision.name == "fp32" and precision.kind == "cpu"
    limit, of_limit = share(found, "ours", lambda name: name.startswith("torch.mm"))
    fastest, of_fastest = share(found, "ours", lambda name: True)
    speedup = statistics.median(o / t for o, t in zip(found["ours"], found["theirs"], strict=True))
    tower = "ViT-L/14" if layers == LAYERS else f"ViT-L/14 of {layers} layers"
    what = f"{tower}, {found['batch']} images, {found['at_once']} at once, {precision.name}"

    def row(key: str, peer: str, theirs: list[float], ratio: float, at_least: float | None) -> Row:
        target = at_least if asked else None
        return Row(key, what, "images/s", found["ours"], peer, theirs, "ours / theirs", ratio, at_least=target)

    return [
        row("sgemm", "torch.mm alone", limit, of_limit, 0.85),
        row("transformers", "transformers", found["theirs"], speedup, 1.0),
        row("fastest", "the fastest product alone", fastest, of_fastest, None),
    ]


def largest_difference(ours, theirs, precision: Precision) -> float:
    """Of features in fp32; stops the program where the two towers are not the same."""
    import torch

    images = torch.randn(2, 3, PIXELS, PIXELS, device=precision.device)
    with torch.no_grad():
        mine, other = ours(images), theirs(images)
    difference = (mine - other).abs().max().item()
    if difference > TOLERANCE or other.abs().max().item() < 0.1:
        sys.exit(f"the two towers differ by {difference:.1e}, which is more than {TOLERANCE}: no comparison")
    return difference


# ---------------------------------------------------------------- what else was tried


def one_by_one(layer_input, weight, bias=None):
    """A linear layer as a 1 x 1 convolution of the rows as an image of one column, which oneDNN computes."""
    import torch

    *lead, width = layer_input.shape
    image = layer_input.reshape(1, -1, 1, width).permute(0, 3, 1, 2)
    result = torch.nn.functional.conv2d(image, weight[:, :, None, None], bias)
    return result.permute(0, 2, 3, 1).reshape(*lead, weight.shape[0])


def variants(ours, precision: Precision, layers: int) -> dict[str, Callable]:
    """Name -> function that makes a function of images: the tower, run another way. The first is PyTorch's own."""
    import torch
    from torch.overrides import TorchFunctionMode

    from zhclip_openclip.features.linear import OneDnnLinear

    class Convolutions(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.nn.functional.linear:
                return one_by_one(*args, **(kwargs or {}))
            return func(*args, **(kwargs or {}))

    class Packed(torch.nn.Module):
        """A linear layer whose weights are kept in the order that oneDNN likes, with or without GELU in the same go."""

        def __init__(self, layer, activation="none"):
            super().__init__()
            self.weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
            self.bias, self.activation = layer.bias, activation

        def forward(self, x):
            how = "none" if self.activation == "gelu" else ""
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.activation, [], how)

    def packed(fused: bool):
        tower = copy.deepcopy(ours)
        for block in tower.visual.trunk.blocks:
            block.attn.qkv, block.attn.proj = Packed(block.attn.qkv), Packed(block.attn.proj)
            block.mlp.fc1, block.mlp.fc2 = Packed(block.mlp.fc1, "gelu" if fused else "none"), Packed(block.mlp.fc2)
            if fused:
                block.mlp.act = torch.nn.Identity()
        return tower

    def within(context: Callable):
        def run(images):
            with context():
                return ours(images)

        return run

    def channels_last():
        tower = copy.deepcopy(ours).to(memory_format=torch.channels_last)
        return lambda images: tower(images.contiguous(memory_format=torch.channels_last))

    def weights(dtype):
        tower = copy.deepcopy(ours).to(dtype)
        return lambda images: tower(images.to(dtype))

    def quick_gelu():
        return towers(layers, "zhclip-vit-l-14-quickgelu")[0].to(precision.device)

    tried = {
        "as PyTorch runs it (no_grad)": lambda: ours,
        "inference_mode": lambda: within(torch.inference_mode),
        "channels_last": channels_last,
        "QuickGELU instead of GELU (another model)": quick_gelu,
        "torch.compile": lambda: torch.compile(copy.deepcopy(ours)),
    }
    if precision.kind == "cpu":
        tried |= {
            "torch.compile, freezing": lambda: torch.compile(copy.deepcopy(ours), options={"freezing": True}),
            "oneDNN's linear layers (the image pass)": lambda: within(OneDnnLinear),
            "linear layers as 1 x 1 convolutions": lambda: within(Convolutions),
            "weights packed for oneDNN": lambda: packed(False),
            "packed for oneDNN, GELU in the same go": lambda: packed(True),
        }
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        if name == "fp16" and precision.kind == "cpu":
            continue
        tried[f"{name} autocast"] = lambda d=dtype: within(lambda: torch.autocast(precision.kind, dtype=d))
        tried[f"{name} weights"] = lambda d=dtype: weights(d)
    return tried


def tune(ours, theirs, precision: Precision, batch: int, layers: int, turns: int) -> list[Table]:
    """Every variant and size of batch against the tower as PyTorch runs it, in turns."""
    import torch

    images = torch.randn(batch, 3, PIXELS, PIXELS, device=precision.device)
    with torch.no_grad():
        expected = ours(images)
    run, differences, failed = {}, {}, []
    for name, make in variants(ours, precision, layers).items():
        try:
            function = precision.run(make())
            differences[name] = (function(images).float() - expected).abs().max().item()
            function(images)  # torch.compile looks at a shape again when it sees it again
            run[name] = function
        except Exception as error:  # no compiler, no such operation in this PyTorch
            failed.append([name, "failed", "", f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"])
    base = next(iter(run))
    seconds = in_turns(run, lambda function: precision.seconds(function, images), turns)
    table = Table(
        f"Ways to run the tower, {batch} images at once, {layers} layers, {turns} turns, medians of the ratio in each",
        ["way", "s an image", "speed", "largest difference"],
        [
            [name, number(statistics.median(taken) / batch), ratio(seconds[base], taken), f"{differences[name]:.0e}"]
            for name, taken in seconds.items()
        ]
        + failed,
    )
    tables = [table, batches(ours, theirs, precision, layers, turns)]
    if precision.kind == "cpu":
        tables.append(pieces(ours, precision, layers, turns))
    return tables


def in_turns(run: dict, measure: Callable, turns: int) -> dict:
    taken = {name: [] for name in run}
    for turn in range(turns):
        for name in list(run) if turn % 2 == 0 else reversed(run):
            taken[name].append(measure(run[name]))
    return taken


def ratio(base: list[float], taken: list[float]) -> str:
    return f"{number(statistics.median(b / t for b, t in zip(base, taken, strict=True)))} x"


SIZES = {"cpu": (1, 2, 4, 6, 8, 16, 32), "cuda": (16, 32, 64, 128, 256)}


def batches(ours, theirs, precision: Precision, layers: int, turns: int) -> Table:
    """Whole batches through both towers."""
    import torch

    run = {}
    for size in SIZES[precision.kind]:
        images = torch.randn(size, 3, PIXELS, PIXELS, device=precision.device)
        for name, tower in (("ours", ours), ("theirs", theirs)):
            run[name, size] = precision.run(tower), images
    seconds = in_turns(run, lambda pair: precision.seconds(*pair) / len(pair[1]), turns)
    base = seconds["ours", SIZES[precision.kind][0]]
    rows = [
        [
            str(size),
            number(statistics.median(seconds["ours", size])),
            ratio(base, seconds["ours", size]),
            number(statistics.median(seconds["theirs", size])),
            ratio(base, seconds["theirs", size]),
        ]
        for size in SIZES[precision.kind]
    ]
    head = ["images at once", "ours, s an image", "speed", "transformers, s an image", "speed"]
    return Table(f"Sizes of batches through the bare towers, {layers} layers, {turns} turns", head, rows)


def pieces(ours, precision: Precision, layers: int, turns: int) -> Table:
    """A batch cut into so many images at once."""
    import torch

    from zhclip_openclip.features.linear import fast_linear

    def split(size: int):
        def run(images):
            with fast_linear(ours, precision.device, precision.name != "fp32"):
                return torch.cat([ours(part) for part in images.split(size)])

        return precision.run(run)

    images = torch.randn(16, 3, PIXELS, PIXELS)
    run = {size: split(size) for size in (1, 2, 4, 8, 16)}
    seconds = in_turns(run, lambda function: precision.seconds(function, images), turns)
    rows = [[str(n), number(statistics.median(t) / 16), ratio(seconds[16], t)] for n, t in seconds.items()]
    return Table(
        f"16 images in pieces, as the image pass runs them, {layers} layers, {turns} turns",
        ["at once", "s an image", "speed"],
        rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16, help="images in a batch (--tune: that go in at once)")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--layers", type=int, default=LAYERS, help="fewer than the tower has, to be done sooner")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32")
    parser.add_argument("--tune", action="store_true", help="time other ways to run the tower instead")
    parser.add_argument("--json", type=Path, help="write the result there")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    facts = begin("open_clip_torch", "timm", "transformers")
    precision = Precision(args.device, args.precision)
    ours, theirs = (tower.to(args.device) for tower in towers(args.layers))
    difference = largest_difference(ours, theirs, precision)
    report = Report([], settings={"layers": args.layers, "device": args.device, "precision": args.precision})
    report.notes.append(
        f"One image takes {flops(args.layers) / 1e9:.1f} GFLOP. Features in fp32 differ from transformers' by at most "
        f"{difference:.1g}."
    )
    if args.tune:
        report.tables = tune(ours, theirs, precision, args.batch, args.layers, args.turns)
    else:
        found = compare(ours, theirs, precision, args.batch, args.layers, args.turns)
        report.rows, report.details = rows_of(found, precision, args.layers), found
        gflops = {
            name: statistics.median(rates[name] for rates in found["ours_products"]) * flops(args.layers) / 1e9
            for name in found["ours_products"][0]
        }
        told = ", ".join(f"{name} {rate:,.0f}" for name, rate in gflops.items())
        report.notes.append(
            f"Products alone, GFLOP/s: {told}; the tower runs at {tower_rate(found, args.layers):,.0f}."
        )
    if args.device == "cpu":
        report.details["product_rates"] = product_rates()
    finish(report, facts, args.json)


def tower_rate(found: dict, layers: int) -> float:
    """GFLOP/s."""
    return statistics.median(found["ours"]) * flops(layers) / 1e9


if __name__ == "__main__":
    main()
