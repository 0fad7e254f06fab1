"""Reduced models under their real names: two layers a tower and a small vocabulary, everything else as published."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import open_clip
import pytest
import timm.models._registry as timm_registry
import torch
from open_clip import factory

from tests.support import m2_reference
from tests.support.references import REFERENCES, Reference, ids, randomise
from zhclip_openclip import _paths
from zhclip_openclip.checkpoints import _config, _load
from zhclip_openclip.checkpoints._beside import MISSING
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


def aliases_of(name: str) -> list[str]:
    """All names of a model."""
    return [name, *(a for f in all_families().values() for a, target in f.aliases.items() if target == name)]


@contextmanager
def reduced_models(folder: Path) -> Iterator[None]:
    """Every model config with two layers a tower, through the real registries; the files are written to `folder`."""
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
        if "hf_model_name" not in text:  # open_clip's own transformer
            text["layers"], text["vocab_size"] = LAYERS, VOCABULARY
            (folder / path.name).write_text(json.dumps(config), encoding="utf-8")
            for alias in aliases_of(name):
                patch.setitem(factory._MODEL_CONFIGS, alias, config)
            continue
        values = json.loads(text_configs._path(text["hf_model_name"]).read_text(encoding="utf-8"))
        values["num_hidden_layers"] = min(LAYERS, values["num_hidden_layers"])
        values["vocab_size"] = text["vocab_size"] = vocabulary_of(name)
        if values["pad_token_id"] >= values["vocab_size"]:
            values["pad_token_id"] = m2_reference.SMALL_END
        # One text config a model, since zhclip's keeps its vocabulary and is shared by others.
        text["hf_model_name"] = f"reduced/{name}"
        (folder / "text_configs" / f"reduced--{name}.json").write_text(json.dumps(values), encoding="utf-8")
        (folder / path.name).write_text(json.dumps(config), encoding="utf-8")
        for alias in aliases_of(name):
            patch.setitem(factory._MODEL_CONFIGS, alias, config)
    real = text_configs._path

    def reduced_path(name: str):
        path = folder / "text_configs" / f"{name.removeprefix(MISSING).replace('/', '--')}.json"
        return path if path.is_file() else real(name)

    patch.setattr(text_configs, "_path", reduced_path)
    patch.setattr(_paths, "model_configs", lambda: folder)
    for family in all_families().values():
        if family.towers:
            importlib.import_module(family.towers)
    entries = timm_registry._model_entrypoints
    ours = [name for name, entry in entries.items() if entry.__module__.startswith("zhclip_openclip.")]
    for name in ("vit_large_patch14_clip_224", "vit_large_patch14_clip_quickgelu_224", *ours):
        entry = timm_registry._model_entrypoints[name]
        patch.setitem(
            timm_registry._model_entrypoints,
            name,
            functools.update_wrapper(functools.partial(entry, depth=LAYERS), entry),  # which says whose it is
        )
    facts = MeasuredFacts()
    patch.setattr(_load, "model_facts", lambda: facts)
    patch.setattr(_config, "model_facts", lambda: facts)
    text_configs.is_known.cache_clear()
    try:
        yield
    finally:
        patch.undo()
        text_configs.is_known.cache_clear()


_expected: dict[int, tuple[Reference, list]] = {}


@torch.no_grad()
def expected(reference: Reference) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """(name, input, features) for the reference: pixels, unpadded texts, padded texts of several lengths."""
    if id(reference) not in _expected:
        size = reference.image_size
        pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
        pixels = reference.pixels() if reference.pixels else pixels
        result = [("image", pixels, reference.image(pixels))]
        for name, padded in (("text", False), ("padded text", True)):
            tokens = ids(reference, 4, reference.length, padded)
            result.append((name, tokens, reference.text(tokens, (tokens != reference.pad).long())))
        _expected.clear()  # one is enough: tests that share a reference follow each other
        _expected[id(reference)] = reference, result
    return _expected[id(reference)][1]


@torch.no_grad()
def largest_difference(model, reference: Reference) -> float:
    """Ours against the reference on both towers."""
    model.eval()
    largest = 0.0
    for name, given, theirs in expected(reference):
        assert theirs.abs().max() > 0.1, "the reference says nothing"
        ours = model.encode_image(given) if name == "image" else model.encode_text(given)
        assert ours.shape == theirs.shape
        largest = max(largest, (ours - theirs).abs().max().item())
    return largest


def assert_same(model, reference: Reference, tolerance: float = 1e-5) -> None:
    assert largest_difference(model, reference) <= tolerance


def create(name: str, tag: str | Path, **options):
    return open_clip.create_model(name, pretrained=str(tag), **options)


def build(name: str, tag: str) -> Reference:
    """The reference of a model in its reduced size, with random weights."""
    reference = REFERENCES[name, tag](layers=LAYERS, vocabulary=VOCABULARY)
    for number, module in enumerate(reference.modules.values()):
        randomise(module, number)
    return reference
