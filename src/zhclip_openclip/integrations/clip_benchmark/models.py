"""Our models as clip_benchmark loads and lists them."""

from __future__ import annotations

from zhclip_openclip import features
from zhclip_openclip.families import all_families, all_names, find
from zhclip_openclip.integrations.clip_benchmark import evaluation

#: clip_benchmark's own default of --pretrained.
DEFAULT_PRETRAINED = ["laion400m_e32"]
#: The six systems of the published comparison: `--pretrained_model chinese_clip`.
COMPARISON = ("zhclip", "altclip", "cnclip", "taiyiclip", "mclip", "clip-chinese")


def load_clip(original):
    """What stands for `clip_benchmark.models.load_clip`."""

    def load_clip(model_type, model_name, pretrained, cache_dir, device="cuda"):
        loaded = once(model_type, model_name, pretrained, cache_dir, device)
        if running := evaluation.current():
            running.transform = loaded[1]
        return loaded

    def once(model_type, model_name, pretrained, cache_dir, device):
        asked = (model_type, model_name, pretrained, cache_dir, str(device))
        kept = features.current().kept
        if kept is None:
            return load(*asked[:-1], device)
        if asked not in kept:
            kept.clear()  # before the next one is made: there may not be room for two
            kept[asked] = load(*asked[:-1], device)
        return kept[asked]

    def load(model_type, model_name, pretrained, cache_dir, device):
        if model_type != "open_clip" or find(model_name) is None:
            return original(model_type, model_name, pretrained, cache_dir, device)
        import open_clip

        model, _, transform = open_clip.create_model_and_transforms(
            model_name, pretrained=pretrained, cache_dir=cache_dir, device=device
        )
        tokenizer = open_clip.get_tokenizer(model_name, cache_dir=cache_dir, pretrained=pretrained)
        return model, transform, tokenizer

    return load_clip


def default_tag(name: str) -> str:
    """The tag that an absent --pretrained means."""
    found = find(name)
    return found[1].default_tag if found else DEFAULT_PRETRAINED[0]


def add_collections(collection: dict) -> None:
    """Add a collection for each of our model names, each family and the six systems of the published comparison."""
    ours = set(all_names())
    # `openclip_all` is made from open_clip.list_pretrained(), which lists ours too.
    collection["openclip_all"] = [entry for entry in collection["openclip_all"] if entry[0] not in ours]
    added = {name: [(name, default_tag(name))] for name in sorted(ours)}
    added["chinese_clip"] = [(name, default_tag(name)) for name in COMPARISON if name in ours]
    for family in all_families().values():
        added[f"{family.name}_all"] = [(model.name, tag) for model in family.models for tag in model.tags]
    for name, models in added.items():
        collection.setdefault(name, models)


def add_nllb_spellings(lang_map: dict) -> None:
    """Chinese prompts reach NLLB-CLIP under more spellings than its table has; those that it has stay."""
    from zhclip_openclip.prompts import languages

    for spelling in ("zh-cn", "zh_cn", "zh_CN", "zh-CN", "zh-Hans", "zh_Hans", "zh-Hant", "zh_Hant"):
        traditional = languages.normalise(spelling) == languages.TRADITIONAL
        lang_map.setdefault(spelling, "zho_Hant" if traditional else "zho_Hans")
