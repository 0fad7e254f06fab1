"""What means Chinese, and what says so wrongly."""

from __future__ import annotations

import builtins

import pytest

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.prompts import languages


@pytest.mark.parametrize("spelling", ["zh", "ZH", "cn", "zh-cn", "zh_CN", "zh_Hans", "zh-hans", "zho_Hans", " zh "])
def test_simplified(spelling):
    assert languages.normalise(spelling) == "zh"
    assert languages.is_chinese(spelling)


@pytest.mark.parametrize("spelling", ["zh_Hant", "zh-hant", "ZH_HANT", "zho_Hant"])
def test_traditional(spelling):
    assert languages.normalise(spelling) == "zh_Hant"
    assert languages.is_chinese(spelling)


@pytest.mark.parametrize("language", ["en", "jp", "it", "ar", "de", "chr", "cs", "EN", "zu", "chv_Cyrl"])
def test_others_are_not_ours(language):
    assert languages.normalise(language) == language
    assert not languages.is_chinese(language)


@pytest.mark.parametrize(
    "language", ["zh_TW", "zh-xx", "zho", "chinese", "Chinese (simplified)", "cn_CN", "zh2", "中文", "cht"]
)
def test_unknown_chinese_lists_what_exists(language):
    with pytest.raises(ZhclipError, match=r"--language .*zh \(also cn, zh-cn, zh_Hans\).*zh_Hant") as caught:
        languages.normalise(language)
    assert "\n" not in str(caught.value)


def test_simplified_is_written_as_it_is():
    assert languages.write(["一只{c}"], "zh") == ["一只{c}"]


def test_traditional_chooses_by_the_word():
    pytest.importorskip("opencc")
    assert languages.write(["头发与发动机", "一只{c}"], "zh_Hant") == ["頭髮與發動機", "一隻{c}"]


def test_missing_library_names_the_extra(monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "opencc":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    languages._opencc.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ZhclipError, match=r"zhclip-openclip\[zh-hant\]"):
        languages.write(["猫"], "zh_Hant")
    languages._opencc.cache_clear()
