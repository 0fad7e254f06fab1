"""M2-Encoder's towers have their last layers in common: one set of parameters, in whatever is done with the model."""

from __future__ import annotations

import copy
import functools
import json

import open_clip
import pytest
import timm.models._registry as timm_registry
import torch
from open_clip import factory
from safetensors.torch import load_file, save_file

from tests.support import glm, m2_reference, references
from tests.support.reduced import VOCABULARY, assert_same, reduced_models
from zhclip_openclip._errors import CheckpointError, DownloadError, ZhclipError
from zhclip_openclip.features import fingerprint
from zhclip_openclip.prompts.classifier import zero_shot_classifier

NAME, WIDTH, OUT, LAYERS, HEADS = "m2-encoder-0.4b", 64, 32, 2, 2
COMMON = "visual.trunk.shared."
END = m2_reference.SMALL_END


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory):
    """The model under its name, 64 channels wide, in its own registries."""
    folder = tmp_path_factory.mktemp("small")
    with reduced_models(folder), pytest.MonkeyPatch.context() as patch:
        path = folder / "text_configs" / f"reduced--{NAME}.json"
        narrow = dict(hidden_size=WIDTH, num_attention_heads=HEADS, intermediate_size=4 * WIDTH)
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **narrow}), encoding="utf-8")
        config = {**factory._MODEL_CONFIGS[NAME], "embed_dim": OUT}
        patch.setitem(factory._MODEL_CONFIGS, NAME, config)
        (folder / f"{NAME}.json").write_text(json.dumps(config), encoding="utf-8")
        entries, entry = timm_registry._model_entrypoints, config["vision_cfg"]["timm_model_name"]
        patch.setitem(entries, entry, functools.partial(entries[entry], embed_dim=WIDTH, num_heads=HEADS))
        patch.setitem(m2_reference.SIZES, "0.4B", (WIDTH, LAYERS, HEADS, OUT, *m2_reference.SIZES["0.4B"][4:]))
        yield


def create(**options):
    torch.manual_seed(0)
    return open_clip.create_model(NAME, **options).eval()


def batch(rows: int = 3, length: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels and padded texts."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, VOCABULARY, (rows, length), generator=generator)
    tokens[0, 5:] = END
    tokens[1:, -1] = END
    return torch.randn(rows, 3, 224, 224, generator=generator), tokens


def common(model) -> set[int]:
    return {id(parameter) for parameter in model.visual.trunk.shared.parameters()}


def trainable(module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


# one set of parameters


def test_both_towers_have_the_same_layers():
    model = create()
    assert model.visual.trunk.shared is model.text.transformer.shared
    numbers = [id(parameter) for parameter in model.parameters()]
    assert len(numbers) == len(set(numbers)) and common(model) <= set(numbers)
    for tower in (model.visual, model.text):
        assert common(model) <= {id(parameter) for parameter in tower.parameters()}


def test_two_models_share_nothing():
    first, second = create(), create()
    assert not common(first) & common(second)


def test_a_state_dict_holds_them_once(tmp_path):
    model = create()
    state = model.state_dict()
    assert any(key.startswith(COMMON) for key in state)
    assert not any(key.startswith("text.transformer.shared.") for key in state)
    assert {id(p) for p in model.parameters()} == {id(model.get_parameter(key)) for key in state}
    save_file(state, tmp_path / "model.safetensors")  # which refuses tensors that share memory
    other = create()
    references.randomise(other, 5)
    assert other.load_state_dict(load_file(tmp_path / "model.safetensors")).missing_keys == []
    for key, tensor in other.state_dict().items():
        assert torch.equal(tensor, state[key]), key
    torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}, tmp_path / "epoch_1.pt")
    again = create(pretrained=str(tmp_path / "epoch_1.pt"))
    assert again.state_dict().keys() == state.keys()
    assert torch.equal(again.encode_text(batch()[1]), model.encode_text(batch()[1]))


def test_a_tower_by_itself_is_whole(tmp_path):
    """Its state dict has the common layers too: for `pretrained_text_path`, for the names of features in the cache."""
    model = create()
    assert len(model.text.state_dict()) == len(list(model.text.named_parameters()))
    text = copy.deepcopy(model.text)
    references.randomise(text, 3)
    torch.save(text.state_dict(), tmp_path / "text.pt")
    with pytest.raises(RuntimeError, match="Missing key.*transformer.shared"):
        lacking = {key: tensor for key, tensor in text.state_dict().items() if "shared" not in key}
        model.text.load_state_dict(lacking)
    before = fingerprint.tower(model)
    model.text.load_state_dict(torch.load(tmp_path / "text.pt"))
    assert fingerprint.tower(model) != before, "the image tower has other layers now"


def test_a_copy_shares_within_itself():
    model = create()
    other = copy.deepcopy(model)
    assert other.visual.trunk.shared is other.text.transformer.shared is not model.text.transformer.shared
    assert other.state_dict().keys() == model.state_dict().keys()


def test_towers_that_are_built_without_create_model_are_two():
    """Nobody says then that they are one model's; their state dict holds all that there is."""
    from open_clip.model import CustomTextCLIP

    config = {key: value for key, value in open_clip.get_model_config(NAME).items() if key != "custom_text"}
    model = CustomTextCLIP(**config)
    assert model.visual.trunk.shared is not model.text.transformer.shared
    keys = set(model.state_dict())
    assert {key.replace(COMMON, "text.transformer.shared.") for key in keys if key.startswith(COMMON)} <= keys


def test_towers_of_two_sizes_are_refused(monkeypatch):
    entries, entry = timm_registry._model_entrypoints, open_clip.get_model_config(NAME)["vision_cfg"]["timm_model_name"]
    monkeypatch.setitem(entries, entry, functools.partial(entries[entry], shared_depth=1))
    with pytest.raises(ZhclipError, match=r"of two sizes .* \(64, 1, 2, 256\) .* \(64, 3, 2, 256\)"):
        create()


# training


def test_locking_a_tower_freezes_them_for_both():
    model = create()
    model.lock_image_tower()
    assert not trainable(model.visual.trunk)
    left = trainable(model.text)
    assert left and not any("shared" in key for key in left) and "proj.weight" in left
    # and whatever part of the text tower is unlocked afterwards, the features of pictures stand still
    model.lock_text_tower(unlocked_layers=2)
    assert not trainable(model.visual.trunk)
    model = create()
    model.lock_text_tower()
    assert not any("shared" in key for key in trainable(model.visual))
    assert any(key.startswith("trunk.encoder.") for key in trainable(model.visual))


@pytest.mark.parametrize("groups", [1, 2])
def test_unlocked_groups_of_the_image_tower_end_with_the_common_layers(groups):
    model = create()
    model.lock_image_tower(unlocked_groups=groups)
    last = ("trunk.shared.blocks.2.", "trunk.shared.blocks.1.")[:groups]
    assert trainable(model.visual) == {
        key for key, _ in model.visual.named_parameters() if key.startswith((*last, "trunk.shared.norm.", "head."))
    }


@pytest.mark.parametrize("unlocked", [0, 1, 2])
def test_unlocked_layers_of_the_text_tower_end_with_the_common_layers(unlocked):
    tower = create().text
    tower.lock(unlocked, True, True)  # as open_clip 4 counts: the projection first
    free = (["proj."], ["transformer.shared.blocks.2.", "transformer.shared.norm."])[:unlocked]
    free = tuple(prefix for part in free for prefix in part)
    assert trainable(tower) == {key for key, _ in tower.named_parameters() if free and key.startswith(free)}


def test_layer_groups_hold_each_parameter_once():
    tower = create().text
    held = [id(p) for _, members in tower.layer_groups() for part in members for p in part.parameters()]
    assert sorted(held) == sorted(id(p) for p in tower.parameters())


def gradients(model, run=None) -> dict[str, torch.Tensor]:
    pixels, tokens = batch()
    model.zero_grad()
    images, texts, scale = (run or model)(pixels, tokens)
    open_clip.ClipLoss()(images, texts, scale).backward()
    return {key: parameter.grad.clone() for key, parameter in model.named_parameters()}


def test_both_towers_train_them():
    model = create().train()
    both = gradients(model)
    pixels, tokens = batch()
    alone = []
    for detached in (0, 1):
        model.zero_grad()
        features = [model.encode_image(pixels, normalize=True), model.encode_text(tokens, normalize=True)]
        features[detached] = features[detached].detach()
        open_clip.ClipLoss()(*features, model.logit_scale.exp()).backward()
        alone.append({key: p.grad.clone() for key, p in model.named_parameters() if key.startswith(COMMON)})
    for key, gradient in alone[0].items():
        assert gradient.abs().max() > 0 and alone[1][key].abs().max() > 0
        assert torch.allclose(gradient + alone[1][key], both[key], atol=1e-6), key


def test_gradient_checkpointing_changes_no_gradient():
    model = create().train()
    plain = gradients(model)
    model.set_grad_checkpointing(True)
    assert model.visual.trunk.shared.grad_checkpointing and model.text.transformer.encoder.grad_checkpointing
    for key, gradient in gradients(model).items():
        assert torch.allclose(gradient, plain[key], atol=1e-6), key
    model.set_grad_checkpointing(False)
    assert not model.text.transformer.shared.grad_checkpointing


def test_distributed_data_parallel(tmp_path):
    import torch.distributed as dist

    model = create().train()
    plain = gradients(model)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        for key, gradient in gradients(model, wrapped).items():
            assert torch.allclose(gradient, plain[key], atol=1e-6), key
        assert not any(key.startswith("module.text.transformer.shared.") for key in wrapped.state_dict())
        wrapped.load_state_dict(wrapped.state_dict())
    finally:
        dist.destroy_process_group()


# precision, graphs, other sizes


@pytest.mark.parametrize("precision", ["bf16", "fp16", "pure_bf16", "pure_fp16"])
@torch.no_grad()
def test_half_precision(precision):
    exact, half = create(), create(precision=precision)
    half.load_state_dict(exact.state_dict())
    pixels, tokens = batch()
    cast = open_clip.get_input_dtype(precision)
    for ours, theirs in (
        (half.encode_image(pixels.to(cast)), exact.encode_image(pixels)),
        (half.encode_text(tokens), exact.encode_text(tokens)),
    ):
        assert ours.dtype == cast
        assert torch.nn.functional.cosine_similarity(ours.float(), theirs).min() > 0.99


@torch.no_grad()
def test_graphs_keep_the_padding():
    model = create()
    _, tokens = batch()
    traced = torch.jit.trace(model.text, tokens, check_trace=False)
    compiled = torch.compile(model.text, fullgraph=True, backend="aot_eager")
    for given in (tokens, tokens.flip(0)):
        for graph in (traced, compiled):
            assert torch.allclose(graph(given), model.text(given), atol=1e-5)


@torch.no_grad()
def test_padding_and_neighbours_do_not_matter():
    model = create()
    _, tokens = batch()
    alone = model.encode_text(tokens[:1, :6])  # with its end token
    padded = torch.nn.functional.pad(tokens[:1, :6], (0, 40), value=END)
    for given in (padded, tokens):
        assert torch.allclose(model.encode_text(given)[:1], alone, atol=1e-6)
    assert not torch.allclose(model.encode_text(tokens[:1, :5]), alone, atol=1e-3), "the end token is part of the text"
    assert model.text.trim(padded).shape == (1, 6)


@torch.no_grad()
def test_an_end_token_within_a_text_is_a_token_of_it():
    """Nothing is cut at it: the authors' mask, too, is true up to the end of the text."""
    model = create()
    tokens = torch.tensor([[5, 60, END, 70, 80, END, END, END]])
    whole = model.encode_text(tokens)
    assert not torch.allclose(whole, model.encode_text(tokens[:, :3]), atol=1e-3)
    assert torch.allclose(whole, model.encode_text(tokens[:, :6]), atol=1e-6)


@torch.no_grad()
def test_pictures_of_another_size():
    model = create(force_image_size=96)
    assert model.visual.trunk.pos_embed.shape == (1, 37, WIDTH)
    assert model.encode_image(torch.randn(2, 3, 96, 96)).shape == (2, OUT)


def test_what_is_wrong_is_one_line():
    model = create()
    with pytest.raises(ZhclipError, match="token id 1200 is not in the vocabulary"):
        model.encode_text(torch.tensor([[5, VOCABULARY, END]]))
    with pytest.raises(ZhclipError, match="1023 tokens, and .* has positions for 1022"):
        model.encode_text(torch.full((1, 1023), 7))
    with pytest.raises(ZhclipError, match="timm_pool 'avg' has to be 'token'"):
        model.visual.trunk.reset_classifier(0, "avg")


@torch.no_grad()
def test_the_classifier_equals_one_prompt_at_a_time(tmp_path, monkeypatch):
    glm.small_model(tmp_path)
    with pytest.warns(UserWarning, match="it is cut short"):
        tokenizer = open_clip.get_tokenizer(NAME, pretrained=str(tmp_path))
    model, names = create(), ["猫", "一只可爱的小猫", "red sofa", "T恤"]
    templates = ["{c}", "一张{c}的照片，在红色的沙发上"]
    ours = zero_shot_classifier(model, tokenizer, names, templates, "cpu", amp=False, tokens_per_batch=64)
    for column, name in zip(ours.T, names, strict=True):
        unit = [model.encode_text(tokenizer([t.format(c=name)]), normalize=True) for t in templates]
        assert torch.allclose(torch.nn.functional.normalize(sum(unit), dim=-1)[0], column, atol=1e-5)


# the forms of the weights


@pytest.fixture
def reference():
    pytest.importorskip("torchscale")
    reference = references.m2_encoder("malusama/M2-Encoder-0.4B", "0.4B", LAYERS, VOCABULARY)
    references.randomise(next(iter(reference.modules.values())))
    return reference


@pytest.mark.parametrize("form", ["state_dict", "module", "model", "prefix", "plain", "nested"])
def test_the_authors_forms(reference, tmp_path, form):
    (state,) = reference.published().values()
    state = {**state, "visual_tokenizer.encoder.weight": torch.zeros(3)}
    if form in ("module", "prefix"):
        state = {f"_forward_module.{key}": tensor for key, tensor in state.items()}
    if form == "nested":
        state = {key.replace("backbone_vl.", "backbone_vl.encoder."): tensor for key, tensor in state.items()}
    content = {form: state, "epoch": 3} if form in ("state_dict", "module", "model") else state
    torch.save(content, tmp_path / "m2_encoder_0.4B.ckpt")
    assert_same(create(pretrained=str(tmp_path / "m2_encoder_0.4B.ckpt")), reference)
    assert_same(create(pretrained=str(tmp_path)), reference)


def test_a_wrong_expert_would_be_noticed(reference, tmp_path):
    (state,) = reference.published().values()
    swapped = {key.replace(".A.", ".C.").replace(".B.", ".A.").replace(".C.", ".B."): v for key, v in state.items()}
    for key in ("backbone.encoder.embed_positions.A.weight", "backbone.encoder.embed_positions.B.weight"):
        swapped[key] = state[key]
    save_file(swapped, tmp_path / "m.safetensors")
    with pytest.raises(AssertionError):
        assert_same(create(pretrained=str(tmp_path / "m.safetensors")), reference)


@pytest.mark.parametrize("tag", ["malusama", "m2cognition"])
def test_tags(reference, models_dir, tag):
    size = m2_reference.SIZES["0.4B"]
    repo = size[4] if tag == "malusama" else size[5]
    reference.published = functools.partial(lambda state: {repo: state}, next(iter(reference.published().values())))
    reference.save(models_dir)
    assert_same(create(pretrained=tag), reference)


def test_what_is_not_on_the_hub_is_not_asked_for_there(hub, caplog):
    with pytest.raises(
        DownloadError, match=r"m2_encoder_0.4B.ckpt is in https://www.modelscope.cn/models/M2Cog"
    ) as told:
        create(pretrained="m2cognition")
    assert "pretrained=PATH" in str(told.value) and len(str(told.value).splitlines()) == 1
    assert hub.requests == []


def test_a_shortened_file_says_what_is_missing(reference, tmp_path):
    (state,) = reference.published().values()
    del state["backbone_vl.layers.0.ffn.A.fc1.weight"]
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"1 of \d+ parameters are missing \(visual.trunk.shared.blocks.0"):
        create(pretrained=str(tmp_path / "m.pt"))
