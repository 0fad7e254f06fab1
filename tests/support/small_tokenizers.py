"""Tokenizers of the kinds that multilingual models have, with vocabularies made of a few sentences, in the files that
the hub has; and a small model of open_clip's own that has one. Not a test."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import transformers

#: Some sentences with all that is cleaned: full-width marks, letters and digits, quotes, capitals, ASCII punctuation.
SENTENCES = [
    "一只狗，坐在“警车”旁边。（2只）Ａ：好！_x",
    "两个人在海边散步，天很蓝。",
    "红色的汽车停在路边；旁边有一棵树。",
    "小猫趴在沙发上睡觉……真可爱！",
    "他说：“你好，世界！”",
    "a dog sits next to a police car.",
    "A Dog, Two people walk on the beach; the sky is blue.",
    "《红楼梦》是一本书，价格是 35.5 元。",
    "这是一张手写数字零一二三四五六七八九的图片",
    "數字的手寫圖片",
]
#: What captions can hold beyond that: over-long, empty, spaces, entities, letters whose lower case is longer.
TEXTS = [
    *SENTENCES,
    "",
    "  ",
    " 两个人  在海边\n散步；ＡＢＣ，Dog … 35.5元! ",
    "《红楼梦》" * 40,
    "&amp;“”①㎡",
    "▁狗",
    "İΣΑΣ ß",
    "３．５％～【重点】「引」·——",
    "no_punctuation: (at) all?!",
]


def _train(folder: Path, name: str, **options) -> Path:
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / name
    trainer.train(
        sentence_iterator=iter(SENTENCES * 30),
        model_prefix=str(made.with_suffix("")),
        hard_vocab_limit=False,
        character_coverage=1.0,
        minloglevel=2,
        **options,
    )
    made.with_suffix(".vocab").unlink()
    return made


def _saved(folder: Path, tokenizer, **told) -> Path:
    """What transformers writes, and what the hub's tokenizer_config.json says besides."""
    tokenizer.save_pretrained(folder / "hub")
    path = folder / "hub" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **told}))
    return folder / "hub"


def gemma(folder: Path) -> Path:
    """Of SigLIP 2: Gemma's, BPE with bytes, `<eos>` at the end, padded with 0."""
    pieces = {"pad_piece": "<pad>", "eos_piece": "<eos>", "bos_piece": "<bos>", "user_defined_symbols": ["<mask>"]}
    ids = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
    how = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": False}
    _train(folder, "tokenizer.model", model_type="bpe", vocab_size=700, byte_fallback=True, **pieces, **ids, **how)
    told = {"add_bos_token": False, "add_eos_token": True, "padding_side": "right"}
    return _saved(folder, transformers.GemmaTokenizer.from_pretrained(folder, **told), **told)


def t5(folder: Path) -> Path:
    """Of SigLIP's i18n models: mT5's, unigram after NFKC, `</s>` (1) at the end and as padding."""
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    _train(folder, "spiece.model", model_type="unigram", vocab_size=220, normalization_rule_name="nmt_nfkc", **ids)
    return _saved(folder, transformers.T5Tokenizer.from_pretrained(folder, extra_ids=0, pad_token="</s>"))


def xlm(folder: Path) -> Path:
    """Of MetaCLIP 2 (XLM-V) and LAION's models (XLM-R)."""
    _fairseq(folder, "unigram")
    return _saved(folder, transformers.XLMRobertaTokenizer.from_pretrained(folder))


def nllb(folder: Path) -> Path:
    """Of NLLB-CLIP: a code of the language in front."""
    _fairseq(folder, "bpe")
    codes = ["eng_Latn", "zho_Hans", "zho_Hant"]
    return _saved(folder, transformers.NllbTokenizer.from_pretrained(folder, extra_special_tokens=codes))


def _fairseq(folder: Path, kind: str) -> None:
    ids = {"bos_id": 1, "eos_id": 2, "unk_id": 0}
    _train(
        folder, "sentencepiece.bpe.model", model_type=kind, vocab_size=220, normalization_rule_name="nmt_nfkc", **ids
    )


def siglip(folder: Path) -> None:
    """A sentencepiece model with the special tokens of SigLIP's: <pad> 0, </s> 1, <unk> 2."""
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "text"
    text.write_text("\n".join(["一只可爱的小猫坐在红色的沙发上", "两个男人踢足球", "a cat sits on a sofa abc"] * 50))
    trainer.train(
        input=str(text), model_prefix=str(folder / "spiece"), vocab_size=60, hard_vocab_limit=False, minloglevel=2,
        model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1, add_dummy_prefix=False,
    )  # fmt: skip
    text.unlink()
    (folder / "spiece.vocab").unlink()


def model(folder: Path, tokenizer: Path, name: str = "vit-tiny-siglip2") -> Path:
    """A config that open_clip takes, of a model with that tokenizer and SigLIP 2's cleaning, and weights for it.

    Returns the folder of the config; the weights are in `weights.pt` beside it.
    """
    import open_clip
    import torch

    configs = folder / "configs"
    configs.mkdir(parents=True)
    shutil.copytree(tokenizer, folder / "tokenizer")
    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
        "text_cfg": {
            "context_length": 64,
            "vocab_size": 1000,
            "hf_tokenizer_name": str(folder / "tokenizer"),
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "width": 32,
            "heads": 2,
            "layers": 1,
            "no_causal_mask": True,
            "pool_type": "last",
        },
    }
    (configs / f"{name}.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    values = {key: config[key] for key in ("embed_dim", "vision_cfg", "text_cfg")}
    torch.save(open_clip.CLIP(**values).state_dict(), folder / "weights.pt")
    return configs
