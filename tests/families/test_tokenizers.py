"""Texts become the ids that each family's own code makes of them."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import open_clip
import pytest
import torch

from zhclip_openclip._errors import DownloadError

cn_clip = pytest.importorskip("cn_clip.clip")
from cn_clip.eval.data import _preprocess_text  # noqa: E402

VOCABULARY = Path(cn_clip.__file__).parent / "vocab.txt"
SIMPLIFIED = "一只可爱的小猫坐在红色的沙发上看窗外的雨，两个穿着蓝色上衣的男人在草地上踢足球。黄昏时分城市街道车水马龙"
TRADITIONAL = "臺灣蘋果裡面鐵馬與龍鬚麵條，憂鬱的烏龜穿過廣場聽見鐘聲響徹雲霄"
PIECES = [
    "T恤", "iPhone15 Pro", "USB-C", "3.14", "2024年", "100%", "A4纸", "WiFi6", "é", "naïve", "Ünïcödé", "ÀÉÎ",
    "ß", "İstanbul", "ＡＢＣ１２３", "（全角）", "！？；：", "　", "～", "￥99", "①②③", "㎡", "℃", "½",
    "😀", "👩‍👩‍👧", "🇨🇳", "❤️", "“引号”", "‘单引号’", "「日式」", "『』", "《书名》", "【重点】", "——",
    "……", "·", "\t", "\n", "\r\n", "\u00a0", "\u200b", "\ufeff", "\ufffd", "\x00", "\x07", "한국어",
    "ひらがな", "カタカナ", "ﾊﾝｶｸ", "русский", "ΑΣΣ", "العربية", "ไทย", "हिन्दी", "[MASK]", "[CLS]",
    "[SEP]", "[UNK]", "[unused1]", "##的", "𠮷野家", "\U0002b825", "\ue000", "\uf8ff", "㐀", "豈", "\u0301",
    "a" * 101, "b" * 150, "c" * 201, "http://a.cn/?q=1&b=2#x", "user@example.com", "#话题#", "$5", "C++", "a_b",
    "x^2", "`code`", "~", "<b>", "|", "\\n", "🀄", "𝒜", "ﬁ", "ⅷ", "㍿", "\u2028", "\u3000\u3000",
]  # fmt: skip


def sentences(number: int) -> list[str]:
    """Random mixtures of Chinese and everything that people paste; one in ten is over-long."""
    rng = random.Random(7)
    result = ["", " ", "\n", "的", "a" * 60, "好" * 50, "好" * 51, "好" * 200, "，" * 60, "word " * 60, "“”", "[PAD]"]
    while len(result) < number:
        parts = []
        for _ in range(rng.choice([1, 2, 3, 5, 8, 40] if rng.random() < 0.5 else [2, 3, 4])):
            kind = rng.random()
            if kind < 0.45:
                source = SIMPLIFIED if rng.random() < 0.7 else TRADITIONAL
                start = rng.randrange(len(source))
                parts.append(source[start : start + rng.randint(1, 12)])
            elif kind < 0.6:
                parts.append(chr(rng.randrange(0x4E00, 0xA000)))
            else:
                parts.append(rng.choice(PIECES))
            if rng.random() < 0.2:
                parts.append(" " * rng.randint(1, 3))
        result.append("".join(parts))
    return result


@pytest.fixture
def vocabulary(models_dir):
    """A folder of downloaded repositories with Google's Chinese vocabulary in each."""
    for repo in ("OFA-Sys/chinese-clip-vit-large-patch14", "thu-ml/zh-clip-vit-roberta-large-patch14"):
        (models_dir / repo).mkdir(parents=True)
        shutil.copy(VOCABULARY, models_dir / repo)
    return models_dir


@pytest.mark.parametrize("length", [52, 77, 8])
def test_cnclip_equals_cn_clip(vocabulary, length):
    texts = sentences(4000 if length == 52 else 500)
    tokenizer = open_clip.get_tokenizer("cnclip-vit-l-14", context_length=length)
    ours = tokenizer(texts)
    theirs = cn_clip.tokenize([_preprocess_text(text) for text in texts], context_length=length)
    different = (ours != theirs).any(dim=1).nonzero().flatten().tolist()
    assert [texts[index] for index in different] == []
    assert ours.shape == (len(texts), length) and ours.dtype == torch.long
    full = (ours != 0).all(dim=1)
    assert full.sum() > len(texts) / 50, "too few over-long texts"
    assert (ours[full][:, -1] == 102).all()


def test_every_character(vocabulary):
    """All scripts and samples of the large blocks; Python's Unicode tables are newer than those of `tokenizers`."""
    tokenizer = open_clip.get_tokenizer("cnclip-vit-l-14", context_length=8)
    codes = [*range(0x4E00), *range(0x4E00, 0xD800, 50), *range(0xE000, 0x10000, 3), *range(0x1F300, 0x1FB00)]
    codes += [*range(0x20000, 0x2B820, 50), *range(0x2B820, 0x2B940), *range(0x2B940, 0x2CEB0, 50)]
    different = []
    for start in range(0, len(codes), 10000):
        texts = [f"好{chr(code)}a" for code in codes[start : start + 10000]]
        theirs = cn_clip.tokenize([_preprocess_text(text) for text in texts], context_length=8)
        wrong = (tokenizer(texts) != theirs).any(dim=1).nonzero().flatten().tolist()
        different += [codes[start + index] for index in wrong]
    # Two characters that Unicode has moved to another class: a Canadian syllabics sign and a Hanunoo vowel.
    assert set(different) <= {0x166D, 0x1734}


def test_default_length_is_that_of_chinese_clip(vocabulary):
    tokenizer = open_clip.get_tokenizer("cnclip")
    assert tokenizer("一只猫").shape == (1, 52)
    assert torch.equal(tokenizer("一只猫"), cn_clip.tokenize("一只猫"))
    assert tokenizer(["一只猫", "狗"], context_length=10).shape == (2, 10)


def test_zhclip_is_transformers_bert(vocabulary):
    """ZH-CLIP, Taiyi-CLIP and CLIP-Chinese hand their texts to transformers as they are."""
    from transformers import BertTokenizerFast

    texts = sentences(500)
    folder = vocabulary / "thu-ml/zh-clip-vit-roberta-large-patch14"
    theirs = BertTokenizerFast.from_pretrained(folder)(
        texts, max_length=77, padding="max_length", truncation=True, return_tensors="pt"
    )
    assert torch.equal(open_clip.get_tokenizer("zhclip")(texts), theirs["input_ids"])


# XLM-R's and LaBSE's


def unigram(folder: Path) -> None:
    """A tokenizer of XLM-R's kind with a small vocabulary, in the files that the hub has."""
    from transformers import XLMRobertaTokenizerFast

    words = sorted(set(SIMPLIFIED + TRADITIONAL) - set("，。"))
    vocabulary = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocabulary += [(word, -5.0 - 0.01 * rank) for rank, word in enumerate(words)]
    vocabulary += [("▁一只", -4.0), ("小猫", -4.5), ("▁cat", -4.0), ("s", -3.0), ("<mask>", 0.0)]
    XLMRobertaTokenizerFast(vocab=vocabulary).save_pretrained(folder)
    assert (folder / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("name", "repo"), [("altclip", "BAAI/AltCLIP"), ("mclip-vit-b-32", "M-CLIP/XLM-Roberta-Large-Vit-B-32")]
)
def test_xlm_r(models_dir, name, repo):
    from transformers import AutoTokenizer

    folder = models_dir / repo
    folder.mkdir(parents=True)
    unigram(folder)
    texts = ["一只小猫", "一只 cats 坐", "", "好" * 100, "“T恤”", "一" * 300, "  空 格  "]
    theirs = AutoTokenizer.from_pretrained(folder)(
        texts, max_length=77, padding="max_length", truncation=True, return_tensors="pt"
    )["input_ids"]
    ours = open_clip.get_tokenizer(name)(texts)
    assert torch.equal(ours, theirs)
    assert ours[2].tolist() == [0, 2] + [1] * 75  # start, end, and padding with 1
    assert ours[5, -1] == 2


def sentencepiece_model(folder: Path) -> None:
    """XLM-R's own form of its vocabulary, in small, as some repositories have nothing else."""
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    text = folder / "text"
    text.write_text("\n".join(["一只可爱的小猫坐在红色的沙发上", "两个男人踢足球", "a cat sits on a sofa"] * 50))
    options = dict(model_type="unigram", hard_vocab_limit=False, vocab_size=60, minloglevel=2)
    trainer.train(input=str(text), model_prefix=str(folder / "sentencepiece.bpe"), **options)
    text.unlink()


def test_sentencepiece_model_alone(tmp_path):
    pytest.importorskip("google.protobuf")
    sentencepiece_model(tmp_path)
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(tmp_path / "sentencepiece.bpe.model"))
    for text in ("一只小猫 cat", "两个男人", "sofa 很"):
        # fairseq's ids are one higher, with <unk> (0 there) as 3
        theirs = [0, *(piece + 1 if piece else 3 for piece in pieces.encode(text)), 2]
        ours = open_clip.get_tokenizer("altclip", pretrained=str(tmp_path))(text)[0].tolist()
        assert ours == theirs + [1] * (77 - len(theirs))


def test_sentencepiece_model_without_the_packages_that_read_it(tmp_path, monkeypatch):
    from zhclip_openclip.towers import tokenizer

    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"whatever")
    monkeypatch.setattr(tokenizer, "_is_installed", lambda name: False)
    with pytest.raises(RuntimeError, match="sentencepiece.bpe.model needs .*: pip install sentencepiece protobuf$"):
        open_clip.get_tokenizer("altclip", pretrained=str(tmp_path))


def test_labse_keeps_capitals(models_dir):
    folder = models_dir / "M-CLIP/LABSE-Vit-L-14"
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Cat", "cat", "猫"]))
    ids = open_clip.get_tokenizer("mclip-labse-vit-l-14")(["Cat cat 猫"])
    assert ids[0, :6].tolist() == [2, 5, 6, 7, 3, 0]


# where the files come from


def test_vocabulary_beside_a_checkpoint_comes_first(vocabulary, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "猫"]))
    assert open_clip.get_tokenizer("cnclip", pretrained=str(mine))(["猫"])[0, :4].tolist() == [2, 5, 3, 0]


@pytest.mark.parametrize("name", ["cnclip", "zhclip", "taiyiclip-vit-b-32"])
def test_an_installed_cn_clip_has_the_vocabulary(offline, caplog, name, tmp_path):
    tokenizer = open_clip.get_tokenizer(name, cache_dir=str(tmp_path))
    assert tokenizer("一只猫")[0, :6].tolist() == cn_clip.tokenize("一只猫")[0, :6].tolist()
    assert "cn_clip" in caplog.text


@pytest.mark.parametrize("name", ["altclip", "clip-chinese"])
def test_no_vocabulary_is_an_error_that_names_the_repository(offline, name, tmp_path):
    with pytest.raises(DownloadError, match="(BAAI/AltCLIP|YeungNLP/clip-vit-bert-chinese-1M): .* is not on this mach"):
        open_clip.get_tokenizer(name, cache_dir=str(tmp_path))


def test_tokenizer_files_are_downloaded(hub, tmp_path):
    folder = hub.root / "OFA-Sys/chinese-clip-vit-base-patch16"
    folder.mkdir(parents=True)
    shutil.copy(VOCABULARY, folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    tokenizer = open_clip.get_tokenizer("cnclip-vit-b-16", cache_dir=str(tmp_path))
    assert torch.equal(tokenizer("一只猫"), cn_clip.tokenize("一只猫"))
