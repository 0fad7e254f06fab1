"""What this package writes into what is saved of its models, so that they are known again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zhclip_openclip.checkpoints import _beside

if TYPE_CHECKING:
    import torch


def say_it_when_saved(model: torch.nn.Module, context_length: int | None = None) -> None:
    """From now on the metadata of `model.state_dict()` names the model, its preprocessing and its sizes.

    PyTorch keeps this metadata in what `torch.save` writes of a state dict, and nobody else looks at the key, so that a
    checkpoint of any trainer that saves `model.state_dict()` can be told from its twin.

    context_length: in tokens, where it is not the model's own.
    """
    model.zhclip_context_length = context_length
    if not any(hook is _say for hook in model._state_dict_hooks.values()):
        model.register_state_dict_post_hook(_say)


def _say(module, state_dict, prefix, local_metadata) -> None:
    local_metadata[_beside.OWN] = description(module)


def description(model: torch.nn.Module) -> str:
    """The metadata of a model of ours, as JSON: see :func:`zhclip_openclip.checkpoints._beside.own_metadata`."""
    preprocess = dict(getattr(model.visual, "preprocess_cfg", None) or {})
    size = preprocess.get("size") or getattr(model.visual, "image_size", None)
    size = size[0] if isinstance(size, (tuple, list)) and len(set(size)) == 1 else size
    return _beside.own_metadata(
        model.zhclip_model,
        preprocess,
        size if isinstance(size, int) else None,
        getattr(model, "zhclip_context_length", None),
    )
