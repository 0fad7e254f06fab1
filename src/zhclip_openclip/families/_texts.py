"""What happens to a text before the tokenizer of transformers sees it."""

from __future__ import annotations

import unicodedata

#: In no vocabulary of ours and neither punctuation nor a letter: makes its word unknown, as any such character does.
_UNKNOWN = "\N{IDEOGRAPHIC DESCRIPTION CHARACTER OVERLAID}"


class _Characters(dict):
    """A table for `str.translate` that decides about a character when it first comes up."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if category in ("Mn", "Cf"):
            result = ""
        elif category == "Co":
            result = _UNKNOWN
        elif category.startswith("P") or 0x2B820 <= code <= 0x2CEAF:  # the second is CJK extension E
            result = f" {character} "
        else:
            result = character
        self[code] = result
        return result


_CHARACTERS = _Characters()


def google_bert(text: str) -> str:
    """`text` such that transformers' BERT tokenizer cuts it as Google's own does, which Chinese-CLIP carries.

    The two differ where the tables that the `tokenizers` library is built with are older than Python's: marks and
    punctuation of recent scripts, private characters (which it drops), the first 256 characters of CJK extension E.
    """
    return text.translate(_CHARACTERS)
