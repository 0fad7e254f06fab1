"""The text tower: trimming changes the time and nothing else."""

from __future__ import annotations

import open_clip
import pytest
import torch

from zhclip_openclip.towers.heads import build_head
from zhclip_openclip.towers.text import trim


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
    model = open_clip.create_model("zhclip-tiny", pretrained="digits")
    model.lock_text_tower(unlocked_layers=layers, freeze_layer_norm=norms)
    free = {name for name, p in model.text.transformer.named_parameters() if p.requires_grad}
    unlocked = {2 - n for n in range(1, layers + 1)}
    for name, _ in model.text.transformer.named_parameters():
        in_unlocked = any(name.startswith(f"encoder.layer.{n}.") for n in unlocked)
        assert (name in free) == (in_unlocked or ("LayerNorm" in name and not norms)), name
    assert all(p.requires_grad for p in model.text.proj.parameters())


def test_gradient_checkpointing_gives_the_same_gradients():
    x = texts()
    gradients = []
    for enable in (False, True, False):
        model = open_clip.create_model("zhclip-tiny", pretrained="digits").train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.set_grad_checkpointing(True)
        model.text.set_grad_checkpointing(enable)
        assert any(getattr(m, "gradient_checkpointing", False) for m in model.text.modules()) == enable
        model.encode_text(x).sum().backward()
        gradients.append(model.text.transformer.embeddings.word_embeddings.weight.grad)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6) and torch.equal(gradients[0], gradients[2])


def test_unknown_head_is_named():
    with pytest.raises(ValueError, match="'mpl'.*known are"):
        build_head("mpl", 8, 4)
