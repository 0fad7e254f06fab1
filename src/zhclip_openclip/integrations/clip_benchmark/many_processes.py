"""What `zhclip eval` lays over clip_benchmark where a launcher has started several processes: each does its part of one
evaluation, and rank 0 goes on with all of it.

A table beside that of this package's first page, because it is put in place for the length of one command and nowhere
else: `clip_benchmark eval`, with or without --distributed, never meets it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator

import torch

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.families import find
from zhclip_openclip.features import ranks
from zhclip_openclip.integrations.clip_benchmark import evaluation

#: Tasks whose samples are shared; any other is rank 0's alone.
SPLIT = ("zeroshot_classification", "zeroshot_retrieval")


@contextlib.contextmanager
def laid_over() -> Iterator[None]:
    """The table in place, and nobody but rank 0 speaking, until the end of the block. clip_benchmark is loaded."""
    before = []
    with open(os.devnull, "w") as nowhere, contextlib.ExitStack() as stack:
        if ranks.rank():
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        try:
            for module, name, make in TABLE:
                place = importlib.import_module(module)
                before.append((place, name, getattr(place, name)))
                setattr(place, name, make(before[-1][-1]))
            yield
        finally:
            for place, name, original in before:
                setattr(place, name, original)


# ---------------------------------------------------------------- one evaluation after the other


def _get_parser_args(original):
    def get_parser_args():
        if ranks.rank() == 0:
            return original()
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # rank 0 says what is wrong
            return original()

    return get_parser_args


def _main_eval(original):
    def main_eval(base):
        if base.distributed:
            raise ZhclipError(
                "--distributed gives whole evaluations to the processes, and zhclip eval splits each of them: leave it "
                "out, or start clip_benchmark eval --distributed"
            )
        return original(base)

    return main_eval


def _run(original):
    def run(args):
        ranks.next_cell()
        result = None
        if ranks.rank():
            # Nothing to write, and nothing there that could be skipped: rank 0 decides.
            args.output, args.save_clf, args.verbose = "", None, False
        if _is_split(args):
            with contextlib.suppress(ranks.Elsewhere):
                result = original(args)
        elif ranks.rank() == 0:
            if args.verbose:
                print(f"Note: {args.task} is not split; rank 0 of {ranks.size()} does it alone")
            with ranks.alone():
                result = original(args)
        ranks.end_cell()
        return result

    return run


def _is_split(args) -> bool:
    from clip_benchmark import cli

    task = args.task
    if task == "auto":
        task = cli.get_dataset_default_task(args.dataset.removeprefix("wds/"))
    return task in SPLIT


def _load_clip(original):
    def load_clip(model_type, model_name, pretrained, cache_dir, device="cuda"):
        ranks.agree("the models", [model_type, model_name, pretrained])
        # Files from the hub are fetched once, whoever asks; open_clip's own downloads know nothing of each other.
        ours = model_type == "open_clip" and find(model_name) is not None
        with contextlib.nullcontext() if ours else ranks.in_turn():
            return original(model_type, model_name, pretrained, cache_dir, device)

    return load_clip


def _build_dataset(original):
    def build_dataset(*args, **kwargs):
        with ranks.in_turn():  # torchvision and others download where nothing is yet
            return original(*args, **kwargs)

    return build_dataset


# ---------------------------------------------------------------- what clip_benchmark encodes and scores itself


def _is_ours(model) -> bool:
    """Whether prompts and scores are made by functions of ours, which share the work themselves."""
    return getattr(model, "zhclip_model", None) is not None or evaluation.is_ours()


def _zero_shot_classifier(original):
    def zero_shot_classifier(model, tokenizer, classnames, templates, device, amp=True):
        if ranks.size() == 1 or _is_ours(model):
            return original(model, tokenizer, classnames, templates, device, amp)
        # clip_benchmark goes class by class, so that a part of the classes gives a part of the columns.
        mine = [classnames[index] for index in ranks.part(len(classnames))]
        columns = original(model, tokenizer, mine, templates, device, amp) if mine else None
        rows = ranks.everyones_rows(None if columns is None else columns.T.contiguous())
        return torch.stack(list(torch.cat(rows)), dim=1).to(device)

    return zero_shot_classifier


def _run_classification(original):
    def run_classification(model, classifier, dataloader, device, amp=True):
        if ranks.size() == 1 or _is_ours(model):
            return original(model, classifier, dataloader, device, amp)
        from zhclip_openclip.metrics import classification

        what = running.args.dataset if (running := evaluation.current()) else ""
        return classification.run_classification(model, classifier, dataloader, device, amp, what)

    return run_classification


def _evaluate_retrieval(original):
    def evaluate(model, dataloader, tokenizer, device, amp=True, recall_k_list=(5,)):
        from zhclip_openclip.metrics.evaluate import exact_dataset

        dataset = getattr(dataloader, "dataset", None)
        own_scoring = exact_dataset(dataloader) is not None or getattr(dataset, "official_scoring", False)
        if ranks.size() == 1 or own_scoring:
            return original(model, dataloader, tokenizer, device, amp, recall_k_list)
        batches = _encode_pairs(model, dataloader, tokenizer, device, amp)
        ranks.only_first()
        texts = iter([features for _, features, _ in batches])
        loader = [(features, captions) for features, _, captions in batches]
        # What the towers give is there; clip_benchmark does with it what it does with towers' output.
        return original(_Given(), loader, lambda captions: next(texts), device, amp, recall_k_list)

    return evaluate


class _Given:
    """A model whose input is its output."""

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def encode_text(self, texts: torch.Tensor) -> torch.Tensor:
        return texts


def _encode_pairs(
    model, loader, tokenizer, device: str, amp: bool
) -> list[tuple[torch.Tensor, torch.Tensor, list[list[str]]]]:
    """What the towers give for each batch, as they give it, and its captions, on rank 0."""
    from zhclip_openclip.features.image_pass import batches_of
    from zhclip_openclip.features.progress import Progress

    images, texts, captions, starts = [], [], [], []
    what = running.args.dataset if (running := evaluation.current()) else ""
    with Progress("images", what, None) as progress, torch.no_grad():
        for start, batch, batch_captions in batches_of(loader, device):
            with torch.autocast(torch.device(device).type, enabled=amp):
                images.append(model.encode_image(batch.to(device)).cpu())
                tokens = tokenizer([text for texts in batch_captions for text in texts])
                texts.append(model.encode_text(tokens.to(device)).cpu())
            starts.append(start)
            captions.append([list(texts) for texts in batch_captions])
            progress.add(len(batch))
        progress.wait()
    counts = zip(starts, map(len, images), map(len, texts), strict=True)
    told = ranks.everyones(list(counts))
    image_rows = ranks.gather(torch.cat(images) if images else None)
    text_rows = ranks.gather(torch.cat(texts) if texts else None)
    all_captions = [batch for part in ranks.everyones(captions) for batch in part]
    if ranks.rank():
        return []
    sizes = [size for part in told for size in part]
    parts = zip(
        sizes,
        torch.cat(image_rows).split([count for _, count, _ in sizes]),
        torch.cat(text_rows).split([count for *_, count in sizes]),
        all_captions,
        strict=True,
    )
    return [(image, text, batch) for _, image, text, batch in sorted(parts, key=lambda part: part[0])]


_CLI = "clip_benchmark.cli"
_CLASSIFICATION = "clip_benchmark.metrics.zeroshot_classification"
#: Module, name, what makes the replacement out of what is there.
TABLE: list[tuple[str, str, Callable]] = [
    (_CLI, "get_parser_args", _get_parser_args),
    (_CLI, "main_eval", _main_eval),
    (_CLI, "run", _run),
    (_CLI, "load_clip", _load_clip),
    (_CLI, "build_dataset", _build_dataset),
    (_CLASSIFICATION, "zero_shot_classifier", _zero_shot_classifier),
    (_CLASSIFICATION, "run_classification", _run_classification),
    ("clip_benchmark.metrics.zeroshot_retrieval", "evaluate", _evaluate_retrieval),
]
