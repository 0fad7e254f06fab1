"""Reduced models under their real names: two layers a tower and a small vocabulary, everything else as published."""

from __future__ import annotations

import functools
import importlib.util
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip import factory

from zhclip_openclip import _paths
from zhclip_openclip.checkpoints import _config, _load
from zhclip_openclip.families import all_families, find
from zhclip_openclip.towers import text_configs

LAYERS = 2
VOCABULARY = 1200
ROOT = Path(__file__).parents[2]


def load_script(name: str):
    """A script of benchmarks/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class MeasuredFacts(Mapping):
    """`model_facts` of the models as they are now, measured when asked for."""

    def __init__(self):
        measure = load_script("model_facts").measure
        self._measure = functools.cache(lambda name: measure(find(name)[1]))
        self._names = [m.name for f in all_families().values() for m in f.models]

    def __getitem__(self, name):
        return self._measure(name)

    def __iter__(self):
        return iter(self._names)

    def __len__(self):
        return len(self._names)


def vocabulary_of(name: str) -> int:
    """zhclip's reference has its vocabulary built in; the tiny model's is small anyway."""
    if name.startswith("zhclip"):
        return find(name)[1].config()["text_cfg"]["vocab_size"]
    return VOCABULARY


@pytest.fixture(autouse=True)
def no_remains(tmp_path):
    """Checkpoints of hundreds of megabytes, which pytest would keep for three runs."""
    yield
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture(scope="module")
def reduced(tmp_path_factory):
    """Every model config with two layers a tower, for the tests of one module, through the real registries."""
    import timm.models._registry as timm_registry

    folder = tmp_path_factory.mktemp("reduced")
    (folder / "text_configs").mkdir()
    patch = pytest.MonkeyPatch()
    for path in _paths.model_configs().glob("*.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        vision, text = config["vision_cfg"], config["text_cfg"]
        if isinstance(vision.get("layers"), list):
            vision["layers"] = [1] * len(vision["layers"])
        elif "layers" in vision:
            vision["layers"] = LAYERS
        name = path.stem
        values = json.loads(text_configs._path(text["hf_model_name"]).read_text(encoding="utf-8"))
        values["num_hidden_layers"] = min(LAYERS, values["num_hidden_layers"])
        values["vocab_size"] = text["vocab_size"] = vocabulary_of(name)
        # One text config a model, since zhclip's keeps its vocabulary and is shared by others.
        text["hf_model_name"] = f"reduced/{name}"
        (folder / "text_configs" / f"reduced--{name}.json").write_text(json.dumps(values), encoding="utf-8")
        (folder / path.name).write_text(json.dumps(config), encoding="utf-8")
        for alias in [name, *(a for f in all_families().values() for a, target in f.aliases.items() if target == name)]:
            patch.setitem(factory._MODEL_CONFIGS, alias, config)
    real = text_configs._path

    def reduced_path(name: str):
        path = folder / "text_configs" / f"{name.replace('/', '--')}.json"
        return path if path.is_file() else real(name)

    patch.setattr(text_configs, "_path", reduced_path)
    patch.setattr(_paths, "model_configs", lambda: folder)
    for name in ("vit_large_patch14_clip_224", "vit_large_patch14_clip_quickgelu_224"):
        entry = timm_registry._model_entrypoints[name]
        patch.setitem(timm_registry._model_entrypoints, name, functools.partial(entry, depth=LAYERS))
    facts = MeasuredFacts()
    patch.setattr(_load, "model_facts", lambda: facts)
    patch.setattr(_config, "model_facts", lambda: facts)
    text_configs.is_known.cache_clear()
    yield folder
    patch.undo()
    text_configs.is_known.cache_clear()


@torch.no_grad()
def largest_difference(model, reference, batch: int = 2, length: int = 20) -> dict[str, float]:
    """Ours against the reference on both towers: random pixels, unpadded texts, padded texts of several lengths."""
    from tests.support.references import ids

    model.eval()
    pixels = torch.randn(
        batch, 3, reference.image_size, reference.image_size, generator=torch.Generator().manual_seed(1)
    )
    ours, theirs = model.encode_image(pixels), reference.image(pixels)
    result = {"image": (ours - theirs).abs().max().item(), "image size": theirs.abs().max().item()}
    for padded in (False, True):
        tokens = ids(reference, 5, length, padded)
        mask = (tokens != reference.pad).long()
        ours, theirs = model.encode_text(tokens), reference.text(tokens, mask)
        name = "padded text" if padded else "text"
        result[name] = (ours - theirs).abs().max().item()
        result[f"{name} size"] = theirs.abs().max().item()
        assert ours.shape == theirs.shape
    return result


def create(name: str, tag: str | Path, **options):
    return open_clip.create_model(name, pretrained=str(tag), **options)
