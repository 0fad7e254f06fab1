"""Everything that we add to or replace in open_clip_train. Models and data that are not ours take its own path
throughout.

This page is the whole of the contact; what stands in the place of each name is in the module that the table names.
"""

from __future__ import annotations

import importlib
import sys

from zhclip_openclip.integrations import _one_line
from zhclip_openclip.integrations._patching import Patch, apply
from zhclip_openclip.integrations.open_clip_train import data, loss, options, validation

PARAMS = [
    Patch(
        "open_clip_train.params",
        "parse_args",
        options.parse_args,
        "takes our own options out of the command line",
    )
]
DATA = [
    Patch(
        "open_clip_train.data",
        "get_dataset_fn",
        data.get_dataset_fn,
        "with --dataset-type auto: folders and names of retrieval sets, which the host refuses",
    ),
    Patch(
        "open_clip_train.data",
        "get_csv_dataset",
        data.get_csv_dataset,
        "a table that pandas cannot read is answered with the option to give",
    ),
    Patch(
        "open_clip_train.data",
        "get_data",
        data.get_data,
        "for our models: the tokenizer beside --pretrained; those that squash images do so in training too, unless "
        "--aug-cfg or --image-resize-mode is given",
    ),
]
ZERO_SHOT = [
    Patch(
        "open_clip_train.zero_shot",
        "build_zero_shot_classifier",
        validation.build_zero_shot_classifier,
        "for our models: Chinese names and templates for --imagenet-val",
    )
]
TRAIN = [
    Patch(
        "open_clip_train.train",
        "train_one_epoch",
        loss.train_one_epoch,
        "for sets with exact pairs: a loss in which every right pair is right",
    ),
    Patch(
        "open_clip_train.train",
        "evaluate",
        validation.evaluate,
        "for sets with exact pairs: remembers which set is validated; for our models: the tokenizer of the data",
    ),
    Patch(
        "open_clip_train.train",
        "get_clip_metrics",
        validation.get_clip_metrics,
        "for sets with exact pairs: official recall, without a matrix of all against all",
    ),
]


def hook_params(module) -> None:
    main = getattr(getattr(sys.modules.get("__main__"), "__spec__", None), "name", None)
    _one_line.tell_errors_where(main == "open_clip_train.main")
    apply(PARAMS, "open_clip_train")


def hook_data(module) -> None:
    apply(DATA, "open_clip_train")


def hook_zero_shot(module) -> None:
    apply(ZERO_SHOT, "open_clip_train.zero_shot")


def hook_train(module) -> None:
    apply(TRAIN, "open_clip_train")


def register() -> None:
    """Hook all parts of open_clip_train, and load those that are not loaded. Twice is once."""
    from zhclip_openclip import autoload

    for name in autoload.HOOKS:
        if name.startswith("open_clip_train."):
            autoload.apply(name, importlib.import_module(name))
