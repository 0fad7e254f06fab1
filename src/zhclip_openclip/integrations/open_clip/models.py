"""Building and loading: what stands for open_clip's factory functions, and our entries in its tables."""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import inspect
import warnings
from copy import deepcopy
from pathlib import Path

from zhclip_openclip import _paths
from zhclip_openclip.families import all_families, find

#: The checkpoint that `create_model` is loading and how, for `load_checkpoint`, which open_clip calls with its path
#: alone.
_loading: contextvars.ContextVar = contextvars.ContextVar("zhclip_loading", default=None)


def create_model(original):
    """What stands for `open_clip.factory.create_model`."""
    signature = inspect.signature(original)

    def create_model(*args, **kwargs):
        call = signature.bind(*args, **kwargs)
        name = str(call.arguments["model_name"])
        from zhclip_openclip.checkpoints import _names

        named = _names.named(name, call.arguments.get("cache_dir"))
        if named is None:
            return original(*args, **kwargs)
        if named.family.towers:
            importlib.import_module(named.family.towers)
        if named.family.processor_of(named.model) == "patches":
            _refuse_a_size(named.family, named.model, call.arguments)
        from zhclip_openclip.towers import _pairs

        with _pairs.one_model():
            if named.place is None:
                return _build(original, call, named)
            built = _build_as_written(
                original, call, named
            )  # in open_clip's own form, which open_clip builds as it says
        _belongs_to(built, named.model.name)
        return built

    return create_model


def _build_as_written(original, call, named):
    """What open_clip builds and loads by itself, but not initialised where weights follow. Where none do, it finds that
    out when it has built the model, and builds once more: what was skipped is what the parameters should hold."""
    import torch

    from zhclip_openclip.checkpoints import _no_init
    from zhclip_openclip.towers import _pairs

    if not call.arguments.get("load_weights", True):
        return original(*call.args, **call.kwargs)
    loading, random = _Loading(None, False, _no_init.NoInit()), torch.get_rng_state()
    token = _loading.set(loading)
    try:
        with loading.no_init:
            built = original(*call.args, **call.kwargs)
    finally:
        _loading.reset(token)
    if not loading.no_init.ended:
        torch.set_rng_state(random)
        with _pairs.one_model():  # another one than that before
            return original(*call.args, **call.kwargs)
    if hasattr(built, "named_parameters"):
        loading.no_init.refuse_unfilled(built, named.model.name)
    return built


def _build(original, call, named):
    from zhclip_openclip.checkpoints import _no_init, _resolve
    from zhclip_openclip.towers import text_configs

    given = call.arguments
    family, model = named.family, named.model
    pretrained = given.get("pretrained") or named.tag
    if named.tag and given.get("pretrained"):
        warnings.warn(f"pretrained={given['pretrained']!r} is not used: {given['model_name']} names its weights itself")
        pretrained = named.tag
    text_configs.check_length(model, given.get("force_context_length"))
    force_size = given.get("force_image_size")
    overrides = {key: value for key, value in (given.get("force_preprocess_cfg") or {}).items() if value is not None}
    checkpoint = None
    if pretrained:
        if given.get("load_weights", True):
            asked = _resolve.Asked(force_size, bool(overrides))
            checkpoint = _resolve.resolve(family, model, pretrained, given.get("cache_dir"), asked)
            model = checkpoint.model
        else:
            _resolve.where(model, str(pretrained), given.get("cache_dir"))  # it has to be there all the same
    given["model_name"] = model.name
    given["pretrained"] = str(checkpoint.weights.path) if checkpoint else None
    given["force_preprocess_cfg"] = {**model.preprocess, **(checkpoint.preprocess if checkpoint else {}), **overrides}
    if checkpoint and checkpoint.image_size is not None:
        given["force_image_size"] = checkpoint.image_size
    if checkpoint and checkpoint.context_length is not None:
        given.setdefault("force_context_length", None)
        given["force_context_length"] = given["force_context_length"] or checkpoint.context_length
    if checkpoint and any("logit_bias" in piece.weights.shapes for piece in checkpoint.pieces):
        # Trained with SigLIP's loss. Who evaluates it has no option for the place that its bias needs.
        given.setdefault("model_kwargs", {}).setdefault("init_logit_bias", 0)
    loading = _Loading(checkpoint, force_size is not None, _no_init.NoInit()) if checkpoint else None
    token = _loading.set(loading)
    try:
        with loading.no_init if loading else contextlib.nullcontext():
            built = original(*call.args, **call.kwargs)
    finally:
        _loading.reset(token)
    if loading and hasattr(built, "named_parameters"):
        loading.no_init.refuse_unfilled(built, model.name)
        _tell_what_towers_brought(built, given)
    _belongs_to(built, model.name, given.get("force_context_length"))
    return built


def _refuse_a_size(family, model, given) -> None:
    """Raises CheckpointError: a size or a way of resizing is asked for, of a model whose pictures keep their shape."""
    from zhclip_openclip._errors import CheckpointError
    from zhclip_openclip.towers.patches import MOST, PATCH

    overrides = given.get("force_preprocess_cfg") or {}
    asked = {"force_image_size": given.get("force_image_size")}
    asked |= {f"image_{key}": overrides.get(key) for key in ("size", "resize_mode")}
    told = ", ".join(f"{key}={value!r}" for key, value in asked.items() if value is not None)
    if told:
        square = [other.name for other in family.models if other.name.startswith(f"{model.name}-square")]
        instead = f"; {' or '.join(square)} takes squares" if square else ""
        raise CheckpointError(
            f"{told} is not for {model.name}: a picture keeps its shape there and becomes up to {MOST} patches of "
            f"{PATCH} pixels{instead}"
        )


class _Loading:
    """One call of `create_model` with weights.

    checkpoint: None where open_clip loads it by itself. interpolate: whether positions may be made to fit another image
    size. no_init: in force until the weights are read.
    """

    def __init__(self, checkpoint, interpolate: bool, no_init):
        self.checkpoint, self.interpolate, self.no_init = checkpoint, interpolate, no_init


def _belongs_to(built, name: str, context_length: int | None = None) -> None:
    """Mark a model as ours, so that what is saved of it says which one it is."""
    from zhclip_openclip.checkpoints import _own

    with contextlib.suppress(AttributeError, RuntimeError):  # a scripted module takes no attributes
        built.zhclip_model = name
        _own.say_it_when_saved(built, context_length)


def _tell_what_towers_brought(built, given) -> None:
    """A warning where a file of one tower, which open_clip loads without being strict, does not hold that tower."""
    from zhclip_openclip.checkpoints import _read

    for option, tower in (("pretrained_image_path", "visual"), ("pretrained_text_path", "text")):
        path, module = given.get(option), getattr(built, tower, None)
        if not path or module is None or not Path(path).is_file():
            continue
        wanted = set(module.state_dict())
        held = wanted & set(_read.read(path).shapes)
        if len(held) < len(wanted):
            warnings.warn(
                f"{option}={path} holds {len(held)} of the {len(wanted)} tensors of {given['model_name']}'s tower; all "
                "others are those of `pretrained`. Such a file has the names of the tower's own state dict"
            )


def with_transform(original):
    """For `create_model_and_transforms` and `create_model_from_pretrained`: the first of what they give is the model,
    the last the transform for validation."""

    def create(*args, **kwargs):
        built = original(*args, **kwargs)
        if not isinstance(built, tuple):
            return built
        found = find(getattr(built[0], "zhclip_model", None) or "")
        kind = found[0].processor_of(found[1]) if found else ""
        if kind == "transformers":
            from zhclip_openclip.towers.images import as_transformers

            return (*built[:-1], as_transformers(built[-1]))
        if kind == "patches":
            from zhclip_openclip.towers.patches import ToPatches

            told = built[0].visual.preprocess_cfg
            transform = ToPatches(told["mean"], told["std"], told["interpolation"])
            # For training as well, as its authors train: their pictures are not cropped at random.
            return (built[0], *[transform] * (len(built) - 1))
        return built

    return create


def load_checkpoint(original):
    """What stands for `open_clip.factory.load_checkpoint`."""
    signature = inspect.signature(original)

    def load_checkpoint(*args, **kwargs):
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        model, path = call.arguments["model"], call.arguments["checkpoint_path"]
        loading = _loading.get()
        if loading is None and getattr(model, "zhclip_model", None) is None:
            return original(*args, **kwargs)
        if loading is not None and loading.checkpoint is None:
            loading.no_init.end()
            told = original(*args, **kwargs)
            loading.no_init.fill(set(model.state_dict()) - set(getattr(told, "missing_keys", ())))
            return told
        from zhclip_openclip.checkpoints import _files, _load, _resolve

        strict = call.arguments["strict"]
        if loading is not None and str(loading.checkpoint.weights.path) == str(path):
            checkpoint = loading.checkpoint
            loading.no_init.end()  # what open_clip loads from here on is meant
            resize = loading.interpolate
            if resize or checkpoint.image_size is not None:
                _made_for(model, checkpoint.held_size)  # open_clip asks it for the other size afterwards
            told = _load.load(model, checkpoint.pieces, checkpoint.model.name, strict, resize=resize)
            loading.no_init.fill(set(model.state_dict()) - set(told.missing_keys))
            return told
        name = loading.checkpoint.model.name if loading else model.zhclip_model
        size = getattr(getattr(model, "visual", None), "image_size", None)
        checkpoint = _resolve.for_model(
            _files.weights_at(path), *find(name), size[0] if isinstance(size, tuple) else size
        )
        size = getattr(getattr(model, "visual", None), "image_size", None)
        before = _made_for(model, checkpoint.held_size)
        try:
            return _load.load(model, checkpoint.pieces, name, strict, resize=True)
        finally:
            if before is not None:
                _made_for(model, before)
                model.visual.image_size = size

    return load_checkpoint


def _made_for(model, size: int | None) -> int | None:
    """Make a tower of timm's, whose positions timm itself interpolates, one for images of `size` pixels.

    Returns the size that its positions were made for, which need not be that of its images (`zhclip-tiny`); None for
    other towers, and where nothing had to be done.
    """
    visual = getattr(model, "visual", None)
    made_for = getattr(getattr(getattr(visual, "trunk", None), "patch_embed", None), "img_size", None)
    before = made_for[0] if isinstance(made_for, (tuple, list)) else made_for
    if size is None or before in (None, size) or not hasattr(visual, "set_input_size"):
        return None
    visual.set_input_size(size)
    return before


def add_configs(factory) -> None:
    """Our model configs under open_clip's eyes, aliases as models of their own."""
    folders = [_paths.model_configs(), *(f.configs for f in all_families().values() if f.configs)]
    for folder in folders:
        if folder not in factory._MODEL_CONFIG_PATHS:
            factory.add_model_config(folder)
    for family in all_families().values():
        for model in family.models:
            if model.name not in factory._MODEL_CONFIGS:
                warnings.warn(f"the model config {model.name}.json of {family.title} is missing")
    aliases = {alias: name for family in all_families().values() for alias, name in family.aliases.items()}
    for alias, name in aliases.items():
        if name in factory._MODEL_CONFIGS:
            factory._MODEL_CONFIGS[alias] = deepcopy(factory._MODEL_CONFIGS[name])
    ordered = sorted(factory._MODEL_CONFIGS.items(), key=lambda item: factory._natural_key(item[0]))
    factory._MODEL_CONFIGS.clear()
    factory._MODEL_CONFIGS.update(ordered)


def add_pretrained() -> None:
    """Our tags in open_clip's table of published weights."""
    pretrained = importlib.import_module("open_clip.pretrained")
    for family in all_families().values():
        for model in family.models:
            names = [model.name, *(alias for alias, name in family.aliases.items() if name == model.name)]
            for name in names:
                entries = pretrained._PRETRAINED.setdefault(name, {})
                for tag_name, tag in model.tags.items():
                    source = {"hf_hub": f"{tag.repo}/{tag.files[-1]}"} if tag.repo else {"file": str(tag.path)}
                    if tag.host:
                        source = {"url": f"{tag.host}{tag.repo}"}
                    entries.setdefault(tag_name, pretrained._pcfg(**source, **model.preprocess))
