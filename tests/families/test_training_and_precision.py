"""Half precision, compilation, scripting, freezing, checkpointing: as open_clip's own text towers, or better."""

from __future__ import annotations

import inspect
import re

import open_clip
import pytest
import torch

from tests.support.reduced import VOCABULARY
from zhclip_openclip._errors import CheckpointError

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


@pytest.mark.filterwarnings("ignore:The 'jit' argument has been removed:DeprecationWarning")
def test_torch_jit_script_is_refused_as_open_clip_refuses_it():
    """open_clip 3 cannot script a Hugging Face tower: it says so in the log and gives the model as it is. Version 4
    scripts nothing any more."""
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
    if name == "cnclip-rn50" and not hasattr(model.visual, "layer_groups"):
        with pytest.raises(AssertionError):  # open_clip 3's ResNet: "partial locking not currently supported"
            model.lock_image_tower(unlocked_groups=1)
    else:
        model.lock_image_tower(unlocked_groups=1)
        last = "attnpool." if name == "cnclip-rn50" else "proj"
        assert trainable(model.visual) == {key for key, _ in model.visual.named_parameters() if key.startswith(last)}


def frozen_by(tower, kind: str, unlocked: int, norms: bool) -> set[str]:
    """The parameters that should stay trainable, from their names: open_clip 3 counts layers of the encoder, 4 counts
    the projection as the last part, with BERT's pooler in it (`in head`) or as the part before (`apart`)."""
    names = [key for key, _ in tower.named_parameters()]
    head = ["proj."]
    parts = [["transformer.embeddings."], *([f"transformer.encoder.layer.{n}."] for n in range(2))]
    pooler = [["transformer.pooler."]] if any(".pooler." in key for key in names) else []
    if kind == "3":
        head += pooler[0] if pooler and unlocked else []
        parts = parts if unlocked else parts + pooler
        free = [*(prefix for part in parts[len(parts) - min(unlocked, len(parts)) :] for prefix in part), *head]
    else:
        parts = (
            [*parts, *pooler, head] if kind == "4 apart" else [*parts, [*head, *(p for part in pooler for p in part)]]
        )
        free = [prefix for part in parts[len(parts) - min(unlocked, len(parts)) :] for prefix in part]
    is_norm = re.compile(r"\b(LayerNorm|pre_LN)\b")
    return {key for key in names if key.startswith(tuple(free)) or (norms and is_norm.search(key))}


@pytest.mark.parametrize("kind", ["3", "4 in head", "4 apart"])
@pytest.mark.parametrize("name", NAMES)
def test_lock_text_tower(name, kind, monkeypatch):
    """With the arguments that open_clip 3 and 4 give, whichever is installed, and again after another call."""
    from open_clip import hf_model

    monkeypatch.delattr(hf_model.HFTextEncoder, "layer_groups", raising=False)
    tower = create(name).text
    for unlocked in (0, 1, 2, 3, 9, 0):
        for freeze_norms in (True, False):
            more = {"3": (), "4 in head": (True,), "4 apart": (False,)}[kind]
            tower.lock(unlocked, freeze_norms, *more)
            assert trainable(tower) == frozen_by(tower, kind, unlocked, not freeze_norms), (unlocked, freeze_norms)


@pytest.mark.parametrize("name", NAMES)
def test_lock_without_arguments_of_version_4_does_as_the_installed_version(name, monkeypatch):
    from open_clip import hf_model

    tower = create(name).text
    for kind in ("3", "4 in head"):
        if kind == "3":
            monkeypatch.delattr(hf_model.HFTextEncoder, "layer_groups", raising=False)
        else:
            monkeypatch.setattr(hf_model.HFTextEncoder, "layer_groups", lambda self: [], raising=False)
        tower.lock(1)
        assert trainable(tower) == frozen_by(tower, kind, 1, False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("freeze_norms", [True, False])
def test_lock_text_tower_is_open_clips(name, freeze_norms):
    """Against the class of the installed open_clip, where it can lock that architecture at all."""
    from open_clip import hf_model
    from open_clip.hf_configs import arch_dict

    model = create(name)
    config = model.text.config
    if "layer_attr" not in arch_dict[config.model_type]["config_names"]:
        pytest.skip("the installed open_clip cannot lock BERT")
    pooler = "cls_pooler" if model.text.transformer.pooler is not None else "mean_pooler"
    names = [key for key, _ in model.text.named_parameters() if not key.startswith("proj.")]
    for unlocked in (0, 1, 2):
        theirs = hf_model.HFTextEncoder("x", 8, config, pooler_type=pooler, proj_type="linear", pretrained=False)
        theirs.lock(unlocked, freeze_norms)
        model.lock_text_tower(unlocked, freeze_norms)
        # open_clip 3 builds a pooler that nothing uses for a config that it is given.
        assert trainable(model.text) & set(names) == trainable(theirs) & set(names)
        assert bool(trainable(model.text.proj)) == bool(trainable(theirs.proj)) or not freeze_norms
        if hasattr(theirs, "layer_groups"):
            assert [part for part, _ in model.text.layer_groups()] == [part for part, _ in theirs.layer_groups()]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pooler_in_head", [True, False])
def test_layer_groups_hold_each_parameter_once(name, pooler_in_head):
    tower = create(name).text
    held = [id(p) for _, members in tower.layer_groups(pooler_in_head) for part in members for p in part.parameters()]
    assert sorted(held) == sorted(id(p) for p in tower.parameters())


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


def test_the_text_tower_takes_what_open_clips_takes():
    """What open_clip calls on its own Hugging Face tower exists here, with the same arguments and perhaps more."""
    from open_clip.hf_model import HFTextEncoder

    tower = type(create("clip-chinese-vit-b-32").text)
    for method in ("lock", "set_grad_checkpointing", "forward", "init_parameters"):
        theirs, ours = (inspect.signature(getattr(kind, method)) for kind in (HFTextEncoder, tower))
        assert list(ours.parameters)[: len(theirs.parameters)] == list(theirs.parameters)


# SigLIP's bias


def test_siglip_bias_starts_where_open_clip_starts_it(tmp_path):
    """open_clip's own reader (factory.load_checkpoint) gives a checkpoint without a bias one of 0."""
    from open_clip.loss import SigLipLoss

    source = open_clip.create_model("zhclip-tiny", pretrained="digits")
    torch.save(source.state_dict(), tmp_path / "clip.pt")
    theirs = open_clip.create_model("zhclip-tiny", init_logit_bias=-10)
    assert theirs.logit_bias.item() == -10
    open_clip.factory.load_checkpoint.__zhclip_original__(theirs, str(tmp_path / "clip.pt"))
    for pretrained in ("digits", str(tmp_path / "clip.pt")):
        ours = open_clip.create_model("zhclip-tiny", pretrained=pretrained, init_logit_bias=-10)
        for key, tensor in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[key], tensor), key
    assert ours.logit_bias.item() == 0
    pixels = torch.zeros(2, 3, *ours.visual.image_size)
    loss = SigLipLoss()(*ours(pixels, torch.ones(2, 5, dtype=torch.long)))
    loss.backward()
    assert ours.logit_bias.grad.abs() > 0


def test_a_trained_siglip_bias_is_kept(tmp_path):
    trained = open_clip.create_model("zhclip-tiny", pretrained="digits", init_logit_bias=-10)
    trained.logit_bias.data.fill_(-3.5)
    torch.save(trained.state_dict(), tmp_path / "siglip.pt")
    again = open_clip.create_model("zhclip-tiny", pretrained=str(tmp_path / "siglip.pt"), init_logit_bias=-10)
    assert again.logit_bias.item() == -3.5
    # who evaluates it has no option for the bias: it gets its place by itself
    told = open_clip.create_model("zhclip-tiny", pretrained=str(tmp_path / "siglip.pt"))
    assert told.logit_bias.item() == -3.5
    assert told.visual.image_size == trained.visual.image_size, "and is built in the size of its own model"
    without = open_clip.create_model("zhclip-tiny", pretrained="digits")
    with pytest.raises(CheckpointError, match=r"1 keys are unknown \(logit_bias\)"):
        open_clip.factory.load_checkpoint(without, str(tmp_path / "siglip.pt"))
