"""Everything that we add to or replace in clip_benchmark. Models, data sets and languages that are not ours take its
own path throughout."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import inspect
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from zhclip_openclip import features
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip._files import whole_file
from zhclip_openclip.families import all_families, all_names, find
from zhclip_openclip.integrations._patching import Patch, apply

#: clip_benchmark's own defaults of --pretrained and --recall_k.
_DEFAULT_PRETRAINED = ["laion400m_e32"]
_DEFAULT_RECALL_K = [5]
#: The six systems of the published comparison: `--pretrained_model chinese_clip`.
COMPARISON = ("zhclip", "altclip", "cnclip", "taiyiclip", "mclip", "clip-chinese")
#: Packages whose versions go into a result.
_VERSIONS = ("zhclip-openclip", "open_clip_torch", "clip_benchmark", "torch", "transformers", "timm")
#: The official Chinese retrieval sets: `--dataset chinese_retrieval`.
RETRIEVAL = ("muge", "flickr30k-cn", "coco-cn")


# ---------------------------------------------------------------- options


def _our_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="", add_help=False, allow_abbrev=False)
    group = parser.add_argument_group("added by zhclip-openclip")
    group.add_argument(
        *("--skip-bad-images", "--skip_bad_images"),
        action="store_true",
        help="leave out images that cannot be read; they are counted and named in the result",
    )
    group.add_argument(
        *("--raw-captions", "--raw_captions"),
        action="store_true",
        help="keep part-of-speech tags and spaces between the words of Chinese captions",
    )
    group.add_argument(
        *("--image-folder", "--image_folder"), help="pictures of COCO-CN or Flickr30K-CN, if not below --dataset_root"
    )
    group.add_argument("--compile", action="store_true", help="compile the image tower with torch.compile")
    return parser


#: What was given of our options on this command line.
_options = _our_options().parse_args([])


def _take_options() -> None:
    """Take our options out of the command line, which clip_benchmark then reads as ever."""
    global _options
    if len(sys.argv) > 1 and sys.argv[1] == "eval":
        _options, rest = _our_options().parse_known_args(sys.argv[2:])
        sys.argv[2:] = rest
        if {"-h", "--help"} & set(rest):
            print(_our_options().format_help().partition("\n\n")[2])


def _given(*options: str) -> bool:
    return any(
        argument == option or argument.startswith(option + "=") for argument in sys.argv[1:] for option in options
    )


# ---------------------------------------------------------------- one evaluation


class _Output(str):
    """The template of the output file; remembers the path that clip_benchmark makes of it."""

    path: str | None = None

    def format(self, *args, **kwargs):
        self.path = super().format(*args, **kwargs)
        return self.path


@dataclass
class _Running:
    """The evaluation that clip_benchmark is in.

    read: its data set, read before the model. dataset: the one that clip_benchmark has got, and whether any of it is
    ours. added: what goes into its result file beside clip_benchmark's own.
    """

    args: object
    output: _Output
    read: object = None
    dataset: object = None
    ours: bool = False
    added: dict = field(default_factory=dict)

    def has_read(self, name: str, split: str) -> bool:
        return self.read is not None and (name, split) == (self.args.dataset, self.args.split)


_running: _Running | None = None


def _run(original):
    def run(args):
        global _running
        _prepare(args)
        args.output = _Output(args.output)
        before, _running = _running, _Running(args, args.output)
        try:
            with features.using(compile=_options.compile):
                if not args.skip_existing:
                    _read_data_first(_running)
                result = original(args)
                _finish(_running)
        finally:
            _running = before
        return result

    return run


def _prepare(args) -> None:
    """Our defaults, where the command line says nothing else."""
    from zhclip_openclip.datasets.retrieval import DEFAULT_KS, dataset_name, default_split

    name = args.dataset.removeprefix("wds/")
    if dataset_name(name):
        if not args.dataset.startswith("wds/") and not _given("--split", "--test_split"):
            args.split = default_split(name)
        if list(args.recall_k) == _DEFAULT_RECALL_K and not _given("--recall_k"):
            args.recall_k = list(DEFAULT_KS)
    if args.dataset.startswith("elevater/") and not _given("--language"):
        args.language = "zh"  # its labels and templates are Chinese; clip_benchmark's default is English
    if find(str(args.model)) is not None and args.amp:
        import torch

        from zhclip_openclip._precision import use_amp

        if not use_amp("cuda" if torch.cuda.is_available() else "cpu", args.amp):
            if args.verbose:
                print("Mixed precision is off: this CPU has no bf16 units and is faster in fp32")
            args.amp = False
    if _is_chinese_classification(args):
        args.dump_classnames = args.dump_templates = True


def _read_data_first(running: _Running) -> None:
    """Find mistakes in data and prompts before the model is loaded, which clip_benchmark does first."""
    from zhclip_openclip import prompts

    args = running.args
    name = args.dataset
    bare = name.removeprefix("wds/")
    root = args.dataset_root.format(dataset=bare, dataset_cleaned=bare.replace("/", "-"))
    files = args.custom_template_file, args.custom_classname_file
    running.read = _our_dataset(name, root, None, args.split, args.language, args.wds_cache_dir, *files)
    if running.read is None and _is_chinese_classification(args):
        prompts.prepare(name, args.language, args.custom_template_file, args.custom_classname_file)
        if name != bare:
            from zhclip_openclip.datasets import streams

            streams.check_shards(name, root, args.split)


def _our_dataset(name, root, transform, split, language, cache_dir, template_file, classname_file):
    """One of the data sets that clip_benchmark does not have; None for any other name."""
    from zhclip_openclip import prompts
    from zhclip_openclip.datasets import elevater, retrieval

    bare = name.removeprefix("wds/")
    if retrieval.dataset_name(bare):
        if bare != name:
            from zhclip_openclip.datasets.wds_open import open_wds

            known = retrieval.dataset_name(bare)
            return open_wds(root, transform, split, _options.skip_bad_images, cache_dir, known)
        return retrieval.build_retrieval_dataset(
            name, root, transform, split, _options.skip_bad_images, _options.raw_captions, _options.image_folder
        )
    if name.startswith("elevater/"):
        built = elevater.build(
            name, root, transform, split, _options.skip_bad_images, language, template_file, classname_file
        )
        prompts.check(built, name, split)
        return built
    return None


def _is_chinese_classification(args) -> bool:
    from zhclip_openclip import prompts

    if args.task not in ("auto", "zeroshot_classification"):
        return False
    return args.dataset.startswith("elevater/") or prompts.is_chinese(args.dataset, args.language)


def _finish(running: _Running) -> None:
    """Add what we know to the result file, which stays whole if we are interrupted."""
    if not running.ours or not running.output.path or not Path(running.output.path).is_file():
        return
    path = Path(running.output.path)
    result = json.loads(path.read_text(encoding="utf-8"))
    dataset = running.dataset
    for key in ("template_set", "classname_source", "prompts_version", "english_classes", "notes"):
        if getattr(dataset, key, None):
            result[key] = getattr(dataset, key)
    result["versions"] = {name: importlib.metadata.version(name) for name in _VERSIONS}
    skipped = getattr(dataset, "skipped", None)
    if skipped:
        result["skipped_images"] = {"count": len(skipped), "images": [list(entry) for entry in skipped]}
    result.update(running.added)
    with whole_file(path) as part:
        part.write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")


# ---------------------------------------------------------------- models


def _load_clip(original):
    def load_clip(model_type, model_name, pretrained, cache_dir, device="cuda"):
        global _last_loaded
        asked = (model_type, model_name, pretrained, cache_dir, str(device))
        if features.current().keep_model and _last_loaded is not None and _last_loaded[0] == asked:
            return _last_loaded[1]
        _last_loaded = None  # before the next one is made: there may not be room for two
        loaded = load(*asked[:-1], device)
        if features.current().keep_model:
            _last_loaded = asked, loaded
        return loaded

    def load(model_type, model_name, pretrained, cache_dir, device):
        if model_type != "open_clip" or find(model_name) is None:
            return original(model_type, model_name, pretrained, cache_dir, device)
        import open_clip

        model, _, transform = open_clip.create_model_and_transforms(
            model_name, pretrained=pretrained, cache_dir=cache_dir, device=device
        )
        tokenizer = open_clip.get_tokenizer(model_name, cache_dir=cache_dir, pretrained=pretrained)
        return model, transform, tokenizer

    return load_clip


#: What `load_clip` was asked for last and has given, where `features.using(keep_model=True)` says so.
_last_loaded: tuple | None = None


def _default_tag(name: str) -> str:
    found = find(name)
    return found[1].default_tag if found else _DEFAULT_PRETRAINED[0]


# ---------------------------------------------------------------- data sets


def _build_dataset(original):
    signature = inspect.signature(original)

    def build_dataset(*args, **kwargs):
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        if not features.current().download:
            call.arguments["download"] = False
        dataset, ours = _build(original, call)
        if _running is not None and call.arguments["split"] == _running.args.split:
            _running.dataset, _running.ours = dataset, ours
            for note in getattr(dataset, "notes", ()) if ours else ():
                print(f"Note: {note}")
        return dataset

    return build_dataset


def _build(original, call):
    """The data set, and whether any of it is our doing."""
    from zhclip_openclip import prompts
    from zhclip_openclip.datasets import chinese_captions
    from zhclip_openclip.prompts import languages, templates

    given = call.arguments
    name, language, task, split = given["dataset_name"], given["language"], given["task"], given["split"]
    template_file, classname_file = given["custom_template_file"], given["custom_classname_file"]
    if _running is not None and _running.has_read(name, split):
        _running.read.transform = given["transform"]
        return _running.read, True
    built = _our_dataset(
        *(name, given["root"], given["transform"], split, language, given["wds_cache_dir"]),
        *(template_file, classname_file),
    )
    if built is not None:
        return built, True
    if task in ("zeroshot_classification", "linear_probe") and prompts.is_chinese(name, language):
        given.update(prompts.chinese_arguments(name, language, template_file, classname_file))
        built = _digits(given) if name == "digits" else original(*call.args, **call.kwargs)
        prompts.localise(built, name, language, template_file, classname_file)
        prompts.check(built, name, split)
        if _is_indexed(built):
            from zhclip_openclip.datasets.unreadable import Guarded

            built = Guarded(built, name, _options.skip_bad_images)
        else:
            from zhclip_openclip.datasets import streams

            built = streams.guard(built, name, split, _options.skip_bad_images)
        return built, True
    templates.refuse_elsewhere(template_file, name, language)
    if name == "digits":
        return _digits(given), True
    codes = chinese_captions.LANGUAGES.get(name, {})
    chinese = language in codes.values() or (codes and prompts.normalise(language) in codes)
    if chinese:
        given["language"] = codes.get(prompts.normalise(language), language)
        return chinese_captions.ChineseCaptions(original(*call.args, **call.kwargs), _options.raw_captions), True
    built = original(*call.args, **call.kwargs)
    if task == "zeroshot_classification" and name.startswith("wds/"):
        with contextlib.suppress(ZhclipError):  # a language that we do not know is clip_benchmark's business here
            if languages.is_chinese(language):
                print(f"Note: there are no Chinese names for {name}: the names and templates in its folder are used")
    return built, False


def _is_indexed(dataset) -> bool:
    """Whether images are got by number; TFDS' are a stream, although their class inherits `__getitem__`."""
    from torch.utils.data import IterableDataset

    streams = isinstance(dataset, IterableDataset)
    return not streams and hasattr(type(dataset), "__getitem__") and hasattr(type(dataset), "__len__")


def _digits(given):
    from zhclip_openclip.datasets.digits import Digits

    dataset = Digits(given["split"], given["transform"])
    dataset.templates = ["a handwritten digit {c}"]
    return dataset


def _get_dataset_default_task(original):
    def get_dataset_default_task(dataset):
        from zhclip_openclip.datasets.retrieval import dataset_name

        return "zeroshot_retrieval" if dataset_name(dataset) else original(dataset)

    return get_dataset_default_task


def _get_dataset_collate_fn(original):
    def get_dataset_collate_fn(name):
        from zhclip_openclip.datasets.retrieval import dataset_name

        return original("flickr30k" if dataset_name(name) else name)

    return get_dataset_collate_fn


# ---------------------------------------------------------------- metrics


def _accuracy(original):
    def accuracy(output, target, topk=(1,)):
        try:
            return original(output, target, topk)
        except TypeError:  # NumPy 2.4 makes no float of an array with one element any more
            hits = output.topk(max(topk), 1, True, True)[1].eq(target.view(-1, 1))
            return [float(hits[:, :k].float().sum()) / len(target) for k in topk]

    return accuracy


def _zero_shot_classifier(original):
    def zero_shot_classifier(model, tokenizer, classnames, templates, device, amp=True):
        if getattr(model, "zhclip_model", None) is None and not (_running and _running.ours):
            return original(model, tokenizer, classnames, templates, device, amp)
        from zhclip_openclip.prompts import classifier

        return classifier.zero_shot_classifier(model, tokenizer, classnames, templates, device, amp)

    return zero_shot_classifier


def _run_classification(original):
    def run_classification(model, classifier, dataloader, device, amp=True):
        ours = _running is not None and _running.ours
        if not ours and getattr(model, "zhclip_model", None) is None and features.current().cache is None:
            return original(model, classifier, dataloader, device, amp)
        from zhclip_openclip.metrics import classification

        what = _running.args.dataset if _running else ""
        logits, target = classification.run_classification(model, classifier, dataloader, device, amp, what)
        if ours:
            _running.added["logits"] = logits, target  # for `evaluate`, which takes them out again
        return logits, target

    return run_classification


def _evaluate_classification(original):
    def evaluate(*args, **kwargs):
        metrics = original(*args, **kwargs)
        if _running is None or "logits" not in _running.added:
            return metrics
        from zhclip_openclip.metrics import classification
        from zhclip_openclip.metrics.per_sample import save_per_sample

        logits, target = _running.added.pop("logits")
        ours = classification.evaluate(logits, target, _running.dataset.classes, _running.args.dataset)
        metrics = {**ours, **metrics}
        if _running.output.path:
            path = Path(_running.output.path).with_suffix(".npz")
            numbers = {name: value for name, value in metrics.items() if isinstance(value, float) and value == value}
            save_per_sample(path, logits, target, {**_described(_running.args), "metrics": numbers})
            _running.added["per_sample"] = path.name
        return metrics

    return evaluate


def _evaluate_retrieval(original):
    signature = inspect.signature(original)

    def evaluate(*args, **kwargs):
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        from zhclip_openclip.metrics import evaluate as ours

        loader = call.arguments["dataloader"]
        exact = ours.exact_dataset(loader) is not None
        if not exact and not getattr(getattr(loader, "dataset", None), "official_scoring", False):
            return original(*args, **kwargs)
        if _running is not None and _running.output.path:
            path = Path(_running.output.path).with_suffix(".npz")
            _running.added["per_query"] = path.name
            call.arguments["per_query"] = path
            call.arguments["meta"] = _described(_running.args)
        return ours.evaluate(**call.arguments)

    return evaluate


def _described(args) -> dict:
    """What a file of results for each query or image tells about itself."""
    return {key: getattr(args, key) for key in ("model", "pretrained", "dataset", "language")}


# ---------------------------------------------------------------- command line


def _get_parser_args(original):
    def get_parser_args():
        _take_options()
        return original()

    return get_parser_args


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


# ---------------------------------------------------------------- the table

_CLASSIFICATION = "clip_benchmark.metrics.zeroshot_classification"
MODELS = [
    Patch(
        "clip_benchmark.models",
        "load_clip",
        _load_clip,
        "for our models: the tokenizer beside a checkpoint is taken first, and nothing is built on the wrong device",
    )
]
BUILDER = [
    Patch(
        "clip_benchmark.datasets.builder",
        "build_dataset",
        _build_dataset,
        "our data sets by name; Chinese class names and templates for --language zh; Chinese captions without tags",
    ),
    Patch(
        "clip_benchmark.datasets.builder",
        "get_dataset_default_task",
        _get_dataset_default_task,
        "muge, flickr30k-cn and coco-cn are retrieval",
    ),
    Patch(
        "clip_benchmark.datasets.builder",
        "get_dataset_collate_fn",
        _get_dataset_collate_fn,
        "muge, flickr30k-cn and coco-cn have lists of captions",
    ),
]
CLASSIFICATION = [
    Patch(
        _CLASSIFICATION,
        "accuracy",
        _accuracy,
        "clip_benchmark 1.6.2 fails here with NumPy 2.4 or later, for every model; where it works it is used",
    ),
    Patch(
        _CLASSIFICATION,
        "zero_shot_classifier",
        _zero_shot_classifier,
        "for our models and Chinese prompts: all prompts encoded together by length, not class by class",
    ),
    Patch(
        _CLASSIFICATION,
        "run_classification",
        _run_classification,
        "for our models, Chinese prompts and where a feature cache is asked for: one pass over the images that can be "
        "cached; keeps the scores for the metrics that are added",
    ),
    Patch(
        _CLASSIFICATION,
        "evaluate",
        _evaluate_classification,
        "for Chinese prompts: adds per-class accuracy and the published tables' definitions under keys of their own",
    ),
]
RETRIEVAL_METRICS = [
    Patch(
        "clip_benchmark.metrics.zeroshot_retrieval",
        "evaluate",
        _evaluate_retrieval,
        "for Chinese retrieval sets: several right images a text, top-k over blocks, results for each query",
    )
]
CLI = [
    Patch("clip_benchmark.cli", "get_parser_args", _get_parser_args, "takes our own options out of the command line"),
    Patch(
        "clip_benchmark.cli",
        "main_eval",
        _main_eval,
        "for our models: an absent --pretrained means the model's default tag, in file names and results too",
    ),
    Patch(
        "clip_benchmark.cli",
        "run",
        _run,
        "for our models no bf16 on a CPU without units for it; for our data sets default split and recall_k; "
        "adds to the result file",
    ),
    Patch("clip_benchmark.cli", "main", _main, "an error of ours ends the program with its one line"),
]


def hook_models(module) -> None:
    apply(MODELS, "clip_benchmark")


def hook_builder(module) -> None:
    apply(BUILDER, "clip_benchmark")
    module.dataset_collection.setdefault("chinese_retrieval", list(RETRIEVAL))


def hook_zeroshot_classification(module) -> None:
    apply(CLASSIFICATION, _CLASSIFICATION)


def hook_zeroshot_retrieval(module) -> None:
    apply(RETRIEVAL_METRICS, "clip_benchmark.metrics.zeroshot_retrieval")


def hook_nllb(module) -> None:
    """Chinese prompts reach NLLB-CLIP under more spellings than its table has; those that it has stay."""
    from zhclip_openclip.prompts import languages

    for spelling in ("zh-cn", "zh_cn", "zh_CN", "zh-CN", "zh-Hans", "zh_Hans", "zh-Hant", "zh_Hant"):
        traditional = languages.normalise(spelling) == languages.TRADITIONAL
        module.lang_map.setdefault(spelling, "zho_Hant" if traditional else "zho_Hans")


def hook_cli(module) -> None:
    if module.__name__ == "__main__":
        _take_options()  # it is about to read its command line
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
        if name.startswith("clip_benchmark.") and name != "clip_benchmark.models.nllb_clip":
            autoload.apply(name, importlib.import_module(name))
