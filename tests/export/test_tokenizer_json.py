"""A `tokenizer.json` alone gives the ids that the family's tokenizer gives."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer

from tests.families.test_tokenizers import VOCABULARY, sentences
from zhclip_openclip.export import _text_files, _tokenizer_json
from zhclip_openclip.export._export_error import ExportError
from zhclip_openclip.export._source import Source
from zhclip_openclip.families import find
from zhclip_openclip.towers import tokenizer

MODULE = SimpleNamespace(text=SimpleNamespace(config=SimpleNamespace(pad_token_id=0)))


def source(name: str) -> Source:
    """What of a source has to do with texts."""
    family, model = find(name)
    return Source(MODULE, tokenizer.build(family, model, VOCABULARY), None, family, model, "x")


def differing(given: Source, texts: list[str]) -> list[str]:
    ours = given.ids(texts)
    encoded = _tokenizer_json.build(given, ready=True).encode_batch(texts)
    theirs = torch.zeros_like(ours)
    for row, told in enumerate(encoded):
        theirs[row, : len(told.ids)] = torch.tensor(told.ids)
    return [texts[row] for row in (ours != theirs).any(dim=1).nonzero().flatten().tolist()]


@pytest.mark.parametrize("name", ["cnclip-vit-b-16", "taiyiclip-vit-b-32"])
def test_mixtures_of_everything_that_people_paste(name):
    assert differing(source(name), sentences(4000)) == []


def test_every_character():
    codes = [*range(0x4E00), *range(0x4E00, 0xD800, 50), *range(0xE000, 0x10000, 3), *range(0x1F300, 0x1FB00)]
    codes += [*range(0x20000, 0x2B820, 50), *range(0x2B820, 0x2B940), *range(0x2B940, 0x2CEB0, 50)]
    assert differing(source("cnclip-vit-b-16"), [f"好{chr(code)}a" for code in codes]) == []


def test_what_the_family_does_in_python_would_be_missed():
    """The vocabulary alone, as transformers saves it, cuts such texts otherwise."""
    given = source("cnclip-vit-b-16")
    theirs = Tokenizer.from_str(given.tokenizer.tokenizer.backend_tokenizer.to_str())
    texts = ["“好”", "好[SEP]好"]
    for text in texts:
        ids = theirs.encode(text).ids
        assert ids != given.ids([text])[0, : len(ids)].tolist()
    assert differing(given, texts) == []


def test_transformers_takes_the_file_as_it_is(tmp_path):
    from transformers import AutoTokenizer

    given = source("cnclip-vit-b-16")
    _text_files.write_tokenizer(given, tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["model_max_length"] == 52 and config["pad_token"] == "[PAD]"
    read, texts = AutoTokenizer.from_pretrained(tmp_path), sentences(1000)
    theirs = read(texts, padding="max_length", truncation=True, return_tensors="pt")["input_ids"]
    assert torch.equal(theirs, given.ids(texts))


def test_a_normalisation_that_the_file_cannot_hold_is_refused():
    from dataclasses import replace

    given = source("cnclip-vit-b-16")
    given.family = replace(given.family, normalise=str.swapcase, title="Somebody's")
    with pytest.raises(ExportError, match=r"Somebody's treats texts with swapcase\(\)"):
        _tokenizer_json.build(given)
