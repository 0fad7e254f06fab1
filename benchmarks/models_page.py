"""Write `docs/models.md` from the families' data sheets and the measured facts.

python benchmarks/models_page.py          # write
python benchmarks/models_page.py --check  # exit 1 if the page is not what would be written
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from zhclip_openclip.checkpoints._load import model_facts
from zhclip_openclip.families import Family, Model, Tag, all_families
from zhclip_openclip.towers.patches import MOST, PATCH

PATH = Path(__file__).parents[1] / "docs" / "models.md"
HUB = "https://huggingface.co/"

INTRODUCTION = """\
# Models

<!-- Written by `python benchmarks/models_page.py`; a test notices when it is stale. -->

Every name works wherever open_clip takes a model name, with the tags of its row as `pretrained`; the first tag is the
default of `clip_benchmark eval --model NAME`. An alias means the model that it stands for. Weights are fetched from the
repository of the tag; where the image tower is published apart, from both, and each file once. Models of open_clip's
own that know Chinese stand beside these in every table: [multilingual.md](multilingual.md).
"""


ACTIVATIONS = {"quick_gelu": "QuickGELU", "gelu": "GELU", "gelu_pytorch_tanh": "GELU (tanh)", None: "ReLU"}


def link(repo: str, host: str = "") -> str:
    return f"[{repo}]({host or HUB}{repo})" if repo else "in this package"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def text_tower(model: Model) -> str:
    """Its encoder, what is pooled, and the head on it."""
    text = model.config()["text_cfg"]
    if not text.get("hf_model_name"):  # open_clip's own
        attention = "each token sees all" if text.get("no_causal_mask") else "causal"
        pooled = {"last": "last token", "eos": "end token"}[text["pool_type"]]
        vocabulary = f"{text['vocab_size']:,} tokens of {text['hf_tokenizer_name']}"
        head = "linear_bias" if text.get("proj_bias") else "linear"
        return f"transformer of {text['layers']} x {text['width']} ({attention}), {vocabulary}, {pooled}, {head}"
    pooled, head = text["hf_pooler_type"].removesuffix("_pooler"), text["hf_proj_type"] or "no head"
    return f"{text['hf_model_name']}, {pooled}, {head}"


def image_side(family: Family, model: Model) -> str:
    size = model_facts()[model.name]["image_tower"]["image_size"]
    if family.processor_of(model) == "patches":
        return f"up to {MOST:,} patches of {PATCH} px, its shape kept"
    return f"{size} px, {'squashed' if model.preprocess.get('resize_mode') == 'squash' else 'cropped'}"


def model_rows(family: Family) -> list[list[str]]:
    rows = []
    for model in family.models:
        facts, text = model_facts()[model.name], model.config()["text_cfg"]
        vision = facts["image_tower"]
        activation = ACTIVATIONS[vision.get("hidden_act")]
        rows.append(
            [
                f"`{model.name}`",
                ", ".join(f"`{alias}`" for alias, name in family.aliases.items() if name == model.name),
                f"{facts['parameters'] / 1e6:.1f} M",
                f"{facts['embed_dim']}",
                f"{image_side(family, model)}, {activation}",
                text_tower(model),
                f"{text['context_length']}",
            ]
        )
    return rows


def tag_rows(family: Family) -> list[list[str]]:
    def row(model: Model, name: str, tag: Tag) -> list[str]:
        apart = link(tag.image_repo) if tag.image_repo else "with it"
        return [f"`{model.name}`", f"`{name}`", link(tag.repo, tag.host), apart, tag.licence, tag.note]

    return [row(model, name, tag) for model in family.models for name, tag in model.tags.items()]


def section(family: Family) -> str:
    about = [f"Code: <{family.source}>."] if family.source.startswith("http") else []
    about += [f"Paper: <{family.paper}>."] if family.paper else []
    about += [f"Note: {family.note}."] if family.note else []
    head = ["model", "alias", "parameters", "features", "image tower", "text tower, pooling, head", "tokens"]
    return "\n\n".join(
        [
            f"## {family.title}",
            *([" ".join(about)] if about else []),
            table(head, model_rows(family)),
            table(["model", "tag", "weights", "image tower", "licence of the weights", "note"], tag_rows(family)),
        ]
    )


def page() -> str:
    families = [family for family in all_families().values() if family.configs is None]  # those of this package
    families.sort(key=lambda family: (family.name == "tiny", family.name != "zhclip", family.name))
    return "\n\n".join([INTRODUCTION.rstrip(), *(section(family) for family in families)]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    args = parser.parse_args()
    if args.check:
        same = PATH.is_file() and PATH.read_text(encoding="utf-8") == page()
        print("up to date" if same else f"{PATH} is stale: run python benchmarks/models_page.py")
        return 0 if same else 1
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(page(), encoding="utf-8")
    print(PATH)
    return 0


if __name__ == "__main__":
    sys.exit(main())
