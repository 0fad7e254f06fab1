"""What can be wrong with the words of a command line, said in one line before a model is loaded.

Of evaluations that concern us, with a model, a data set or a language of ours; all others get clip_benchmark's own
answer. A name that nobody knows is answered where one of ours is meant, or asked for beside it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.checkpoints import _open_clip_models
from zhclip_openclip.checkpoints._open_clip_models import closest
from zhclip_openclip.datasets import at_hand, chinese_captions, own, retrieval
from zhclip_openclip.families import all_names, find
from zhclip_openclip.prompts import languages, registry
from zhclip_openclip.prompts._errors import PromptError
from zhclip_openclip.towers import text_handling

#: What stands before a name of clip_benchmark's, or of somebody's repository: the rest may be anything.
_FORMATS = ("wds/", "vtab/", "tfds/", "elevater/", "sugar_crepe/", "babel_imagenet", own.PREFIX)


def concerns_us(args, taken) -> bool:
    """Whether an evaluation has a model, a data set or a language of ours, or an option of ours that is for others too;
    any other is clip_benchmark's alone. taken: our options."""
    ours = is_our_model(args) or _is_our_dataset(args.dataset)
    asked = taken.text_handling is not None or taken.limit is not None  # a sample is our doing
    return ours or asked or is_chinese(args.dataset, args.language)


def is_our_model(args) -> bool:
    """Whether the model of an evaluation is one of ours."""
    return getattr(args, "model_type", "open_clip") == "open_clip" and find(str(args.model)) is not None


def _is_our_dataset(name: str) -> bool:
    return name == "digits" or name.startswith(registry.ELEVATER) or is_our_retrieval(name) or own.is_own(name)


def is_our_retrieval(name: str) -> bool:
    """Whether it is an official Chinese retrieval set, in shards or not."""
    return retrieval.dataset_name(name.removeprefix("wds/")) is not None


def is_chinese(dataset: str, language: str) -> bool:
    """Whether a language is Chinese, in any spelling of it that the data set or we have."""
    if language in chinese_captions.LANGUAGES.get(dataset, {}).values():
        return True
    try:
        return languages.is_chinese(language)
    except PromptError:  # it looks like Chinese, and will be told what is
        return True


def is_chinese_text(args) -> bool:
    """Whether Chinese text reaches the model of an evaluation: by its language, or since its captions are Chinese
    whatever that is."""
    return is_our_retrieval(args.dataset) or is_chinese(args.dataset, args.language)


# ---------------------------------------------------------------- one evaluation


def words(args) -> None:
    """Raises ZhclipError: a path with something to fill in that is not there, a task that the data set or the model
    does not fit, a split that is not there."""
    fill_in(args.dataset_root, "--dataset_root", dataset="", dataset_cleaned="")
    if args.output:
        given = {"model": "", "pretrained": "", "pretrained_full_path": "", "task": "", "dataset": "", "language": ""}
        fill_in(args.output, "--output", **given)
    _task(args)
    if args.dataset == "digits":
        from zhclip_openclip.datasets.digits import Digits

        Digits(args.split)


def fill_in(template: str, option: str, **given: str) -> str:
    """`template.format(**given)`. Raises ZhclipError: it has other braces."""
    try:
        return template.format(**given)
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        names = " and ".join(f"{{{name}}}" for name in given)
        raise ZhclipError(
            f"{option} {template}: what stands in braces is filled in, and there are {names}; write {{{{ and }}}} for "
            "braces of a name"
        ) from error


def captioning(args) -> None:
    """Raises ZhclipError: --task captioning with a model that writes no captions."""
    if args.task != "captioning" or getattr(args, "model_type", "open_clip") != "open_clip":
        return
    import open_clip

    config = open_clip.get_model_config(args.model.replace("/", "-"))
    if is_our_model(args) or (config is not None and "multimodal_cfg" not in config):
        raise ZhclipError(
            f"--task captioning: {args.model} compares texts with images and writes none; take a model that does, for "
            "example coca_ViT-L-14"
        )


def _task(args) -> None:
    kind = _kind(args)
    task = args.task
    if task == "captioning" and kind == "zeroshot_retrieval":
        return
    if task == "linear_probe" and (kind == "zeroshot_classification" or kind is None):
        return
    if task != "auto" and kind is not None and task != kind:
        raise ZhclipError(f"--task {task}: {args.dataset} is a data set for {kind}; leave --task out")


def _kind(args) -> str | None:
    """The task of a data set, where it is known."""
    dataset = args.dataset
    if getattr(args, "zhclip_own", None) is not None:
        return args.zhclip_own.task
    if is_our_retrieval(dataset) or dataset in chinese_captions.LANGUAGES:
        return "zeroshot_retrieval"
    if dataset == "digits" or dataset.startswith(registry.ELEVATER) or registry.find(dataset) is not None:
        return "zeroshot_classification"
    if dataset in _hosts_datasets():
        from clip_benchmark.datasets.builder import get_dataset_default_task

        return get_dataset_default_task(dataset)
    return None


# ---------------------------------------------------------------- names


def names(base) -> None:
    """Of all models and data sets of a command line, before the first evaluation.

    Raises ZhclipError: one that nobody knows, with the closest names; weights that open_clip's own model does not have.
    """
    from clip_benchmark.datasets.builder import dataset_collection
    from clip_benchmark.model_collection import model_collection

    datasets = [name for name in _listed(base.dataset) if not os.path.isfile(name) and name not in dataset_collection]
    entries = [name for name in _listed(base.pretrained_model) if not os.path.isfile(name)]
    if entries:
        models = [entry.split(",")[0] for entry in entries if entry not in model_collection]
    else:
        models = _listed(base.model)
    open_clip = getattr(base, "model_type", "open_clip") == "open_clip"
    text_handling.check(getattr(getattr(base, "zhclip", None), "text_handling", None))
    asked = any(find(name) for name in models) or any(map(_is_our_dataset, datasets))
    asked = asked or any(is_chinese("", language) for language in _listed(base.language))
    for name in models if open_clip else []:
        _model(name, asked, list(model_collection) if entries else [])
    pairs = [tuple(entry.split(",", 1)) for entry in entries if "," in entry]
    if not entries:
        pairs = [(model, tag) for model in models for tag in _listed(base.pretrained)]
    for name, tag in pairs if open_clip and asked else []:
        _tag(name, tag)
    for entry in entries:
        if "," not in entry and entry not in model_collection and find(entry.split(",")[0]) is None and asked:
            raise ZhclipError(f"--pretrained_model {entry} is no collection; it is MODEL,TAG for a single model")
    for name in datasets:
        _dataset(name, asked, list(dataset_collection))


def _listed(value) -> list[str]:
    return [value] if isinstance(value, str) and value else list(value or [])


def _model(name: str, asked: bool, collections: Iterable[str]) -> None:
    import open_clip

    known = open_clip.list_models()
    if find(name) is not None or ":" in name or name.replace("/", "-") in known or name in collections:
        return
    ours = all_names()
    close = closest(name, [*ours, *known, *collections])
    if close and (asked or any(one in ours for one in close)):  # another one may be somebody else's
        raise ZhclipError(f"{name} is a model neither of open_clip nor of this package{_hint(close)}")


def _tag(name: str, tag: str) -> None:
    """Raises ZhclipError: open_clip's own model `name` has no such weights, and there is no such file."""
    if not tag or ":" in name or os.path.exists(tag) or not _open_clip_models.is_one(name):
        return
    if not _open_clip_models.has_tag(name, tag):
        raise ZhclipError(f"{name} has no weights {tag!r}; {_open_clip_models.told_tags(name, tag)}")


def _dataset(name: str, asked: bool, collections: Iterable[str]) -> None:
    if own.is_own(name):
        own.check_name(name)
    hosts = _hosts_datasets()
    if not hosts or name in hosts or name.startswith(_FORMATS) or _is_our_dataset(name):
        return
    ours = ["digits", *retrieval.DATASETS]
    close = closest(name, [*ours, *at_hand.entries(), *registry.all_datasets(), *collections, *_names_in(hosts)])
    if asked or any(one in ours for one in close):
        hint = _hint(close) or f"; pictures of your own are {own.PREFIX}NAME"
        raise ZhclipError(f"{name} is a data set neither of clip_benchmark nor of this package{hint}")


def _hosts_datasets() -> set[str]:
    """The words in the function that knows clip_benchmark's data sets, among them all their names; none where it does
    not look like that any more."""
    from clip_benchmark.datasets import builder

    function = builder.build_dataset
    code = getattr(getattr(function, "__zhclip_original__", function), "__code__", None)
    words: set[str] = set()
    for constant in getattr(code, "co_consts", ()):
        words.update(filter(_is_text, constant if isinstance(constant, (tuple, frozenset)) else [constant]))
    return words if {"cifar10", "flickr30k", "wds/"} <= words else set()


def _is_text(value) -> bool:
    return isinstance(value, str)


def _names_in(words: Iterable[str]) -> list[str]:
    """Those words that somebody may have meant: clip_benchmark's data sets whose task it knows."""
    return [word for word in words if registry.find(word) is not None or word in chinese_captions.LANGUAGES]


def _hint(close: list[str]) -> str:
    return f"; did you mean {' or '.join(close)}?" if close else ""
