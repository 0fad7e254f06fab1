"""Measure every built-in model and write `src/zhclip_openclip/data/model_facts.json`.

    python benchmarks/model_facts.py          # write
    python benchmarks/model_facts.py --check  # exit 1 if the file is not what would be written

Models are built on the meta device, so this takes seconds and no memory.
"""

from __future__ import annotations

import argparse
import json
import sys

import open_clip
import torch

from zhclip_openclip import _paths
from zhclip_openclip.checkpoints._load import signature, tower
from zhclip_openclip.families import Model, all_families

PATH = _paths.DATA / "model_facts.json"
TEXT_KEYS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "hidden_act",
    "layer_norm_eps",
)


def image_tower(model, config: dict) -> dict:
    """Sizes of the image tower under the names that Hugging Face's CLIPVisionConfig has for them."""
    visual = model.visual
    size = config["vision_cfg"].get("image_size", 224)
    if hasattr(visual, "trunk") and hasattr(visual.trunk, "embeds"):  # timm's NaFlexVit
        block, embeds = visual.trunk.blocks[0], visual.trunk.embeds
        return {
            "image_size": size,
            "patch_size": embeds.patch_size[0],
            "num_patches": embeds.pos_embed.shape[1] * embeds.pos_embed.shape[2],
            "hidden_size": visual.trunk.embed_dim,
            "num_hidden_layers": len(visual.trunk.blocks),
            "num_attention_heads": block.attn.num_heads,
            "intermediate_size": block.mlp.fc1.out_features,
            "hidden_act": activation(block.mlp.act),
            "layer_norm_eps": visual.trunk.norm.eps,
        }
    if hasattr(visual, "trunk"):
        block = visual.trunk.blocks[0]
        return {
            "image_size": size,
            "patch_size": visual.trunk.patch_embed.patch_size[0],
            "hidden_size": visual.trunk.embed_dim,
            "num_hidden_layers": len(visual.trunk.blocks),
            "num_attention_heads": block.attn.num_heads,
            "intermediate_size": block.mlp.fc1.out_features,
            "hidden_act": "quick_gelu" if "quickgelu" in config["vision_cfg"]["timm_model_name"] else "gelu",
            "layer_norm_eps": visual.trunk.norm.eps,
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
            "hidden_act": "quick_gelu" if config.get("quick_gelu") else "gelu",
            "layer_norm_eps": visual.ln_post.eps,
        }
    return {"image_size": size}  # a ResNet, which Hugging Face's CLIP does not have


def activation(module) -> str:
    """An activation in the words of transformers."""
    if "quick" in type(module).__name__.lower():
        return "quick_gelu"
    tanh = "tanh" in type(module).__name__.lower() or getattr(module, "approximate", "none") == "tanh"
    return "gelu_pytorch_tanh" if tanh else "gelu"


def text_tower(text, config: dict) -> dict:
    """Sizes of the text tower under the names that its transformers config has for them."""
    if config["text_cfg"].get("hf_model_name"):
        return {key: getattr(text.config, key) for key in TEXT_KEYS if hasattr(text.config, key)}
    block = text.transformer.resblocks[0]  # open_clip's own, as CLIP's and SigLIP's in transformers
    return {
        "vocab_size": text.vocab_size,
        "hidden_size": text.width,
        "num_hidden_layers": text.transformer.layers,
        "num_attention_heads": text.heads,
        "intermediate_size": block.mlp.c_fc.out_features,
        "hidden_act": activation(block.mlp.gelu),
        "layer_norm_eps": text.ln_final.eps,
    }


def measure(spec: Model) -> dict:
    """Facts of one model, from the model itself."""
    with torch.device("meta"):
        model = open_clip.create_model(spec.name, pretrained_text=False, device="meta")
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "embed_dim": spec.config()["embed_dim"],
        "image_tower": image_tower(model, spec.config()),
        "text_tower": text_tower(model.text, spec.config()),
        "signature": signature(shapes),
        "image_signature": signature(tower(shapes, "image")),
        "text_signature": signature(tower(shapes, "text")),
    }


def facts() -> dict:
    families = [family for family in all_families().values() if family.configs is None]  # those of this package
    return {spec.name: measure(spec) for family in families for spec in family.models}


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
