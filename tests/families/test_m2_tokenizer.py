"""M2-Encoder's tokenizer against transformers' own framing, cutting and padding around the same `sp.model`."""

from __future__ import annotations

import builtins
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch

from tests.families.test_tokenizers import sentences
from zhclip_openclip._errors import CheckpointError, ZhclipError
from zhclip_openclip.families.m2_encoder import normalise
from zhclip_openclip.towers import text_configs

pytest.importorskip("sentencepiece")
from tests.support import glm, m2_reference  # noqa: E402

#: The file that is published, which is not part of this package: name it to hold all against it.
PUBLISHED = os.environ.get("ZHCLIP_M2_SP_MODEL", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("glm")
    glm.small_model(folder)
    return folder


@pytest.fixture
def small(folder, monkeypatch):
    """The tokenizer of a model of 240 words; its padding has another id than the published one's."""
    config = SimpleNamespace(vocab_size=240, pad_token_id=m2_reference.SMALL_END, max_position_embeddings=1022)
    config.model_type = "beit3"
    monkeypatch.setattr(text_configs, "of", lambda model: config)
    return open_clip.get_tokenizer("m2-encoder-0.4b", pretrained=str(folder))


def texts(number: int) -> list[str]:
    """Mixtures of everything, and runs of spaces; none names a special token, of which transformers 5 treats the white
    space beside it otherwise than the 4.17 of the authors."""
    runs = [f"猫{' ' * number}cat{' ' * (number + 7)}" for number in range(1, 14)]
    return [*runs, *(text for text in sentences(number) if "<|" not in text)]


def assert_equals_transformers(tokenizer, path: Path, number: int, length: int) -> None:
    given = texts(number)
    theirs = glm.Theirs(path)(
        [normalise(text) for text in given], padding="max_length", truncation=True, max_length=length
    )
    ours = tokenizer(given, context_length=length)
    wanted = torch.tensor(theirs["input_ids"])
    assert [given[row] for row in (ours != wanted).any(dim=1).nonzero().flatten().tolist()] == []
    full = (ours != tokenizer.pad_token_id).sum(dim=1) == length - 1
    assert full.sum() > number / 50, "too few over-long texts"
    # the mask that the text tower makes of the ids is the tokenizer's own
    mask = m2_reference.mask_of(ours, tokenizer.pad_token_id)
    assert torch.equal(mask, torch.tensor(theirs["attention_mask"]))


@pytest.mark.parametrize("length", [52, 8])
def test_equals_transformers(small, folder, length):
    assert_equals_transformers(small, folder / "sp.model", 1500, length)


@pytest.mark.skipif(not PUBLISHED, reason="ZHCLIP_M2_SP_MODEL names no sp.model")
def test_the_published_file():
    tokenizer = open_clip.get_tokenizer("m2-encoder", pretrained=PUBLISHED)
    assert (tokenizer.vocab_size, tokenizer.sot_token_id, tokenizer.eot_token_id) == (115244, 50002, 50000)
    assert tokenizer("杰尼龟")[0, :5].tolist()[0] == 50002
    assert_equals_transformers(tokenizer, Path(PUBLISHED), 4000, 52)


def test_what_a_text_is_framed_with(small, folder):
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(folder / "sp.model"))
    tokenizer = small
    end, start = pieces.piece_to_id("<|endoftext|>"), pieces.piece_to_id("[CLS]")
    assert (tokenizer.pad_token_id, tokenizer.eot_token_id, tokenizer.sot_token_id) == (end, end, start)
    assert tokenizer.context_length == 52 and tokenizer.vocab_size == len(pieces) == 240
    ids = tokenizer(["一只 Cat", ""])
    cat = pieces.encode("一只 cat")
    assert ids[0].tolist() == [start, *cat, end, *[end] * (50 - len(cat))]
    assert ids[1].tolist() == [start, *[end] * 51]
    assert [row.tolist() for row in tokenizer(["一只 Cat", ""], pad=False)] == [[start, *cat, end], [start, end]]
    assert torch.equal(tokenizer("“猫”"), tokenizer('"猫"')) and tokenizer([]).shape == (0, 52)


def test_the_end_of_a_long_text_is_kept(small, folder):
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(folder / "sp.model"))
    ids = small("雨" * 100 + "一只小猫")[0].tolist()
    tail = pieces.encode("一只小猫")[1:]  # without the space before a text
    assert ids[0] == pieces.piece_to_id("[CLS]") and ids[-1] == pieces.piece_to_id("<|endoftext|>")
    assert len(ids) == 52 and ids[-1 - len(tail) : -1] == tail


def test_special_tokens_in_a_text_are_what_they_say(small, folder):
    """As the authors' tokenizer has it: the token itself, with the white space beside it dropped."""
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(folder / "sp.model"))
    end, start = pieces.piece_to_id("<|endoftext|>"), pieces.piece_to_id("[CLS]")
    ids = small("猫 <|endoftext|>  cat")[0].tolist()
    framed = [start, *pieces.encode("猫"), end, *pieces.encode("cat"), end]
    assert ids[: len(framed)] == framed
    lowered = small("[CLS]")[0].tolist()  # which is lower-cased first
    assert lowered.count(start) == 1


def test_the_lines_of_the_page_give_the_same_ids(small, folder):
    """docs/deploying.md, for who has an ONNX folder and none of this package."""
    page = (Path(__file__).parents[2] / "docs" / "deploying.md").read_text(encoding="utf-8")
    code = page.partition("```python\nfrom sentencepiece")[2].partition("```")[0]
    told = {"tokenizer": "sp.model", "context_length": 52, "pad_token_id": small.pad_token_id}
    told |= {"first_token_id": small.sot_token_id, "last_token_id": small.eot_token_id}
    names = {"config": {"text": told}, "folder": folder, "np": np}
    exec(f"from sentencepiece{code}", names)
    given = texts(300)
    ids = torch.as_tensor(names["token_ids"](given))
    assert torch.equal(ids, small(given)[:, : ids.shape[1]]) and ids.shape[1] == 52


def test_the_folder_goes_on(small, tmp_path):
    """What `save_pretrained` writes is read back as the same tokenizer."""
    small.tokenizer.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["sp.model"]
    again = open_clip.get_tokenizer("m2-encoder-0.4b", pretrained=str(tmp_path))
    assert torch.equal(again(texts(50)), small(texts(50)))


def test_without_sentencepiece_one_line_names_the_extra(folder, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "sentencepiece":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ZhclipError, match=r'not installed: pip install "zhclip-openclip\[m2\]"$') as caught:
        open_clip.get_tokenizer("m2-encoder", pretrained=str(folder))
    assert "sp.model" in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"<!DOCTYPE html><html></html>", "is an HTML page, not a sentencepiece model"),
        (b"whatever", "no model of sentencepiece's: fetch it again"),
        (b"", "is an empty file"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(tmp_path, raw, told):
    (tmp_path / "sp.model").write_bytes(raw)
    with pytest.raises(CheckpointError, match=told) as caught:
        open_clip.get_tokenizer("m2-encoder", pretrained=str(tmp_path))
    assert str(tmp_path / "sp.model") in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_the_vocabulary_of_another_model(folder):
    """The small one pads with 3 and the published model with 50000."""
    with pytest.raises(CheckpointError, match=r"sp.model pads with id 3 .* and m2-encoder-1b with 50000"):
        open_clip.get_tokenizer("m2-encoder", pretrained=str(folder))


def test_more_tokens_than_positions(folder):
    with pytest.raises(CheckpointError, match="context_length=1023 is too much: .* so give 1022 or less"):
        open_clip.get_tokenizer("m2-encoder", pretrained=str(folder), context_length=1023)
