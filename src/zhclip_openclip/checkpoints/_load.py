"""From a file of weights to a loaded model: recognise the layout, match names and shapes, copy."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from zhclip_openclip import _paths
from zhclip_openclip._errors import CheckpointError, shorten
from zhclip_openclip.checkpoints import _shared
from zhclip_openclip.checkpoints._copy import Piece, Shape, Source, as_stored, copy, share
from zhclip_openclip.checkpoints._read import Weights
from zhclip_openclip.families import Family, Layout, Model, all_families, find
from zhclip_openclip.families._layouts import OPEN_CLIP

if TYPE_CHECKING:
    import torch


def recognise(weights: Weights, model: str = "") -> tuple[Family | None, Layout]:
    """The family and the layout of a checkpoint, by its keys; no family for open_clip's own names, which all share.

    model: name of the one that is to be loaded, which decides where a file holds more than one.

    Raises CheckpointError: nobody, or more than one family, says that it is theirs; or it holds an image tower alone.
    """
    keys = list(weights.shapes)
    if OPEN_CLIP.recognises(keys):
        return None, OPEN_CLIP
    found = [
        (family, layout)
        for family in all_families().values()
        for layout in family.layouts
        if layout.recognises(weights.shapes)
    ]
    texts = [(family, layout) for family, layout in found if layout.part != "image"]
    texts.sort(key=lambda one: not one[1].makes(model))
    families = {family.name for family, _ in texts}
    if len(families) == 1:
        return texts[0]
    if families:
        raise CheckpointError(f"{weights.path} fits several families ({', '.join(sorted(families))}): that is our bug")
    if found:
        raise CheckpointError(
            f"{weights.path} is a CLIP model without a Chinese text tower ({found[0][1].name} layout): it is the image "
            f"tower of {' and '.join(family.title for family, _ in found)}; give the file with the text tower instead"
        )
    raise CheckpointError(
        f"{weights.path} is of no known family: its {len(keys)} keys begin with {shorten(keys)}; "
        f"known are {', '.join(sorted(all_families()))} and what open_clip writes"
    )


def recognise_image(weights: Weights, family: Family) -> Layout:
    """The layout of a file that `family` takes its image tower from. Raises CheckpointError: none of its layouts."""
    keys = list(weights.shapes)
    for layout in family.layouts:
        if layout.part == "image" and layout.recognises(weights.shapes):
            return layout
    raise CheckpointError(
        f"{weights.path} holds no image tower that {family.title} can take: its {len(keys)} keys begin with "
        f"{shorten(keys)}"
    )


def plan(layout: Layout, shapes: Mapping[str, Shape]) -> dict[str, list[Source]]:
    """Which keys make each parameter, from top to bottom: one key, but for tensors that are fused on one side."""
    result: dict[str, list[Source]] = {}
    for key in shapes:
        if "#" in key:  # which marks a part in our targets, and nothing in the names of anybody's parameters
            result[key] = [Source(0, key)]
            continue
        targets = layout.targets(key)
        start, stop = next((span for pattern, *span in layout.rows if re.search(pattern, key)), (0, 0))
        for part, target in enumerate(targets):
            target, _, place = target.partition("#")
            result.setdefault(target, []).append(Source(int(place or 0), key, part, len(targets), start, stop))
    return {target: sorted(sources) for target, sources in result.items()}


#: The shape of what fits together to no tensor. No parameter has it.
_NONE: Shape = (-1,)


def planned_shapes(layout: Layout, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Target -> the shape that its sources give together; (-1,) where they do not fit together: parts of different
    shapes, a part that is there twice or not at all."""
    return {target: _together(layout, target, sources, shapes) for target, sources in plan(layout, shapes).items()}


def _together(layout: Layout, target: str, sources: Sequence[Source], shapes: Mapping[str, Shape]) -> Shape:
    first = sources[0]
    stored = [as_stored(layout, target, shapes[source.key]) for source in sources]
    shape = stored[0]
    if len(sources) == 1 and first.place == 0 and first.shares == 1 and not first.stop:
        return shape
    if [source.place for source in sources] != list(range(len(sources))):
        return _NONE
    if not shape or any(other != shape for other in stored):
        return _NONE
    if any(shape[0] % source.shares or shape[0] < source.stop for source in sources):
        return _NONE
    spans = [source.within(shape[0]) for source in sources]
    return (sum(stop - start for start, stop in spans), *shape[1:])


def _same_up_to_leading_ones(a: Shape, b: Shape) -> bool:
    """Class tokens, position embeddings and scales are kept with or without leading dimensions of 1."""

    def core(shape: Shape) -> Shape:
        while shape and shape[0] == 1:
            shape = shape[1:]
        return shape

    return core(tuple(a)) == core(tuple(b))


def load(model: torch.nn.Module, pieces: Sequence[Piece], name: str, strict: bool = True, resize: bool = True):
    """Copy a checkpoint into `model`, tensor by tensor. Nothing is copied unless everything fits.

    pieces: the files that hold the weights; together they have to cover the model.
    name: the model's, for messages. strict: every parameter has to be there, and nothing else, as in torch.
    resize: position embeddings of another image size are interpolated; if False, they are another shape like any.

    Returns what torch's `load_state_dict` returns. Raises CheckpointError: which keys are missing, unknown, of another
    shape or type, and which model the file fits.
    """
    import torch
    from torch.nn.modules.module import _IncompatibleKeys

    state = model.state_dict()
    plans = [plan(piece.layout, piece.weights.shapes) for piece in pieces]
    shapes = [planned_shapes(piece.layout, piece.weights.shapes) for piece in pieces]
    held = {target for parts in plans for target in parts}
    constants = {
        target: value
        for piece in pieces
        for target, value in piece.layout.constants.items()
        if target not in held and target in state
    }
    if "logit_bias" in state and "logit_bias" not in held:
        constants["logit_bias"] = 0.0  # SigLIP's, which a model of CLIP's loss lacks: open_clip starts it there
    missing = [target for target in state if target not in held and target not in constants]
    unknown, misshapen, resized = [], [], []
    for number, piece in enumerate(pieces):
        unknown.append([s.key for target, group in plans[number].items() if target not in state for s in group])
        resized.append(_resize(model, piece.weights, plans[number], shapes[number], state) if resize else {})
        misshapen.append(
            [
                _other_shape(piece, group, shapes[number][target], tuple(state[target].shape))
                for target, group in plans[number].items()
                if target in state
                and target not in resized[number]
                and not _same_up_to_leading_ones(shapes[number][target], tuple(state[target].shape))
            ]
        )
    for number, piece in enumerate(pieces):
        lacking = [target for target in missing if number == _owner(pieces, target)]
        if misshapen[number] or (strict and (lacking or unknown[number])):
            size = _image_size(model, shapes[number], state)
            raise CheckpointError(_misfit(piece, name, lacking, unknown[number], misshapen[number], len(state), size))
        _refuse_other_types(piece, plans[number], state)

    def fill(state: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for target, value in constants.items():
                state[target].fill_(value)
            for number, piece in enumerate(pieces):
                for target, tensor in resized[number].items():
                    state[target].copy_(tensor)
                parts = {t: group for t, group in plans[number].items() if t in state and t not in resized[number]}
                copy(piece, parts, state)

    filled = {target: tensor for target, tensor in state.items() if target in held or target in constants}
    if not (_shared.wanted() and share(model, filled, pieces, fill)):
        fill(state)
    return _IncompatibleKeys(missing, [key for keys in unknown for key in keys])


def _owner(pieces: Sequence[Piece], target: str) -> int:
    """Which piece to blame for a parameter that none of them holds."""
    for number, piece in enumerate(pieces):
        if piece.layout.part and target.startswith("text.") == (piece.layout.part == "text"):
            return number
    return 0


def _resize(model, weights: Weights, parts, shapes, state) -> dict[str, torch.Tensor]:
    """Position embeddings of another image size (`force_image_size`), interpolated as open_clip does it."""
    key = "visual.positional_embedding"
    if key not in parts or key not in state or shapes[key] == tuple(state[key].shape):
        return {}
    from open_clip.model import resize_pos_embed

    if not hasattr(getattr(model, "visual", None), "grid_size") or shapes[key][-1] != state[key].shape[-1]:
        return {}
    source = parts[key][0].key
    resized = {key: next(tensor for _, tensor in weights.stream([source])).float().clone()}
    resize_pos_embed(resized, model)
    return resized if resized[key].shape == state[key].shape else {}


def _other_shape(piece: Piece, sources: Sequence[Source], shape: Shape, wanted: Shape) -> str:
    if shape != _NONE:
        return f"{sources[0].key} {list(shape)} for {list(wanted)}"
    held = ", ".join(f"{source.key} {list(piece.weights.shapes[source.key])}" for source in sources)
    return f"{held} together for {list(wanted)}"


def _refuse_other_types(piece: Piece, parts: Mapping[str, list[Source]], state: Mapping[str, torch.Tensor]) -> None:
    """Whole numbers in the place of real ones are codes of quantised weights: copied, they would be nonsense."""
    for target, sources in parts.items():
        for source in sources:
            dtype = piece.weights.dtypes.get(source.key, "float32")
            if target in state and state[target].is_floating_point() and not dtype.startswith(("float", "bfloat")):
                raise CheckpointError(
                    f"{piece.weights.path}: {source.key} is {dtype}, and a real number is wanted: give the weights "
                    "before they were quantised"
                )


def _image_size(model, shapes: Mapping[str, Shape], state: Mapping[str, torch.Tensor]) -> str:
    """What to say of a file whose position embeddings are of another image size: which one, in pixels."""
    size = getattr(getattr(model, "visual", None), "image_size", None)
    size = size[0] if isinstance(size, (tuple, list)) else size
    for target in ("visual.positional_embedding", "visual.attnpool.positional_embedding"):
        if target not in state or not isinstance(size, int) or len(shapes.get(target, ())) != 2:
            continue
        rows = [shapes[target][0], state[target].shape[0]]  # one for each cell of a square grid, and one more
        grids = [math.isqrt(max(row - 1, 0)) for row in rows]
        if grids[0] != grids[1] and all(grid and grid * grid + 1 == row for grid, row in zip(grids, rows, strict=True)):
            held = grids[0] * size // grids[1]
            return f"; its images are of {held} pixels and the model's of {size}: see force_image_size"
    return ""


def _misfit(piece: Piece, name, missing, unknown, misshapen, expected: int, otherwise: str) -> str:
    told = []
    if missing:
        told.append(f"{len(missing)} of {expected} parameters are missing ({shorten(missing)})")
    if unknown:
        told.append(f"{len(unknown)} keys are unknown ({shorten(unknown)})")
    if misshapen:
        told.append(f"{len(misshapen)} have another shape ({shorten(misshapen, 2)})")
    fits = [fit for fit in fitting_models(piece) if fit != name]
    advice = f"; it fits {' and '.join(fits)}: load it under that name" if fits else otherwise
    if fits and piece.layout.part == "image":  # which cannot be loaded by itself
        advice = f"; it is the image tower of {' and '.join(fits)}"
    if "logit_bias" in unknown:
        advice += "; logit_bias is SigLIP's: create_model(..., init_logit_bias=0) has a place for it"
    return f"{piece.weights.path} ({piece.layout.name} layout) does not fit {name}: {'; '.join(told)}{advice}"


@cache
def model_facts() -> dict[str, dict]:
    """Measured facts of every built-in model: parameters, sizes and signatures. See `benchmarks/model_facts.py`."""
    return json.loads((_paths.DATA / "model_facts.json").read_text(encoding="utf-8"))


def signature(shapes: Mapping[str, Iterable[int]]) -> str:
    """A short name for a set of parameter names and shapes; leading dimensions of 1 do not count, nor does the bias of
    SigLIP's loss, which any model may have."""
    lines = []
    for name, shape in sorted(shapes.items()):
        if name == "logit_bias":
            continue
        shape = list(shape)
        while shape and shape[0] == 1:
            shape = shape[1:]
        lines.append(f"{name} {shape}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def tower(shapes: Mapping[str, Shape], part: str) -> dict[str, Shape]:
    """The parameters of one tower; `logit_scale` is of neither, and all are of part ""."""
    prefix = {"text": "text.", "image": "visual.", "": ""}[part]
    return {name: shape for name, shape in shapes.items() if name.startswith(prefix)}


def fitting_models(piece: Piece) -> list[str]:
    """Names of the models that have exactly these parameters, in the towers that the file holds, and whose family
    knows the layout: others have the same shapes and would refuse the file."""
    shapes = planned_shapes(piece.layout, piece.weights.shapes)
    for target in piece.layout.constants:
        # Constants are scales and biases; a name that says `bias` has as many values as there are output channels.
        shapes.setdefault(target, _constant_shape(target, shapes))
    part = piece.layout.part
    wanted = signature(tower(shapes, part))
    return [
        name
        for name, facts in model_facts().items()
        if facts[f"{part}_signature".lstrip("_")] == wanted and _reads(name, piece.layout)
    ]


def _reads(name: str, layout: Layout) -> bool:
    found = find(name)
    return layout == OPEN_CLIP or (found is not None and layout in found[0].layouts and layout.makes(name))


def _constant_shape(target: str, shapes: Mapping[str, Shape]) -> Shape:
    weight = shapes.get(re.sub("bias$", "weight", target))
    return weight[:1] if weight else ()


def refuse_other_family(piece: Piece, found: Family | None, family: Family, model: Model) -> None:
    """An error where a checkpoint is recognised as another family's."""
    if found is None or found.name == family.name:
        return
    fits = [fit for fit in fitting_models(piece) if any(fit == candidate.name for candidate in found.models)]
    names = fits or [candidate.name for candidate in found.models]
    raise CheckpointError(
        f"{piece.weights.path} holds {found.title} weights ({piece.layout.name} layout), and {model.name} is a "
        f"{family.title} model: load it as {' or '.join(names)}"
    )
