"""GLM's tokenizer in ONNX folders: `sp.model` as it is published, read with sentencepiece and a few lines of Python.

A `tokenizer.json` cannot hold it: half of its pieces are taken out of a text before any merging begins, and the
`tokenizers` library does that in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zhclip_openclip.export._source import Source
from zhclip_openclip.families.m2_encoder import normalise
from zhclip_openclip.towers.glm_tokenizer import FILE, GLMChineseTokenizer

if TYPE_CHECKING:
    import numpy as np


def is_used(source: Source) -> bool:
    """Whether the tokenizer of a model is one of these."""
    return isinstance(source.tokenizer.tokenizer, GLMChineseTokenizer) and source.family.normalise is normalise


def write(source: Source, folder: Path) -> None:
    source.tokenizer.tokenizer.save_pretrained(folder)


def config(source: Source) -> dict:
    """What the `text` part of `config.json` says of it."""
    tokenizer = source.tokenizer
    return {"tokenizer": FILE, "first_token_id": tokenizer.sot_token_id, "last_token_id": tokenizer.eot_token_id}


class Reader:
    """Texts to ids as docs/deploying.md shows it."""

    def __init__(self, folder: Path, told: dict):
        from sentencepiece import SentencePieceProcessor

        self._pieces, self._told = SentencePieceProcessor(model_file=str(folder / told["tokenizer"])), told

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, longest) ids."""
        import numpy as np

        told, rows = self._told, []
        for text in texts:
            text = text.lower().replace("“", '"').replace("”", '"')
            for number in range(10, 1, -1):
                text = text.replace(" " * number, f"<|blank_{number}|>")
            pieces = self._pieces.encode(text)[2 - told["context_length"] :]
            rows.append([told["first_token_id"], *pieces, told["last_token_id"]])
        longest = max(map(len, rows))
        return np.array([row + [told["pad_token_id"]] * (longest - len(row)) for row in rows])
