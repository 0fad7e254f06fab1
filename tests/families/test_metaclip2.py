"""MetaCLIP 2's tokens and refusals. That both towers equal transformers' is in test_fidelity.py."""

from __future__ import annotations

import open_clip
import pytest
import torch

from tests.families.test_tokenizers import unigram
from tests.support.reduced import build, create
from tests.support.small_tokenizers import siglip
from zhclip_openclip._errors import CheckpointError
from zhclip_openclip.families import find

pytestmark = [
    pytest.mark.usefixtures("reduced"),
    pytest.mark.filterwarnings("ignore:.*it is cut short, or of another model"),  # the vocabularies here are small
]

TEXTS = ["一只小猫", "一只 cats 坐, a sofa!", "", "好" * 100, "“T恤”，（全角）", "ABC É"]
OPTIONS = dict(max_length=77, padding="max_length", truncation=True, return_tensors="pt")


def test_xlm_v(models_dir):
    """As mini_clip/factory.py, get_tokenizer: transformers' own tokenizer, padded to 77, nothing cleaned."""
    from transformers import AutoTokenizer

    folder = models_dir / "facebook/metaclip-2-worldwide-s16"
    folder.mkdir(parents=True)
    unigram(folder)
    ours = open_clip.get_tokenizer("metaclip2-vit-s-16")(TEXTS)
    assert torch.equal(ours, AutoTokenizer.from_pretrained(folder)(TEXTS, **OPTIONS)["input_ids"])
    assert ours.shape == (len(TEXTS), 77) and (ours == 2).any(dim=1).all()  # the end, where features are taken from


def test_siglips_vocabulary(models_dir):
    """`google/siglip-so400m-patch16-256-i18n`, whose class is SiglipTokenizer and whose padding is its end."""
    pytest.importorskip("google.protobuf")
    from transformers import SiglipTokenizer

    folder = models_dir / "google/siglip-so400m-patch16-256-i18n"
    siglip(folder)
    tokenizer = open_clip.get_tokenizer("metaclip2-vit-s-16-mt5")
    ours = tokenizer(TEXTS)
    assert torch.equal(ours, SiglipTokenizer.from_pretrained(folder)(TEXTS, **OPTIONS)["input_ids"])
    assert tokenizer.pad_token_id == tokenizer.eot_token_id == 1
    # Their features are taken from the token after the last one above 1 (mini_clip/model_worldwide.py).
    assert torch.equal((ours > 1).sum(1), (ours == 1).int().argmax(1))


def test_the_packages_that_siglips_vocabulary_needs_are_told(models_dir, monkeypatch):
    from zhclip_openclip.towers import _tokenizer_files

    folder = models_dir / "google/siglip-so400m-patch16-256-i18n"
    folder.mkdir(parents=True)
    (folder / "spiece.model").write_bytes(b"whatever")
    monkeypatch.setattr(_tokenizer_files, "is_installed", lambda name: False)
    with pytest.raises(CheckpointError, match="spiece.model needs two more packages: pip install sentencepiece"):
        open_clip.get_tokenizer("metaclip2-vit-s-16-mt5")


def test_a_vocabulary_with_another_end_is_told(tmp_path):
    """Features would silently be those of the first token."""
    from transformers import XLMRobertaTokenizerFast

    words = [("<unk>", 0.0), ("<pad>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -2.0), ("猫", -3.0)]
    XLMRobertaTokenizerFast(vocab=words).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="ends a text with id 3 .*metaclip2-vit-s-16 takes .* features from 2"):
        open_clip.get_tokenizer("metaclip2-vit-s-16", pretrained=str(tmp_path))


def test_another_context_length_is_refused(models_dir):
    with pytest.raises(CheckpointError, match="context_length=40 does not fit: metaclip2-vit-s-16 takes 77 tokens"):
        open_clip.create_model("metaclip2-vit-s-16", force_context_length=40)


def test_a_file_of_another_size_names_the_model_that_fits(models_dir):
    build("metaclip2-vit-s-16", "meta").save(models_dir)
    file = models_dir / "facebook/metaclip-2-worldwide-s16/model.safetensors"
    file.with_name("config.json").unlink()
    with pytest.raises(CheckpointError, match="it fits metaclip2-vit-s-16.*: load it under that name"):
        create("metaclip2-vit-s-16-384", file)


def test_names_are_not_open_clips():
    """Its `ViT-L-14-worldwide` is something else (google/mt5-base, no weights)."""
    stock = {name.lower() for name in open_clip.list_models() if find(name) is None}
    assert "vit-l-14-worldwide" in stock
    assert not stock & {model.name for model in find("metaclip2")[0].models}


def test_openais_clip_is_not_taken_for_it(tmp_path):
    """Its files have the same keys, in both layouts."""
    from tests.support import references

    clip = references.openai_clip("b-32", 2, 512)
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    with pytest.raises(CheckpointError, match="is a CLIP model without a Chinese text tower"):
        create("metaclip2-vit-b-32", tmp_path / "clip.pt")
