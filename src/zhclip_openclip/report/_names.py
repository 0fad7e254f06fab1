"""One spelling for each model, data set and metric that a result or a published table may name."""

from __future__ import annotations

import difflib
import json
import re
from functools import cache
from typing import Any

from zhclip_openclip import families
from zhclip_openclip._errors import shorten
from zhclip_openclip._paths import DATA
from zhclip_openclip.prompts import languages, registry
from zhclip_openclip.prompts._errors import PromptError

PUBLISHED = DATA / "published"
#: A k of nine digits is more than any set of candidates has; the int() of thousands of digits fails.
RECALL = re.compile(r"(image_retrieval|text_retrieval)_(?:recall@([1-9][0-9]{0,8})|mean_recall)")
ONE_LABEL = ("acc1", "acc5", "mean_per_class_recall", "mean_per_class_accuracy")
SEVERAL_LABELS = ("mean_average_precision", "map_11_points")
#: What stands before the name of a metric of a linear probe.
PROBE_PREFIX = "lp_"
#: Data sets whose images have several labels.
MULTI_LABEL = ("voc2007_multilabel",)


@cache
def layout() -> dict[str, Any]:
    """`data/published/tables.json`: the published tables, their columns and titles."""
    return json.loads((PUBLISHED / "tables.json").read_text(encoding="utf-8"))


def model_name(spelling: str) -> str:
    """The canonical name of a model or alias of ours; any other name as it is."""
    found = families.find(spelling)
    return found[1].name if found else spelling


def model_and_tag(spelling: str) -> tuple[str, str]:
    """`name` or `name,tag` (as clip_benchmark's --pretrained_model takes it); the tag is '' where it is the default."""
    name, _, tag = spelling.partition(",")
    return model_name(name), "" if tag == default_tag(name) else tag


def default_tag(name: str) -> str:
    """The tag that a model of ours has without --pretrained, '' for a model that is not ours."""
    found = families.find(name)
    return found[1].default_tag if found else ""


def language(spelling: str) -> str:
    """The language as we spell it; what is none that is known here as it is."""
    try:
        return languages.normalise(spelling) if spelling else ""
    except PromptError:
        return spelling


def dataset_name(spelling: str) -> str:
    """The canonical name of a data set that we know, without format in front; any other without `wds/`."""
    from zhclip_openclip.datasets import retrieval

    bare = spelling.removeprefix("wds/")
    found = registry.find(spelling)
    return retrieval.dataset_name(bare) or (found.name if found else bare)


def is_retrieval(name: str) -> bool:
    """Whether it is a retrieval set of ours, in its canonical name."""
    from zhclip_openclip.datasets import retrieval

    return name in retrieval.DATASETS


def known_datasets() -> list[str]:
    from zhclip_openclip.datasets import retrieval

    return [*retrieval.DATASETS, *registry.all_datasets()]


def is_known_dataset(name: str) -> bool:
    return name in known_datasets()


def fits(metric: str, dataset: str) -> bool:
    """Whether a data set can be scored with a metric; of a data set that is not ours every metric that is known."""
    if is_retrieval(dataset):
        from zhclip_openclip.datasets import retrieval

        recall = RECALL.fullmatch(metric)
        return recall is not None and recall[1] in retrieval.DATASETS[dataset].DIRECTIONS
    if is_known_dataset(dataset):
        return metric in (SEVERAL_LABELS if dataset in MULTI_LABEL else ONE_LABEL)
    return RECALL.fullmatch(metric) is not None or metric in (*ONE_LABEL, *SEVERAL_LABELS)


def metrics_of(dataset: str) -> str:
    """The metrics that fit, for an error message."""
    if is_retrieval(dataset):
        from zhclip_openclip.datasets import retrieval

        return ", ".join(f"{way}_recall@K, {way}_mean_recall" for way in retrieval.DATASETS[dataset].DIRECTIONS)
    return ", ".join(SEVERAL_LABELS if dataset in MULTI_LABEL else ONE_LABEL)


def order(metric: str) -> tuple:
    """Sorts metrics as the published tables have them: direction, k, mean; then those of classification."""
    recall = RECALL.fullmatch(metric)
    if recall:
        return 0, recall[1] != "image_retrieval", int(recall[2] or 10**9), ""
    known, metric = (*ONE_LABEL, *SEVERAL_LABELS), metric.removeprefix(PROBE_PREFIX)
    return 1, False, known.index(metric) if metric in known else len(known), metric


def suggest(name: str, known: list[str], cutoff: float = 0.6) -> str:
    """`did you mean x?`, or the first few names that there are."""
    close = difflib.get_close_matches(name.lower(), known, n=2, cutoff=cutoff)
    return f"did you mean {' or '.join(close)}?" if close else f"there are {shorten(known, 6)}"
