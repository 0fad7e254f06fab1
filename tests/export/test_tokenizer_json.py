"""A `tokenizer.json` alone gives the ids that the family's tokenizer gives."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer

from tests.families.test_tokenizers import VOCABULARY, sentences
from tests.support import gemma
from zhclip_openclip.export import _text_files, _tokenizer_json
from zhclip_openclip.export._export_error import ExportError
from zhclip_openclip.export._source import Source
from zhclip_openclip.families import find
from zhclip_openclip.towers import tokenizer

MODULE = SimpleNamespace(text=SimpleNamespace(config=SimpleNamespace(pad_token_id=0)))


def source(name: str, near=VOCABULARY) -> Source:
    """What of a source has to do with texts."""
    family, model = find(name)
    return Source(MODULE, tokenizer.build(family, model, near), None, family, model, "x")


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


@pytest.mark.filterwarnings("ignore:.*it is cut short, or of another model")
def test_lower_case_and_special_tokens_in_a_text(tmp_path):
    """FG-CLIP 2: texts are lower-cased first, so `<EOS>` is that token too; and all have the context length."""
    gemma.write(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["added_tokens"][-1]["content"] = "[@MASK@]"  # Gemma's has one with capitals, which no text holds any more
    content["model"]["vocab"]["[@MASK@]"] = content["model"]["vocab"].pop("<mask>")
    path.write_text(json.dumps(content), encoding="utf-8")
    given = source("fg-clip2-base-square256", tmp_path)
    texts = [
        "<EOS>一只<eos>小猫<Eos>",
        "<UNK> A Cat [@MASK@] [@mask@]",
        "ΟΔΟΣ ΣΑΣ İ",
        "  空  格\t和\n换行 ",
        "",
        "好" * 100,
    ]
    assert given.ids(texts)[0, 0] == given.tokenizer.eot_token_id, "the tokenizer itself reads it so"
    assert differing(given, [*texts, *sentences(1000)]) == []
    encoded = _tokenizer_json.build(given, ready=True).encode_batch(["一只小猫"])
    assert [len(told.ids) for told in encoded] == [64]


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
