"""What is written from the families is as they are now."""

from __future__ import annotations

import json

from tests.support.reduced import load_script
from zhclip_openclip.families import all_families


def test_docs_models_md_is_up_to_date():
    script = load_script("models_page")
    assert script.PATH.read_text(encoding="utf-8") == script.page(), "run python benchmarks/models_page.py"


def test_model_facts_are_up_to_date():
    script = load_script("model_facts")
    assert json.loads(script.PATH.read_text(encoding="utf-8")) == script.facts(), "run python benchmarks/model_facts.py"


def test_every_model_and_tag_is_on_the_page():
    page = load_script("models_page").PATH.read_text(encoding="utf-8")
    for family in all_families().values():
        for model in family.models:
            assert f"`{model.name}`" in page
            for tag in model.tags.values():
                assert not tag.image_repo or tag.image_repo in page
                assert not tag.repo or tag.repo in page
        for alias in family.aliases:
            assert f"`{alias}`" in page


def test_every_family_has_a_file_an_entry_point_and_the_documented_steps_exist():
    from pathlib import Path

    import zhclip_openclip.families as package

    root = Path(__file__).parents[2]
    modules = {p.stem for p in Path(package.__file__).parent.glob("*.py") if not p.stem.startswith("_")}
    assert modules == {family.name.replace("-", "_") for family in all_families().values() if family.configs is None}
    guide = (root / "docs/adding_a_family.md").read_text(encoding="utf-8")
    for path in ("tests/families/test_external_family.py", "src/zhclip_openclip/families/cnclip.py"):
        assert path in guide and (root / path).is_file()
