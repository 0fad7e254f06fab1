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

#: The checkpoint that `create_model` is loading, for `load_checkpoint`, which open_clip calls with its path alone.
_loading: contextvars.ContextVar = contextvars.ContextVar("zhclip_loading", default=None)


def create_model(original):
    signature = inspect.signature(original)

    def create_model(*args, **kwargs):
        call = signature.bind(*args, **kwargs)
        name = str(call.arguments["model_name"])
        found = find(name)
        if found is None:
            built = original(*args, **kwargs)
            if folder_model := written_for(name):
                built.zhclip_model = folder_model
            return built
        from zhclip_openclip.checkpoints import _no_init, _resolve

        family, model = found
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


def with_transform(original):
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


def load_checkpoint(original):
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


def written_for(name: str) -> str | None:
    """The model that a `local-dir:` of ours holds, for which `zhclip convert` wrote it."""
    if not name.startswith("local-dir:"):
        return None
    from zhclip_openclip.export import open_clip_folder

    return open_clip_folder.written_for(Path(name.partition(":")[2]))


def add_configs(factory) -> None:
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
    pretrained = importlib.import_module("open_clip.pretrained")
    for family in all_families().values():
        for model in family.models:
            names = [model.name, *(alias for alias, name in family.aliases.items() if name == model.name)]
            for name in names:
                entries = pretrained._PRETRAINED.setdefault(name, {})
                for tag_name, tag in model.tags.items():
                    source = {"hf_hub": f"{tag.repo}/{tag.files[-1]}"} if tag.repo else {"file": str(tag.path)}
                    entries.setdefault(tag_name, pretrained._pcfg(**source, **model.preprocess))
