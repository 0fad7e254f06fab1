"""Class names and templates against the data, before the model runs."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from zhclip_openclip._errors import shorten
from zhclip_openclip.prompts import templates as template_sets
from zhclip_openclip.prompts._errors import PromptError

#: Where the data sets of torchvision and clip_benchmark keep their labels, so that no image is read for them.
_LABELS = ("targets", "labels", "_labels", "y")
#: And where they keep them with the file: (path, label), or (path, box, label) for VOC's objects.
_SAMPLES = ("samples", "_samples", "bndboxes")


def check(dataset, dataset_name: str, split: str = "test") -> None:
    """Find what is wrong with a classification data set that has its classes and templates, without reading an image.

    Meant for the end of the patch of `build_dataset`.

    Raises PromptError: an empty split, no classes or templates, a template without `{c}`, a label outside the list of
    classes, another number of names than of classes where the data set counts them itself.
    """
    place = f"{dataset_name}, split {split}"
    if _length(dataset) == 0:
        raise PromptError(f"{place} is empty; look at --split and --dataset_root")
    classes, templates = getattr(dataset, "classes", None), getattr(dataset, "templates", None)
    if not classes or not templates:
        raise PromptError(f"{place} has no {'class names' if not classes else 'templates'}; it is no classification")
    template_sets.check(templates, f"{dataset_name}, templates {getattr(dataset, 'template_set', '')}".rstrip())
    counted = _counted_classes(dataset)
    if counted is not None and counted != len(classes):
        raise PromptError(
            f"{place}: {len(classes)} class names for {counted} classes in the data; look at --custom_classname_file "
            "and --dataset_root"
        )
    labels = known_labels(dataset)
    if labels is not None:
        inside(labels, classes, place)


def folders(dataset, english: Sequence[str], dataset_name: str) -> None:
    """Hold the names of the folders that a data set was read from against the names that its classes get by position.

    english: the class names, in the order of the labels. Names of folders are only a hint (`disgust` for `disgusted`,
    `n01440764`), so that nothing is said where they tell nothing.

    Raises PromptError: two folders or more have the names of other classes than those at their places; the folders are
    numbered, which does not tell which class is which (Kaggle's CSV of FER-2013 has another order than its folders).
    """
    numbers = getattr(dataset, "class_to_idx", None)
    if (
        not isinstance(numbers, dict)
        or len(numbers) != len(english)
        or set(numbers.values()) != set(range(len(english)))
    ):
        return
    names = sorted(numbers, key=numbers.get)
    elsewhere = []
    for place, name in enumerate(names):
        others = [other for other in english if _alike(str(name), other)]
        if not _alike(str(name), english[place]) and len(others) == 1:
            elsewhere.append(f"{name} for {english[place]!r}")
    way_out = f"name each folder after its class: {shorten(english, 8)}"
    if len(elsewhere) > 1:
        raise PromptError(
            f"{dataset_name}: folders stand in the places of other classes ({shorten(elsewhere)}); {way_out}"
        )
    if all(str(name).isdigit() for name in names) and not any(sign.isdigit() for name in english for sign in name):
        raise PromptError(
            f"{dataset_name}: the folders are numbered ({shorten(names)}), and do not tell which of them is "
            f"{english[0]!r}; {way_out}"
        )


def _alike(folder: str, name: str) -> bool:
    """Whether a folder can be that of the class: the same letters and digits, or one the beginning of the other."""
    one, other = ("".join(filter(str.isalnum, text.lower())) for text in (folder, name))
    shorter = min(len(one), len(other))
    return one == other or (shorter >= 3 and (one.startswith(other) or other.startswith(one)))


def same_name(classes: Sequence[str], english: Sequence[str] | None, dataset_name: str) -> None:
    """Raise PromptError if two classes have one name: nothing could tell them apart."""
    seen: dict[str, int] = {}
    for index, name in enumerate(classes):
        if name in seen:
            which = f" ({english[seen[name]]!r} and {english[index]!r})" if english else ""
            raise PromptError(
                f"{dataset_name}: classes {seen[name]} and {index} are both named {name!r}{which}; name each apart"
            )
        seen[name] = index


def _counted_classes(dataset) -> int | None:
    """How many classes the data itself has, where it says so: folders of images, mostly."""
    if getattr(dataset, "idxs", None) is not None:  # Babel-ImageNet, a part of ImageNet's folders
        return None
    for name in ("label_map", "class_to_idx"):  # label_map: ObjectNet uses 113 of its folders
        places = getattr(dataset, name, None)
        if isinstance(places, dict) and places:
            return len(set(places.values()))
    categories = getattr(dataset, "categories", None)  # Caltech-101's folders
    return len(categories) if isinstance(categories, list) else None


def known_labels(dataset):
    """(samples,) labels of a data set, or (samples, classes), if it has them without reading an image; or None."""
    import torch

    if getattr(dataset, "label_map", None):  # ObjectNet's samples carry the numbers of all its folders
        return None
    for name in _LABELS:
        labels = getattr(dataset, name, None)
        if labels is not None and len(labels) == _length(dataset) and not _is_text(labels):
            labels = torch.as_tensor(labels)
            return labels if labels.ndim <= 2 and not labels.is_complex() else None
    for name in _SAMPLES:
        samples = getattr(dataset, name, None)
        if samples is not None and len(samples) and isinstance(samples[0], (tuple, list)):
            return torch.as_tensor([sample[-1] for sample in samples])
    return None


def inside(labels, classes: Sequence[str], place: str) -> None:
    """Raise PromptError if a label has no class.

    labels: (samples,) ints, or (samples, classes) of zeros and ones where an image has several.
    """
    if labels.ndim == 2:
        if labels.shape[1] != len(classes):
            raise PromptError(f"{place}: {len(classes)} class names for labels of {labels.shape[1]} classes")
        return
    outside = ((labels < 0) | (labels >= len(classes))).nonzero().flatten()
    if len(outside):
        first = int(outside[0])
        raise PromptError(
            f"{place}: sample {first} has the label {int(labels[first])}, and there are {len(classes)} class names "
            f"(0 to {len(classes) - 1}); {len(outside)} samples of {len(labels)} are outside: "
            f"labels {shorten(sorted(set(labels[outside].tolist())))}"
        )


def label(value, classes: Sequence[str], place: str) -> None:
    """Raise PromptError if the label of one sample has no class; what is no label of classes is left alone.

    value: a whole number, or a vector with a number for each class where an image has several. place: the sample.
    """
    if getattr(value, "ndim", 0) == 1:
        if len(value) != len(classes):
            raise PromptError(f"{place} has a label for {len(value)} classes, and there are {len(classes)} class names")
        return
    try:
        number = operator.index(value)
    except TypeError:
        return
    if not 0 <= number < len(classes):
        raise PromptError(
            f"{place} has the label {number}, and there are {len(classes)} class names (0 to {len(classes) - 1}); "
            "look at the class names and at --dataset_root"
        )


def _length(dataset) -> int | None:
    try:
        return len(dataset)
    except TypeError:  # a stream
        return None


def _is_text(labels) -> bool:
    return isinstance(labels[0] if len(labels) else 0, str)
