"""What open_clip's main branch (4.2.0.dev0 of June 2026) does to our models, with stand-ins of its calls.

Only released versions can be installed by CI, so its functions are written out here by their signatures.
"""

from __future__ import annotations

import logging
from types import SimpleNamespace

import open_clip
import pytest
import torch

from zhclip_openclip._errors import CheckpointError
from zhclip_openclip.integrations import _patching
from zhclip_openclip.towers.images import as_transformers
from zhclip_openclip.towers.text import ChineseTextEncoder


@pytest.fixture(scope="module")
def model():
    return open_clip.create_model("zhclip-tiny", pretrained="digits", output_dict=True).eval()


def patched(name: str, stand_in):
    """What our patch of that name makes of another function of the host."""
    return next(patch for patch in _patching.APPLIED if patch.name == name).make(stand_in)


def create_model_4(
    model_name,
    pretrained=None,
    load_weights=True,
    precision="fp32",
    device="cpu",
    force_quick_gelu=False,
    force_custom_text=False,
    force_patch_dropout=None,
    force_image_size=None,
    force_preprocess_cfg=None,
    force_context_length=None,
    force_naflex_vision=False,
    pretrained_image=False,
    pretrained_text=True,
    pretrained_image_path=None,
    pretrained_text_path=None,
    pretrained_audio_path=None,
    cache_dir=None,
    output_dict=None,
    require_pretrained=False,
    weights_only=True,
    **model_kwargs,
):
    return SimpleNamespace(**locals())


def test_create_model_by_position():
    """Version 4 has neither `jit` nor `force_image_size` where version 3 has them."""
    create = patched("create_model", create_model_4)
    mean = {"mean": (0.5, 0.5, 0.5)}
    given = create("zhclip-tiny", "digits", True, "bf16", "cpu", False, True, 0.1, 64, mean, 16, False, True, False)
    assert (given.model_name, given.precision, given.force_patch_dropout) == ("zhclip-tiny", "bf16", 0.1)
    assert (given.force_image_size, given.force_context_length, given.pretrained_text) == (64, 16, False)
    assert given.pretrained.endswith("model.safetensors") and given.force_preprocess_cfg["mean"] == (0.5, 0.5, 0.5)
    assert given.zhclip_model == "zhclip-tiny"
    with pytest.raises(CheckpointError, match="context_length=33 is too much"):
        create("zhclip-tiny", None, True, "fp32", "cpu", False, False, None, None, None, 33)


def test_transforms_that_keep_the_shape_are_left_alone():
    """`aug_cfg` with NaFlex makes the transform for validation a factory, which no step of ours fits into."""
    factory = SimpleNamespace(is_naflex_eval_transform_factory=True)
    create = patched("create_model_and_transforms", lambda model_name, **options: (None, None, factory))
    assert create("zhclip")[2] is factory and as_transformers(factory) is factory


def test_the_text_tower_takes_its_config_overrides():
    """`hf_model_config` of a model config, which version 4 hands on as `model_config`; what comes later is ignored."""
    tower = open_clip.model.HFTextEncoder(
        "zhclip-openclip/tiny-bert",
        output_dim=64,
        proj_type="mlp",
        pooler_type="mean_pooler",
        pretrained=False,
        output_tokens=False,
        model_config={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        argument_of_version_5=True,
    )
    assert type(tower) is ChineseTextEncoder
    assert {module.p for module in tower.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}


@pytest.mark.filterwarnings("ignore:.*checkpointing:FutureWarning")
def test_checkpointing_of_another_kind_is_told(model, caplog):
    """`--grad-checkpointing-impl composable` of the training script: version 4 has it for its own towers."""
    with caplog.at_level(logging.WARNING):
        model.text.set_grad_checkpointing(True, "composable")
    assert (
        "composable checkpointing is not supported" in caplog.text and model.text.transformer.is_gradient_checkpointing
    )
    caplog.clear()
    model.text.set_grad_checkpointing(False, impl="composable")
    assert not caplog.text and not model.text.transformer.is_gradient_checkpointing


@torch.no_grad()
def test_texts_of_their_own_lengths(model):
    """`variable_text` of a model config: ids come unpadded and are padded to the longest of a batch."""
    tokenizer = open_clip.get_tokenizer("zhclip-tiny")
    texts = ["数字三", "手写的数字", "七", "一张数字九的照片" * 9]
    rows = [tokenizer(text, pad=False)[0] for text in texts]
    batch = {
        "image": torch.zeros(4, 3, *model.visual.image_size),
        "text": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=int(tokenizer.pad_token_id)),
    }
    assert batch["text"].shape[1] == 32 and len(rows[2]) < 8
    output = model(image=batch["image"], text=batch["text"])  # as its training tasks call a model
    padded = model(text=tokenizer(texts))  # as its zero-shot classifier does
    assert torch.allclose(output["text_features"], padded["text_features"], atol=1e-6)
    assert padded["image_features"] is None
