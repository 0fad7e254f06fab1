"""A `tokenizer.json` that does all that a model's tokenizer does, for programs with the `tokenizers` library alone.

What a family does to a text in Python, before the tokenizer of transformers sees it, is written into the file's own
normaliser and pre-tokenizer, with the characters that it is about spelt out as Python's Unicode tables have them.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING

from zhclip_openclip._errors import shorten
from zhclip_openclip.export._export_error import ExportError
from zhclip_openclip.export._source import Source
from zhclip_openclip.families import cnclip

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: The first 256 characters of CJK extension E and what follows them: see `families/_texts.py`.
_EXTENSION_E = range(0x2B820, 0x2CEB0)
#: Punctuation within a word, over which the rule of the final sigma looks (Unicode, Word_Break: MidLetter, MidNumLet).
_MID_WORD = "'.:\u00b7\u0387\u055f\u05f4\u2018\u2019\u2024\u2027\ufe13\ufe52\ufe55\uff07\uff0e\uff1a"


def build(source: Source, ready: bool = False) -> Tokenizer:
    """The complete tokenizer of a model. ready: it also cuts texts to the context length and pads a batch to its
    longest text, or to the context length where the text tower takes no other, so that `encode_batch` gives what the
    text tower takes.

    Raises ExportError: its family treats texts in a way that the file cannot hold.
    """
    from tokenizers import Tokenizer

    backend = source.tokenizer.tokenizer.backend_tokenizer
    content = json.loads(backend.to_str())
    content["truncation"] = content["padding"] = None
    if getattr(source.tokenizer.tokenizer, "split_special_tokens", False):
        content["added_tokens"] = []  # `[SEP]` in a text is a word like any other; the template has its own ids
    normalise = source.family.normalise
    if normalise is str.lower:  # special tokens are looked for in what it makes of a text, and not before
        content["added_tokens"] = _seen_after_lower(content["added_tokens"])
    tokenizer = Tokenizer.from_str(json.dumps(content))
    ids = {token["content"]: token["id"] for token in content["added_tokens"]}
    moved = [token for token, number in ids.items() if tokenizer.token_to_id(token) != number]
    if moved:
        raise ExportError(f"a tokenizer.json cannot hold the special tokens {shorten(moved)} under their ids")
    if normalise is not None:
        if normalise not in _IN_THE_FILE:
            raise ExportError(
                f"{source.family.title} treats texts with {normalise.__name__}(), which a tokenizer.json cannot hold"
            )
        _IN_THE_FILE[normalise](tokenizer)
    if ready:
        tokenizer.enable_truncation(source.context_length)
        length = source.context_length if source.one_length else None
        tokenizer.enable_padding(pad_id=source.pad, pad_token=source.tokenizer.tokenizer.pad_token, length=length)
    return tokenizer


def _seen_after_lower(tokens: list[dict]) -> list[dict]:
    """Special tokens, as they are found in lower-cased text: not at all where they hold capitals."""
    found = [token for token in tokens if token["content"] == token["content"].lower()]
    return [{**token, "normalized": token["normalized"] or _has_case(token["content"])} for token in found]


def _has_case(text: str) -> bool:
    return text.lower() != text.upper()


def _replace(pattern: str, by: str):
    from tokenizers import Regex, normalizers

    return normalizers.Replace(Regex(pattern), by)


def _lower() -> list:
    """Python's `str.lower`, which knows the sigma at the end of a word; `tokenizers` lower-cases letter by letter."""
    from tokenizers import normalizers

    cased = _characters(lambda c: unicodedata.category(c) in ("Lu", "Ll", "Lt"))
    passed_over = _characters(lambda c: unicodedata.category(c) in ("Mn", "Me", "Cf", "Lm", "Sk") or c in _MID_WORD)
    sigma, final = "\N{GREEK CAPITAL LETTER SIGMA}", "\N{GREEK SMALL LETTER FINAL SIGMA}"
    return [_replace(f"(?<={cased}){sigma}(?!{passed_over}*{cased})", final), normalizers.Lowercase()]


def _lower_cased(tokenizer: Tokenizer) -> None:
    from tokenizers import normalizers

    own = [tokenizer.normalizer] if tokenizer.normalizer is not None else []
    tokenizer.normalizer = normalizers.Sequence([*_lower(), *own])


def _chinese_clip(tokenizer: Tokenizer) -> None:
    """What `families/cnclip.py` and `families/_texts.py` do."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    tokenizer.normalizer = normalizers.Sequence(
        [
            *_lower(),
            _replace("[\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}]", '"'),
            _replace(_characters(lambda c: unicodedata.category(c) in ("Mn", "Cf")), ""),
            _replace(_characters(lambda c: unicodedata.category(c) == "Co"), cnclip.google_bert("\ue000")),
            tokenizer.normalizer,
        ]
    )
    alone = _characters(lambda c: unicodedata.category(c).startswith("P") or ord(c) in _EXTENSION_E)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(alone), "isolated"), tokenizer.pre_tokenizer]
    )


_IN_THE_FILE: dict[Callable[[str], str], Callable[[Tokenizer], None]] = {
    cnclip.normalise: _chinese_clip,
    str.lower: _lower_cased,
}


def _characters(wanted: Callable[[str], bool]) -> str:
    """A class of a regular expression with all characters that are wanted, as ranges."""
    ranges: list[list[int]] = []
    for code in range(sys.maxunicode + 1):
        if 0xD800 <= code < 0xE000 or not wanted(chr(code)):
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "[" + "".join(f"\\x{{{first:x}}}-\\x{{{last:x}}}" for first, last in ranges) + "]"
