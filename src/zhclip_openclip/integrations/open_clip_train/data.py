"""Data of a training run: retrieval sets with exact pairs, CSV errors in one line, images as a family's authors train.

open_clip_train asks `get_dataset_fn` for a function and calls that with (args, transform, is_train=, epoch=,
tokenizer=), in version 4 also naflex_data_config=; it gives back a `DataInfo`, whose loader yields (images, texts) and
from version 4 on {"image": images, "text": texts}.
"""

from __future__ import annotations

import collections
import inspect
import logging
import re
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from zhclip_openclip._errors import shorten
from zhclip_openclip.families import find
from zhclip_openclip.integrations.open_clip_train import tokenizers
from zhclip_openclip.training import PairBatches, Pairs, TrainingError, sources
from zhclip_openclip.training.pairs import Batched, as_it_is
from zhclip_openclip.training.relations import repeats

#: Texts that are looked at to see whether a tokenizer knows their language.
_LOOKED_AT = 400


def get_dataset_fn(original):
    """What stands for `open_clip_train.data.get_dataset_fn`: with `--dataset-type auto` folders and sets are ours."""

    def get_dataset_fn(data_path, dataset_type):
        if dataset_type == "auto" and sources.is_ours(data_path):
            return exact_data
        try:
            return original(data_path, dataset_type)
        except ValueError as error:
            if dataset_type == "auto" and (line := _what_is_meant_by(data_path)):
                raise TrainingError(line) from error
            raise

    return get_dataset_fn


def _what_is_meant_by(name: str) -> str | None:
    """One line on a name that is no data of anybody's, where it can only be a folder or a table of ours."""
    head, _, split = name.rpartition(":")
    if head and Path(head).is_file() and sources.is_ours(head):
        return f"{name}: {Path(head).name} is of one split; for another name {Path(head).parent}:{split}"
    if "://" not in name and not name.startswith("pipe:") and not Path(head or name).suffix and not Path(name).suffix:
        return f"{name}: no such file or folder"
    return None


def exact_data(args, preprocess_fn, is_train, epoch=0, tokenizer=None, naflex_data_config=None):
    """The `DataInfo` of a set with exact pairs."""
    from open_clip_train.data import DataInfo
    from open_clip_train.distributed import is_master

    data = args.train_data if is_train else args.val_data
    if naflex_data_config is not None or getattr(args, "variable_text", False):
        raise TrainingError(f"{data}: sets with exact pairs are read for images and texts of one size, not for NaFlex")
    if is_train:
        _refuse_half_a_gradient(args, data)
    sets = _first_then_others(args, lambda: _open(args, data, is_train))
    tell = logging.info if is_master(args) else lambda *_: None
    for dataset in sets:
        tell(
            f"{dataset.name}, {dataset.split}: {len(dataset)} images, {len(dataset.texts)} texts, from {dataset.layout}"
            + (f"; {len(dataset.skipped)} left out" if dataset.skipped else "")
        )
        for note in dataset.notes:
            tell(f"{dataset.name}: {note}")
    _check_texts(sets, tokenizer, data, tell if is_master(args) else None)
    if not is_train:
        from zhclip_openclip.integrations.open_clip_train.validation import ValidationData

        if len(sets) > 1:
            raise TrainingError(f"--val-data {data}: one set at a time is scored; name one")
        if getattr(args, "fsdp", False):
            raise TrainingError(f"--val-data {data}: not under --fsdp; score the checkpoints with clip_benchmark eval")
        loader = ValidationData(sets[0], preprocess_fn, tokenizer, args.batch_size, args.workers, _as_dict())
        return DataInfo(loader)
    pairs = Pairs(sets, preprocess_fn, tokenizer)
    if len(set(pairs.text.tolist())) < 2:
        raise TrainingError(
            f"{data}: all {len(pairs)} captions read {pairs.caption(0)!r}: there is nothing to tell apart"
        )
    batches = PairBatches(
        pairs.image,
        pairs.text,
        args.batch_size,
        accumulate=args.accum_freq,
        rank=args.rank,
        world_size=args.world_size,
        seed=args.seed,
        distinct=not getattr(args, "plain_batches", False),
        source=pairs.source,
        factors=_factors(args, len(sets)),
        samples=args.train_num_samples,
    )
    batches.set_value(epoch)
    if args.train_num_samples and args.train_num_samples > batches.total:
        tell(f"--train-num-samples {args.train_num_samples}: an epoch is all {batches.total} pairs, there are no more")
    tell(_told(repeats(pairs.image, pairs.text, pairs.relations, batches.batch), batches, args))
    # `shared_epoch` is told of each new epoch in every version of the host.
    return DataInfo(TrainingData(pairs, batches, args.workers, _as_dict()), shared_epoch=batches)


def _refuse_half_a_gradient(args, data: str) -> None:
    """Without --gather-with-grad a process that has its own rows alone does not see what its features do as answers to
    the rows of others: no loss can make up for that, and SigLIP's has no such switch."""
    apart = args.world_size > 1 and getattr(args, "local_loss", False) and not getattr(args, "gather_with_grad", False)
    own = getattr(args, "plain_loss", False) or getattr(args, "siglip", False) or getattr(args, "horovod", False)
    if apart and not own:
        raise TrainingError(
            f"--train-data {data}: --local-loss without --gather-with-grad leaves out the part of the gradient that "
            "the other processes have: add --gather-with-grad, or --plain-loss for open_clip's loss as it is"
        )


def _open(args, data: str, is_train: bool):
    names = ("skip_bad_images", "raw_captions", "image_folder")
    return sources.open_sets(data, is_train, **{name: getattr(args, name) for name in names if hasattr(args, name)})


def _first_then_others(args, make):
    """`make()`, by the first process of each machine before the others: it writes the index that they all read."""
    if not getattr(args, "distributed", False) or not torch.distributed.is_initialized():
        return make()
    first = getattr(args, "local_rank", 0) == 0
    if not first:
        torch.distributed.barrier()
    try:
        return make()
    finally:
        if first:
            torch.distributed.barrier()


def _as_dict() -> bool:
    """Whether batches are dicts: where tasks take them, from open_clip 4 on."""
    from open_clip import factory

    return hasattr(factory, "create_task")


def _factors(args, sets: int) -> list[float]:
    told = args.train_data_upsampling_factors
    if told is None:
        return []
    try:
        return [float(factor) for factor in told.split(sources.JOINED)]
    except ValueError:
        raise TrainingError(f"--train-data-upsampling-factors {told}: numbers are needed, as 1::2") from None


def _told(told, batches: PairBatches, args) -> str:
    """One line on repeats, and what is done about them."""
    line = (
        f"{told.pairs} pairs of {told.images} images and {told.texts} texts; drawn at random, a batch of {told.batch} "
        f"would have {told.distinct_images:.1f} images and {told.distinct_texts:.1f} texts, each image "
        f"{told.false_negatives:.2f} right answers among what counts as wrong, and accuracy could not exceed "
        f"{told.accuracy_bound:.4f}. "
    )
    if batches.distinct:
        line += "No image and no text comes twice in a batch"
    elif getattr(args, "plain_batches", False):
        line += "Batches are drawn at random"
    else:
        what, most = max(("text", told.most_of_a_text), ("image", told.most_of_an_image), key=lambda pair: pair[1])
        line += f"Batches are drawn at random, for one {what} has {most} pairs and there are {batches.batches} batches"
    plain = getattr(args, "plain_loss", False)
    return line + ("; the loss is the host's" if plain else "; the loss counts every right pair as right")


def _check_texts(sets, tokenizer, data: str, tell) -> None:
    """An error where the tokenizer knows nothing of what it is to read, a warning where it was made for English."""
    texts = [entry.text for dataset in sets for entry in dataset.texts[: _LOOKED_AT // len(sets) + 1]]
    inner = getattr(tokenizer, "tokenizer", None)  # transformers', of ours and of open_clip's HFTokenizer
    unknown = getattr(inner, "unk_token_id", None)
    special = {*getattr(inner, "all_special_ids", ())} - {unknown}
    if unknown is not None:
        ids = tokenizer(texts)
        words = ~torch.isin(ids, torch.tensor(sorted(special), dtype=ids.dtype))
        known = 1 - ((ids == unknown) & words).sum().item() / max(1, words.sum().item())
        if known < 0.5:
            raise TrainingError(
                f"{data}: the tokenizer of the model knows {known:.0%} of the words of its texts (the first: "
                f"{texts[0][:40]!r}): they are in another language than the model's"
            )
    chinese = sum(bool(re.search(r"[\u4e00-\u9fff]", text)) for text in texts)
    if tell and type(tokenizer).__name__ == "SimpleTokenizer" and chinese * 2 > len(texts):
        logging.warning(
            f"{data}: the texts are Chinese, and the tokenizer of this model is CLIP's English one, which cuts each "
            "character into bytes: its numbers say little"
        )


class TrainingData:
    """What open_clip_train takes for its loader of training data.

    pairs: what it is made of. num_batches, num_samples: of this process and of all, an epoch.
    """

    def __init__(self, pairs: Pairs, batches: PairBatches, workers: int, as_dict: bool) -> None:
        self.pairs, self.dataset, self.batch_size = pairs, pairs, batches.batch_size
        self._batches, self._as_dict = batches, as_dict
        self._loader = DataLoader(
            Batched(pairs),
            batch_sampler=batches,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            collate_fn=as_it_is,
        )
        self.num_batches, self.num_samples = len(batches), batches.num_samples
        self._recent: collections.deque = collections.deque(maxlen=batches.accumulate)

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self):
        self._recent.clear()
        for images, texts, ids in self._loader:
            self._recent.append(ids)
            yield {"image": images, "text": texts} if self._as_dict else (images, texts)

    def recent(self) -> torch.Tensor:
        """(n, 2) image and text of the pairs that the host computes its next loss of: the accumulated batches."""
        return torch.cat(list(self._recent))


def get_data(original):
    """What stands for `open_clip_train.data.get_data`: a model of ours trains on images as its authors trained it, and
    with the tokenizer that lies beside its weights."""
    signature = inspect.signature(original)

    def get_data(*args, **kwargs):
        from open_clip_train.distributed import is_master

        call = signature.bind(*args, **kwargs)
        given = call.arguments
        options = given["args"]
        given["preprocess_fns"] = training_images(options, given["preprocess_fns"])
        given["tokenizer"] = tokenizers.of_run(options, given.get("tokenizer"))
        if is_master(options):
            tokenizers.keep(options)
        return original(*call.args, **call.kwargs)

    return get_data


def training_images(args, preprocess_fns):
    """The transforms for training and validation.

    Chinese-CLIP squashes its images in training as in evaluation, and so do models of ours that say so, unless the run
    has an option of its own for how images are cut. Source: cn_clip/training/data.py, `LMDBDataset._build_transform`.
    """
    found = find(args.model)
    train, val = preprocess_fns
    augment = getattr(args, "chinese_clip_augment", False)
    if found is None:
        if augment:
            raise TrainingError(f"--chinese-clip-augment is for models of this package, and {args.model} is none")
        return preprocess_fns
    if augment and args.aug_cfg:
        raise TrainingError("--chinese-clip-augment and --aug-cfg: give one of them")
    if found[0].processor_of(found[1]) == "patches":
        if augment or args.aug_cfg:
            raise TrainingError(
                f"{'--chinese-clip-augment' if augment else '--aug-cfg'} is not for {args.model}: its pictures become "
                "patches that keep their shape, in training as in evaluation"
            )
        return preprocess_fns
    if augment:
        return _augmented(val), val
    squashes = found[1].preprocess.get("resize_mode") == "squash"
    if not squashes or args.aug_cfg or args.image_resize_mode:
        return preprocess_fns
    if getattr(args, "rank", 0) == 0:
        logging.info("images are squashed in training too, as Chinese-CLIP does; --aug-cfg 'scale=(0.9, 1.0)' crops")
    return val, val


def _augmented(val):
    """Chinese-CLIP's augmentation with the size, mean and deviation of a transform for validation."""
    from timm.data import create_transform
    from torchvision.transforms import Compose, Normalize, Resize

    from zhclip_openclip.towers.images import to_rgb

    normalize = next(step for step in val.transforms if isinstance(step, Normalize))
    size = next(step for step in val.transforms if isinstance(step, Resize)).size
    made = create_transform(
        input_size=size if isinstance(size, int) else tuple(size)[-1],
        scale=(0.9, 1.0),
        is_training=True,
        color_jitter=None,
        auto_augment="original",
        interpolation="bicubic",
        mean=tuple(normalize.mean),
        std=tuple(normalize.std),
    )
    return Compose([to_rgb, *made.transforms])


def get_csv_dataset(original):
    """What stands for `open_clip_train.data.get_csv_dataset`: what pandas does not understand is told in one line."""

    def get_csv_dataset(args, preprocess_fn, is_train, *others, **kwargs):
        try:
            return original(args, preprocess_fn, is_train, *others, **kwargs)
        except (KeyError, ValueError) as error:  # UnicodeDecodeError and pandas' ParserError are ValueErrors
            path = Path(args.train_data if is_train else args.val_data)
            line = _what_is_wrong_with(path, args) if path.is_file() else None
            if line is None:
                raise
            raise TrainingError(line) from error

    return get_csv_dataset


def _what_is_wrong_with(path: Path, args) -> str | None:
    """One line on a table that could not be read, with the option to give; None where this is not known."""
    if sources.is_ours(str(path)):
        return f"{path}: a table of pictures, which is read without being told: leave out --dataset-type csv"
    with path.open("rb") as file:
        raw = file.read(2**20)
    if b"\n" in raw:
        raw = raw[: raw.rindex(b"\n")]
    for encoding in ("utf-8-sig", "gb18030", "utf-16"):
        try:
            text = raw.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    else:
        return f"{path}: neither UTF-8 nor GBK; write it as UTF-8"
    if encoding != "utf-8-sig":
        name = {"gb18030": "GB18030", "utf-16": "UTF-16"}[encoding]
        return f"{path}: not UTF-8 but {name}, as Excel writes it: iconv -f {name} -t UTF-8 {path} > NEW, and give NEW"
    head = text.splitlines()[0] if text else ""
    wanted = (args.csv_img_key, args.csv_caption_key)
    separator = max(("\t", ",", ";"), key=head.count)
    columns = [column.strip('"') for column in head.split(separator)]
    advice = []
    if separator != args.csv_separator and separator in head:
        advice.append({"\t": "--csv-separator $'\\t'"}.get(separator, f"--csv-separator '{separator}'"))
    for option, name in zip(("--csv-img-key", "--csv-caption-key"), wanted, strict=True):
        if name not in columns:
            advice.append(f"{option} with the name of its column")
    if not advice:
        return None
    named = f"{path}: the columns are {shorten(columns, 8)}, looked for were {' and '.join(wanted)}"
    return f"{named}: give {', '.join(advice)}"
