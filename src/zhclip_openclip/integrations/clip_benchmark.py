"""Everything that we add to or replace in clip_benchmark. Models, data sets and languages that are not ours take its
own path throughout."""

from __future__ import annotations

import importlib
import sys

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.families import all_families, all_names, find
from zhclip_openclip.integrations._patching import Patch, apply

#: clip_benchmark's own default of --pretrained, which no model of ours has as a tag.
_DEFAULT_PRETRAINED = ["laion400m_e32"]
#: The six systems of the published comparison: `--pretrained_model chinese_clip`.
COMPARISON = ("zhclip", "altclip", "cnclip", "taiyiclip", "mclip", "clip-chinese")


def _load_clip(original):
    def load_clip(model_type, model_name, pretrained, cache_dir, device="cuda"):
        if model_type != "open_clip" or find(model_name) is None:
            return original(model_type, model_name, pretrained, cache_dir, device)
        import open_clip

        model, _, transform = open_clip.create_model_and_transforms(
            model_name, pretrained=pretrained, cache_dir=cache_dir, device=device
        )
        tokenizer = open_clip.get_tokenizer(model_name, cache_dir=cache_dir, pretrained=pretrained)
        return model, transform, tokenizer

    return load_clip


def _build_dataset(original):
    def build_dataset(dataset_name, root="root", transform=None, split="test", *args, **kwargs):
        if dataset_name != "digits":
            return original(dataset_name, root, transform, split, *args, **kwargs)
        from zhclip_openclip.datasets.digits import Digits

        dataset = Digits(split, transform)
        dataset.classes, dataset.templates = _digits_prompts(kwargs.get("language", "en"))
        return dataset

    return build_dataset


def _digits_prompts(language: str) -> tuple[list[str], list[str]]:
    import json

    from zhclip_openclip import _paths

    if language == "en":
        from zhclip_openclip.datasets.digits import Digits

        return list(Digits.classes), ["a handwritten digit {c}"]
    pairs = json.loads((_paths.DATA / "classnames" / "digits.json").read_text(encoding="utf-8"))["classes"]
    templates = json.loads((_paths.DATA / "templates" / "zh.json").read_text(encoding="utf-8"))["digits"]
    return [zh for _, zh in pairs], templates


def _accuracy(original):
    def accuracy(output, target, topk=(1,)):
        try:
            return original(output, target, topk)
        except TypeError:  # NumPy 2.4 makes no float of an array with one element any more
            hits = output.topk(max(topk), 1, True, True)[1].eq(target.view(-1, 1))
            return [float(hits[:, :k].float().sum()) / len(target) for k in topk]

    return accuracy


def _main_eval(original):
    def main_eval(base):
        if not base.pretrained_model and base.pretrained == _DEFAULT_PRETRAINED and not _given("--pretrained"):
            names = base.model if isinstance(base.model, list) else [base.model]
            if any(find(name) for name in names):
                base.pretrained_model = [f"{name},{_default_tag(name)}" for name in names]
        if original.__globals__.get("__name__") != "__main__":
            return original(base)
        with _plain_errors():  # `main` itself is past being replaced
            return original(base)

    return main_eval


def _given(option: str) -> bool:
    return any(argument == option or argument.startswith(option + "=") for argument in sys.argv[1:])


def _default_tag(name: str) -> str:
    found = find(name)
    return found[1].default_tag if found else _DEFAULT_PRETRAINED[0]


def _run(original):
    def run(args):
        if find(str(args.model)) is not None:
            import torch

            from zhclip_openclip._precision import use_amp

            device = "cuda" if torch.cuda.is_available() else "cpu"
            if args.amp and not use_amp(device, args.amp):
                if args.verbose:
                    print("Mixed precision is off: this CPU has no bf16 units and is faster in fp32")
                args.amp = False
        return original(args)

    return run


def _main(original):
    def main():
        with _plain_errors():
            return original()

    return main


class _plain_errors:
    """Ends the program with one line where an error of ours says all there is to say."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is not None and issubclass(kind, ZhclipError):
            raise SystemExit(f"clip_benchmark: error: {error}") from error
        return False


MODELS = [
    Patch(
        "clip_benchmark.models",
        "load_clip",
        _load_clip,
        "for our models: the tokenizer beside a checkpoint is taken first, and nothing is built on the wrong device",
    )
]
BUILDER = [
    Patch("clip_benchmark.datasets.builder", "build_dataset", _build_dataset, "for our data sets: knows their names")
]
METRICS = [
    Patch(
        "clip_benchmark.metrics.zeroshot_classification",
        "accuracy",
        _accuracy,
        "clip_benchmark 1.6.2 fails here with NumPy 2.4 or later, for every model; where it works it is used",
    )
]
CLI = [
    Patch(
        "clip_benchmark.cli",
        "main_eval",
        _main_eval,
        "for our models: an absent --pretrained means the model's default tag, in file names and results too",
    ),
    Patch("clip_benchmark.cli", "run", _run, "for our models: no bf16 on a CPU that has no units for it"),
    Patch("clip_benchmark.cli", "main", _main, "an error of ours ends the program with its one line"),
]
PATCHES = [*MODELS, *BUILDER, *METRICS, *CLI]


def hook_models(module) -> None:
    apply(MODELS, "clip_benchmark")


def hook_builder(module) -> None:
    apply(BUILDER, "clip_benchmark")


def hook_zeroshot_classification(module) -> None:
    apply(METRICS, "clip_benchmark")


def hook_cli(module) -> None:
    apply(CLI, "clip_benchmark", namespace=module)


def hook_model_collection(module) -> None:
    """Add a collection for each of our model names, each family and the six systems of the published comparison."""
    ours = set(all_names())
    collection = module.model_collection
    # `openclip_all` is made from open_clip.list_pretrained(), which lists ours too.
    collection["openclip_all"] = [entry for entry in collection["openclip_all"] if entry[0] not in ours]
    added = {name: [(name, _default_tag(name))] for name in sorted(ours)}
    added["chinese_clip"] = [(name, _default_tag(name)) for name in COMPARISON if name in ours]
    for family in all_families().values():
        added[f"{family.name}_all"] = [(model.name, tag) for model in family.models for tag in model.tags]
    for name, models in added.items():
        collection.setdefault(name, models)


def register() -> None:
    """Hook all parts of clip_benchmark that are loaded, and load those that are not. Twice is once."""
    from zhclip_openclip import autoload

    for name in autoload.HOOKS:
        if name.startswith("clip_benchmark."):
            autoload.apply(name, importlib.import_module(name))
