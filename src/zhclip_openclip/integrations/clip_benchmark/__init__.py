"""Everything that we add to or replace in clip_benchmark. Models, data sets and languages that are not ours take its
own path throughout.

This page is the whole of the contact; what stands in the place of each name is in the module that the table names.
`many_processes` has a second table, for the length of `zhclip eval` under a launcher and nowhere else.
"""

from __future__ import annotations

import importlib

from zhclip_openclip.integrations._patching import Patch, apply
from zhclip_openclip.integrations.clip_benchmark import command_line, datasets, metrics, models, probing
from zhclip_openclip.integrations.clip_benchmark.datasets import RETRIEVAL
from zhclip_openclip.integrations.clip_benchmark.models import COMPARISON

__all__ = ["COMPARISON", "RETRIEVAL", "register"]

_CLASSIFICATION = "clip_benchmark.metrics.zeroshot_classification"
MODELS = [
    Patch(
        "clip_benchmark.models",
        "load_clip",
        models.load_clip,
        "for our models: the tokenizer beside a checkpoint is taken first, and nothing is built on the wrong device",
    )
]
BUILDER = [
    Patch(
        "clip_benchmark.datasets.builder",
        "build_dataset",
        datasets.build_dataset,
        "our data sets by name; Chinese class names and templates for --language zh; Chinese captions without tags",
    ),
    Patch(
        "clip_benchmark.datasets.builder",
        "get_dataset_default_task",
        datasets.get_dataset_default_task,
        "muge, flickr30k-cn and coco-cn are retrieval",
    ),
    Patch(
        "clip_benchmark.datasets.builder",
        "get_dataset_collate_fn",
        datasets.get_dataset_collate_fn,
        "muge, flickr30k-cn and coco-cn have lists of captions",
    ),
]
CLASSIFICATION = [
    Patch(
        _CLASSIFICATION,
        "accuracy",
        metrics.accuracy,
        "clip_benchmark 1.6.2 fails here with NumPy 2.4 or later, for every model; where it works it is used",
    ),
    Patch(
        _CLASSIFICATION,
        "zero_shot_classifier",
        metrics.zero_shot_classifier,
        "for our models and Chinese prompts: all prompts encoded together by length, not class by class",
    ),
    Patch(
        _CLASSIFICATION,
        "run_classification",
        metrics.run_classification,
        "for our models, Chinese prompts and where a feature cache is asked for: one pass over the images that can be "
        "cached; keeps the scores for the metrics that are added",
    ),
    Patch(
        _CLASSIFICATION,
        "evaluate",
        metrics.evaluate_classification,
        "for Chinese prompts: adds per-class accuracy and the published tables' definitions under keys of their own",
    ),
]
RETRIEVAL_METRICS = [
    Patch(
        "clip_benchmark.metrics.zeroshot_retrieval",
        "evaluate",
        metrics.evaluate_retrieval,
        "for Chinese retrieval sets: several right images a text, top-k over blocks, results for each query",
    )
]
LINEAR_PROBE = [
    Patch(
        "clip_benchmark.metrics.linear_probe",
        "evaluate",
        probing.evaluate_probe,
        "for our models, data sets and options: classifiers of ours, on features that a cache knows by content; "
        "clip_benchmark's own protocol on a CPU, where it refuses to run",
    )
]
CLI = [
    Patch(
        "clip_benchmark.cli",
        "get_parser_args",
        command_line.get_parser_args,
        "takes our own options out of the command line",
    ),
    Patch(
        "clip_benchmark.cli",
        "main_eval",
        command_line.main_eval,
        "for our models: an absent --pretrained means the model's default tag, in file names and results too; "
        "names that nobody knows are answered with the closest ones, where one of ours is meant or beside them",
    ),
    Patch(
        "clip_benchmark.cli",
        "run",
        command_line.run,
        "for our models no bf16 on a CPU without units for it; for our data sets default split and recall_k; for both "
        "no more readers than cores, mistakes told before the model is loaded, a result that is whole or not there",
    ),
    Patch(
        "clip_benchmark.cli",
        "main",
        command_line.main,
        "an error of ours, or of an evaluation with a model, data set or language of ours, ends the program with one "
        "line",
    ),
]


def hook_models(module) -> None:
    apply(MODELS, "clip_benchmark")


def hook_builder(module) -> None:
    apply(BUILDER, "clip_benchmark")
    module.dataset_collection.setdefault("chinese_retrieval", list(datasets.RETRIEVAL))


def hook_zeroshot_classification(module) -> None:
    apply(CLASSIFICATION, _CLASSIFICATION)


def hook_zeroshot_retrieval(module) -> None:
    apply(RETRIEVAL_METRICS, "clip_benchmark.metrics.zeroshot_retrieval")


def hook_linear_probe(module) -> None:
    apply(LINEAR_PROBE, "clip_benchmark.metrics.linear_probe")


def hook_nllb(module) -> None:
    models.add_nllb_spellings(module.lang_map)


def hook_cli(module) -> None:
    if module.__name__ == "__main__":
        command_line.take_early(module)
    apply(CLI, "clip_benchmark", namespace=module)


def hook_model_collection(module) -> None:
    models.add_collections(module.model_collection)


def register() -> None:
    """Hook all parts of clip_benchmark that are loaded, and load those that are not. Twice is once."""
    from zhclip_openclip import autoload

    for name in autoload.HOOKS:
        if name.startswith("clip_benchmark.") and name != "clip_benchmark.models.nllb_clip":
            autoload.apply(name, importlib.import_module(name))
