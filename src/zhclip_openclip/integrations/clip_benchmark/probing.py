"""Linear probes: from our feature cache, with the classifiers of `probes/`, in place of clip_benchmark's own.

For models, data sets and languages of ours, and where an option of ours is given. Any other evaluation is
clip_benchmark's, but for a CPU, where it refuses to run: there the same protocol is computed by `probes/adamw.py`.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import math
import os
from pathlib import Path
from typing import Any

import torch

from zhclip_openclip import features
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.features.progress import Progress
from zhclip_openclip.integrations.clip_benchmark import checks, evaluation, options
from zhclip_openclip.probes._errors import ProbeError

TASK = "linear_probe"
#: Options of clip_benchmark's that AdamW alone has, and those that only training has.
_ADAMW = ("--fewshot_lr", "--fewshot_epochs")
_TRAINING = ("--fewshot_k", *_ADAMW, "--val_split", "--val_proportion", "--train_split")
_VERSIONS = ("zhclip-openclip", "open_clip_torch", "clip_benchmark", "torch", "scikit-learn")


def asked(taken) -> list[str]:
    """The options of ours that are given and are of linear probes."""
    given = {"--probe": taken.probe, "--probe-seeds": taken.probe_seeds}
    given |= {"--save-probe": taken.save_probe, "--load-probe": taken.load_probe}
    return [name for name, value in given.items() if value is not None]


def words(args, taken) -> None:
    """Raises ZhclipError: what does not fit together, or cannot give a figure that means something; before anything is
    loaded."""
    from zhclip_openclip.probes import evaluate, saved

    given = asked(taken)
    if args.task != TASK:
        if given:
            raise ZhclipError(f"{given[0]} is of linear probes; add --task {TASK}")
        return
    if args.skip_load:
        raise ZhclipError(
            f"--skip_load: the feature cache knows features by what made them; leave it out of --task {TASK}"
        )
    if not args.normalize:
        raise ZhclipError(f"--normalize: the features of --task {TASK} are unit features here; leave it out")
    if taken.load_probe is not None:
        both = [name for name in (*given, *filter(options.given, _TRAINING)) if name != "--load-probe"]
        if both:
            raise ZhclipError(f"{both[0]} is of training, and the probe of --load-probe is trained; leave one out")
        saved.load_probe(taken.load_probe)
        return
    if classifier(taken) == evaluate.LOGISTIC and options.given(*_ADAMW):
        raise ZhclipError(f"{' and '.join(filter(options.given, _ADAMW))}: of AdamW; add --probe {evaluate.ADAMW}")
    if not 0 < args.fewshot_lr < math.inf or args.fewshot_epochs < 1:
        raise ZhclipError(
            f"--fewshot_lr {args.fewshot_lr} and --fewshot_epochs {args.fewshot_epochs} train nothing; give numbers "
            "above 0"
        )
    if taken.probe_seeds is not None and taken.probe_seeds < 1:
        raise ZhclipError(f"--probe-seeds {taken.probe_seeds}: give the number of times, 1 or more")
    if args.fewshot_k == 0 or args.fewshot_k < -1:
        raise ZhclipError(
            f"--fewshot_k {args.fewshot_k}: give the number of images of each class, or leave it out for all"
        )
    if taken.save_probe is not None and os.path.isdir(path := _path(args, taken)):
        raise ZhclipError(f"--save-probe {path} is a folder: give a file in it, for example probe.safetensors")
    for name, split in (("--train_split", args.train_split), ("--val_split", args.val_split)):
        if split == args.split:
            raise ZhclipError(f"{name} {split}: that split is the one that is tested; give another")
    if args.val_split is not None and args.val_split == args.train_split:
        raise ZhclipError(f"--val_split {args.val_split}: that split is the one that is trained on; give another")
    if args.val_proportion is not None and not 0 < args.val_proportion < 1:
        raise ZhclipError(f"--val_proportion {args.val_proportion}: give a share of the train split, for example 0.2")
    if args.dataset == "digits":
        from zhclip_openclip.datasets.digits import Digits

        for split in filter(None, (args.train_split, args.val_split)):
            Digits(split)


def classifier(taken) -> str:
    """The one that is asked for; AdamW where an option of it is."""
    from zhclip_openclip.probes import evaluate

    return taken.probe or (evaluate.ADAMW if options.given(*_ADAMW) else evaluate.LOGISTIC)


def _path(args, taken) -> str:
    """Where the probe goes, filled in as clip_benchmark fills in --output."""
    tag = os.path.basename(args.pretrained) if os.path.isfile(args.pretrained) else args.pretrained
    given = {"model": args.model, "pretrained": tag, "language": args.language}
    given["dataset"] = args.dataset.removeprefix("wds/").replace("/", "_")
    return checks.fill_in(taken.save_probe, "--save-probe", **given)


def named(args, taken) -> list[str]:
    """What tells the file of one probe from that of another."""
    from zhclip_openclip.probes import evaluate

    parts = [f"{args.fewshot_k}-shot"] if args.fewshot_k > 0 else []
    if taken.load_probe:
        parts.append(f"probe-{Path(taken.load_probe).stem}")
    elif classifier(taken) != evaluate.LOGISTIC:
        parts.append(classifier(taken))
    if args.train_split != "train":
        parts.append(f"trained-on-{args.train_split}")
    if args.seed:
        parts.append(f"seed-{args.seed}")
    return parts


# ---------------------------------------------------------------- one evaluation


def evaluate_probe(original):
    """What stands for `clip_benchmark.metrics.linear_probe.evaluate`."""
    signature = inspect.signature(original)

    def evaluate(*args, **kwargs):
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        given, running = call.arguments, evaluation.current()
        ours = running is not None and running.options is not None and _is_ours(running)
        if not ours and torch.device(given["device"]).type != "cpu":
            return original(*args, **kwargs)
        for name in ("train_dataloader", "val_dataloader", "dataloader"):
            if given[name] is not None:
                given[name] = _loader(given[name], given["device"])
        with features.using(cache=_cache(given["feature_root"])):
            return _Evaluation(running, given).metrics() if ours else _as_the_host(given)

    return evaluate


def _loader(loader: torch.utils.data.DataLoader, device: str) -> torch.utils.data.DataLoader:
    """A loader as clip_benchmark makes it for the test split: of a WebDataset it batches that split alone."""
    if torch.device(device).type != "cuda":
        loader.pin_memory = False  # clip_benchmark asks for it, and PyTorch warns where it does nothing
    dataset, size = loader.dataset, loader.batch_size
    if size is None or not isinstance(dataset, torch.utils.data.IterableDataset) or not hasattr(dataset, "batched"):
        return loader
    workers = loader.num_workers
    return torch.utils.data.DataLoader(dataset.batched(size), batch_size=None, shuffle=False, num_workers=workers)


def _is_ours(running) -> bool:
    return running.ours or checks.concerns_us(running.args, running.options) or bool(asked(running.options))


def _cache(root: str) -> Path | None:
    """The feature cache of the environment; without one the folder that clip_benchmark keeps features of probes in."""
    return features.current().cache or (Path(root) if root else None)


def _as_the_host(given: dict[str, Any]) -> dict[str, Any]:
    """clip_benchmark's own protocol, with its keys."""
    from zhclip_openclip.probes import evaluate

    model, device, amp = given["model"], given["device"], given["amp"]
    if not given["normalize"]:
        raise ProbeError("--normalize: on a CPU linear probes are trained on unit features; leave it out")
    data, test, validation = (
        None if loader is None else evaluate.read_split(model, loader, device, amp, f"the {name} split")
        for name, loader in (
            ("train", given["train_dataloader"]),
            ("test", given["dataloader"]),
            ("validation", given["val_dataloader"]),
        )
    )
    highest = max(int(split.labels.max()) for split in (data, test, validation) if split is not None)
    classes = [str(label) for label in range(highest + 1)]
    seed = given["seed"]
    trained = evaluate.train(data, validation, _plan(evaluate.ADAMW, given, (seed,)), classes, seed)
    found = evaluate.scored(evaluate.padded(trained.score(test.features), len(classes)), test, classes, "")
    found = {key: found[key] for key in ("lp_acc1", "lp_acc5", "lp_mean_per_class_recall")}
    return {**found, "weight_decay": trained.facts["weight_decay"], **_settings(given, evaluate.ADAMW, seed)}


def _plan(kind: str, given: dict[str, Any], seeds, proportion: float | None = None):
    from zhclip_openclip.probes import adamw, evaluate

    how = adamw.Training(given["lr"], given["epochs"], given["batch_size"], given["amp"], given["device"])
    return evaluate.Plan(kind, given["fewshot_k"], seeds, proportion, how)


def _settings(given: dict[str, Any], kind: str, seed: int) -> dict[str, Any]:
    """What clip_benchmark puts among the metrics of a probe; the epochs where there are any."""
    epochs = {"epochs": given["epochs"]} if kind == "adamw" else {}
    return {**epochs, "seed": seed, "fewshot_k": given["fewshot_k"], "normalized": True}


class _Evaluation:
    """One evaluation of ours. given: the arguments of clip_benchmark's `evaluate`."""

    def __init__(self, running, given: dict[str, Any]):
        self.running, self.given = running, given
        self.args, self.taken = running.args, running.options
        dataset = running.dataset
        self.named = list(getattr(dataset, "classes", None) or [])
        self.english = list(getattr(dataset, "english_classes", None) or []) or None

    def metrics(self) -> dict[str, Any]:
        test = self.args.dataset, self.args.split
        if self.taken.load_probe is not None:
            return self._saved(self._read("dataloader", *test))
        from zhclip_openclip.probes import evaluate, shots
        from zhclip_openclip.prompts.checks import known_labels

        dataset, split = self.args.dataset, self.args.train_split
        known = known_labels(self.given["train_dataloader"].dataset)
        if known is not None and self.named:  # before the model looks at an image
            shots.check(known, self.named, self.given["fewshot_k"], f"{dataset}, split {split}")
        data = self._read("train_dataloader", dataset, split, exact=self.taken.save_probe is not None)
        validation = None
        if self.given["val_dataloader"] is not None:
            validation = self._read("val_dataloader", dataset, self.args.val_split)
        test = self._read("dataloader", *test)
        splits = [one for one in (data, validation, test) if one is not None]
        names = self.named or [str(label) for label in range(max(int(one.labels.max()) for one in splits) + 1)]
        plan = _plan(classifier(self.taken), self.given, self._seeds(), self.running.proportion)
        seen = [data, validation] if plan.shots < 0 and validation is not None else [data]
        shots.check_test(
            test.labels,
            torch.cat([one.labels for one in seen]),
            names,
            test.name,
            " and ".join(one.name for one in seen),
        )
        with Progress("probes", dataset, None) as progress:
            each = []
            for seed in plan.seeds:
                about = self._about(data)
                each.append(evaluate.train(data, validation, plan, names, seed, about, lambda: progress.add(1)))
                progress.add(1)
        outcomes = [evaluate.padded(one.score(test.features), len(names)) for one in each]
        metrics = [evaluate.scored(scores, test, names, dataset) for scores in outcomes]
        mean, spread = evaluate.together(metrics)
        first = each[0]
        decay = {"weight_decay": first.facts["weight_decay"]} if plan.classifier == evaluate.ADAMW else {}
        mean |= {**decay, **_settings(self.given, plan.classifier, first.seed)}
        runs = [{"seed": one.seed, **_numbers(found), **one.facts} for one, found in zip(each, metrics, strict=True)]
        self._keep_outcomes(outcomes, test, metrics, mean, runs)
        self.running.added["probe"] = {
            "classifier": plan.classifier,
            "fewshot_k": plan.shots,
            "train_split": split,
            "images": {one.name.rpartition(" ")[2]: len(one.labels) for one in splits},
            "fingerprints": {one.name.rpartition(" ")[2]: one.fingerprint for one in splits if one.fingerprint},
            "seeds": runs,
            **({"std": spread} if len(runs) > 1 else {}),
        }
        if self.taken.save_probe is not None:
            self._save(first.probe)
        self._tell(mean, spread, runs)
        return mean

    def _read(self, loader: str, dataset: str, split: str, exact: bool = False):
        from zhclip_openclip.probes import evaluate

        given = self.given
        name = f"{dataset}, split {split}"
        return evaluate.read_split(given["model"], given[loader], given["device"], given["amp"], name, exact)

    def _seeds(self) -> range:
        from zhclip_openclip.probes import evaluate

        few = self.given["fewshot_k"] > 0
        count = self.taken.probe_seeds or (evaluate.SEEDS if few else 1)
        return range(self.given["seed"], self.given["seed"] + count)

    def _about(self, data) -> dict[str, Any]:
        about = {key: getattr(self.args, key) for key in ("model", "pretrained", "dataset", "language", "train_split")}
        about |= {"fewshot_k": self.given["fewshot_k"], "fingerprint": data.fingerprint, "normalized": True}
        about["precision"] = f"{'mixed' if self.given['amp'] else 'full'} on {torch.device(self.given['device']).type}"
        about["preprocessing"] = " ".join(str(self.running.transform).split())
        about["versions"] = {name: importlib.metadata.version(name) for name in _VERSIONS}
        return about

    # -------------------------------------------------------- what is kept

    def _keep_outcomes(self, outcomes, test, metrics, mean, runs) -> None:
        """What was answered to each image: beside the result; of several seeds one file for each."""
        from zhclip_openclip.metrics.per_sample import save_per_sample

        if not self.running.output.path:
            return
        path = Path(self.running.output.path)
        for scores, found, run in zip(outcomes, metrics, runs, strict=True):
            alone = len(runs) == 1
            file = path.with_suffix(".npz") if alone else path.with_name(f"{path.stem}.seed-{run['seed']}.npz")
            meta = {**self.running.described(), "task": TASK, "split": self.args.split, "seed": run["seed"]}
            save_per_sample(file, scores, test.labels, {**meta, "metrics": _numbers(found)})
            if alone:
                self.running.added["per_sample"] = file.name
            else:
                run["per_sample"] = file.name

    def _save(self, probe) -> None:
        import dataclasses

        from zhclip_openclip.probes import saved

        path = _path(self.args, self.taken)
        trial = saved.make_trial(self.given["model"], self.running.transform, self.given["device"])
        saved.save_probe(path, dataclasses.replace(probe, english=self.english, trial=trial))
        evaluation.say(f"the probe of seed {probe.about['seed']} is in {path}")

    def _saved(self, test) -> dict[str, Any]:
        """Metrics of a probe that is trained already."""
        from zhclip_openclip.probes import evaluate, saved, shots

        args = self.args
        probe = saved.load_probe(self.taken.load_probe)
        called = f"{args.model} ({args.pretrained})"
        probe.check(self.given["model"], self.running.transform, self.given["device"], called)
        names = self.named or probe.classes
        probe.check_classes(names, self.english, args.dataset)
        if test.fingerprint and test.fingerprint == probe.about.get("fingerprint"):
            raise ProbeError(
                f"{probe.path} was trained on the images of {test.name}; give a --split that it has not seen"
            )
        shots.check_test(test.labels, probe.labels, names, test.name, probe.path)
        scores = probe.scores(test.features)
        metrics = evaluate.scored(scores, test, names, args.dataset)
        runs = [{"seed": probe.about.get("seed")}]
        self._keep_outcomes([scores], test, [metrics], metrics, runs)
        told = ("classifier", "fewshot_k", "train_split", "dataset", "fingerprint", "seed")
        self.running.added["probe"] = {"loaded": Path(probe.path).name, **{key: probe.about.get(key) for key in told}}
        self._tell(metrics, {}, [])
        return metrics

    def _tell(self, mean: dict[str, Any], spread: dict[str, float], runs: list[dict[str, Any]]) -> None:
        for run in runs:
            if not run.get("converged", True):
                evaluation.say(f"L-BFGS stopped after {run['iterations']} iterations, with C = {run['C']:.3g}")
        of = f" ± {spread['lp_acc1']:.4f} over {len(runs)} seeds" if spread else ""
        chosen = {f"C = {run['C']:.3g}" for run in runs if "C" in run}
        how = f" ({next(iter(chosen))}, by {runs[0]['validation']})" if len(chosen) == 1 else ""
        evaluation.say(f"linear probe: acc1 {mean['lp_acc1']:.4f}{of}{how}")


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if isinstance(value, float) and value == value}
