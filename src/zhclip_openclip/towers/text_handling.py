"""How Chinese text reaches models that are not ours: as their authors feed it, or as open_clip does.

open_clip repairs every text with ftfy, which makes full-width marks ASCII, and takes ASCII punctuation out of the texts
of SigLIP's models: of Chinese little punctuation is left. The authors of some models feed it otherwise, and those of
NLLB-CLIP say in which script it is. (clip_benchmark means to say Traditional of all `zh`, with a call that transformers
undoes before each text: it is taken for English.) `data/text_handling.json` has them, each with the tokenizer of
transformers whose ids theirs are. Of all other models open_clip's handling is the authors' own, as of those that were
trained with it, or theirs is not known here: there is one handling then.
"""

from __future__ import annotations

import copy
import json
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from zhclip_openclip import _paths
from zhclip_openclip._errors import ZhclipError, printable

AUTHORS, HOST = "authors", "host"
CHOICES = (AUTHORS, HOST)
OPTION = "--text-handling"
_SCHEMAS = "hf-hub:", "local-dir:"


@dataclass(frozen=True)
class Handling:
    """How the authors of some models feed Chinese text to them.

    name: of the models, for people. models: pattern that their names hold, or that of their tokenizer's repository.
    cleaning: key into `CLEANING`. languages: code that their tokenizer has for `zh` and for `zh_Hant`, where it has
    one. told: what is done, for people. reference: class whose ids these are.
    """

    name: str
    models: re.Pattern[str]
    cleaning: str
    languages: dict[str, str]
    told: str
    reference: str


@cache
def handlings() -> tuple[Handling, ...]:
    """All that are known, in the order in which they are tried."""
    described = json.loads((_paths.DATA / "text_handling.json").read_text(encoding="utf-8"))
    return tuple(Handling(**{**entry, "models": re.compile(entry["models"])}) for entry in described)


def of_authors(model: str, tokenizer: Any = None) -> Handling | None:
    """How a model's authors feed Chinese to it, where that is another way than open_clip's.

    model: as open_clip takes it. tokenizer: its own, which names its repository; for models of the hub or a folder,
    whose names may say nothing.
    """
    source = getattr(getattr(tokenizer, "tokenizer", None), "name_or_path", None)
    for name in (model, source):
        if isinstance(name, str):
            for schema in _SCHEMAS:
                name = name.removeprefix(schema)
            bare = name.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1].lower()
            for handling in handlings():
                if handling.models.search(bare):
                    return handling
    return None


def check(choice: str | None) -> None:
    """Raises ZhclipError: no choice of the option."""
    if choice is not None and choice not in CHOICES:
        raise ZhclipError(
            f"{OPTION} {printable(choice)}: there are {AUTHORS} (as a model's authors feed Chinese to it) and {HOST} "
            "(as open_clip and clip_benchmark do)"
        )


def chosen(model: str, tokenizer: Any, language: str, choice: str = AUTHORS) -> tuple[Any, dict[str, str]]:
    """The tokenizer that feeds texts to a model of open_clip's own, and what a result says of it.

    model: as open_clip takes it. tokenizer: its own. language: 'zh' or 'zh_Hant', '' for another. choice: of `CHOICES`;
    where there is one way alone it is open_clip's, and said to be.

    Raises ZhclipError: as `AuthorsTokenizer`.
    """
    handling = of_authors(model, tokenizer)
    if handling is None or choice == HOST:
        return tokenizer, {"text_handling": HOST}
    told = " ".join(filter(None, (handling.told, handling.languages.get(language))))
    described = {"text_handling": AUTHORS, "text_handling_note": f"{handling.name}: {told}"}
    return AuthorsTokenizer(tokenizer, handling, language), described


class AuthorsTokenizer:
    """A tokenizer of open_clip's that is fed as the authors feed it; all else is the tokenizer that it stands for.

    tokenizer: as `open_clip.get_tokenizer` gives it; it stays as it is. language: 'zh' or 'zh_Hant', '' for another.

    Raises ZhclipError: it cleans texts in a way that cannot be replaced, or does not know the language.
    """

    def __init__(self, tokenizer: Any, handling: Handling, language: str):
        if not hasattr(tokenizer, "clean_fn"):
            raise ZhclipError(
                f"the tokenizer of this model is a {type(tokenizer).__name__}, whose cleaning of texts cannot be "
                f"replaced by the authors' ({handling.name}); {OPTION} {HOST} takes it as it is"
            )
        self._tokenizer = copy.copy(tokenizer)
        self._tokenizer.clean_fn = CLEANING[handling.cleaning]
        self._code = handling.languages.get(language)
        if self._code is not None:
            own = self._tokenizer.tokenizer
            if own.convert_tokens_to_ids(self._code) in (None, own.unk_token_id):
                raise ZhclipError(f"the tokenizer in {own.name_or_path} has no token {self._code}: fetch it again")

    def __call__(self, texts: str | Sequence[str], *args, **kwargs):
        if self._code is None:
            return self._tokenizer(texts, *args, **kwargs)
        own = self._tokenizer.tokenizer
        before, own.src_lang = own.src_lang, self._code
        try:
            return self._tokenizer(texts, *args, **kwargs)
        finally:
            own.src_lang = before  # others share it

    def __getattr__(self, name: str):
        if name.startswith("__") or name == "_tokenizer":  # while it is being unpickled there is none yet
            raise AttributeError(name)
        return getattr(self._tokenizer, name)


# ---------------------------------------------------------------- cleaning


def _as_it_is(text: str) -> str:
    return text


@cache
def _lowercase() -> Callable[[str], str]:
    from tokenizers import normalizers

    return normalizers.Lowercase().normalize_str  # which Siglip2Tokenizer has: of Σ at the end of a word not Python's


def _lower(text: str) -> str:
    return _lowercase()(text)


_WITHOUT_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _siglip(text: str) -> str:
    """Source: `canonicalize_text` of transformers' SiglipTokenizer, and what its `tokenize` does before."""
    text = text.replace("\u2581", " ").lower().translate(_WITHOUT_ASCII_PUNCTUATION)
    return re.sub(r"\s+", " ", text).strip()


#: From a text to what is fed to the tokenizer proper.
CLEANING: dict[str, Callable[[str], str]] = {"none": _as_it_is, "lower": _lower, "siglip": _siglip}
