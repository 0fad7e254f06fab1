"""The boundary between files and the package: every failure is one line of ours, and says what the file is."""

from __future__ import annotations

import pytest

from zhclip_openclip._errors import CheckpointError, ZhclipError, printable
from zhclip_openclip._reading import kind_of, parse_json, read_json, reading

BAD = {
    "empty": (b"", "is an empty file"),
    "page": (b"\n<!DOCTYPE html><html>", "is an HTML page"),
    "xml": (b'<?xml version="1.0"?><Error/>', "is an XML page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    "zeros": (b"\0" * 64, "is a file of zeros"),
    "zip": (b"PK\x03\x04rest", "is a zip archive"),
    "utf16": ("{}".encode("utf-16"), "is a text in UTF-16"),
    "gbk": ('{"图": "像"}'.encode("gbk"), "not UTF-8"),
    "cut": (b'{"a": ', "line 1, column 7"),
    "deep": (b"[" * 100_000, "nested too deeply"),
    "digits": (b'{"a": ' + b"1" * 5000 + b"}", "ValueError"),
    "surrogate": (b'{"a": "\\ud83d"}', "half a surrogate pair"),
    "list": (b"[1]", "holds a list, not an object"),
}


@pytest.mark.parametrize("name", BAD)
def test_json_that_is_none_is_one_line(tmp_path, name):
    content, told = BAD[name]
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        read_json(path, CheckpointError)
    assert told in str(error.value)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_json_is_read_with_or_without_a_mark(tmp_path):
    path = tmp_path / "a.json"
    for mark in (b"", b"\xef\xbb\xbf"):
        path.write_bytes(mark + '{"图": 1}'.encode())
        assert read_json(path) == {"图": 1}
    assert parse_json("[1, 2]", "here") == [1, 2]
    assert parse_json('"\\ud83d\\ude00"', "here") == "😀"


def test_what_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[" + "1," * 99 + "1]")
    with pytest.raises(ZhclipError, match="201 bytes, and 100 are read at most"):
        read_json(path, kind=list, limit=100)


@pytest.mark.parametrize(
    "error",
    [KeyError("a"), RecursionError(), OSError(13, "Permission denied"), NotImplementedError("x\ny"), ValueError()],
)
def test_any_exception_becomes_ours(error):
    with pytest.raises(ZhclipError) as told, reading("a.bin", advice="fetch it again"):
        raise error
    assert str(told.value).startswith("a.bin: ") and str(told.value).endswith("; fetch it again")
    assert "\n" not in str(told.value) and told.value.__cause__ is error


def test_interruptions_and_our_own_errors_pass():
    for error in (KeyboardInterrupt(), SystemExit(2), CheckpointError("as it is")):
        with pytest.raises(type(error)) as told, reading("a.bin"):
            raise error
        assert told.value is error


def test_what_files_begin_with(tmp_path):
    import torch
    from safetensors.torch import save_file

    torch.save({"a": torch.zeros(2)}, tmp_path / "zip")
    torch.save({"a": torch.zeros(2)}, tmp_path / "legacy", _use_new_zipfile_serialization=False)
    save_file({"a": torch.zeros(2)}, tmp_path / "safe")
    (tmp_path / "text").write_text("一只猫", encoding="utf-8")
    kinds = {name: kind_of(tmp_path / name) for name in ("zip", "legacy", "safe", "text")}
    assert kinds == {"zip": "a zip archive", "legacy": "a pickle", "safe": "a safetensors file", "text": ""}


def test_messages_do_nothing_to_a_terminal():
    told = str(ZhclipError("image 2\x1b]0;owned\x07 of a\u202eb\u2028c, 猫\udcff é\n"))
    assert told == "image 2\\x1b]0;owned\\x07 of a\\u202eb\\u2028c, 猫\\xff é\\n"
    assert printable("full-width ，！ and é and 😀") == "full-width ，！ and é and 😀"


def test_the_error_of_a_reader_keeps_its_own_line_only():
    text = "Caught ZhclipError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File\n"
    assert str(ZhclipError(text + "zhclip_openclip._errors.ZhclipError: a.jpg: cut short\n")) == "a.jpg: cut short"
