"""clip_benchmark's command line: our options, our default tags, errors of one line."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
from pathlib import Path

from zhclip_openclip import features
from zhclip_openclip._cores import cores
from zhclip_openclip._errors import ZhclipError, one_line
from zhclip_openclip._reading import debug
from zhclip_openclip.checkpoints.training_run import training_run
from zhclip_openclip.datasets import chinese_captions, own
from zhclip_openclip.families import find
from zhclip_openclip.integrations.clip_benchmark import checks, datasets, options, probing
from zhclip_openclip.integrations.clip_benchmark.evaluation import Evaluation, Output, running, say
from zhclip_openclip.integrations.clip_benchmark.models import DEFAULT_PRETRAINED, default_tag
from zhclip_openclip.integrations.clip_benchmark.result_file import (
    DEFAULT,
    Shown,
    complete,
    default_output,
    place,
    unfinished,
    warn,
)
from zhclip_openclip.towers.text_handling import AUTHORS, HOST

#: clip_benchmark's own defaults of --recall_k and --num_workers.
_DEFAULT_RECALL_K, _DEFAULT_WORKERS = [5], 4
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
        if original.__globals__.get("__name__") == "__main__":
            with plain_errors():  # `main` itself is past being replaced
                return evaluate(base)
        return evaluate(base)

    def evaluate(base):
        if not base.pretrained_model and base.pretrained == DEFAULT_PRETRAINED and not options.given("--pretrained"):
            names = base.model if isinstance(base.model, list) else [base.model]
            if any(find(name) for name in names):
                base.pretrained_model = [f"{name},{default_tag(name)}" for name in names]
        checks.names(base)
        base.zhclip_written = set()
        return original(base)

    return main_eval


def main(original):
    """What stands for `clip_benchmark.cli.main`."""

    def main():
        with plain_errors():
            return original()

    return main


class plain_errors:
    """Ends the program with one line where an error of ours says all there is to say, or where anything else goes
    wrong in an evaluation that concerns us; `ZHCLIP_DEBUG=1` shows the traceback."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is None or debug():
            return False
        if issubclass(kind, ZhclipError):
            raise SystemExit(f"clip_benchmark: error: {error}") from error
        if what := getattr(error, "zhclip_evaluation", ""):
            raise SystemExit(
                f"clip_benchmark: error: {what}: {one_line(error)} (ZHCLIP_DEBUG=1 shows where)"
            ) from error
        return False


# ---------------------------------------------------------------- one evaluation


def run(original):
    """What stands for `clip_benchmark.cli.run`."""

    def run(args):
        checks.captioning(args)
        taken = getattr(args, "zhclip", None) or options.defaults()
        ours = checks.concerns_us(args, taken) or bool(probing.asked(taken))
        if ours:
            _prepare(args, taken)
            checks.words(args)
            probing.words(args, taken)
        args.output = Output(args.output)
        current = Evaluation(args, taken, args.output)
        if ours and args.task == probing.TASK:
            current.proportion, args.val_proportion = args.val_proportion, None
        settings = {"compile": taken.compile, "quiet": not args.verbose}
        try:
            with running(current), features.using(**settings), contextlib.ExitStack() as stack:
                if ours:
                    args.output.begin = lambda final: _begin(current, final, stack)
                result = original(args)
                if isinstance(current.output.path, Shown):
                    _finish(current)
            return result
        except Exception as error:
            if ours:
                error.zhclip_evaluation = f"{args.dataset} with {args.model}"
            raise

    return run


def _prepare(args, taken) -> None:
    """Our defaults, where the command line says nothing else."""
    from zhclip_openclip.datasets.retrieval import DEFAULT_KS, dataset_name, default_split

    name = args.dataset.removeprefix("wds/")
    if dataset_name(name):
        if not args.dataset.startswith("wds/") and not options.given("--split", "--test_split"):
            args.split = default_split(name)
        if list(args.recall_k) == _DEFAULT_RECALL_K and not options.given("--recall_k"):
            args.recall_k = list(DEFAULT_KS)
    if own.is_own(args.dataset) and not args.dataset.startswith("wds/"):
        _recognise(args, taken)
    elif own.is_own(args.dataset) and args.task == "auto" and datasets.is_retrieval_shards(root_of(args)):
        args.task = own.RETRIEVAL
    if own.is_own(args.dataset) and list(args.recall_k) == _DEFAULT_RECALL_K and not options.given("--recall_k"):
        args.recall_k = list(DEFAULT_KS)
    if args.dataset.startswith("elevater/") and not options.given("--language"):
        args.language = "zh"  # its labels and templates are Chinese; clip_benchmark's default is English
    # NLLB-CLIP is told this language too, and the result says it: it is that of the captions.
    args.language = chinese_captions.code(args.dataset, args.language) or args.language
    if checks.is_our_model(args) and args.amp:
        import torch

        from zhclip_openclip._precision import use_amp

        args.amp = use_amp("cuda" if torch.cuda.is_available() else "cpu", args.amp)
    if getattr(args, "num_workers", None) == _DEFAULT_WORKERS and not options.given("--num_workers"):
        args.num_workers = min(_DEFAULT_WORKERS, cores(), _shards(args))  # more than cores get a warning from PyTorch
    chinese = datasets.is_chinese_classification(args)
    if chinese:
        args.dump_classnames = True
        if args.task != probing.TASK:  # of which they are no part
            args.dump_templates = True
    if args.output == DEFAULT:
        foreign = None if checks.is_our_model(args) else taken.text_handling
        usual = AUTHORS if checks.is_chinese_text(args) else HOST
        args.output = default_output(args, taken, chinese, foreign if foreign != usual else None)


def _recognise(args, taken) -> None:
    """Look at somebody's own data: which task they are for, which part is read, and in which language."""
    tasks = {"auto": None, "linear_probe": own.CLASSIFICATION}
    asked = own.Asked(
        split=args.split if options.given("--split", "--test_split") else None,
        task=tasks.get(args.task, args.task),
        layout=taken.layout,
        file=taken.data_file,
        columns=taken.columns,
        follow_links=taken.follow_links,
        image_folder=Path(taken.image_folder) if taken.image_folder else None,
        quiet=not args.verbose,
    )
    read = own.recognise(args.dataset, root_of(args), asked)
    args.zhclip_own, args.split = read, read.split
    if args.task == "auto":
        args.task = read.task
    if read.task == own.CLASSIFICATION and not options.given("--language"):
        args.language = read.classes(None, args.custom_classname_file).language


def root_of(args) -> str:
    """The folder of the data, as clip_benchmark fills it in."""
    bare = args.dataset.removeprefix("wds/")
    return checks.fill_in(args.dataset_root, "--dataset_root", dataset=bare, dataset_cleaned=bare.replace("/", "-"))


def _shards(args) -> int:
    """How many shards are read, where that is known here; webdataset refuses a reader without one."""
    from zhclip_openclip.datasets._shards import count_shards

    if not args.dataset.startswith("wds/"):
        return _DEFAULT_WORKERS
    folder = Path(root_of(args), str(args.split))
    if not (folder / "nshards.txt").is_file():
        return _DEFAULT_WORKERS
    with contextlib.suppress(ZhclipError):  # told when the shards are read
        return count_shards(folder)
    return _DEFAULT_WORKERS


def _begin(evaluation: Evaluation, final: str, stack: contextlib.ExitStack) -> str:
    """Where clip_benchmark is to write the result `final`. It has not loaded the model yet."""
    args = evaluation.args
    if args.skip_existing and os.path.exists(final):
        has_ours = datasets.is_chinese_classification(args) or checks.is_our_retrieval(args.dataset)
        reason = unfinished(final, has_ours or own.is_own(args.dataset), evaluation.options.limit)
        if not reason:
            return final
        say(f"{final} {reason}: evaluated again")
    written = getattr(args, "zhclip_written", set())
    if final in written:
        warn(
            f"{final} is the --output of several evaluations, and keeps the last: write {{dataset}}, {{model}}, "
            "{pretrained} or {language} into it"
        )
    written.add(final)
    made = place(final, stack)
    _read_data_first(evaluation)
    return made


def _read_data_first(evaluation: Evaluation) -> None:
    """Find mistakes in data and prompts before the model is loaded, which clip_benchmark does first."""
    from zhclip_openclip import prompts

    args = evaluation.args
    name = args.dataset
    bare, root = name.removeprefix("wds/"), root_of(args)
    files = args.custom_template_file, args.custom_classname_file
    evaluation.read = datasets.ours(name, root, None, args.split, args.language, args.wds_cache_dir, *files)
    if evaluation.read is None and datasets.is_chinese_classification(args):
        prompts.prepare(name, args.language, args.custom_template_file, args.custom_classname_file)
        if name != bare:
            from zhclip_openclip.datasets import streams

            streams.check_shards(name, root, args.split)
    elif evaluation.read is None:
        datasets.refuse_template_set(name, args.language, args.custom_template_file)


def _arithmetic(args) -> str:
    """What the towers were computed in."""
    import torch

    from zhclip_openclip.features import arithmetic, linear

    device = "cuda" if torch.cuda.is_available() else "cpu"
    onednn = checks.is_our_model(args) and not args.amp and linear.used(device)
    return arithmetic.described(device, args.amp, onednn)


def _finish(evaluation: Evaluation) -> None:
    """Add what we know to the result, and put it in place."""
    more = dict(evaluation.text_handling)
    dataset = evaluation.dataset
    if limited := getattr(dataset, "limited", None):
        more["limit"] = limited
    if evaluation.ours or evaluation.added:
        for key in ("template_set", "classname_source", "prompts_version", "english_classes", "notes", "recognised"):
            without = evaluation.args.task == probing.TASK and key == "template_set"  # it has no part in the figures
            if getattr(dataset, key, None) and not without:
                more[key] = getattr(dataset, key)
        if read := getattr(evaluation.args, "zhclip_own", None):
            more["own"], more["fingerprint"] = read.described(), dataset.fingerprint()
        more["split"] = evaluation.args.split
        more["arithmetic"] = _arithmetic(evaluation.args)
        if (run := training_run(evaluation.args.pretrained)) is not None:
            more["trained"] = vars(run)
        names = (*_VERSIONS, "scikit-learn") if evaluation.args.task == probing.TASK else _VERSIONS
        more["versions"] = {name: importlib.metadata.version(name) for name in names}
        if hasattr(dataset, "captions_of"):
            more["captions"] = {"of": dataset.captions_of, "images": len(dataset), "texts": len(dataset.texts)}
        skipped = getattr(dataset, "skipped", None)
        if skipped:
            more["skipped_images"] = {"count": len(skipped), "images": [list(entry) for entry in skipped]}
            if texts := getattr(dataset, "skipped_texts", None):
                more["skipped_images"]["texts"] = len(texts)
        more.update(evaluation.added)
    complete(evaluation.output.path, more)
