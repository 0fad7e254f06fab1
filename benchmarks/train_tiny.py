"""Train `zhclip-tiny` on the train split of `digits` and write its weights and vocabulary into the package.

    python benchmarks/train_tiny.py                    # about two minutes on 2 cores
    python benchmarks/train_tiny.py --output DIR       # somewhere else

First the text tower alone learns to tell the classes apart, whatever the template: started together, both towers fall
into giving every text the same feature. Then every image is compared with one text of each class, its template drawn
anew for each step: CLIP's loss over images, with the ten different texts that a batch of digits can have. Seeded; the
test split is looked at once, at the end.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from zhclip_openclip import _paths
from zhclip_openclip.datasets.digits import Digits
from zhclip_openclip.towers.tokenizer import ChineseTokenizer

VOCAB_SIZE = 128
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def prompts() -> tuple[list[str], list[str]]:
    """Chinese class names and templates of the data set, and the bare name as one more template."""
    pairs = json.loads((_paths.DATA / "classnames" / "digits.json").read_text(encoding="utf-8"))["classes"]
    templates = json.loads((_paths.DATA / "templates" / "zh.json").read_text(encoding="utf-8"))["digits"]
    return [name for _, name in pairs], [*templates, "{c}"]


def write_vocabulary(folder: Path, names: list[str], templates: list[str]) -> None:
    """One line a token: special ones, all characters in use, digits and Latin letters, then unused ones."""
    used = sorted(set("".join(names) + "".join(templates).replace("{c}", "")) - set(" "))
    tokens = list(dict.fromkeys([*SPECIAL, *used, *"0123456789abcdefghijklmnopqrstuvwxyz"]))
    if len(tokens) > VOCAB_SIZE:
        raise SystemExit(f"{len(tokens)} tokens do not fit into a vocabulary of {VOCAB_SIZE}")
    tokens += [f"[unused{i}]" for i in range(VOCAB_SIZE - len(tokens))]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}\n')


def load(split: str, transform) -> tuple[torch.Tensor, torch.Tensor]:
    """All images of a split, preprocessed, (n, 3, size, size), and their labels (n,)."""
    data = Digits(split, transform)
    return torch.stack([data[i][0] for i in range(len(data))]), torch.tensor(data.targets)


def shaken(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Images moved, turned and scaled a little, each by its own amount."""
    n = len(images)

    def uniform(width: float) -> torch.Tensor:
        return (torch.rand(n, generator=generator) * 2 - 1) * width

    angle, scale, shear = uniform(0.22), 1 + uniform(0.15), uniform(0.15)
    matrix = torch.stack(
        [
            torch.stack([scale * angle.cos(), -scale * angle.sin() + shear, uniform(0.16)], 1),
            torch.stack([scale * angle.sin(), scale * angle.cos(), uniform(0.1)], 1),
        ],
        1,
    )
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


@torch.no_grad()
def accuracy(model, images, labels, tokenizer, names, templates) -> float:
    """Zero-shot accuracy with the mean of the templates, as clip_benchmark computes it."""
    model.eval()
    classes = []
    for name in names:
        features = model.encode_text(tokenizer([template.format(c=name) for template in templates]), normalize=True)
        classes.append(F.normalize(features.mean(0), dim=0))
    features = torch.cat([model.encode_image(batch, normalize=True) for batch in images.split(128)])
    return float(((features @ torch.stack(classes).T).argmax(1) == labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=_paths.DATA / "tiny")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--text-steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    generator = torch.Generator().manual_seed(args.seed)

    names, templates = prompts()
    write_vocabulary(args.output, names, templates)
    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained_text=False)
    tokenizer = ChineseTokenizer(args.output, "BertTokenizerFast", 32)
    images, labels = load("train", transform)

    def texts() -> torch.Tensor:
        drawn = tokenizer([rng.choice(templates).format(c=name) for name in names])
        return model.encode_text(drawn, normalize=True)

    def step(loss: torch.Tensor) -> float:
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    model.train()
    optimizer = torch.optim.AdamW(model.text.parameters(), lr=5e-4)
    for _ in range(args.text_steps):
        loss = step(F.cross_entropy(14 * texts() @ texts().T, torch.arange(len(names))))
    print(f"texts: loss {loss:.4f}", flush=True)

    with torch.no_grad():  # timm's initial weights are made for long training with many images
        for block in model.visual.trunk.blocks:
            for parameter in block.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(3)

    batch = 64
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.02)
    steps = args.epochs * -(-len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps, pct_start=0.1)
    for epoch in range(args.epochs):
        model.train()
        total = 0.0
        for index in torch.randperm(len(images), generator=generator).split(batch):
            features = model.encode_image(shaken(images[index], generator), normalize=True)
            logits = model.logit_scale.exp().clamp(max=100) * features @ texts().T
            total += step(F.cross_entropy(logits, labels[index], label_smoothing=0.05)) * len(index)
            schedule.step()
        print(f"epoch {epoch + 1}/{args.epochs}: loss {total / len(images):.4f}", flush=True)

    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    temporary = args.output / "model.safetensors.tmp"
    save_file(state, temporary, metadata={"format": "pt"})
    temporary.replace(args.output / "model.safetensors")
    held_out = accuracy(model, *load("test", transform), tokenizer, names, templates[:-1])
    print(f"train {accuracy(model, images, labels, tokenizer, names, templates[:-1]):.4f}, test {held_out:.4f}")


if __name__ == "__main__":
    main()
