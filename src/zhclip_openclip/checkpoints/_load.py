"""From a file of weights to a loaded model: recognise the layout, match names and shapes, copy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING

from zhclip_openclip import _paths
from zhclip_openclip._errors import CheckpointError, shorten
from zhclip_openclip.checkpoints._read import Weights
from zhclip_openclip.families import Family, Layout, Model, all_families

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]

#: What open_clip and its training script write: the names are the model's own.
OPEN_CLIP = Layout(
    name="open_clip",
    telltale=(r"^visual\.", r"^text\.transformer\."),
    rename=(),
    drop=(r"^text\.transformer\.embeddings\.(position_ids|token_type_ids)$",),
)


def recognise(weights: Weights) -> tuple[Family | None, Layout]:
    """The family and the layout of a checkpoint, by its keys; no family for open_clip's own names, which all share.

    Raises CheckpointError: nobody, or more than one family, says that it is theirs.
    """
    keys = list(weights.shapes)
    if OPEN_CLIP.recognises(keys):
        return None, OPEN_CLIP
    found = [
        (family, layout) for family in all_families().values() for layout in family.layouts if layout.recognises(keys)
    ]
    if not found:
        raise CheckpointError(
            f"{weights.path} is of no known family: its {len(keys)} keys begin with {shorten(keys)}; "
            f"known are {', '.join(sorted(all_families()))} and what open_clip writes"
        )
    families = {family.name for family, _ in found}
    if len(families) > 1:
        raise CheckpointError(f"{weights.path} fits several families ({', '.join(sorted(families))}): that is our bug")
    return found[0]


def plan(layout: Layout, shapes: Mapping[str, Shape]) -> dict[str, list[tuple[int, str]]]:
    """Which keys make each parameter: target -> [(part, key), ...], one part but for fused tensors."""
    result: dict[str, list[tuple[int, str]]] = {}
    for key in shapes:
        target = layout.target(key)
        if target is not None:
            target, _, part = target.partition("#")
            result.setdefault(target, []).append((int(part or 0), key))
    return {target: sorted(parts) for target, parts in result.items()}


def planned_shapes(layout: Layout, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Target -> the shape that its parts give together."""
    result: dict[str, Shape] = {}
    for target, parts in plan(layout, shapes).items():
        first = _stored(layout, target, shapes[parts[0][1]])
        rows = sum(shapes[key][0] for _, key in parts) if len(parts) > 1 else None
        result[target] = first if rows is None else (rows, *first[1:])
    return result


def _stored(layout: Layout, target: str, shape: Shape) -> Shape:
    import re

    transposed = any(re.search(pattern, target) for pattern in layout.transpose)
    return tuple(reversed(shape)) if transposed else shape


def _same_up_to_leading_ones(a: Shape, b: Shape) -> bool:
    """Class tokens, position embeddings and scales are kept with or without leading dimensions of 1."""

    def core(shape: Shape) -> Shape:
        while shape and shape[0] == 1:
            shape = shape[1:]
        return shape

    return core(tuple(a)) == core(tuple(b))


def load(model: torch.nn.Module, weights: Weights, layout: Layout, name: str, strict: bool = True):
    """Copy a checkpoint into `model`, tensor by tensor. Nothing is copied unless everything fits.

    name: the model's, for messages. strict: every parameter has to be there, and nothing else, as in torch.

    Returns what torch's `load_state_dict` returns. Raises CheckpointError: which keys are missing, unknown, of another
    shape, and which model the file fits.
    """
    import re

    import torch
    from torch.nn.modules.module import _IncompatibleKeys

    state = model.state_dict()
    parts = plan(layout, weights.shapes)
    shapes = planned_shapes(layout, weights.shapes)
    constants = {target: value for target, value in layout.constants.items() if target not in parts}
    missing = [target for target in state if target not in parts and target not in constants]
    unknown = [key for target, group in parts.items() if target not in state for _, key in group]
    resized = _resize(model, weights, layout, parts, shapes, state)
    misshapen = [
        f"{parts[target][0][1]} {list(shapes[target])} for {list(state[target].shape)}"
        for target in parts
        if target in state
        and target not in resized
        and not _same_up_to_leading_ones(shapes[target], tuple(state[target].shape))
    ]
    if misshapen or (strict and (missing or unknown)):
        raise CheckpointError(_misfit(weights, layout, name, missing, unknown, misshapen, len(state)))
    place = {
        key: (target, number, len(group))
        for target, group in parts.items()
        if target in state and target not in resized
        for number, key in group
    }
    with torch.no_grad():
        for target, value in constants.items():
            if target in state:
                state[target].fill_(value)
        for target, tensor in resized.items():
            state[target].copy_(tensor)
        for key, tensor in weights.stream(place):
            target, number, count = place[key]
            if any(re.search(pattern, target) for pattern in layout.transpose):
                tensor = tensor.T
            destination = state[target]
            if count > 1:
                rows = destination.shape[0] // count
                destination = destination.narrow(0, number * rows, rows)
            destination.copy_(tensor.reshape(destination.shape))
            del tensor
    return _IncompatibleKeys(missing, unknown)


def _resize(model, weights: Weights, layout: Layout, parts, shapes, state) -> dict[str, torch.Tensor]:
    """Position embeddings of another image size (`force_image_size`), interpolated as open_clip does it."""
    key = "visual.positional_embedding"
    if key not in parts or key not in state or shapes[key] == tuple(state[key].shape):
        return {}
    from open_clip.model import resize_pos_embed

    if not hasattr(getattr(model, "visual", None), "grid_size") or shapes[key][-1] != state[key].shape[-1]:
        return {}
    source = parts[key][0][1]
    resized = {key: next(tensor for _, tensor in weights.stream([source])).float().clone()}
    resize_pos_embed(resized, model)
    return resized if resized[key].shape == state[key].shape else {}


def _misfit(weights: Weights, layout: Layout, name, missing, unknown, misshapen, expected: int) -> str:
    told = []
    if missing:
        told.append(f"{len(missing)} of {expected} parameters are missing ({shorten(missing)})")
    if unknown:
        told.append(f"{len(unknown)} keys are unknown ({shorten(unknown)})")
    if misshapen:
        told.append(f"{len(misshapen)} have another shape ({shorten(misshapen, 2)})")
    fits = fitting_models(planned_shapes(layout, weights.shapes), layout.constants)
    advice = f"; it fits {' and '.join(fits)}: load it under that name" if fits else ""
    return f"{weights.path} ({layout.name} layout) does not fit {name}: {'; '.join(told)}{advice}"


@cache
def model_facts() -> dict[str, dict]:
    """Measured facts of every built-in model: parameters, sizes of both towers, signature. See `benchmarks/model_facts.py`."""
    return json.loads((_paths.DATA / "model_facts.json").read_text(encoding="utf-8"))


def signature(shapes: Mapping[str, Iterable[int]]) -> str:
    """A short name for a set of parameter names and shapes; leading dimensions of 1 do not count."""
    lines = []
    for name, shape in sorted(shapes.items()):
        shape = list(shape)
        while shape and shape[0] == 1:
            shape = shape[1:]
        lines.append(f"{name} {shape}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def fitting_models(shapes: Mapping[str, Shape], constants: Iterable[str] = ()) -> list[str]:
    """Names of the models that have exactly these parameters."""
    full = dict(shapes)
    for target in constants:
        full.setdefault(target, ())
    wanted = signature(full)
    return [name for name, facts in model_facts().items() if facts["signature"] == wanted]


def refuse_other_family(weights: Weights, found: Family | None, layout: Layout, family: Family, model: Model) -> None:
    """An error where a checkpoint is recognised as another family's."""
    if found is None or found.name == family.name:
        return
    fits = fitting_models(planned_shapes(layout, weights.shapes), layout.constants)
    names = fits or [candidate.name for candidate in found.models]
    raise CheckpointError(
        f"{weights.path} holds {found.title} weights ({layout.name} layout), and {model.name} is a {family.title} "
        f"model: load it as {' or '.join(names)}"
    )
