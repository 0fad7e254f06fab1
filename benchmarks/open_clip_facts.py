"""Measure every model of open_clip that has published weights, for plans that neither build nor fetch any of them, and
write `src/zhclip_openclip/data/open_clip_models.json`.

    python benchmarks/open_clip_facts.py          # write
    python benchmarks/open_clip_facts.py --check  # exit 1 if the file is not what would be written

Models are built on the meta device: minutes, and no memory. Operations are those of one image, and of one text of the
model's full length, to which open_clip pads it, as PyTorch counts them.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from unittest import mock

import open_clip
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from zhclip_openclip import _paths
from zhclip_openclip.families import find

PATH = _paths.DATA / "open_clip_models.json"
#: Text towers that open_clip asks the hub about, as the config.json of these repositories describes them.
TEXT_TOWERS = {
    "roberta-base": transformers.RobertaConfig(
        vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5
    ),
    "xlm-roberta-base": transformers.XLMRobertaConfig(
        vocab_size=250002, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5
    ),
    "xlm-roberta-large": transformers.XLMRobertaConfig(
        vocab_size=250002,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
    ),
    "facebook/nllb-200-distilled-600M": transformers.M2M100Config(
        vocab_size=256206, d_model=1024, encoder_layers=12, encoder_ffn_dim=4096, decoder_layers=12
    ),
    "facebook/nllb-200-distilled-1.3B": transformers.M2M100Config(
        vocab_size=256206, d_model=1024, encoder_layers=24, encoder_ffn_dim=8192, decoder_layers=24
    ),
}


@contextmanager
def without_the_hub():
    """Text towers are built from the table above."""
    with mock.patch.object(transformers.AutoConfig, "from_pretrained", lambda name, **_: TEXT_TOWERS[name]):
        yield


def measure(name: str) -> dict[str, int]:
    """parameters, image_operations, text_operations of a model of open_clip."""
    config = open_clip.get_model_config(name)["text_cfg"]
    length = config.get("context_length", 77)
    with without_the_hub(), torch.device("meta"):
        model = open_clip.create_model(name, pretrained_text=False, load_weights=False, device="meta").eval()
        model.requires_grad_(False)
        size = model.visual.image_size
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        with torch.no_grad():
            image = _counted(lambda: model.encode_image(torch.empty(1, 3, height, width)))
            if config.get("hf_model_name"):  # which look at values, and there are none on the meta device
                text = _of_text_tower(TEXT_TOWERS[config["hf_model_name"]], length)
            else:
                text = _counted(lambda: model.encode_text(torch.ones(1, length, dtype=torch.long)))
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "image_operations": image,
        "text_operations": text,
    }


def _counted(call: Callable) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _of_text_tower(config, length: int) -> int:
    """2 x tokens x parameters of its layers, and the two products of the attention."""
    inner = getattr(config, "intermediate_size", None) or config.encoder_ffn_dim
    width, layers = config.hidden_size, config.num_hidden_layers
    return layers * (2 * length * (4 * width**2 + 2 * width * inner) + 4 * length**2 * width)


def names() -> list[str]:
    return sorted({name for name, _ in open_clip.list_pretrained() if find(name) is None})


def facts(of: Iterable[str] | None = None) -> dict[str, dict[str, int]]:
    logging.disable(logging.WARNING)  # open_clip says that these models have no weights
    return {name: measure(name) for name in of or names()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    args = parser.parse_args()
    lines = [f" {json.dumps(name)}: {json.dumps(entry)}" for name, entry in facts().items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    if args.check:
        same = text == PATH.read_text(encoding="utf-8")
        print("up to date" if same else f"{PATH} is stale: run python benchmarks/open_clip_facts.py")
        return 0 if same else 1
    temporary = PATH.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(PATH)
    print(f"{PATH}: {len(lines)} models")
    return 0


if __name__ == "__main__":
    sys.exit(main())
