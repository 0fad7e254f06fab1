"""Our models as clip_benchmark loads and lists them."""

from __future__ import annotations

from zhclip_openclip import features
from zhclip_openclip._errors import CheckpointError, ZhclipError, one_line
from zhclip_openclip.checkpoints import _open_clip_models
from zhclip_openclip.families import all_families, all_names, find
from zhclip_openclip.families._collections import SYSTEMS, collections
from zhclip_openclip.features.spent import LOADING, timed
from zhclip_openclip.integrations.clip_benchmark import evaluation, texts

#: clip_benchmark's own default of --pretrained.
DEFAULT_PRETRAINED = ["laion400m_e32"]
#: The six systems of the published comparison: `--pretrained_model chinese_clip`.
COMPARISON = tuple(name for name, _ in collections()[SYSTEMS])


def load_clip(original):
    """What stands for `clip_benchmark.models.load_clip`."""

    def load_clip(model_type, model_name, pretrained, cache_dir, device="cuda"):
        asked = (model_type, model_name, pretrained, cache_dir, str(device))
        kept = features.current().kept
        if kept is None:
            loaded = load(*asked[:-1], device)
        else:
            if asked not in kept:
                kept.clear()  # before the next one is made: there may not be room for two
                kept[asked] = once(*asked[:-1], device)
            loaded = kept[asked]
        model, transform, tokenizer = loaded
        if running := evaluation.current():
            running.transform = transform
        return model, transform, texts.handled(model_type, model_name, model, tokenizer)

    def once(model_type, model_name, pretrained, cache_dir, device):
        """As `load`. Raises CheckpointError: whatever is wrong, so that what has several evaluations tries it once."""
        try:
            return load(model_type, model_name, pretrained, cache_dir, device)
        except (ZhclipError, MemoryError):
            raise
        except Exception as error:
            raise CheckpointError(f"{model_name} with {pretrained} cannot be loaded: {one_line(error)}") from error

    def load(*asked):
        with timed(LOADING):
            return _load(*asked)

    def _load(model_type, model_name, pretrained, cache_dir, device):
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
    """Add a collection for each of our model names, each family, and those of `families._collections`: the six systems
    of the published comparison, and open_clip's own models that know Chinese."""
    ours = set(all_names())
    # `openclip_all` is made from open_clip.list_pretrained(), which lists ours too.
    collection["openclip_all"] = [entry for entry in collection["openclip_all"] if entry[0] not in ours]
    added = {name: [(name, default_tag(name))] for name in sorted(ours)}
    for name, models in collections().items():
        # Another version of open_clip may not have them all, and `--pretrained_model` would end at the first of these.
        added[name] = [
            (model, tag or default_tag(model))
            for model, tag in models
            if model in ours or (tag and _open_clip_models.has_tag(model, tag))
        ]
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
