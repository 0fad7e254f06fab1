"""clip_benchmark's command line: our options, our default tags, errors of one line."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

from zhclip_openclip import features
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip._files import whole_file
from zhclip_openclip.families import find
from zhclip_openclip.integrations.clip_benchmark import datasets, options
from zhclip_openclip.integrations.clip_benchmark.evaluation import Evaluation, Output, running
from zhclip_openclip.integrations.clip_benchmark.models import DEFAULT_PRETRAINED, default_tag

#: clip_benchmark's own default of --recall_k.
_DEFAULT_RECALL_K = [5]
#: Packages whose versions go into a result.
_VERSIONS = ("zhclip-openclip", "open_clip_torch", "clip_benchmark", "torch", "transformers", "timm")
#: Where our options are kept in clip_benchmark's own command line module while it runs as `__main__`.
_TAKEN = "_zhclip_options"


def take_early(main) -> None:
    """For `python -m clip_benchmark.cli`, which is about to read its command line: its `get_parser_args` runs already
    and cannot be replaced any more."""
    setattr(main, _TAKEN, options.take())


def get_parser_args(original):
    """What stands for `clip_benchmark.cli.get_parser_args`."""

    def get_parser_args():
        taken = options.take()
        parser, base = original()
        base.zhclip = taken
        return parser, base

    return get_parser_args


def main_eval(original):
    """What stands for `clip_benchmark.cli.main_eval`."""

    def main_eval(base):
        early = original.__globals__.get(_TAKEN)
        if early is not None:
            base.zhclip = early
        if not base.pretrained_model and base.pretrained == DEFAULT_PRETRAINED and not options.given("--pretrained"):
            names = base.model if isinstance(base.model, list) else [base.model]
            if any(find(name) for name in names):
                base.pretrained_model = [f"{name},{default_tag(name)}" for name in names]
        if original.__globals__.get("__name__") != "__main__":
            return original(base)
        with plain_errors():  # `main` itself is past being replaced
            return original(base)

    return main_eval


def main(original):
    """What stands for `clip_benchmark.cli.main`."""

    def main():
        with plain_errors():
            return original()

    return main


class plain_errors:
    """Ends the program with one line where an error of ours says all there is to say."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is not None and issubclass(kind, ZhclipError):
            raise SystemExit(f"clip_benchmark: error: {error}") from error
        return False


# ---------------------------------------------------------------- one evaluation


def run(original):
    """What stands for `clip_benchmark.cli.run`."""

    def run(args):
        _prepare(args)
        args.output = Output(args.output)
        current = Evaluation(args, getattr(args, "zhclip", None) or options.defaults(), args.output)
        with running(current), features.using(compile=current.options.compile):
            if not args.skip_existing:
                _read_data_first(current)
            result = original(args)
            _finish(current)
        return result

    return run


def _prepare(args) -> None:
    """Our defaults, where the command line says nothing else."""
    from zhclip_openclip.datasets.retrieval import DEFAULT_KS, dataset_name, default_split

    name = args.dataset.removeprefix("wds/")
    if dataset_name(name):
        if not args.dataset.startswith("wds/") and not options.given("--split", "--test_split"):
            args.split = default_split(name)
        if list(args.recall_k) == _DEFAULT_RECALL_K and not options.given("--recall_k"):
            args.recall_k = list(DEFAULT_KS)
    if args.dataset.startswith("elevater/") and not options.given("--language"):
        args.language = "zh"  # its labels and templates are Chinese; clip_benchmark's default is English
    if find(str(args.model)) is not None and args.amp:
        import torch

        from zhclip_openclip._precision import use_amp

        if not use_amp("cuda" if torch.cuda.is_available() else "cpu", args.amp):
            if args.verbose:
                print("Mixed precision is off: this CPU has no bf16 units and is faster in fp32")
            args.amp = False
    if datasets.is_chinese_classification(args):
        args.dump_classnames = args.dump_templates = True


def _read_data_first(evaluation: Evaluation) -> None:
    """Find mistakes in data and prompts before the model is loaded, which clip_benchmark does first."""
    from zhclip_openclip import prompts

    args = evaluation.args
    name = args.dataset
    bare = name.removeprefix("wds/")
    root = args.dataset_root.format(dataset=bare, dataset_cleaned=bare.replace("/", "-"))
    files = args.custom_template_file, args.custom_classname_file
    evaluation.read = datasets.ours(name, root, None, args.split, args.language, args.wds_cache_dir, *files)
    if evaluation.read is None and datasets.is_chinese_classification(args):
        prompts.prepare(name, args.language, args.custom_template_file, args.custom_classname_file)
        if name != bare:
            from zhclip_openclip.datasets import streams

            streams.check_shards(name, root, args.split)


def _finish(evaluation: Evaluation) -> None:
    """Add what we know to the result file, which stays whole if we are interrupted."""
    if not evaluation.ours or not evaluation.output.path or not Path(evaluation.output.path).is_file():
        return
    path = Path(evaluation.output.path)
    result = json.loads(path.read_text(encoding="utf-8"))
    dataset = evaluation.dataset
    for key in ("template_set", "classname_source", "english_classes", "notes"):
        if getattr(dataset, key, None):
            result[key] = getattr(dataset, key)
    result["versions"] = {name: importlib.metadata.version(name) for name in _VERSIONS}
    skipped = getattr(dataset, "skipped", None)
    if skipped:
        result["skipped_images"] = {"count": len(skipped), "images": [list(entry) for entry in skipped]}
    result.update(evaluation.added)
    with whole_file(path) as part:
        part.write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
