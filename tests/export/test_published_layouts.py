"""What is written in the families' published layouts is what is published there, bit for bit, and is read back so."""

from __future__ import annotations

import re

import open_clip
import pytest
import torch

from tests.support import references
from tests.support.exported import MODELS, publish, published_source
from tests.support.reduced import LAYERS, VOCABULARY
from zhclip_openclip.export import _check, _options, _published, cn_clip_file, transformers_folder
from zhclip_openclip.families import find

pytestmark = pytest.mark.usefixtures("reduced")

#: What a published file holds and a model of ours does not: buffers, poolers and heads that nothing uses, OpenAI's own
#: text tower.
UNUSED = r"position_ids$|token_type_ids$|lm_head\."
UNUSED_POOLERS = r"^text_model\.roberta\.pooler|^transformer\.pooler|^bert\.pooler"
OPENAI_TEXT = (
    r"^text_model\.|^text_projection\.|^(?!visual|vision)(transformer|token_emb|positional|ln_final|text_proj)"
)


def assert_same_bits(ours: dict, theirs: dict, only_ours: set[str] = frozenset()) -> None:
    assert set(ours) - set(theirs) == only_ours
    assert set(theirs) <= set(ours)
    for key, tensor in theirs.items():
        assert ours[key].shape == tensor.shape, key
        assert torch.equal(ours[key], tensor), key


def without(state: dict, pattern: str) -> dict:
    return {key: tensor for key, tensor in state.items() if not re.search(pattern, key)}


@pytest.mark.parametrize("name", MODELS)
def test_the_same_bits_as_published(name, models_dir):
    family, model = find(name)
    reference = publish(name, models_dir)
    tag = model.tags[model.default_tag]
    built = open_clip.create_model(name, pretrained=model.default_tag)
    state = built.state_dict()
    published = reference.published()
    if family.name in _published.WHOLE:
        pooler = "" if family.name == "clip-chinese" else "|" + UNUSED_POOLERS + r"|^text_model\.pooler"
        theirs = without(published[tag.repo], UNUSED + pooler)
        unpublished = {"logit_scale"} if family.name == "zhclip" else set()
        assert_same_bits(_published.renamed(state, _published.WHOLE[family.name]), theirs, unpublished)
        return
    pooler = "" if family.name == "taiyiclip" else "|" + UNUSED_POOLERS
    text = _published.renamed(state, _published.text_layout(family, model))
    assert_same_bits(text, without(published[tag.repo], UNUSED + pooler))
    image = _published.renamed(state, _published.IMAGE)
    if name != "mclip-vit-b-16-plus-240":  # published in open_clip's names, written in Hugging Face's
        theirs = without(published[tag.image_repo], UNUSED + "|" + OPENAI_TEXT)
        image_alone = {key: tensor for key, tensor in image.items() if key != "logit_scale"}
        assert_same_bits(image_alone, {key: tensor for key, tensor in theirs.items() if key != "logit_scale"})
    assert torch.equal(image["logit_scale"], state["logit_scale"])


@pytest.mark.parametrize("name", ["cnclip-vit-b-16", "cnclip-rn50"])
def test_the_same_bits_as_cn_clip(name, tmp_path):
    """The state dict of cn_clip's own model, by way of ours."""
    reference = references.cn_clip("own", *references.CN_CLIP[name], layers=LAYERS, vocabulary=VOCABULARY)
    references.randomise(reference.modules["own"])
    torch.save(references.chinese_clip_training(reference.published()["own"]), tmp_path / "epoch_latest.pt")
    built = open_clip.create_model(name, pretrained=str(tmp_path / "epoch_latest.pt"))
    theirs = without(reference.modules["own"].state_dict(), UNUSED)
    assert_same_bits(_published.renamed(built.state_dict(), _published.CN_CLIP), theirs)


@pytest.mark.parametrize(
    "name", ["cnclip-vit-b-16", "altclip-vit-l-14", "clip-chinese-vit-b-32", "zhclip-vit-l-14", "metaclip2-vit-s-16"]
)
def test_a_folder_for_transformers_comes_back_with_the_same_bits(name, models_dir, tmp_path):
    """Fine-tuned, so that nothing in it is a constant: scale and biases too."""
    source = published_source(name, models_dir)
    references.randomise(source.module, seed=7)
    transformers_folder.write(source, tmp_path, _options.Options())
    back = open_clip.create_model(name, pretrained=str(tmp_path))
    assert back.zhclip_model == source.model.name
    texts = list(_check.TEXTS)
    assert torch.equal(open_clip.get_tokenizer(name, pretrained=str(tmp_path))(texts), source.ids(texts))
    for key, tensor in source.module.state_dict().items():
        assert torch.equal(back.state_dict()[key], tensor), key


@pytest.mark.parametrize(
    "name",
    [
        "taiyiclip-vit-b-32",
        pytest.param("taiyiclip-102m-vit-l-14", marks=pytest.mark.slow),
        "mclip-vit-b-32",
        "mclip-vit-b-16-plus-240",
    ],
)
def test_towers_apart_come_back_with_the_same_bits(name, models_dir, tmp_path, monkeypatch):
    source = published_source(name, models_dir)
    references.randomise(source.module, seed=7)
    transformers_folder.write(source, tmp_path, _options.Options())
    tag = source.model.tags[source.model.default_tag]
    root = tmp_path / "again"
    for part, repo in (("text", tag.repo), ("image", tag.image_repo)):
        (root / repo).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / part).rename(root / repo)
    if name == "mclip-vit-b-16-plus-240":
        (root / tag.image_repo / "model.safetensors").rename(root / tag.image_repo / tag.image_files[0])
    monkeypatch.setenv("ZHCLIP_MODELS_DIR", str(root))
    back = open_clip.create_model(name, pretrained=source.model.default_tag)
    for key, tensor in source.module.state_dict().items():
        assert torch.equal(back.state_dict()[key], tensor), key


@pytest.mark.parametrize("name", ["cnclip-vit-b-16", "cnclip-rn50"])
def test_a_pt_for_cn_clip_comes_back_with_the_same_bits(name, models_dir, tmp_path):
    reference = references.cn_clip("own", *references.CN_CLIP[name], layers=LAYERS, vocabulary=VOCABULARY)
    references.randomise(reference.modules["own"], seed=3)
    torch.save(references.chinese_clip_training(reference.modules["own"].state_dict()), tmp_path / "mine.pt")
    built = open_clip.create_model(name, pretrained=str(tmp_path / "mine.pt"))
    state = _published.renamed(built.state_dict(), _published.CN_CLIP)
    path = tmp_path / "written" / cn_clip_file.file_name(find(name)[1])
    path.parent.mkdir()
    torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}, path)
    back = open_clip.create_model(name, pretrained=str(path))
    for key, tensor in built.state_dict().items():
        assert torch.equal(back.state_dict()[key], tensor), key
