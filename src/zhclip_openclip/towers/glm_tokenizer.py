"""The tokenizer of GLM's Chinese models, which M2-Encoder took over: pieces of sentencepiece, framed.

`[CLS]`, the pieces, `<|endoftext|>`; padding is `<|endoftext|>` too. Two to ten spaces are one piece, `<|blank_N|>`. Of
a text that is too long the end is kept. Special tokens that a text itself names are these tokens, and white space
beside them is dropped.

Source: prj/M2_Encoder/vlmo/tokenizer of https://github.com/alipay/Ant-Multi-Modal-Framework, with the transformers 4.17
that it asks for.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from zhclip_openclip._errors import CheckpointError
from zhclip_openclip._files import whole_file

FILE = "sp.model"
_CLS, _END, _MASK, _UNKNOWN = "[CLS]", "<|endoftext|>", "[MASK]", "[UNK]"
_SPECIAL = re.compile(r"\s*(" + "|".join(map(re.escape, (_CLS, _END, _MASK, _UNKNOWN))) + r")\s*")
_LONGEST_BLANK = 10


class GLMChineseTokenizer:
    """What :class:`ChineseTokenizer` asks of a tokenizer of transformers, for a `sp.model`."""

    cls_token, eos_token, pad_token, sep_token, unk_token = _CLS, _END, _END, _END, _UNKNOWN
    bos_token_id = None
    padding_side = "right"

    def __init__(self, path: Path):
        try:
            import sentencepiece
        except ImportError as error:
            raise CheckpointError(
                f'{path} is read with sentencepiece, which is not installed: pip install "zhclip-openclip[m2]"'
            ) from error
        self.path = path
        self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.cls_token_id = self.token_to_id(_CLS)
        self.eos_token_id = self.pad_token_id = self.sep_token_id = self.token_to_id(_END)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> GLMChineseTokenizer:
        """Raises CheckpointError: sentencepiece is not installed. RuntimeError: no model of sentencepiece's."""
        return cls(Path(folder) / FILE)

    def save_pretrained(self, folder: str | Path) -> None:
        """Copy the file that all comes from."""
        with whole_file(Path(folder) / FILE) as part:
            shutil.copyfile(self.path, part)

    def __len__(self) -> int:
        return len(self._pieces)

    def token_to_id(self, token: str) -> int | None:
        """The id of a piece; None where there is no such piece."""
        found = self._pieces.piece_to_id(token)
        return None if found == self._pieces.unk_id() else found

    def __call__(self, texts: Sequence[str], max_length: int, padding: str | bool = False, **_always) -> dict:
        """`input_ids`: a list for each text of at most `max_length` ids, or as many where `padding` is "max_length"."""
        ids = [self._framed(text, max_length) for text in texts]
        if padding == "max_length":
            ids = [one + [self.pad_token_id] * (max_length - len(one)) for one in ids]
        return {"input_ids": ids}

    def _framed(self, text: str, max_length: int) -> list[int]:
        ids: list[int] = []
        for number, part in enumerate(_SPECIAL.split(text)):
            if number % 2:
                ids.append(self._pieces.piece_to_id(part))
            elif part:
                ids += self._pieces.encode(_blanks(part))
        return [self.cls_token_id, *ids[max(len(ids) - (max_length - 2), 0) :], self.eos_token_id]


def _blanks(text: str) -> str:
    """Runs of two and more spaces as their pieces, the longest first."""
    for length in range(_LONGEST_BLANK, 1, -1):
        text = text.replace(" " * length, f"<|blank_{length}|>")
    return text
