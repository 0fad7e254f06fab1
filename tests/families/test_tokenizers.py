"""Texts become the ids that each family's own code makes of them."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import open_clip
import pytest
import torch

from zhclip_openclip._errors import CheckpointError, DownloadError
from zhclip_openclip.families import find

cn_clip = pytest.importorskip("cn_clip.clip")
from cn_clip.eval.data import _preprocess_text  # noqa: E402

#: Small vocabularies stand in for the published ones; one test of their own looks at the warning.
pytestmark = pytest.mark.filterwarnings("ignore:.* it is cut short, or of another model:UserWarning")

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
    """ZH-CLIP, Taiyi-CLIP and CLIP-Chinese hand their texts to transformers as they are.

    Its default, to lower-case, is spelt out here since versions 5.0 to 5.2 have another.
    """
    from transformers import BertTokenizerFast

    texts = sentences(500)
    folder = vocabulary / "thu-ml/zh-clip-vit-roberta-large-patch14"
    theirs = BertTokenizerFast.from_pretrained(folder, do_lower_case=True)(
        texts, max_length=77, padding="max_length", truncation=True, return_tensors="pt"
    )
    assert torch.equal(open_clip.get_tokenizer("zhclip")(texts), theirs["input_ids"])


CAPITALS = ["Hello T恤 é", "İstanbul NAÏVE Ünïcödé", "ＡＢＣ ÀÉÎ", "一只Cat"]


@pytest.mark.parametrize("name", ["zhclip", "cnclip", "taiyiclip-vit-b-32", "clip-chinese"])
@pytest.mark.parametrize("told", [None, {"init_inputs": []}, {"do_lower_case": None}, {"do_lower_case": True}])
def test_capitals_do_not_depend_on_the_default_of_transformers(tmp_path, monkeypatch, name, told):
    """transformers 5.0 to 5.2 keep them where neither argument nor file says otherwise, later ones do not."""
    import inspect

    import transformers

    shutil.copy(VOCABULARY, tmp_path)
    if told is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(told))
    expected = open_clip.get_tokenizer("zhclip", pretrained=str(tmp_path))(CAPITALS)

    class OfVersion50(transformers.BertTokenizerFast):
        def __init__(self, *args, do_lower_case=False, **kwargs):
            super().__init__(*args, do_lower_case=do_lower_case, **kwargs)

    assert inspect.signature(OfVersion50).parameters["do_lower_case"].default is False
    monkeypatch.setattr(transformers, "BertTokenizerFast", OfVersion50)
    ids = open_clip.get_tokenizer(name, pretrained=str(tmp_path), context_length=77)(CAPITALS)
    assert torch.equal(ids, expected) and not (ids == 100).any()  # no [UNK]


def test_a_folder_that_keeps_capitals_is_obeyed(tmp_path):
    shutil.copy(VOCABULARY, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    assert 100 in open_clip.get_tokenizer("zhclip", pretrained=str(tmp_path))("Hello")


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
    from zhclip_openclip.towers import _tokenizer_files

    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"whatever")
    monkeypatch.setattr(_tokenizer_files, "is_installed", lambda name: False)
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
    told = "(BAAI/AltCLIP|YeungNLP/clip-vit-bert-chinese-1M): .* is not on this machine .* name their folder: "
    told += rf"open_clip.get_tokenizer\('{find(name)[1].name}', pretrained=FOLDER\)$"
    with pytest.raises(DownloadError, match=told):
        open_clip.get_tokenizer(name, cache_dir=str(tmp_path))


def test_tokenizer_files_are_downloaded(hub, tmp_path):
    folder = hub.root / "OFA-Sys/chinese-clip-vit-base-patch16"
    folder.mkdir(parents=True)
    shutil.copy(VOCABULARY, folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    tokenizer = open_clip.get_tokenizer("cnclip-vit-b-16", cache_dir=str(tmp_path))
    assert torch.equal(tokenizer("一只猫"), cn_clip.tokenize("一只猫"))


# what is no tokenizer file, or not this model's

WORDS = "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "猫"])
PAGE = b"<!DOCTYPE html><html><body>404</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 109540\n"


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> dict[str, bytes]:
    """The files of a BERT tokenizer that transformers itself wrote."""
    from transformers import BertTokenizerFast

    folder = tmp_path_factory.mktemp("good")
    (folder / "vocab.txt").write_text(WORDS, encoding="utf-8")
    BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def changed(good, **change) -> bytes:
    return json.dumps({**json.loads(good["tokenizer.json"]), **change}).encode()


BAD = {
    "vocabulary in UTF-16": ("vocab.txt", lambda good: WORDS.encode("utf-16"), "is a text in UTF-16, not a vocab"),
    "vocabulary in GBK": (
        "vocab.txt",
        lambda good: f"{WORDS}\n{SIMPLIFIED}".encode("gbk"),
        "not UTF-8.* a vocabulary is a text in UTF-8",
    ),
    "vocabulary behind a mark": ("vocab.txt", lambda good: WORDS.encode("utf-8-sig"), "begins with a byte order mark"),
    "page as vocabulary": ("vocab.txt", lambda good: PAGE, "is an HTML page, not a vocabulary"),
    "pointer as vocabulary": ("vocab.txt", lambda good: POINTER, "is a Git LFS pointer, not a vocabulary"),
    "empty vocabulary": ("vocab.txt", lambda good: b"", "is an empty file"),
    "zeros as vocabulary": ("vocab.txt", lambda good: bytes(999), "is a file of zeros"),
    "vocabulary of something else": (
        "vocab.txt",
        lambda good: b"[UNK]\nb\nc",
        r"does not hold \[PAD\] and \[CLS\] and",
    ),
    "vocabulary without [UNK]": ("vocab.txt", lambda good: b"a\nb", r"does not hold .*\[UNK\]"),
    "other padding": ("vocab.txt", lambda good: WORDS.replace("[PAD]\n", "").encode() + b"\n[PAD]", "pads with id 6"),
    "page as tokenizer.json": ("tokenizer.json", lambda good: PAGE, "is an HTML page, not a tokenizer"),
    "pointer as tokenizer.json": ("tokenizer.json", lambda good: POINTER, "is a Git LFS pointer"),
    "empty tokenizer.json": ("tokenizer.json", lambda good: b"", "is an empty file"),
    "tokenizer.json of nothing": ("tokenizer.json", lambda good: b"{}", "fetch it"),
    "tokenizer.json of a list": ("tokenizer.json", lambda good: b"[]", "fetch it"),
    "tokenizer.json in UTF-16": (
        "tokenizer.json",
        lambda good: good["tokenizer.json"].decode().encode("utf-16"),
        "is a text in UTF-16",
    ),
    "cut tokenizer.json": ("tokenizer.json", lambda good: good["tokenizer.json"][:900], "fetch it"),
    "tokenizer.json of a later version": (
        "tokenizer.json",
        lambda good: changed(good, version="2.0"),
        "version '2.0'.* or install a newer tokenizers",
    ),
    "tokenizer.json of a later kind": (
        "tokenizer.json",
        lambda good: changed(good, normalizer={"type": "Later"}),
        "or install a newer tokenizers",
    ),
    "page as tokenizer_config": ("tokenizer_config.json", lambda good: PAGE, "is an HTML page, not JSON"),
    "list as tokenizer_config": ("tokenizer_config.json", lambda good: b"[1]", "holds a list, not an object"),
    "word for a truth value": (
        "tokenizer_config.json",
        lambda good: b'{"do_lower_case": "no"}',
        "do_lower_case is 'no'",
    ),
    "no padding": ("tokenizer_config.json", lambda good: b'{"pad_token": null}', "does not hold a pad_token"),
    "page as special_tokens_map": ("special_tokens_map.json", lambda good: PAGE, "is an HTML page, not JSON"),
    "list as added_tokens": ("added_tokens.json", lambda good: b"[1]", "holds a list, not an object"),
    "page as sentencepiece": ("sentencepiece.bpe.model", lambda good: PAGE, "is an HTML page, not a sentencepiece"),
    "pieces of nothing": ("sentencepiece.bpe.model", lambda good: b"whatever", "fetch it"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_line_that_names_it(tmp_path, good, case):
    name, content, told = BAD[case]
    family = "altclip" if name.startswith("sentencepiece") else "zhclip"
    beside = {"vocab.txt": WORDS.encode()} if name not in ("vocab.txt", "sentencepiece.bpe.model") else {}
    for file, raw in {**beside, name: content(good)}.items():
        (tmp_path / file).write_bytes(raw)
    with pytest.raises(CheckpointError, match=told) as caught:
        open_clip.get_tokenizer(family, pretrained=str(tmp_path))
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and len(message) < 600
    assert (str(tmp_path / name) in message) or case == "no padding", message


@pytest.mark.parametrize("name", ["zhclip", "altclip"])
def test_any_damage_to_a_tokenizer_file_is_one_line_or_nothing(tmp_path, good, name):
    """Bytes cut off, turned over and mixed in at random places: an error of ours, or a tokenizer."""
    if name == "altclip":
        unigram(tmp_path)
        good = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    rng = random.Random(3)
    refused = 0
    for round_ in range(40):
        file = rng.choice(sorted(good))
        raw = bytearray(good[file])
        for _ in range(rng.choice([1, 3, 20])):
            place = rng.randrange(len(raw))
            kind = rng.randrange(3)
            if kind == 0:
                del raw[place + 1 :]
            elif kind == 1:
                raw[place] ^= 1 << rng.randrange(8)
            else:
                raw[place:place] = bytes(rng.randrange(256) for _ in range(4))
        folder = tmp_path / str(round_)
        folder.mkdir()
        for other, content in {**good, file: bytes(raw)}.items():
            (folder / other).write_bytes(content)
        try:
            open_clip.get_tokenizer(name, pretrained=str(folder))
        except CheckpointError as error:
            refused += 1
            assert len(str(error).splitlines()) == 1
    assert refused > 10


def test_a_folder_or_a_dead_link_in_the_place_of_a_file(tmp_path):
    (tmp_path / "vocab.txt").mkdir()
    with pytest.raises(CheckpointError, match="vocab.txt is a folder"):
        open_clip.get_tokenizer("zhclip", pretrained=str(tmp_path))
    (tmp_path / "vocab.txt").rmdir()
    (tmp_path / "vocab.txt").symlink_to(tmp_path / "blobs" / "gone")
    with pytest.raises(CheckpointError, match="vocab.txt is a link to a file that is not there"):
        open_clip.get_tokenizer("zhclip", pretrained=str(tmp_path))


@pytest.mark.parametrize("name", ["zhclip", "cnclip"])
def test_a_vocabulary_cut_short_is_told(tmp_path, name):
    (tmp_path / "vocab.txt").write_bytes(VOCABULARY.read_bytes()[:60_000])
    with pytest.warns(UserWarning, match=r"vocab.txt holds \d+ tokens and .* has 21128: it is cut short"):
        open_clip.get_tokenizer(name, pretrained=str(tmp_path))


def test_a_whole_vocabulary_says_nothing(tmp_path, recwarn):
    shutil.copy(VOCABULARY, tmp_path)
    open_clip.get_tokenizer("zhclip", pretrained=str(tmp_path))
    open_clip.get_tokenizer("zhclip-tiny")
    assert not [str(warning.message) for warning in recwarn if "tokens and" in str(warning.message)]


def test_a_folder_that_pads_on_the_left_is_padded_on_the_right(tmp_path):
    """The towers cut batches on the right and read [CLS] at the front."""
    (tmp_path / "vocab.txt").write_text(WORDS, encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"padding_side": "left"}))
    ids = open_clip.get_tokenizer("zhclip", pretrained=str(tmp_path))("猫")
    assert ids[0, :4].tolist() == [2, 6, 3, 0]


# lengths, and what open_clip 4 asks of a tokenizer


@pytest.mark.parametrize(("name", "length"), [("zhclip", 513), ("altclip", 513), ("zhclip-tiny", 33), ("zhclip", 2)])
def test_no_more_tokens_than_positions(name, length):
    told = f"context_length={length} (is too much: .* so give {length - 1} or less|leaves no room)"
    with pytest.raises(CheckpointError, match=told):
        open_clip.get_tokenizer(name, context_length=length)
    with pytest.raises(CheckpointError, match=told):
        open_clip.create_model(name, force_context_length=length, pretrained_text=False)


def test_the_largest_length_is_the_one_that_works(tmp_path):
    tokenizer = open_clip.get_tokenizer("zhclip-tiny", context_length=32)
    model = open_clip.create_model("zhclip-tiny", pretrained="digits", force_context_length=32).eval()
    assert model.context_length == model.text.context_length == 32
    with torch.no_grad():
        assert torch.isfinite(model.encode_text(tokenizer("一" * 100))).all()
    with pytest.raises(CheckpointError, match="so give 32 or less"):
        tokenizer("一", context_length=33)


def test_attributes_and_unpadded_ids_of_open_clip_4(vocabulary, tmp_path):
    from transformers import BertTokenizerFast

    folder = vocabulary / "thu-ml/zh-clip-vit-roberta-large-patch14"
    theirs = BertTokenizerFast.from_pretrained(folder, do_lower_case=True)
    tokenizer = open_clip.get_tokenizer("zhclip")
    assert tokenizer.vocab_size == len(theirs) == 21128
    assert (tokenizer.pad_token_id, tokenizer.sot_token_id, tokenizer.eot_token_id) == (0, 101, 102)
    texts = ["一只猫", "", "好" * 200, "T恤"]
    ids = tokenizer(texts, pad=False)
    assert [row.tolist() for row in ids] == theirs(texts, max_length=77, truncation=True)["input_ids"]
    assert all(row.dtype == torch.long and row.ndim == 1 for row in ids)
    padded = tokenizer(texts)
    for row, full in zip(ids, padded, strict=True):
        assert torch.equal(full[: len(row)], row) and (full[len(row) :] == tokenizer.pad_token_id).all()
    assert tokenizer([]).shape == (0, 77) and tokenizer([], pad=False) == []
    unigram(tmp_path)
    tokenizer = open_clip.get_tokenizer("altclip", pretrained=str(tmp_path))
    assert (tokenizer.pad_token_id, tokenizer.sot_token_id, tokenizer.eot_token_id) == (1, 0, 2)
