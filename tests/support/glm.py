"""A small vocabulary of M2-Encoder's kind, and its tokenizer as transformers builds one around such a file."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizer

from tests.support.m2_reference import SMALL_END

SPECIAL = ["<|endoftext|>", "[SEP]", "[CLS]", "[MASK]", "[UNK]", *(f"<|blank_{n}|>" for n in range(10, 1, -1))]
LINES = [
    "一只可爱的小猫坐在红色的沙发上看窗外的雨",
    "两个穿着蓝色上衣的男人在草地上踢足球",
    "黄昏时分城市街道车水马龙",
    "臺灣蘋果裡面鐵馬與龍鬚麵條",
    "a photo of a cat on a red sofa",
    "two men play football in the rain",
    "T恤 iPhone15 3.14 2024年 100%",
]


def small_model(folder: Path) -> Path:
    """Train `sp.model` in `folder`: the kind, the normaliser and the special pieces of the published one."""
    from sentencepiece import SentencePieceTrainer

    text, path = folder / "text", folder / "sp.model"
    text.write_text("\n".join(LINES * 20), encoding="utf-8")
    SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(path.with_suffix("")),
        model_type="bpe",
        vocab_size=240,
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc",
        remove_extra_whitespaces=False,
        user_defined_symbols=SPECIAL,
        minloglevel=2,
    )
    text.unlink()
    path.with_suffix(".vocab").unlink()
    return path


class Theirs(PreTrainedTokenizer):
    """Framing, cutting and padding are transformers'; what is told here is what the published class tells it."""

    vocab_files_names = {"vocab_file": "sp.model"}
    truncation_side = "left"

    def __init__(self, vocab_file, **kwargs):
        from sentencepiece import SentencePieceProcessor

        self.pieces = SentencePieceProcessor(model_file=str(vocab_file))
        end = "<|endoftext|>"
        super().__init__(eos_token=end, pad_token=end, cls_token="[CLS]", mask_token="[MASK]", unk_token="[UNK]")

    @property
    def vocab_size(self):
        return len(self.pieces)

    def get_vocab(self):
        return {self.pieces.id_to_piece(number): number for number in range(len(self.pieces))}

    def _tokenize(self, text, **kwargs):
        for number in range(10, 1, -1):
            text = text.replace(" " * number, f"<|blank_{number}|>")
        return self.pieces.encode(text, out_type=str)

    def _convert_token_to_id(self, token):
        return self.pieces.piece_to_id(token)

    def _convert_id_to_token(self, index):
        return self.pieces.id_to_piece(index)

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        return [self.cls_token_id, *token_ids_0, self.eos_token_id]

    def get_special_tokens_mask(self, token_ids_0, token_ids_1=None, already_has_special_tokens=False):
        return [1, *[0] * len(token_ids_0), 1]

    def num_special_tokens_to_add(self, pair=False):
        return 2


assert SPECIAL.index("<|endoftext|>") + 3 == SMALL_END  # behind <unk>, <s> and </s>
