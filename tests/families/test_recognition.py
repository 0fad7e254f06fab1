"""Every published file is offered to every family: exactly one says that it is theirs."""

from __future__ import annotations

import pytest
import torch

from tests.families.test_full_size import file_of
from tests.support import reference_metaclip2, references
from tests.support.references import CN_CLIP, REFERENCES
from zhclip_openclip.checkpoints import _load
from zhclip_openclip.families import all_families, find


def files() -> dict[str, tuple[str, dict]]:
    """Name of a file -> its family, its tensors; on the meta device."""
    result = {}
    with torch.device("meta"):
        for (name, tag), build in REFERENCES.items():
            family, model = find(name)
            result[f"{name} {tag}"] = family.name, build(layers=2).published()[model.tags[tag].repo]
        for size in ("s-16", "l-14", "b-32-mt5"):
            result[f"{size} of Meta"] = "metaclip2", reference_metaclip2.metas_own(size, layers=2)
        for name, sources in CN_CLIP.items():
            result[f"cn_clip {name}"] = "cnclip", references.cn_clip("own", *sources, layers=2).published()["own"]
        saved = references.altclip("x", layers=2).modules["x"].state_dict()
    result["altclip in memory"] = "altclip", saved
    # transformers 5.2 writes the image tower's layers under the singular, too
    result["altclip written"] = "altclip", {k.replace("encoder.layers.", "encoder.layer."): v for k, v in saved.items()}
    return result


FILES = files()


@pytest.mark.parametrize("name", FILES)
def test_one_family_says_yes(name):
    wanted, state = FILES[name]
    keys = list(state)
    model = name.split()[0]  # which matters where a file holds several
    yes = {
        (family.name, layout.name, layout.part)
        for family in all_families().values()
        for layout in family.layouts
        if layout.recognises(file_of(state).shapes) and layout.makes(model)
    }
    assert {family for family, _, _ in yes} == {wanted}
    assert len(yes) == 1
    family, layout = _load.recognise(file_of(state), model)
    assert family.name == wanted
    assert {(family.name, layout.name, layout.part)} == yes
    unused = ("position_ids", "pooler", "boxtext_head", "dense_feature_head")
    unused += ("text_model.head", "position_embedding.") if model.endswith("-long") else ()
    unused += ("longtext_head", "position_embedding_") if wanted == "fgclip2" and not model.endswith("-long") else ()
    unused += (".B.", "norm", "itc_", "mask_token", "logit_vl_scale") if wanted == "m2-encoder" else ()
    assert all(layout.targets(key) or any(word in key for word in unused) for key in keys)


@pytest.mark.parametrize("form", ["transformers", "open_clip"])
def test_clip_itself_is_nobodys_model(form):
    """MetaCLIP 2's files have the same keys and another vocabulary."""
    import open_clip

    with torch.device("meta"):
        clip = (
            references.openai_clip("b-32", 2, 512)
            if form == "transformers"
            else open_clip.create_model("ViT-S-32", device="meta")
        )
    shapes = file_of(clip.state_dict()).shapes
    takers = {
        (family.name, layout.part)
        for family in all_families().values()
        for layout in family.layouts
        if layout.recognises(shapes)
    }
    assert takers == {("taiyiclip", "image"), ("mclip", "image")}


def test_no_stock_config_of_open_clip_has_a_text_tower_of_ours():
    """`hf_model_name` in our packaged text configs is how a text tower is known to be ours."""
    import json
    from pathlib import Path

    import open_clip

    from zhclip_openclip.towers import text_configs

    stock = list((Path(open_clip.__file__).parent / "model_configs").glob("*.json"))
    names = [json.loads(path.read_text())["text_cfg"].get("hf_model_name") for path in stock]
    assert len(stock) > 100
    assert len([name for name in names if name]) >= 5
    assert not [name for name in names if text_configs.is_known(name)]
    ours = [model.config()["text_cfg"].get("hf_model_name") for f in all_families().values() for model in f.models]
    assert all(text_configs.is_known(name) for name in ours if name)
