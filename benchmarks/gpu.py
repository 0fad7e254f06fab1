"""What a GPU does: towers, classifier, scoring, a whole evaluation from JPEG shards, training steps.

    python benchmarks/gpu.py --page                  # under 6 minutes; writes docs/performance_gpu.md and .json
    python benchmarks/gpu.py --small --device cpu    # a minute: does it run?
    python benchmarks/gpu.py --only towers scoring --json out.json

Needs no network and no file beyond the repository: weights are random, which changes no time, the vocabulary is made of
the characters of the prompts, and the pictures are drawn. Both sides run in turns in bf16 (autocast, as in
clip_benchmark's default); figures are medians. A part that fails says so and the others go on.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import statistics
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _report import Report, Row, Table, begin, finish, number

#: model of ours -> (open_clip's with the same image tower, width, MLP, heads, layers, patch)
TOWERS = {
    "cnclip-vit-b-16": ("ViT-B-16", 768, 3072, 12, 12, 16),
    "cnclip-vit-l-14": ("ViT-L-14", 1024, 4096, 16, 24, 14),
    "cnclip-vit-h-14": ("ViT-H-14", 1280, 5120, 16, 32, 14),
}
TEXT_MODEL, TRAINED = "zhclip-vit-l-14", "cnclip-vit-b-16"
CONTEXT = 52


@dataclass
class Size:
    """How much is measured."""

    layers: int | None = None
    turns: int = 3
    batches: tuple[int, ...] = (64, 128, 256, 512)
    square: int = 8192
    classes: int = 1000
    peer_classes: int = 10
    muge: tuple[int, int] = (30_399, 5_004)
    large: tuple[int, int] = (1_000_000, 10_000)
    pictures: int = 3000
    workers: tuple[int, ...] = (1, 2, 4, 8, 16)
    trained: int = 128


SMALL = Size(1, 1, (2,), 512, 2, 1, (300, 60), (2000, 100), 12, (1, 2), 4)


class Run:
    """Where and how long: a clock that waits for the device."""

    def __init__(self, device: str, size: Size):
        import torch

        self.device, self.kind, self.size, self.torch = device, torch.device(device).type, size, torch

    def autocast(self):
        return self.torch.autocast(self.kind, dtype=self.torch.bfloat16)

    def seconds(self, function: Callable) -> float:
        wait = self.torch.cuda.synchronize if self.kind == "cuda" else lambda: None
        wait()
        start = time.perf_counter()
        function()
        wait()
        return time.perf_counter() - start

    def in_turns(self, sides: dict[str, Callable]) -> dict[str, list[float]]:
        """Seconds of each side in each turn; the first call of each warms up and does not count."""
        for run in sides.values():
            run()
        taken: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(self.size.turns):
            for name in list(sides) if turn % 2 == 0 else reversed(sides):
                taken[name].append(self.seconds(sides[name]))
        return taken


# ---------------------------------------------------------------- towers


def tower_flops(width: int, mlp: int, layers: int, patch: int, pixels: int = 224) -> float:
    """Of one image; a multiplication and an addition are two."""
    tokens = (pixels // patch) ** 2 + 1
    layer = 2 * tokens * (4 * width**2 + 2 * width * mlp) + 4 * tokens**2 * width
    return layers * layer + 2 * (tokens - 1) * 3 * patch**2 * width


def image_tower(run: Run, name: str, layers: int | None):
    """An object with the image tower of a model of open_clip's, and nothing else, built on the device."""
    import open_clip

    config = open_clip.get_model_config(name)
    vision = dict(config["vision_cfg"])
    vision["layers"] = layers or vision["layers"]
    with run.torch.device(run.device):
        tower = open_clip.model._build_vision_tower(config["embed_dim"], vision, config.get("quick_gelu", False))
    model = run.torch.nn.Module()
    model.visual = tower.eval().requires_grad_(False)
    model.encode_image, model.zhclip_model = model.visual.forward, name
    return model


def towers(run: Run) -> Report:
    """Images a second of the image pass, of plain open_clip, of transformers, and the card's products."""
    size, rate, rows, lines = run.size, product_rate(run), [], []
    for name, facts in TOWERS.items():
        layers = size.layers or facts[4]
        sides = tower_sides(run, name, layers)
        for batch in size.batches:
            images = run.torch.randn(batch, 3, 224, 224, device=run.device)
            taken = run.in_turns({side: functools.partial(encode, images) for side, encode in sides.items()})
            speed = {side: [batch / seconds for seconds in values] for side, values in taken.items()}
            what = f"{facts[0]}, batch {batch}, bf16"
            for peer in ("transformers", "open_clip"):
                key = f"{name}_{batch}_{peer}"
                rows.append(Row(key, what, "images/s", speed["ours"], peer, speed[peer], "ours / theirs"))
            flops = tower_flops(facts[1], facts[2], layers, facts[5])
            share = statistics.median(speed["ours"]) * flops / rate
            lines.append([what, *(number(statistics.median(values)) for values in speed.values()), f"{share:.0%}"])
        del sides
    title = f"Images a second, medians of {size.turns} turns; bf16 products run at {rate / 1e12:,.3g} TFLOP/s"
    head = ["tower", "ours", "open_clip", "transformers", "of the products' rate"]
    return Report(rows, tables=[Table(title, head, lines)])


def product_rate(run: Run) -> float:
    """FLOP/s of a large square product in bf16."""
    torch, n = run.torch, run.size.square
    left, right = (torch.randn(n, n, device=run.device, dtype=torch.bfloat16) for _ in range(2))
    taken = run.in_turns({"products": lambda: [torch.mm(left, right) for _ in range(10)]})["products"]
    return 10 * 2 * n**3 / statistics.median(taken)


def tower_sides(run: Run, name: str, layers: int) -> dict[str, Callable]:
    """Side -> function of images, in bf16."""
    torch = run.torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    from zhclip_openclip.features.image_pass import encoder

    plain_name, width, mlp, heads, _, patch = TOWERS[name]
    sizes = {"hidden_size": width, "intermediate_size": mlp, "patch_size": patch, "image_size": 224}
    with torch.device(run.device):
        config = CLIPVisionConfig(num_attention_heads=heads, num_hidden_layers=layers, **sizes)
        theirs = CLIPVisionModel(config).eval().requires_grad_(False)

    def mixed(module):
        def encode(images):
            with torch.no_grad(), run.autocast():
                module(images)

        return encode

    ours = encoder(image_tower(run, name, layers), run.device, amp=True)
    plain = image_tower(run, plain_name, layers).visual
    return {"ours": ours, "open_clip": mixed(plain), "transformers": mixed(theirs)}


# ---------------------------------------------------------------- texts


def classifier(run: Run) -> Report:
    """Building ImageNet's classifier of 80 prompts a class, against clip_benchmark's function."""
    torch, size = run.torch, run.size
    from clip_benchmark.metrics import zeroshot_classification
    from open_clip.hf_model import HFTextEncoder

    from zhclip_openclip.prompts.classifier import zero_shot_classifier
    from zhclip_openclip.towers import text_configs
    from zhclip_openclip.towers.text import ChineseTextEncoder

    text, config, arguments = text_tower(TEXT_MODEL, size.layers)
    ours = ChineseTextEncoder(text["hf_model_name"], 768, config=config, **arguments).eval().to(run.device)
    plain = HFTextEncoder(text["hf_model_name"], 768, config=config, **arguments).eval().to(run.device)
    assert text_configs.is_known(text["hf_model_name"])
    from zhclip_openclip.prompts import classnames, registry, templates

    dataset = registry.find("imagenet1k")
    names = [chinese for _, chinese in classnames.pairs(dataset.classnames)][: size.classes]
    chosen = templates.load("openai80", dataset).templates
    few = names[: size.peer_classes]
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = made_up_tokenizer(Path(folder), [*names, *chosen], text["context_length"])
    theirs = zeroshot_classification.zero_shot_classifier
    theirs = getattr(theirs, "__zhclip_original__", theirs)
    our_model = SimpleNamespace(text=ours, encode_text=ours, zhclip_model=TEXT_MODEL)
    their_model = SimpleNamespace(text=plain, encode_text=plain)
    taken = run.in_turns(
        {
            "ours": lambda: zero_shot_classifier(our_model, tokenizer, names, chosen, run.device, True),
            "theirs": lambda: theirs(their_model, tokenizer, few, chosen, run.device, True),
        }
    )
    per_prompt = {
        side: [1000 * seconds / (len(classes) * len(chosen)) for seconds in taken[side]]
        for side, classes in (("ours", names), ("theirs", few))
    }
    what = f"{len(names):,} classes x {len(chosen)} prompts, {TEXT_MODEL}"
    note = (
        f"The whole classifier takes {statistics.median(taken['ours']):,.3g} s; the other side ran {len(few)} classes."
    )
    row = Row("classifier", what, "ms a prompt", per_prompt["ours"], "clip_benchmark", per_prompt["theirs"])
    torch.cuda.empty_cache()
    return Report([row], notes=[note])


def text_tower(name: str, layers: int | None):
    """(text_cfg, transformers config, arguments of both classes) of a model's text tower."""
    import open_clip

    from zhclip_openclip.towers import text_configs

    text = open_clip.get_model_config(name)["text_cfg"]
    config = text_configs.load(text["hf_model_name"])
    config.num_hidden_layers = layers or config.num_hidden_layers
    return text, config, {"pooler_type": text["hf_pooler_type"], "proj_type": text["hf_proj_type"], "pretrained": False}


def made_up_tokenizer(folder: Path, texts: list[str], length: int):
    """BERT's, of the characters that occur: as many tokens a Chinese text as with the real vocabulary."""
    from zhclip_openclip.towers.tokenizer import ChineseTokenizer

    characters = sorted({character for text in texts for character in text if not character.isspace()})
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return ChineseTokenizer(folder, "BertTokenizerFast", length)


# ---------------------------------------------------------------- scoring


def scoring(run: Run) -> Report:
    """Recalls and the ten best of every query, on the device, against the CPU and clip_benchmark on the device."""
    torch, size = run.torch, run.size
    from clip_benchmark.metrics.zeroshot_retrieval import batchify, recall_at_k

    from zhclip_openclip.metrics.recall import score_retrieval

    report = Report([])
    for key, (images, texts) in (("muge", size.muge), ("large", size.large)):
        generator = torch.Generator().manual_seed(0)
        image = torch.nn.functional.normalize(torch.randn(images, 512, generator=generator), dim=1)
        right = torch.randint(0, images, (texts,), generator=generator)
        noise = torch.randn(texts, 512, generator=generator)
        text = torch.nn.functional.normalize(image[right] * 5 + noise, dim=1)
        relations = [[int(place)] for place in right]
        found = {}

        def ours(device, key=key, image=image, text=text, relations=relations, found=found):
            found[device] = score_retrieval(image, text, relations, device=device)

        def plain(image=image, text=text, right=right, found=found):
            scores = text.to(run.device) @ image.to(run.device).t()
            positive = torch.zeros_like(scores, dtype=bool)
            positive[torch.arange(len(scores)), right.to(run.device)] = True
            for side, true in ((scores, positive), (scores.T, positive.T)):
                for k in (1, 5, 10):
                    found["plain"] = batchify(recall_at_k, side, true, 64, run.device, k=k)

        sides = {"ours": lambda ours=ours: ours(run.device)}
        if key == "muge":
            sides |= {"cpu": lambda ours=ours: ours("cpu"), "clip_benchmark": plain}
        taken = run.in_turns(sides)
        what = f"{images:,} images x {texts:,} texts, both directions, recalls and ten best"
        report.rows.append(Row(f"scoring_{key}", what, "s", taken["ours"]))
        for peer, title in (("cpu", "ours on the CPU"), ("clip_benchmark", "clip_benchmark's functions there")):
            if peer in taken:
                report.rows.append(Row(f"scoring_{key}_{peer}", what, "s", taken["ours"], title, taken[peer]))
        if "cpu" in found:
            there, here = found[run.device], found["cpu"]
            same = all(
                (there.ranks[d] == here.ranks[d]).all() and (there.top[d] == here.top[d]).all() for d in here.top
            )
            report.notes.append(f"Ranks and ten best at MUGE's size are {'' if same else 'NOT '}those of the CPU.")
    return report


# ---------------------------------------------------------------- a whole evaluation


def jpeg(seed: int) -> bytes:
    """A picture of 500 x 375 with soft shapes and grain, about 60 KB, as ImageNet's are."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((500, 375), Image.BICUBIC)
    grain = rng.integers(0, 24, (375, 500, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(coarse) // 2 + grain).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def write_shards(folder: Path, pictures: int, shards: int = 16) -> None:
    """WebDataset shards in clip_benchmark's layout; each picture several times, so that drawing takes no time."""
    with ProcessPoolExecutor() as pool:
        drawn = list(pool.map(jpeg, range(min(200, pictures)), chunksize=8))
    (folder / "test").mkdir(parents=True)
    (folder / "test" / "nshards.txt").write_text(f"{shards}\n")
    (folder / "classnames.txt").write_text("一\n二\n", encoding="utf-8")
    (folder / "zeroshot_classification_templates.txt").write_text("{c}\n")
    for shard in range(shards):
        with tarfile.open(folder / "test" / f"{shard}.tar", "w") as file:
            for place in range(shard, pictures, shards):
                for ending, data in (("jpg", drawn[place % len(drawn)]), ("cls", str(place % 2).encode())):
                    member = tarfile.TarInfo(f"s{place:07d}.{ending}")
                    member.size = len(data)
                    file.addfile(member, io.BytesIO(data))


def evaluation(run: Run) -> Report:
    """Images a second from JPEG shards to features, by workers, and of decoding alone: where decoding is the limit."""
    torch, size = run.torch, run.size
    import open_clip
    from clip_benchmark.datasets.builder import build_dataset

    from zhclip_openclip.features import using
    from zhclip_openclip.features.image_pass import ImagePass

    model = image_tower(run, "cnclip-vit-b-16", size.layers)
    transform = open_clip.image_transform(224, is_train=False, resize_mode="squash")
    batch, rows = size.batches[0], []
    with tempfile.TemporaryDirectory() as name:
        write_shards(Path(name), size.pictures)

        def loader(workers: int):
            data = build_dataset("wds/pictures", root=name, transform=transform, split="test", download=False)
            pinned = run.kind == "cuda"
            return torch.utils.data.DataLoader(data.batched(batch), None, num_workers=workers, pin_memory=pinned)

        def decode(workers: int) -> None:
            for _ in loader(workers):
                pass

        def encode(workers: int) -> None:
            with using(progress=lambda *_: None):
                for _ in ImagePass(model, loader(workers), run.device, True, "pictures"):
                    pass

        for workers in size.workers:
            alone = size.pictures / run.seconds(lambda workers=workers: decode(workers))
            whole = size.pictures / run.seconds(lambda workers=workers: encode(workers))
            rows.append([str(workers), number(alone), number(alone / workers), number(whole)])
    head = ["workers", "decoding and transforming alone", "of them a worker", "with ViT-B/16 in bf16"]
    return Report([], tables=[Table(f"Images a second, {size.pictures:,} JPEG pictures of 500 x 375", head, rows)])


# ---------------------------------------------------------------- training


def training(run: Run) -> Report:
    """A training step in bf16 with texts of 10 tokens, against open_clip's own text tower, which pads them."""
    torch, size = run.torch, run.size
    import open_clip
    from open_clip.hf_model import HFTextEncoder
    from open_clip.loss import ClipLoss

    text, config, arguments = text_tower(TRAINED, size.layers)
    loss, models = ClipLoss(), {}
    for side in ("ours", "plain"):
        model = open_clip.create_model(TRAINED, pretrained_text=False, output_dict=True)
        model.visual.transformer.resblocks = model.visual.transformer.resblocks[: size.layers]
        model.text.transformer.encoder.layer = model.text.transformer.encoder.layer[: size.layers]
        if side == "plain":
            model.text = HFTextEncoder(text["hf_model_name"], 512, config=config, **arguments)
        models[side] = model.train().to(run.device)
    images = torch.randn(size.trained, 3, 224, 224, device=run.device)
    ids = torch.zeros(size.trained, CONTEXT, dtype=torch.long, device=run.device)
    ids[:, :10] = torch.randint(200, 20_000, (size.trained, 10), device=run.device)

    def step(model):
        with run.autocast():
            out = model(images, ids)
            value = loss(out["image_features"], out["text_features"], out["logit_scale"])
        value.backward()
        model.zero_grad()

    taken = run.in_turns({side: lambda model=model: step(model) for side, model in models.items()})
    speed = {side: [size.trained / seconds for seconds in values] for side, values in taken.items()}
    what = f"a training step of {TRAINED}, batch {size.trained}, bf16, texts of 10 tokens"
    row = Row("step", what, "pairs/s", speed["ours"], "open_clip's text tower", speed["plain"], "ours / theirs")
    return Report([row])


# ---------------------------------------------------------------- all of it

PARTS = {
    "towers": towers,
    "classifier": classifier,
    "scoring": scoring,
    "evaluation": evaluation,
    "training": training,
}


def write_page(report: Report) -> None:
    import run_all

    place, results = run_all.DOCS / "performance_gpu.md", {"gpu": report.as_json()}
    run_all.write_json(place.with_suffix(".json"), results)
    text = run_all.page(results, place.read_text("utf-8"))
    temporary = place.with_name(place.name + ".tmp")
    temporary.write_text(text, "utf-8")
    temporary.replace(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes with which a CPU is done in a minute")
    parser.add_argument("--only", choices=list(PARTS), nargs="+", default=list(PARTS))
    parser.add_argument("--page", action="store_true", help="write docs/performance_gpu.md, from a whole run on a GPU")
    parser.add_argument("--json", type=Path, help="write the result there")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    import torch

    if torch.device(args.device).type == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no GPU: --small --device cpu tries the script out")
    if args.page and (args.small or torch.device(args.device).type != "cuda" or set(args.only) != set(PARTS)):
        sys.exit("--page is for a whole run on a GPU")
    facts = begin("open_clip_torch", "clip_benchmark", "transformers", "timm")
    run, report = Run(args.device, SMALL if args.small else Size()), Report([])
    report.settings = {"device": args.device, "small": args.small}
    failed = []
    for name in args.only:
        start = time.perf_counter()
        try:
            part = PARTS[name](run)
        except Exception as error:  # a card with too little memory, a package that is missing: the others still count
            failed.append(name)
            report.notes.append(f"{name} failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            continue
        report.rows += part.rows
        report.tables += part.tables
        report.notes += part.notes
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    finish(report, facts, args.json)
    if args.page:
        write_page(Report.read(json.loads(json.dumps(report.as_json()))))  # in the form in which it is kept
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
