"""Data sets of ours by name, Chinese class names and templates, Chinese captions without tags."""

from __future__ import annotations

import contextlib
import inspect
import os
from pathlib import Path

from zhclip_openclip import features
from zhclip_openclip._errors import ZhclipError, one_line
from zhclip_openclip.datasets import own
from zhclip_openclip.integrations.clip_benchmark import checks, evaluation

#: The official Chinese retrieval sets: `--dataset chinese_retrieval`.
RETRIEVAL = ("muge", "flickr30k-cn", "coco-cn")


def build_dataset(original):
    """What stands for `clip_benchmark.datasets.builder.build_dataset`."""
    signature = inspect.signature(original)

    def build_dataset(*args, **kwargs):
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        if not features.current().download:
            call.arguments["download"] = False
        running = evaluation.current()
        if running is not None and running.args.task == "linear_probe":
            if running.options.load_probe is not None and running.dataset is not None:
                return running.dataset  # in the place of the train split, which a probe that is trained does not need
            _as_the_test_split(call, running.args)
        dataset, ours = _build(original, call)
        if running is not None and call.arguments["split"] == running.args.split:
            running.dataset, running.ours = dataset, ours
            recognised = [line] if (line := getattr(dataset, "recognised", "")) else []
            for note in (*recognised, *getattr(dataset, "notes", ())) if ours else ():
                evaluation.say(note)
        return dataset

    return build_dataset


def _as_the_test_split(call, args) -> None:
    """clip_benchmark builds the train split of a linear probe without language, class names and templates."""
    if call.arguments["split"] == args.split:
        return
    names = ("language", "task", "custom_template_file", "custom_classname_file", "wds_cache_dir")
    call.arguments.update({name: getattr(args, name) for name in names})


def _build(original, call):
    """The data set, and whether any of it is our doing."""
    from zhclip_openclip import prompts
    from zhclip_openclip.datasets import chinese_captions
    from zhclip_openclip.prompts import languages

    given = call.arguments
    name, language, task, split = given["dataset_name"], given["language"], given["task"], given["split"]
    template_file, classname_file = given["custom_template_file"], given["custom_classname_file"]
    running, options = evaluation.current(), evaluation.current_options()
    if running is not None and running.has_read(name, split):
        running.read.transform = given["transform"]
        return running.read, True
    built = ours(
        *(name, given["root"], given["transform"], split, language, given["wds_cache_dir"]),
        *(template_file, classname_file),
    )
    if built is not None:
        return built, True
    limit = options.limit if running is not None and split == running.args.split else None
    if task in ("zeroshot_classification", "linear_probe") and prompts.is_chinese(name, language):
        given.update(prompts.chinese_arguments(name, language, template_file, classname_file))
        built = _digits(given) if name == "digits" else _hosts(original, call)
        prompts.localise(built, name, language, template_file, classname_file)
        prompts.check(built, name, split)
        if is_indexed(built):
            built = _sample(built, limit)
            from zhclip_openclip.datasets.unreadable import Guarded

            built = Guarded(built, name, options.skip_bad_images)
        else:
            from zhclip_openclip.datasets import streams

            refuse_sample(name, limit)
            built = streams.guard(built, name, split, options.skip_bad_images)
        return built, True
    refuse_template_set(name, language, template_file)
    if name == "digits":
        return _sample(_digits(given), limit), True
    if code := chinese_captions.code(name, language):
        given["language"] = code
        built = _hosts(original, call)
        if not is_indexed(built):
            refuse_sample(name, limit)
        return chinese_captions.ChineseCaptions(_sample(built, limit), name, options.raw_captions), True
    concerns_us = running is not None and running.output.begin is not None
    built = _hosts(original, call) if concerns_us else original(*call.args, **call.kwargs)
    if name.startswith("wds/"):
        with contextlib.suppress(ZhclipError):  # a language that we do not know is clip_benchmark's business here
            if languages.is_chinese(language):
                evaluation.say(_in_the_shards(name, task))
    if not is_indexed(built):
        refuse_sample(name, limit)
    return _sample(built, limit), False


def _sample(dataset, limit: int | None):
    from zhclip_openclip.datasets._sample import Sampled

    return dataset if limit is None else Sampled(dataset, limit)


def refuse_sample(name: str, limit: int | None) -> None:
    """Raises DatasetError: a sample of a stream, which is read from its beginning to its end."""
    from zhclip_openclip.datasets._dataset_error import DatasetError

    if limit is not None:
        raise DatasetError(
            f"--limit {limit}: {name} is a stream of shards, of which no sample can be drawn; leave --limit out, or "
            "take the data set as files"
        )


def _in_the_shards(name: str, task: str) -> str:
    """Of shards that are not ours and asked for in Chinese."""
    if task == "zeroshot_classification":
        return f"there are no Chinese names for {name}: those of its folder are used, and its templates"
    return f"{name} has the texts of its shards, in whatever language these are; --language changes nothing"


def _hosts(original, call):
    """clip_benchmark's own data set.

    Raises DatasetError: for whatever goes wrong there, with the place and what is looked for in it.
    """
    try:
        return original(*call.args, **call.kwargs)
    except ZhclipError:
        raise
    except (Exception, SystemExit) as error:
        from zhclip_openclip.datasets import at_hand
        from zhclip_openclip.datasets._dataset_error import DatasetError
        from zhclip_openclip.prompts import registry

        name, root = call.arguments["dataset_name"], call.arguments["root"]
        known = registry.find(name)
        entry = at_hand.entries().get(known.name) if known else None
        published = entry.published[0] if entry and entry.published and name == entry.name else None
        there = f"; looked for in --dataset_root: {', '.join(published['files'])}" if published else ""
        missing = there and not all(os.path.exists(os.path.join(root, file)) for file in published["files"])
        reason = "" if isinstance(error, SystemExit) and missing else f" ({one_line(error)})"
        raise DatasetError(f"{name} cannot be read from {root}{reason}{there if missing else ''}") from error


def refuse_template_set(name: str, language: str, template_file: str | None) -> None:
    """Raises PromptError: one of our sets of templates where it cannot be filled in."""
    from zhclip_openclip.prompts import templates
    from zhclip_openclip.prompts._errors import PromptError

    if templates.is_ours(template_file) and checks.is_chinese(name, language):
        raise PromptError(
            f"{templates.OPTION} {template_file}: this set is for data sets whose Chinese class names are known here, "
            f"and {name} is none (zhclip classnames lists them); put its templates into a file, {{{name!r}: [...]}}"
        )
    templates.refuse_elsewhere(template_file, name, language)


def ours(name, root, transform, split, language, cache_dir, template_file, classname_file):
    """One of the data sets that clip_benchmark does not have; None for any other name."""
    from zhclip_openclip import prompts
    from zhclip_openclip.datasets import elevater, retrieval

    options, running = evaluation.current_options(), evaluation.current()
    skip = options.skip_bad_images
    limit = options.limit if running is not None and split == running.args.split else None
    bare = name.removeprefix("wds/")
    known = retrieval.dataset_name(bare)
    if bare != name and (known or (own.is_own(bare) and is_retrieval_shards(root))):
        from zhclip_openclip.datasets.wds_open import open_wds

        return open_wds(root, transform, split, skip, cache_dir, known or bare, limit)
    if known:
        return retrieval.build_retrieval_dataset(
            name, root, transform, split, skip, options.raw_captions, options.image_folder, limit
        )
    if name.startswith("elevater/"):
        built = elevater.build(name, root, transform, split, skip, language, template_file, classname_file, limit)
        prompts.check(built, name, split)
        return built
    if own.is_own(name) and bare == name:
        from zhclip_openclip.datasets import own_data

        built = own_data.build(
            _reading(name, root, split), transform, skip, language, template_file, classname_file, limit
        )
        if built.classes is not None:
            prompts.check(built, name, split)
        return built
    return None


def _reading(name: str, root: str, split: str):
    """As what own data are read: as the evaluation has recognised them, for its other parts too."""
    from dataclasses import replace

    running = evaluation.current()
    read = getattr(running.args, "zhclip_own", None) if running is not None else None
    if read is None:
        return own.recognise(name, root, own.Asked(split=None if split == "test" else split))
    return read if read.split == split else own.recognise(name, root, replace(read.asked, split=split))


def is_retrieval_shards(root: str) -> bool:
    """Whether the shards in a folder are those of a retrieval set; those of classes are clip_benchmark's own."""
    from zhclip_openclip.datasets._shards import small_text

    kind = os.path.join(str(root), "dataset_type.txt")
    return "://" not in str(root) and os.path.isfile(kind) and small_text(Path(kind)).lower() == "retrieval"


def is_chinese_classification(args) -> bool:
    """Whether an evaluation of these arguments classifies with Chinese names."""
    from zhclip_openclip import prompts

    if args.task not in ("auto", "zeroshot_classification", "linear_probe"):
        return False
    if getattr(args, "zhclip_own", None) is not None:
        return args.zhclip_own.task == own.CLASSIFICATION
    return args.dataset.startswith("elevater/") or prompts.is_chinese(args.dataset, args.language)


def is_indexed(dataset) -> bool:
    """Whether images are got by number; TFDS' are a stream, although their class inherits `__getitem__`."""
    from torch.utils.data import IterableDataset

    streams = isinstance(dataset, IterableDataset)
    return not streams and hasattr(type(dataset), "__getitem__") and hasattr(type(dataset), "__len__")


def _digits(given):
    from zhclip_openclip.datasets.digits import Digits

    dataset = Digits(given["split"], given["transform"])
    dataset.templates = ["a handwritten digit {c}"]
    return dataset


def get_dataset_default_task(original):
    def get_dataset_default_task(dataset):
        from zhclip_openclip.datasets.retrieval import dataset_name

        return "zeroshot_retrieval" if dataset_name(dataset) else original(dataset)

    return get_dataset_default_task


def get_dataset_collate_fn(original):
    def get_dataset_collate_fn(name):
        from zhclip_openclip.datasets.retrieval import dataset_name

        running = evaluation.current()
        of_texts = own.is_own(name) and running is not None and running.args.task == own.RETRIEVAL
        return original("flickr30k" if dataset_name(name) or of_texts else name)

    return get_dataset_collate_fn
