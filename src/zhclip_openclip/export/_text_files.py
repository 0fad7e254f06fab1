"""Tokenizer files and preprocessing in the forms of Hugging Face."""

from __future__ import annotations

import json
from pathlib import Path

from zhclip_openclip._reading import read_json
from zhclip_openclip.export import _tokenizer_json
from zhclip_openclip.export._export_error import ExportError
from zhclip_openclip.export._source import Source

_RESAMPLE = {"bilinear": 2, "bicubic": 3}


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tokenizer(source: Source, folder: Path, ready: bool = False) -> None:
    """`tokenizer.json`, complete, and the `tokenizer_config.json` with which transformers takes it as it is.

    ready: see :func:`zhclip_openclip.export._tokenizer_json.build`.
    """
    theirs = source.tokenizer.tokenizer
    if not hasattr(theirs, "backend_tokenizer"):  # sentencepiece's, as it is published
        theirs.save_pretrained(folder)
        path = folder / "tokenizer_config.json"
        write_json(path, {**read_json(path, ExportError), "model_max_length": source.context_length})
        return
    _tokenizer_json.build(source, ready).save(str(folder / "tokenizer.json"))
    names = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    tokens = {name: str(getattr(theirs, name)) for name in names if getattr(theirs, name, None) is not None}
    config = {
        # The class that takes the file as it is; BERT's own would make a normaliser of its own.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": source.context_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "right",
        "split_special_tokens": bool(getattr(theirs, "split_special_tokens", False)),
        "clean_up_tokenization_spaces": False,
        **tokens,
    }
    write_json(folder / "tokenizer_config.json", config)


def image_processor(source: Source, kind: str = "CLIPImageProcessor") -> dict:
    """What `preprocessor_config.json` says, for the image processor `kind` of transformers."""
    told, size = source.preprocess, source.image_size
    squash = told.get("resize_mode") == "squash"
    square = {"height": size, "width": size}
    return {
        "image_processor_type": kind,
        "do_convert_rgb": True,
        "do_resize": True,
        "size": square if squash else {"shortest_edge": size},
        "resample": _RESAMPLE[told.get("interpolation", "bicubic")],
        "do_center_crop": not squash,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(told["mean"]),
        "image_std": list(told["std"]),
    }
