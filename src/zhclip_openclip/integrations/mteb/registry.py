"""Our entries in mteb's registry of models. Nothing here imports torch: `import mteb` does not either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.families import Family, Model, Tag, all_families

#: In the place of an organisation, where a repository has none of our weights: those in the package, and those whose
#: repository's name is taken.
OURS = "zhclip-openclip"
#: Every model of ours knows texts in simplified Chinese. Which others it knows its family does not say.
_LANGUAGES = ["zho-Hans"]
_HUB = "https://huggingface.co/"
_BYTES_A_PARAMETER = 4  # loaded as fp32


@dataclass(frozen=True)
class Published:
    """One published set of weights: `tag` is the name that open_clip has for `weights`."""

    family: Family
    model: Model
    tag: str
    weights: Tag


def published(registry: dict) -> dict[str, Published]:
    """mteb's name of each published set of weights: its repository's.

    Where it has none, and where an entry of somebody else's or another model of ours has that name, it is
    `zhclip-openclip/MODEL`, or `zhclip-openclip/MODEL-TAG` if the tag is not the model's default. A model's twin in
    another activation has no entry: the same name loads the one that `config.json` says.
    """
    taken = {name for name, meta in registry.items() if meta.loader is not zhclip_openclip_loader}
    found: dict[str, Published] = {}
    for family in all_families().values():
        twins = {model.quickgelu for model in family.models}
        for model in family.models:
            if model.name in twins:
                continue
            for tag, weights in model.tags.items():
                name = weights.repo
                if "/" not in name or name in taken or name in found:
                    name = f"{OURS}/{model.name}" + ("" if tag == model.default_tag else f"-{tag}")
                found[name] = Published(family, model, tag, weights)
    return found


def with_ours(registry: dict) -> dict:
    """Our entries put into `mteb.models.model_implementations.MODEL_REGISTRY`; those that are there stay."""
    for name, entry in published(registry).items():
        if name not in registry:
            registry[name] = meta(name, entry)
    return registry


def meta(name: str, entry: Published):
    """The `ModelMeta` of an entry: what the family's data sheet and `model_facts` say of it, None for what they do not.

    revision is open_clip's tag: without one mteb takes any result of that name for this one's. training_datasets is
    None, which is unknown, and not the empty set, which would be a promise.
    """
    from mteb.models.model_meta import ModelMeta

    from zhclip_openclip.checkpoints import _load

    config = entry.model.config()
    facts = _load.model_facts().get(entry.model.name, {})
    parameters, text = facts.get("parameters"), facts.get("text_tower", {})
    return ModelMeta(
        loader=zhclip_openclip_loader,
        name=name,
        revision=entry.tag,
        release_date=None,
        languages=_LANGUAGES,
        n_parameters=parameters,
        n_embedding_parameters=text["vocab_size"] * text["hidden_size"] if text else None,
        memory_usage_mb=parameters * _BYTES_A_PARAMETER / 2**20 if parameters else None,
        max_tokens=config["text_cfg"].get("context_length", 77),  # open_clip's default
        embed_dim=config["embed_dim"],
        license=_licence(entry.weights.licence),
        open_weights=True,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        reference=f"{entry.weights.host or _HUB}{entry.weights.repo}" if entry.weights.repo else None,
        similarity_fn_name="cosine",
        use_instructions=False,
        training_datasets=None,
        modalities=["image", "text"],
    )


def _licence(stated: str) -> str | None:
    """In mteb's vocabulary; None for one that it does not have."""
    from mteb.types import Licenses

    words = get_args(Licenses)
    if stated.startswith("not stated"):
        return next((word for word in words if word == "not specified"), None)
    return next((word for word in words if word == stated.lower()), None)


def zhclip_openclip_loader(name: str, revision: str | None = None, device: Any = None, **options: Any):
    """What mteb calls for an entry of ours. Its own name is one that no loader of mteb has: results are read by it.

    options: `pretrained`, other weights for the same model (a tag, a file, a folder); `amp`, mixed precision.

    Raises ZhclipError: no such entry, revision (see `meta`) or option.
    """
    from mteb.models.model_implementations import MODEL_REGISTRY

    from zhclip_openclip.integrations.mteb import encoder

    entries = published(MODEL_REGISTRY)
    if name not in entries:
        raise ZhclipError(f"{name} is no model of ours in mteb; there are {', '.join(sorted(entries))}")
    entry = entries[name]
    if revision not in (None, entry.tag):
        raise ZhclipError(f"{name} has no revision {revision!r}; it has one, which is called {entry.tag}")
    options.pop("embed_dim", None)  # mteb has compared it with the entry's, and it has one only
    unknown = sorted(options.keys() - encoder.OPTIONS)
    if unknown:
        raise ZhclipError(f"{name} has no option {', '.join(unknown)}; there are {', '.join(encoder.OPTIONS)}")
    return encoder.load(entry.model.name, entry.tag, device, **options)
