"""Measure every built-in model and write `src/zhclip_openclip/data/model_facts.json`.

    python benchmarks/model_facts.py          # write
    python benchmarks/model_facts.py --check  # exit 1 if the file is not what would be written

Models are built without initialising them, so this takes seconds and little memory.
"""

from __future__ import annotations

import argparse
import json
import sys

import open_clip

from zhclip_openclip import _paths
from zhclip_openclip.checkpoints._load import signature
from zhclip_openclip.checkpoints._no_init import NoInit
from zhclip_openclip.families import all_families

PATH = _paths.DATA / "model_facts.json"
TEXT_KEYS = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size max_position_embeddings "
    "type_vocab_size"
).split()


def image_tower(model, config: dict) -> dict:
    """Sizes of the image tower under the names that Hugging Face's CLIPVisionConfig has for them."""
    visual = model.visual
    size = config["vision_cfg"].get("image_size", 224)
    if hasattr(visual, "trunk"):
        block = visual.trunk.blocks[0]
        return {
            "image_size": size,
            "patch_size": visual.trunk.patch_embed.patch_size[0],
            "hidden_size": visual.trunk.embed_dim,
            "num_hidden_layers": len(visual.trunk.blocks),
            "num_attention_heads": block.attn.num_heads,
            "intermediate_size": block.mlp.fc1.out_features,
        }
    if hasattr(visual, "transformer"):
        block = visual.transformer.resblocks[0]
        return {
            "image_size": size,
            "patch_size": visual.patch_size[0],
            "hidden_size": visual.transformer.width,
            "num_hidden_layers": visual.transformer.layers,
            "num_attention_heads": block.attn.num_heads,
            "intermediate_size": block.mlp.c_fc.out_features,
        }
    return {"image_size": size}  # a ResNet, which Hugging Face's CLIP does not have


def facts() -> dict:
    result = {}
    for family in all_families().values():
        if family.configs is not None:
            continue  # not of this package
        for spec in family.models:
            with NoInit():
                model = open_clip.create_model(spec.name, pretrained_text=False)
            result[spec.name] = {
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "embed_dim": spec.config()["embed_dim"],
                "image_tower": image_tower(model, spec.config()),
                "text_tower": {key: getattr(model.text.config, key) for key in TEXT_KEYS},
                "signature": signature({name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}),
            }
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    args = parser.parse_args()
    text = json.dumps(facts(), indent=1) + "\n"
    if args.check:
        same = text == PATH.read_text(encoding="utf-8")
        print("up to date" if same else f"{PATH} is stale: run python benchmarks/model_facts.py")
        return 0 if same else 1
    temporary = PATH.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(PATH)
    print(f"{PATH}: {len(json.loads(text))} models")
    return 0


if __name__ == "__main__":
    sys.exit(main())
