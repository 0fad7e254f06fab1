"""The text tower: trimming changes the time and nothing else."""

from __future__ import annotations

import open_clip
import pytest
import torch
from open_clip import hf_model

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.towers.heads import build_head
from zhclip_openclip.towers.text import ChineseTextEncoder, trim


@pytest.fixture(scope="module")
def model():
    return open_clip.create_model("zhclip-tiny", pretrained="digits").eval()


def texts(batch: int = 6, length: int = 32) -> torch.Tensor:
    x = torch.randint(5, 60, (batch, length), generator=torch.Generator().manual_seed(0))
    for row in range(batch):
        x[row, 3 + row :] = 0
    return x


def test_trim_cuts_padding_on_the_right_and_nothing_else():
    x = torch.tensor([[1, 2, 0, 0, 0], [1, 0, 3, 0, 0]])
    assert torch.equal(trim(x, 0), x[:, :3])
    assert torch.equal(trim(x, 7), x)
    assert trim(torch.zeros(2, 5, dtype=torch.long), 0).shape == (2, 1)
    assert trim(torch.zeros(0, 5, dtype=torch.long), 0).shape == (0, 1)


def test_trimmed_and_padded_features_are_the_same(model, monkeypatch):
    x = texts()
    seen = []
    forward = type(model.text.transformer).forward

    def spy(self, input_ids=None, **kwargs):
        seen.append(tuple(input_ids.shape))
        return forward(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(type(model.text.transformer), "forward", spy)
    with torch.no_grad():
        ours = model.encode_text(x)
        padded = super(type(model.text), model.text).forward(x)
    assert seen == [(6, 8), (6, 32)]
    assert torch.allclose(ours, padded, atol=1e-6)


def test_features_do_not_depend_on_the_batch(model):
    x = texts()
    with torch.no_grad():
        together = model.encode_text(x)
        alone = torch.cat([model.encode_text(row.unsqueeze(0)) for row in x])
    assert torch.allclose(together, alone, atol=1e-6)


def test_output_tokens_keep_their_length(model):
    model.text.output_tokens = True
    try:
        with torch.no_grad():
            features, tokens = model.text(texts())
    finally:
        model.text.output_tokens = False
    assert features.shape == (6, 64) and tokens.shape == (6, 32, 64)


def test_compiled_tower_gives_the_same(model):
    x = texts()
    compiled = torch.compile(model.text, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(x), model.text(x), atol=1e-6)


@pytest.mark.parametrize(("layers", "norms"), [(0, True), (1, True), (2, False)])
def test_lock(layers, norms):
    """Which parameters which version of open_clip wants free: tests/families/test_training_and_precision.py."""
    model = open_clip.create_model("zhclip-tiny", pretrained="digits")
    model.lock_text_tower(unlocked_layers=layers, freeze_layer_norm=norms)
    free = {name for name, p in model.text.transformer.named_parameters() if p.requires_grad}
    # open_clip 4 counts the projection as the first layer from above.
    encoders = layers - 1 if hasattr(hf_model.HFTextEncoder, "layer_groups") else layers
    unlocked = {2 - n for n in range(1, encoders + 1)}
    for name, _ in model.text.transformer.named_parameters():
        in_unlocked = any(name.startswith(f"encoder.layer.{n}.") for n in unlocked)
        assert (name in free) == (in_unlocked or ("LayerNorm" in name and not norms)), name
    head_is_free = layers > 0 or not hasattr(hf_model.HFTextEncoder, "layer_groups")
    assert all(p.requires_grad == head_is_free for p in model.text.proj.parameters())


def test_gradient_checkpointing_gives_the_same_gradients():
    x = texts()
    gradients = []
    for enable in (False, True, False):
        model = open_clip.create_model("zhclip-tiny", pretrained="digits").train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.set_grad_checkpointing(True)
        model.text.set_grad_checkpointing(enable, impl="inline")
        assert any(getattr(m, "gradient_checkpointing", False) for m in model.text.modules()) == enable
        model.encode_text(x).sum().backward()
        gradients.append(model.text.transformer.embeddings.word_embeddings.weight.grad)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6) and torch.equal(gradients[0], gradients[2])


def test_unknown_head_is_named():
    with pytest.raises(ValueError, match="'mpl'.*known are"):
        build_head("mpl", 8, 4)


# ids of another tokenizer

CLIP = open_clip.tokenize(["猫", "a photo of a cat"])


def encoder(kind: str, vocabulary: int):
    """A text tower of one small layer with a vocabulary of that size."""
    from transformers import AutoConfig

    sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    pad = 0 if kind == "bert" else 1
    config = AutoConfig.for_model(kind, vocab_size=vocabulary, pad_token_id=pad, max_position_embeddings=99, **sizes)
    return ChineseTextEncoder("someone/encoder", 8, config=config, proj_type="linear", pretrained=False).eval()


@pytest.mark.parametrize(("kind", "vocabulary"), [("bert", 21128), ("bert", 501153), ("xlm-roberta", 250002)])
@torch.no_grad()
def test_ids_of_open_clips_own_tokenizer_are_refused(kind, vocabulary):
    """They are outside Google's vocabulary, and other words in those of LaBSE and XLM-R."""
    tower = encoder(kind, vocabulary)
    told = "token id 49407 is not in the vocabulary of someone/encoder, which has 21128"
    told = told if vocabulary < 49408 else "the token ids are CLIP's own"
    with pytest.raises(ZhclipError, match=f"^{told}.*open_clip.get_tokenizer"):
        tower(CLIP)
    for text in CLIP:
        with pytest.raises(ZhclipError):
            tower(text.unsqueeze(0))
    if vocabulary > 49408:  # the same words in a frame of our own are a text like any other
        ours = CLIP.clone()
        ours[:, 0] = 0
        assert torch.isfinite(tower(ours)).all()


@torch.no_grad()
def test_ids_of_berts_tokenizer_are_refused_by_xlm_r():
    """As of `get_tokenizer("cnclip")` for an AltCLIP: each of them is a word of XLM-R."""
    ids = torch.tensor([[101, 4344, 102, 0, 0], [101, 671, 1372, 4344, 102]])
    with pytest.raises(ZhclipError, match="the token ids are BERT's, which are other words in someone/encoder"):
        encoder("xlm-roberta", 250002)(ids)
    assert torch.isfinite(encoder("bert", 21128)(ids)).all()


@torch.no_grad()
def test_ids_outside_the_vocabulary_are_refused_and_all_others_are_not(model):
    for wrong in (-1, 128, 10**6):
        x = texts()
        x[3, 1] = wrong
        with pytest.raises(ZhclipError, match=f"token id {wrong} is not in the vocabulary"):
            model.encode_text(x)
        model.text.output_tokens = True
        try:
            with pytest.raises(ZhclipError, match="is not in the vocabulary"):
                model.text(x)
        finally:
            model.text.output_tokens = False
    x = texts()
    x[0, 0], x[1, 0] = 0, 127
    assert torch.isfinite(model.encode_text(x)).all()


def test_encoders_are_built_in_fp32_whatever_their_file_holds(tmp_path, monkeypatch):
    """transformers keeps the precision of a file, and open_clip converts no tower that it believes to be fp32."""
    from transformers import BertModel

    from zhclip_openclip.towers import text_configs

    name = "zhclip-openclip/tiny-bert"
    BertModel(text_configs.load(name), add_pooling_layer=False).half().save_pretrained(tmp_path / "some" / "encoder")
    monkeypatch.setenv("ZHCLIP_MODELS_DIR", str(tmp_path))
    monkeypatch.setattr(text_configs, "base", lambda name: "some/encoder")
    tower = ChineseTextEncoder(name, 64, proj_type="mlp")
    assert {p.dtype for p in tower.parameters()} == {torch.float32}
    half = BertModel.from_pretrained(tmp_path / "some" / "encoder", add_pooling_layer=False).state_dict()
    for key, tensor in tower.transformer.state_dict().items():
        assert torch.equal(tensor, half[key].float()), key
