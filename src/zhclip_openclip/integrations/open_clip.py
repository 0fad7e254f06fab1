"""Everything that we add to or replace in open_clip. Models that are not ours take open_clip's own path throughout."""

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
from zhclip_openclip.integrations._patching import Patch, apply

#: The checkpoint that `create_model` is loading, for `load_checkpoint`, which open_clip calls with its path alone.
_loading: contextvars.ContextVar = contextvars.ContextVar("zhclip_loading", default=None)


def _create_model(original):
    signature = inspect.signature(original)

    def create_model(*args, **kwargs):
        call = signature.bind(*args, **kwargs)
        name = str(call.arguments["model_name"])
        found = find(name)
        if found is None:
            built = original(*args, **kwargs)
            if folder_model := _written_for(name):
                built.zhclip_model = folder_model
            return built
        from zhclip_openclip.checkpoints import _no_init, _resolve
        from zhclip_openclip.towers import text_configs

        family, model = found
        text_configs.check_length(model, call.arguments.get("force_context_length"))
        pretrained = call.arguments.get("pretrained")
        checkpoint = None
        if pretrained and call.arguments.get("load_weights", True):
            checkpoint = _resolve.resolve(family, model, pretrained, call.arguments.get("cache_dir"))
            model = checkpoint.model
        call.arguments["model_name"] = model.name
        call.arguments["pretrained"] = str(checkpoint.weights.path) if checkpoint else None
        call.arguments["force_preprocess_cfg"] = {
            **model.preprocess,
            **(checkpoint.preprocess if checkpoint else {}),
            **(call.arguments.get("force_preprocess_cfg") or {}),
        }
        token = _loading.set(checkpoint)
        try:
            with _no_init.NoInit() if checkpoint else contextlib.nullcontext():
                built = original(*call.args, **call.kwargs)
        finally:
            _loading.reset(token)
        with contextlib.suppress(AttributeError, RuntimeError):  # a scripted module takes no attributes
            built.zhclip_model = model.name
        return built

    return create_model


def _with_transform(original):
    """For `create_model_and_transforms` and `create_model_from_pretrained`: the last of what they give is the
    transform for validation."""

    def create(model_name, *args, **kwargs):
        built = original(model_name, *args, **kwargs)
        found = find(str(model_name))
        if found is None or found[0].image_processor != "transformers" or not isinstance(built, tuple):
            return built
        from zhclip_openclip.towers.images import as_transformers

        return (*built[:-1], as_transformers(built[-1]))

    return create


def _load_checkpoint(original):
    signature = inspect.signature(original)

    def load_checkpoint(*args, **kwargs):
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        model, path = call.arguments["model"], call.arguments["checkpoint_path"]
        checkpoint = _loading.get()
        name = checkpoint.model.name if checkpoint else getattr(model, "zhclip_model", None)
        if name is None:
            return original(*args, **kwargs)
        from zhclip_openclip.checkpoints import _load, _resolve

        if checkpoint is not None and str(checkpoint.weights.path) == str(path):
            pieces = checkpoint.pieces
        else:
            pieces = _resolve.complete(path, *find(name))
        return _load.load(model, pieces, name, call.arguments["strict"])

    return load_checkpoint


def _get_tokenizer(original):
    def get_tokenizer(model_name="", context_length=None, cache_dir=None, *args, pretrained=None, **kwargs):
        found, folder = find(str(model_name)), None
        if found is None and (written_for := _written_for(str(model_name))):
            found, folder = find(written_for), str(model_name).partition(":")[2]
        if found is None:
            if pretrained is not None:
                kwargs["pretrained"] = pretrained
            return original(model_name, context_length, cache_dir, *args, **kwargs)
        from zhclip_openclip.towers import tokenizer

        family, model = found
        return tokenizer.build(family, model, folder or pretrained, cache_dir, context_length, **kwargs)

    return get_tokenizer


def _written_for(name: str) -> str | None:
    """The model that a `local-dir:` of ours holds, for which `zhclip convert` wrote it."""
    if not name.startswith("local-dir:"):
        return None
    from zhclip_openclip.checkpoints import _write

    return _write.written_for(Path(name.partition(":")[2]))


def _text_encoder(original):
    from zhclip_openclip.towers import text_configs

    class StandIn(type(original)):
        """Makes the stand-in look like open_clip's class to `isinstance`."""

        def __instancecheck__(cls, instance):
            return isinstance(instance, original)

        def __call__(cls, *args, **kwargs):
            name = args[0] if args else kwargs.get("model_name_or_path")
            if not text_configs.is_known(name):
                return original(*args, **kwargs)
            from zhclip_openclip.towers.text import ChineseTextEncoder

            return ChineseTextEncoder(*args, **kwargs)

    return StandIn(original.__name__, (original,), {"__doc__": original.__doc__, "__module__": original.__module__})


PATCHES = [
    Patch(
        "open_clip.factory",
        "create_model",
        _create_model,
        "for our models: folders as `pretrained`, config.json obeyed, no initialisation that the checkpoint overwrites",
    ),
    Patch(
        "open_clip.factory",
        "load_checkpoint",
        _load_checkpoint,
        "for our models: the families' key names, and no second copy of the weights in memory",
    ),
    Patch(
        "open_clip.factory",
        "create_model_and_transforms",
        _with_transform,
        "for our models: images in RGB before they are resized, where the family's authors do so",
    ),
    Patch(
        "open_clip.factory",
        "create_model_from_pretrained",
        _with_transform,
        "the same",
    ),
    Patch(
        "open_clip.factory",
        "get_tokenizer",
        _get_tokenizer,
        "for our models: the family's tokenizer and text normalisation, from a folder or the hub",
    ),
    Patch(
        "open_clip.model",
        "HFTextEncoder",
        _text_encoder,
        "for text towers of ours: known architecture, more heads, batches cut to their longest text",
    ),
]


def hook_factory(factory) -> None:
    """Called when `open_clip.factory` has been executed."""
    register()


def register() -> None:
    """Add our models to open_clip's tables and put the patches in place. Twice is once."""
    factory = importlib.import_module("open_clip.factory")
    # open_clip.model may have bound HFTextEncoder by name only; hf_model itself keeps its class.
    apply([patch for patch in PATCHES if patch.name != "HFTextEncoder"], "open_clip")
    apply([patch for patch in PATCHES if patch.name == "HFTextEncoder"], "open_clip.model")
    _add_configs(factory)
    _add_pretrained()


def _add_configs(factory) -> None:
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


def _add_pretrained() -> None:
    pretrained = importlib.import_module("open_clip.pretrained")
    for family in all_families().values():
        for model in family.models:
            names = [model.name, *(alias for alias, name in family.aliases.items() if name == model.name)]
            for name in names:
                entries = pretrained._PRETRAINED.setdefault(name, {})
                for tag_name, tag in model.tags.items():
                    source = {"hf_hub": f"{tag.repo}/{tag.files[-1]}"} if tag.repo else {"file": str(tag.path)}
                    entries.setdefault(tag_name, pretrained._pcfg(**source, **model.preprocess))
