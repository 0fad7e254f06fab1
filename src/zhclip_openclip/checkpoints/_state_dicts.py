"""Which of the tensors in a file are the model's, and what they are called without the names of wrappers.

Trainers put a state dict under a key (`state_dict`, `module`, `net`, `ema`, ...), a prefix before its names (`model.`,
`clip.`) and their wrappers' names into them (`_orig_mod.`, `module.`). None of that is a list here but for the wrappers
that stand anywhere in a name: a dict or a prefix is the right one if what is in it is known to a family.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from zhclip_openclip._errors import CheckpointError, shorten
from zhclip_openclip.checkpoints._torch_files import Place
from zhclip_openclip.families import all_families
from zhclip_openclip.families._layouts import OPEN_CLIP

#: A wrapper keeps the module that it wraps as an attribute, which is a part of every name below it: DataParallel and
#: DistributedDataParallel as `module`, torch.compile, FSDP and activation checkpointing as `_..._mod(ule)`.
_WRAPPER = re.compile(r"^(module|_\w*mod(ule)?)$")
#: Names that adapters of PEFT (https://github.com/huggingface/peft) give to their tensors and to what they wrap.
_PEFT = re.compile(
    r"(^|\.)(lora_\w+|ia3_l|hada_w\w+|lokr_w\w+|oft_\w+|boft_\w+|vera_lambda_\w|base_layer|modules_to_save)(\.|$)"
)
#: How averages of weights are called beside the weights themselves.
_AVERAGE = re.compile(r"(^|[._])(ema|averaged?|swa|shadow)([._]|$)", re.IGNORECASE)
#: torch.optim.swa_utils.AveragedModel counts its updates in a tensor of this name.
_COUNTER = "n_averaged"
#: Parts of a name that are looked through for a prefix.
_PREFIX_PARTS = 4


@dataclass(frozen=True)
class Chosen:
    """A state dict in a file.

    place: keys that lead to it. prefix: what its names begin with, without the names of wrappers. names: name without
    all that -> key in the dict at `place`. left: keys there that do not begin with the prefix.
    """

    place: Place
    prefix: str
    names: Mapping[str, str]
    left: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """How a message names it."""
        parts = [*([".".join(self.place)] if self.place else []), *([f"{self.prefix}*"] if self.prefix else [])]
        return ": ".join(parts) or "the names at its top"


def choose(path: Path, dicts: Mapping[Place, Collection[str]]) -> tuple[Chosen, list[str]]:
    """The state dict of the model among all dicts of tensors in a file, and what the user should be told of the choice.

    One that a family knows. Where several are, averages (`ema`) come after the others, with a word that names them;
    of two that are no averages nobody can tell. Where none is known, the largest, for the message that says so.

    Raises CheckpointError: two that might be it; weights of PEFT that are not merged.
    """
    found = [(rank, view) for place, keys in dicts.items() for rank, view in _views(place, keys)]
    best = max((rank for rank, _ in found), default=0)
    candidates = [view for rank, view in found if rank == best]
    plain = [view for view in candidates if not _AVERAGE.search(view.label)]
    if len(candidates) > 1 and len(plain) != 1:
        raise CheckpointError(
            f"{path} holds {len(candidates)} models ({', '.join(view.label for view in candidates)}): save the state "
            "dict of the one that you mean alone"
        )
    if candidates:
        chosen = (plain if len(candidates) > 1 else candidates)[0]
    else:
        place = max(dicts, key=lambda place: len(dicts[place]))
        chosen = Chosen(place, "", _unwrapped(dicts[place]))
    if adapters := [key for key in dicts[chosen.place] if _PEFT.search(key)]:
        raise CheckpointError(
            f"{path} holds adapters of PEFT beside the weights, or alone ({shorten(adapters, 2)}): merge first, with "
            "model.merge_and_unload(), and save the state dict of what that returns"
        )
    notes = []
    if others := [view.label for _, view in found if view is not chosen and view.place != chosen.place]:
        notes.append(f"{path} holds weights in {chosen.label} and in {shorten(others)}: {chosen.label} is taken")
    if chosen.left:
        notes.append(f"{path}: {len(chosen.left)} keys outside of {chosen.label} are left out ({shorten(chosen.left)})")
    return chosen, notes


def known(names: Collection[str], behind: str = "") -> int:
    """2 for names that a family (or open_clip) knows as a model or a text tower, 1 for an image tower, 0 for others.

    behind: the prefix that was taken off them.
    """
    if OPEN_CLIP.recognises(names):
        return 2
    layouts = (layout for family in all_families().values() for layout in family.layouts)
    parts = {layout.part for layout in layouts if not (layout.bare and behind) and layout.recognises(names)}
    return 2 if parts - {"image"} else 1 if parts else 0


def _views(place: Place, keys: Collection[str]) -> Iterator[tuple[int, Chosen]]:
    """What a dict of tensors can be taken for: itself, or what is behind each prefix where that is known."""
    clean = _unwrapped(keys)
    for names in (clean, {key: key for key in keys}):
        if rank := known(names):
            yield rank, Chosen(place, "", names)
            return
    taken: list[str] = []
    for prefix in _prefixes(clean):
        if any(prefix.startswith(shorter) for shorter in taken):
            continue
        names = {name[len(prefix) :]: key for name, key in clean.items() if name.startswith(prefix)}
        if rank := known(names, prefix):
            taken.append(prefix)
            yield rank, Chosen(place, prefix, names, tuple(n for n in clean if not n.startswith(prefix)))


def _unwrapped(keys: Collection[str]) -> dict[str, str]:
    """Name without the names of wrappers -> key; the keys as they are where two would have the same name."""
    names = {".".join(part for part in key.split(".") if not _WRAPPER.match(part)): key for key in keys}
    if len(names) < len(keys) or "" in names:
        return {key: key for key in keys}
    names.pop(_COUNTER, None)
    return names


def _prefixes(names: Collection[str]) -> list[str]:
    """Everything that ends in a dot and that a name begins with, the shortest first."""
    found = {
        ".".join(parts[:depth]) + "."
        for name in names
        for parts in [name.split(".", _PREFIX_PARTS)]
        for depth in range(1, len(parts))
    }
    return sorted(found, key=lambda prefix: (prefix.count("."), prefix))
