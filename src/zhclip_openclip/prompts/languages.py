"""What `--language` says: which spellings mean Chinese, and in which script."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from zhclip_openclip.prompts._errors import PromptError

SIMPLIFIED = "zh"
TRADITIONAL = "zh_Hant"
#: Spellings that mean one of the two, in lower case and with `_` for `-`. zho_* are the codes of clip_benchmark's
#: FLORES data sets, zh_CN and zh_SG the countries that write simplified characters.
SPELLINGS = {
    "zh": SIMPLIFIED,
    "cn": SIMPLIFIED,
    "zh_cn": SIMPLIFIED,
    "zh_sg": SIMPLIFIED,
    "zh_hans": SIMPLIFIED,
    "zh_hans_cn": SIMPLIFIED,
    "zho_hans": SIMPLIFIED,
    "zh_hant": TRADITIONAL,
    "zho_hant": TRADITIONAL,
}
_LOOKS_CHINESE = re.compile(r"(zh|zho|cn|chs|cht|chi|cmn)([_-].*|\d*)|chinese.*|mandarin|.*[\u4e00-\u9fff].*", re.I)


def normalise(language: str) -> str:
    """`zh` or `zh_Hant` for every spelling of Chinese; any other language as it is, since it is not ours.

    Meant for the language of a classification data set. Retrieval data sets have language codes of their own
    (zho_Hans of FLORES) and take them as they are.

    Raises PromptError: it looks like Chinese and is none of :data:`SPELLINGS`.
    """
    key = language.strip().lower().replace("-", "_")
    if key in SPELLINGS:
        return SPELLINGS[key]
    if _LOOKS_CHINESE.fullmatch(language.strip()):
        raise PromptError(
            f"--language {language}: there is no such Chinese; simplified characters are zh (also cn, zh-cn, zh_Hans), "
            "traditional ones zh_Hant"
        )
    return language


def is_chinese(language: str) -> bool:
    """Whether a language is Chinese in one of its spellings."""
    return normalise(language) in (SIMPLIFIED, TRADITIONAL)


def write(texts: Iterable[str], language: str) -> list[str]:
    """Texts in simplified characters as `language` (zh or zh_Hant) writes them."""
    if language == TRADITIONAL:
        convert = _opencc().convert
        return [convert(text) for text in texts]
    return list(texts)


@cache
def _opencc():
    try:
        import opencc
    except ImportError as error:
        raise PromptError(
            "--language zh_Hant needs the library OpenCC: pip install 'zhclip-openclip[zh-hant]'"
        ) from error
    # s2t chooses among several traditional characters by the word; it keeps the mainland's words, which the templates
    # and class names are written in.
    return opencc.OpenCC("s2t")
