"""Everything that we add to or replace in open_clip. Models that are not ours take open_clip's own path throughout.

This page is the whole of the contact; what stands in the place of each name is in the module that the table names.
"""

from __future__ import annotations

import importlib
import sys

from zhclip_openclip.integrations._patching import Patch, apply
from zhclip_openclip.integrations.open_clip import models, saving, text_towers, tokenizers

PATCHES = [
    Patch(
        "open_clip.factory",
        "create_model",
        models.create_model,
        "for our models: folders as `pretrained`, config.json obeyed, no initialisation that the checkpoint overwrites",
    ),
    Patch(
        "open_clip.factory",
        "load_checkpoint",
        models.load_checkpoint,
        "for our models: the families' key names, and no second copy of the weights in memory",
    ),
    Patch(
        "open_clip.factory",
        "create_model_and_transforms",
        models.with_transform,
        "for our models: images in RGB before they are resized, where the family's authors do so",
    ),
    Patch(
        "open_clip.factory",
        "create_model_from_pretrained",
        models.with_transform,
        "the same",
    ),
    Patch(
        "open_clip.factory",
        "get_tokenizer",
        tokenizers.get_tokenizer,
        "for our models: the family's tokenizer and text normalisation, from a folder or the hub",
    ),
    Patch(
        "open_clip.model",
        "HFTextEncoder",
        text_towers.text_encoder,
        "for text towers of ours: known architecture, more heads, batches cut to their longest text",
    ),
]


SAVING = [
    Patch(
        "open_clip.push_to_hf_hub",
        "save_config_for_hf",
        saving.save_config_for_hf,
        "for our models: the folder says which model it holds, so that its twin is not taken for it",
    ),
]


def hook_factory(factory) -> None:
    """Called when `open_clip.factory` has been executed."""
    register()


def hook_push(module) -> None:
    """Called when `open_clip.push_to_hf_hub`, which open_clip loads after its factory, has been executed."""
    apply(SAVING, "open_clip")


def register() -> None:
    """Add our models to open_clip's tables and put the patches in place. Twice is once."""
    factory = importlib.import_module("open_clip.factory")
    # open_clip.model may have bound HFTextEncoder by name only; hf_model itself keeps its class.
    apply([patch for patch in PATCHES if patch.name != "HFTextEncoder"], "open_clip")
    apply([patch for patch in PATCHES if patch.name == "HFTextEncoder"], "open_clip.model")
    models.add_configs(factory)
    models.add_pretrained()
    if "open_clip.push_to_hf_hub" in sys.modules:
        hook_push(sys.modules["open_clip.push_to_hf_hub"])
