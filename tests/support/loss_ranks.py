"""One update by open_clip_train's own loop, in each of its ways, against the gradient of the whole batch. Not a test.

Started by torchrun with the file for the result; prints nothing. The model is two matrices, in double precision; the
reference knows the matrix of what is right from the data themselves and uses no code of ours.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from open_clip import factory
from open_clip_train import train
from open_clip_train.data import DataInfo
from open_clip_train.distributed import init_distributed_device

from zhclip_openclip.integrations.open_clip_train.data import TrainingData
from zhclip_openclip.training import PairBatches, Pairs

IMAGES, TEXTS, WIDTH = 18, 12, 5
RATE = 1e-2  # so small that the host's limit of the logit scale is not met
RIGHT = [[t % IMAGES, (5 * t + 1) % IMAGES, (3 * t) % IMAGES] for t in range(TEXTS)]


class Set:
    """A retrieval set whose pictures are rows of numbers."""

    texts = [SimpleNamespace(text=str(t)) for t in range(TEXTS)]
    text_to_images = [sorted(set(right)) for right in RIGHT]
    image_to_texts = [[t for t in range(TEXTS) if i in RIGHT[t]] for i in range(IMAGES)]
    pixels = torch.randn(IMAGES, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    transform = None

    def __len__(self):
        return IMAGES

    def __getitem__(self, index):
        return self.pixels[index], []


class Model(torch.nn.Module):
    def __init__(self, bias: bool):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.visual = torch.nn.Parameter(torch.randn(7, WIDTH, dtype=torch.float64, generator=generator))
        self.words = torch.nn.Parameter(torch.randn(TEXTS, WIDTH, dtype=torch.float64, generator=generator))
        self.logit_scale = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        if bias:
            self.logit_bias = torch.nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))

    def forward(self, image, text):
        result = {
            "image_features": F.normalize(image @ self.visual, dim=-1),
            "text_features": F.normalize(self.words[text[:, 0]], dim=-1),
            "logit_scale": self.logit_scale.exp(),
        }
        if hasattr(self, "logit_bias"):
            result["logit_bias"] = self.logit_bias
        return result


def tokenizer(texts):
    return torch.tensor([[int(text)] for text in texts])


def reference(pairs, chosen, siglip: bool) -> dict[str, torch.Tensor]:
    """Gradients of the whole batch, from the dense matrix of what is right."""
    model = Model(siglip)
    images = Set.pixels[pairs.image[chosen]]
    texts = tokenizer([pairs.caption(k) for k in chosen])
    right = torch.tensor([[int(i) in RIGHT[int(t)] for t in texts[:, 0]] for i in pairs.image[chosen]]).double()
    assert right.sum() > len(chosen), "a batch in which only the pairs are right shows nothing"
    out = model(images, texts)
    logits = out["logit_scale"] * out["image_features"] @ out["text_features"].T
    if siglip:
        loss = -F.logsigmoid((2 * right - 1) * (logits + out["logit_bias"])).sum() / len(chosen)
    else:
        loss = F.cross_entropy(logits, right / right.sum(1, keepdim=True))
        loss = (loss + F.cross_entropy(logits.T, right.T / right.T.sum(1, keepdim=True))) / 2
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def one_update(args, plain: bool = False) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(what the host's loop subtracts from the weights, over its rate; the reference)."""
    pairs = Pairs([Set()], None, tokenizer)
    batches = PairBatches(
        pairs.image,
        pairs.text,
        args.batch_size,
        accumulate=args.accum_freq,
        rank=args.rank,
        world_size=args.world_size,
        distinct=False,
        samples=args.batch_size * args.accum_freq * args.world_size,
    )
    model = Model(args.siglip)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    tasks = hasattr(factory, "create_task")
    data = {"train": DataInfo(TrainingData(pairs, batches, 0, tasks), shared_epoch=batches)}
    args.plain_loss = plain
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    if tasks:  # open_clip 4
        task = factory.create_task(args, model=model)
        if args.world_size > 1:
            task.prepare_distributed(device_ids=None)
        train.train_one_epoch(train.TrainState(task=task, optimizer=optimizer), data, args)
    else:
        wrapped = torch.nn.parallel.DistributedDataParallel(model) if args.world_size > 1 else model
        train.train_one_epoch(wrapped, data, factory.create_loss(args), 0, optimizer, None, None, None, args)
    found = {name: (before[name] - parameter.detach()) / RATE for name, parameter in model.named_parameters()}
    return found, reference(pairs, batches.plan()[0], args.siglip)


WAYS = {
    "local loss, gathered with gradient": {"local_loss": True, "gather_with_grad": True},
    "gathered with gradient": {"gather_with_grad": True},
    "gathered": {},
    **{f"siglip, {way}": {"siglip": True, "loss_dist_impl": way} for way in ("bidir", "gather")},
}


def main(path: str) -> None:
    common = {
        "device": "cpu", "dist_backend": "gloo", "dist_url": None, "horovod": False, "precision": "fp32",
        "distill": False, "model": "ours", "siglip": False, "loss_dist_impl": None, "local_loss": False,
        "gather_with_grad": False, "skip_scheduler": True, "grad_clip_norm": None, "log_every_n_steps": 100,
        "wandb": False, "no_set_device_rank": False,
    }  # fmt: skip
    args = Namespace(**common)
    init_distributed_device(args)
    result = {}
    for way, options in WAYS.items():
        for accumulate in (1, 2):
            args = Namespace(**{**vars(args), **common, **options, "accum_freq": accumulate})
            args.batch_size = 24 // accumulate // args.world_size
            found, wanted = one_update(args)
            # Without --gather-with-grad each process has the gradient of its own features alone, and the processes'
            # mean is that of the whole batch divided by their number: so it is with the host's own loss.
            share = 1 / args.world_size if way == "gathered" else 1.0
            for name in wanted:
                # Each accumulated step adds the whole gradient of what is no feature, with the host's own loss too.
                factor = accumulate if name.startswith("logit") else share
                difference = (found[name] - factor * wanted[name]).abs().max() / wanted[name].abs().max()
                key = f"{way}, {accumulate}, {name}"
                result[key] = max(result.get(key, 0.0), float(difference))
            plain, _ = one_update(args, plain=True)
            result[f"{way}, {accumulate}, plain"] = float((plain["visual"] - found["visual"]).abs().max())
    if args.rank == 0:
        with open(path, "w") as file:
            json.dump({"ranks": args.world_size, "differences": result}, file)


if __name__ == "__main__":
    main(sys.argv[1])
