"""Half precision, compilation, scripting, freezing, checkpointing: as open_clip's own text towers, or better."""

from __future__ import annotations

import inspect

import open_clip
import pytest
import torch

from tests.support.reduced import VOCABULARY

pytestmark = [
    pytest.mark.usefixtures("reduced"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

#: BERT with [CLS], BERT with its tanh pooler and a bias, XLM-R with AltCLIP's head, XLM-R with the mean
NAMES = ["cnclip-vit-b-16", "taiyiclip-vit-b-32", "altclip-vit-l-14", "mclip-vit-b-32", "clip-chinese-vit-b-32"]
ONE_OF_EACH = ["clip-chinese-vit-b-32", "mclip-vit-b-32"]


def create(name: str, **options):
    torch.manual_seed(0)
    return open_clip.create_model(name, pretrained_text=False, **options).eval()


def batch(model, rows: int = 2, length: int = 12):
    """Pixels and padded texts."""
    size = model.visual.image_size[0]
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, VOCABULARY, (rows, length), generator=generator)
    tokens[0, 5:] = model.text.config.pad_token_id
    return torch.randn(rows, 3, size, size, generator=generator), tokens


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *((name, "bf16") for name in NAMES),
        *(("clip-chinese-vit-b-32", precision) for precision in ("fp16", "pure_fp16", "pure_bf16")),
    ],
)
@torch.no_grad()
def test_half_precision(name, precision):
    """open_clip's own tower of transformers fails with bf16 and fp16: norms stay in fp32 and linear layers do not."""
    exact, half = create(name), create(name, precision=precision)
    half.load_state_dict(exact.state_dict())
    pixels, tokens = batch(exact)
    cast = open_clip.get_input_dtype(precision)
    norm = half.text.transformer.embeddings.LayerNorm.weight
    assert half.text.transformer.encoder.layer[0].output.dense.weight.dtype == cast
    assert norm.dtype == (cast if precision.startswith("pure") else torch.float32)
    images, texts = half.encode_image(pixels.to(cast)), half.encode_text(tokens)
    assert images.dtype == texts.dtype == cast
    for ours, theirs in ((images, exact.encode_image(pixels)), (texts, exact.encode_text(tokens))):
        assert torch.isfinite(ours).all()
        assert torch.nn.functional.cosine_similarity(ours.float(), theirs).min() > 0.99


@torch.no_grad()
def test_autocast():
    model = create("cnclip-vit-b-16")
    _, tokens = batch(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model.encode_text(tokens)
    assert torch.nn.functional.cosine_similarity(half.float(), model.encode_text(tokens)).min() > 0.99


@pytest.mark.parametrize("name", ONE_OF_EACH)
@torch.no_grad()
def test_torch_compile(name):
    """The whole text tower in one graph; a batch of another length is a new graph, not an error."""
    model = create(name)
    compiled = torch.compile(model.text, fullgraph=True, backend="aot_eager")
    for length in (12, 20):
        _, tokens = batch(model, length=length)
        assert torch.allclose(compiled(tokens), model.text(tokens), atol=1e-5)


@torch.no_grad()
def test_torch_compile_of_the_model():
    model = create("clip-chinese-vit-b-32")
    pixels, tokens = batch(model)
    compiled = torch.compile(model, backend="aot_eager")
    for ours, theirs in zip(compiled(pixels, tokens), model(pixels, tokens), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("name", ONE_OF_EACH)
@torch.no_grad()
def test_torch_jit_trace(name):
    model = create(name)
    _, tokens = batch(model, rows=3)
    traced = torch.jit.trace(model.text, tokens, check_trace=False)
    others = tokens.flip(0)
    assert torch.allclose(traced(others), model.text(others), atol=1e-5)


def test_torch_jit_script_is_refused_as_open_clip_refuses_it():
    """open_clip cannot script a Hugging Face tower: it says so in the log and gives the model as it is."""
    model = open_clip.create_model("clip-chinese-vit-b-32", pretrained_text=False, jit=True)
    assert not isinstance(model, torch.jit.ScriptModule)
    pixels, tokens = batch(model)
    assert model.eval()(pixels, tokens)[0].shape == (2, 512)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_output_dict(name):
    model = create(name, output_dict=True)
    pixels, tokens = batch(model)
    output = model(pixels, tokens)
    assert set(output) == {"image_features", "text_features", "logit_scale"}
    assert output["image_features"].shape == output["text_features"].shape == (2, model.text.output_dim)
    assert torch.allclose(output["text_features"].norm(dim=1), torch.ones(2), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_padding_and_neighbours_do_not_matter(name):
    """A text has the same features alone, in a batch with longer ones, and padded to the context length."""
    model = create(name)
    _, tokens = batch(model)
    short = tokens[:1, :5]
    padded = torch.nn.functional.pad(short, (0, 30), value=model.text.config.pad_token_id)
    alone = model.encode_text(short)
    assert torch.allclose(model.encode_text(padded), alone, atol=1e-6)
    assert torch.allclose(model.encode_text(tokens)[:1], alone, atol=1e-6)


def trainable(module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", [*NAMES, "cnclip-rn50"])
def test_lock_image_tower(name):
    model = create(name)
    model.lock_image_tower()
    assert not trainable(model.visual)
    assert trainable(model.text)
    model = create(name)
    if name == "cnclip-rn50":  # open_clip's ResNet: "partial locking not currently supported"
        with pytest.raises(AssertionError):
            model.lock_image_tower(unlocked_groups=1)
    else:
        model.lock_image_tower(unlocked_groups=1)
        assert trainable(model.visual) == {"proj"}


@pytest.mark.parametrize("name", NAMES)
def test_lock_text_tower(name):
    model = create(name)
    head = {f"proj.{key}" for key in trainable(model.text.proj)}
    pooler = {key for key in trainable(model.text) if ".pooler." in key}
    model.lock_text_tower()
    assert trainable(model.text) == head
    model = create(name)
    model.lock_text_tower(unlocked_layers=1)
    assert {key.split(".")[3] for key in trainable(model.text) - head - pooler} == {"1"}
    assert head <= trainable(model.text)
    model = create(name)
    model.lock_text_tower(unlocked_layers=2)
    assert not any("embeddings" in key for key in trainable(model.text))
    model = create(name)
    model.lock_text_tower(freeze_layer_norm=False)
    assert trainable(model.text) - head and all("LayerNorm" in key for key in trainable(model.text) - head)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_with_and_without_checkpointing(name):
    gradients = []
    for enable in (False, True):
        model = create(name).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.text.config.attention_probs_dropout_prob = 0.0
        for layer in model.text.transformer.encoder.layer:
            attention = layer.attention.self
            attention.dropout = torch.nn.Dropout(0.0) if isinstance(attention.dropout, torch.nn.Module) else 0.0
        model.set_grad_checkpointing(enable)
        assert model.text.transformer.is_gradient_checkpointing == enable
        _, tokens = batch(model)
        model.encode_text(tokens).square().sum().backward()
        gradients.append(model.text.transformer.encoder.layer[0].attention.self.query.weight.grad)
    assert gradients[0].abs().max() > 0
    assert torch.allclose(*gradients, atol=1e-6)


def test_a_training_step_changes_both_towers():
    model = create("clip-chinese-vit-b-32").train()
    pixels, tokens = batch(model, rows=4)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = open_clip.ClipLoss()(*model(pixels, tokens))
    loss.backward()
    optimizer.step()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    # Keys' biases shift every score of a softmax alike; positions and words that do not occur learn nothing.
    assert {"visual.proj", "text.proj.weight", "logit_scale"} <= changed
    assert "text.transformer.encoder.layer.0.attention.self.query.weight" in changed
    assert torch.isfinite(loss)


def test_the_text_tower_has_the_methods_of_open_clips():
    """What open_clip calls on its own Hugging Face tower exists here, with the same arguments."""
    from open_clip.hf_model import HFTextEncoder

    tower = type(create("clip-chinese-vit-b-32").text)
    for method in ("lock", "set_grad_checkpointing", "forward", "init_parameters"):
        theirs, ours = (inspect.signature(getattr(kind, method)) for kind in (HFTextEncoder, tower))
        assert list(ours.parameters) == list(theirs.parameters)
