"""Every published file is offered to every family: exactly one says that it is theirs."""

from __future__ import annotations

import pytest
import torch

from tests.families.test_full_size import file_of
from tests.support import references
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
    yes = {
        (family.name, layout.name, layout.part)
        for family in all_families().values()
        for layout in family.layouts
        if layout.recognises(keys)
    }
    assert {family for family, _, _ in yes} == {wanted}
    assert len(yes) == 1
    family, layout = _load.recognise(file_of(state))
    assert family.name == wanted
    assert all(layout.targets(key) or any(word in key for word in ("position_ids", "pooler")) for key in keys)


def test_clip_itself_is_nobodys_model():
    with torch.device("meta"):
        state = references.openai_clip("b-32", 2, 512).state_dict()
    takers = {
        (family.name, layout.part)
        for family in all_families().values()
        for layout in family.layouts
        if layout.recognises(list(state))
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
    ours = [model.config()["text_cfg"]["hf_model_name"] for f in all_families().values() for model in f.models]
    assert all(text_configs.is_known(name) for name in ours)
