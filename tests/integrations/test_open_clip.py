"""What open_clip shows of our models, and that everything else is as it was."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
from open_clip import hf_model
from transformers import BertConfig

from zhclip_openclip import list_models
from zhclip_openclip.families import all_families
from zhclip_openclip.towers import text_configs
from zhclip_openclip.towers.text import ChineseTextEncoder

UNLIKE = """
import json, sys, hashlib, warnings
warnings.simplefilter('ignore')
import torch, open_clip
from open_clip import hf_model
def digest(tensors):
    return hashlib.sha256(b''.join(t.detach().contiguous().numpy().tobytes() for t in tensors)).hexdigest()
result = {'models': None}
torch.manual_seed(0)
model, _, transform = open_clip.create_model_and_transforms('RN50')
model.eval()
result['weights'] = digest(model.state_dict().values())
with torch.no_grad():
    result['image'] = digest([model.encode_image(torch.linspace(-1, 1, 3 * 224 * 224).view(1, 3, 224, 224))])
    result['text'] = digest([model.encode_text(open_clip.get_tokenizer('RN50')(['a photo of a cat', '一只猫']))])
result['transform'] = repr(transform)
torch.manual_seed(0)
tower = open_clip.model.HFTextEncoder(sys.argv[1], 32, proj_type='mlp', pooler_type='mean_pooler', pretrained=False)
tower.eval()
ids = torch.tensor([[5, 6, 7, 0, 0, 0], [5, 6, 7, 8, 9, 0]])
with torch.no_grad():
    result['hf text'] = digest([tower(ids)])
result['hf class'] = type(tower).__name__ + type(tower).__module__
result['tags'] = open_clip.list_pretrained_tags_by_model('ViT-B-32')
for call in (lambda: open_clip.create_model('nix'), lambda: open_clip.create_model('RN50', pretrained='nix')):
    try:
        call()
    except RuntimeError as error:
        result.setdefault('errors', []).append(str(error)[:60])
print('RESULT' + json.dumps(result))
"""


def test_models_that_are_not_ours_are_the_same_with_and_without(run_python, tmp_path):
    BertConfig(
        vocab_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    ).save_pretrained(tmp_path)
    results = []
    for autoload in ("0", "1"):
        out = run_python(UNLIKE, str(tmp_path), TORCH_DEVICE_BACKEND_AUTOLOAD=autoload).stdout
        results.append(json.loads(out.partition("RESULT")[2]))
    assert results[0] == results[1]
    assert results[0]["hf class"] == "HFTextEncoderopen_clip.hf_model"


def test_every_name_and_tag_is_in_open_clips_lists():
    models, pretrained = open_clip.list_models(), open_clip.list_pretrained()
    assert set(list_models()) <= set(models)
    assert models == sorted(models, key=open_clip.factory._natural_key)
    for family in all_families().values():
        for model in family.models:
            for tag in model.tags:
                assert (model.name, tag) in pretrained
        for alias, name in family.aliases.items():
            assert open_clip.get_model_config(alias) == open_clip.get_model_config(name) is not None
            assert open_clip.list_pretrained_tags_by_model(alias) == open_clip.list_pretrained_tags_by_model(name)


def test_our_lists_survive_somebody_elses_config(tmp_path):
    (tmp_path / "somebodys-model.json").write_text(json.dumps(open_clip.get_model_config("RN50")))
    open_clip.add_model_config(tmp_path)
    try:
        assert {"somebodys-model", "zhclip"} <= set(open_clip.list_models())
    finally:
        open_clip.factory._MODEL_CONFIG_PATHS.remove(tmp_path)
        del open_clip.factory._MODEL_CONFIGS["somebodys-model"]


def test_no_stock_model_uses_a_text_tower_of_ours():
    ours = set(list_models())
    for name in open_clip.list_models():
        if name not in ours:
            assert not text_configs.is_known(open_clip.get_model_config(name)["text_cfg"].get("hf_model_name"))


def test_stand_in_class_looks_like_open_clips():
    tower = open_clip.create_model("zhclip-tiny", pretrained="digits").text
    assert type(tower) is ChineseTextEncoder
    assert isinstance(tower, open_clip.model.HFTextEncoder) and isinstance(tower, hf_model.HFTextEncoder)
    assert issubclass(open_clip.model.HFTextEncoder, hf_model.HFTextEncoder)
    assert not isinstance(torch.nn.Linear(1, 1), open_clip.model.HFTextEncoder)


def test_text_tower_takes_arguments_of_later_versions():
    """open_clip's main branch hands its model config to the text tower."""
    tower = open_clip.model.HFTextEncoder(
        "zhclip-openclip/tiny-bert", output_dim=64, proj_type="mlp", pretrained=False, model_config={"text_cfg": {}}
    )
    assert type(tower) is ChineseTextEncoder


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "pure_bf16"])
def test_precisions(precision):
    model = open_clip.create_model("zhclip-tiny", pretrained="digits", precision=precision)
    dtype = {"fp32": torch.float32, "fp16": torch.float16}.get(precision, torch.bfloat16)
    assert model.text.proj[0].weight.dtype == dtype
    full = open_clip.create_model("zhclip-tiny", pretrained="digits")
    assert torch.equal(model.text.proj[0].weight.float(), full.text.proj[0].weight.to(dtype).float())


def test_load_weights_false_builds_without_the_checkpoint():
    model = open_clip.create_model("zhclip-tiny", pretrained="digits", load_weights=False)
    loaded = open_clip.create_model("zhclip-tiny", pretrained="digits")
    assert not torch.equal(model.visual.head.proj.weight, loaded.visual.head.proj.weight)
    assert model.text.transformer.embeddings.word_embeddings.weight.detach().std() > 0  # initialised, not left empty


def test_without_a_network_random_text_weights_and_a_warning(offline):
    with pytest.warns(UserWarning, match="text tower starts with random weights.*hfl/rbt3"):
        model = open_clip.create_model("cnclip-rn50")
    assert model.text.transformer.encoder.layer[0].output.dense.weight.detach().std() > 0.01


def test_create_model_from_pretrained_and_load_checkpoint(tmp_path):
    model, transform = open_clip.create_model_from_pretrained("zhclip-tiny", pretrained="digits")
    path = tmp_path / "mine.pt"
    torch.save(
        {"epoch": 3, "name": "run", "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, path
    )
    other = open_clip.create_model("zhclip-tiny")
    result = open_clip.load_checkpoint(other, str(path))
    assert not result.missing_keys and not result.unexpected_keys
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    with pytest.raises(RuntimeError, match="equired"):
        open_clip.create_model_from_pretrained("zhclip-tiny")


def test_preprocessing_arguments_win(tmp_path):
    _, _, transform = open_clip.create_model_and_transforms(
        "zhclip-tiny", pretrained="digits", image_mean=(0.5, 0.5, 0.5), image_resize_mode="squash"
    )
    assert "mean=(0.5, 0.5, 0.5)" in repr(transform) and "CenterCrop" not in repr(transform)
