"""A tokenizer of Gemma's kind with a small vocabulary, in the files that SigLIP 2's repositories have."""

from __future__ import annotations

import json
from pathlib import Path

WORDS = ["一只", "小猫", "可爱", "▁cat", "▁a", "▁c", "at", "▁photo", "ph", "oto", "he", "hello", "el"]


def write(
    folder: Path, characters: str = "一只猫小可爱的坐在红色沙发上（全角）！，“”abcdefghijklmnopqrstuvwxyzT恤"
) -> None:
    """`tokenizer.json`, that ends every text with <eos> and falls back to bytes, and `tokenizer_config.json`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *dict.fromkeys(characters)]
    merges = [("一", "只"), ("小", "猫"), ("可", "爱"), ("▁", "a"), ("▁", "c"), ("a", "t"), ("▁c", "at")]
    merges += [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o")]
    pieces += ["".join(pair) for pair in merges]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.post_processor = processors.TemplateProcessing(
        single="$A <eos>", pair="$A <eos> $B <eos>", special_tokens=[("<eos>", vocabulary["<eos>"])]
    )
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    made.save(str(folder / "tokenizer.json"))
    told = {
        "tokenizer_class": "GemmaTokenizer", "add_bos_token": False, "add_eos_token": True, "padding_side": "right",
        "pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>",
        "model_input_names": ["input_ids"], "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
