"""Chinese text reaches models that are not ours as their authors feed it: id for id as transformers' tokenizers."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import transformers
from open_clip.tokenizer import HFTokenizer

from tests.support import small_tokenizers
from tests.support.small_tokenizers import TEXTS
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.families import find
from zhclip_openclip.families._collections import collections
from zhclip_openclip.towers import text_handling
from zhclip_openclip.towers.text_handling import AuthorsTokenizer, of_authors

pytest.importorskip("google.protobuf")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Kind -> folder of tokenizer files, made once."""
    root = tmp_path_factory.mktemp("tokenizers")
    return {kind: getattr(small_tokenizers, kind)(root / kind) for kind in ("gemma", "t5", "xlm", "nllb")}


def theirs(tokenizer, length):
    return tokenizer(TEXTS, max_length=length, padding="max_length", truncation=True, return_tensors="pt")["input_ids"]


#: Model, kind of tokenizer, open_clip's cleaning and length of its config, class of transformers, its options.
MODELS = [
    pytest.param(
        *("ViT-B-16-SigLIP2-256", "gemma", "canonicalize", 64, "Siglip2Tokenizer", {"padding_side": "right"}),
        id="SigLIP 2",
    ),
    pytest.param("ViT-B-16-SigLIP-i18n-256", "t5", "canonicalize", 64, "SiglipTokenizer", {}, id="SigLIP i18n"),
    pytest.param("ViT-H-14-worldwide-378", "xlm", "whitespace", 77, "XLMRobertaTokenizer", {}, id="MetaCLIP 2"),
    pytest.param(
        *("nllb-clip-base-siglip", "nllb", "whitespace", 77, "NllbTokenizer", {"src_lang": "zho_Hans"}), id="NLLB-CLIP"
    ),
]


@pytest.mark.parametrize(("model", "kind", "clean", "length", "reference", "options"), MODELS)
def test_ids_are_those_of_the_authors(folders, model, kind, clean, length, reference, options):
    if not hasattr(transformers, reference):
        pytest.skip(f"this transformers has no {reference}")
    folder = folders[kind]
    host = HFTokenizer(str(folder), context_length=length, clean=clean)
    where = folder.parent if reference == "SiglipTokenizer" else folder  # it reads spiece.model
    expected = theirs(getattr(transformers, reference).from_pretrained(where, **options), length)
    before = host(TEXTS)
    handling = of_authors(model)
    assert handling.reference == f"transformers.{reference}"
    ours = AuthorsTokenizer(host, handling, "zh")
    assert torch.equal(ours(TEXTS), expected)
    assert torch.equal(ours(TEXTS[0])[0], expected[0]) and ours.context_length == length
    assert ours(TEXTS[0], context_length=9).shape == (1, 9)
    different = [text for text, one, other in zip(TEXTS, before, expected, strict=True) if not torch.equal(one, other)]
    assert TEXTS[0] in different  # open_clip's own would be noticed
    assert torch.equal(host(TEXTS), before)  # which stays as it is
    assert torch.equal(pickle.loads(pickle.dumps(ours))(TEXTS), expected)


def test_the_length_of_a_text_with_its_punctuation(folders):
    """Of SigLIP 2 open_clip drops nearly all Chinese punctuation; the authors keep it."""
    host = HFTokenizer(str(folders["gemma"]), context_length=64, clean="canonicalize")
    ours = AuthorsTokenizer(host, of_authors("ViT-B-16-SigLIP2"), "zh")
    words = [
        tokenizer.tokenizer.decode(tokenizer("狗，“好”！")[0], skip_special_tokens=True) for tokenizer in (host, ours)
    ]
    assert words == ["狗好", "狗，“好”！"]


def test_the_script_of_nllb(folders):
    """clip_benchmark says Traditional of all Chinese, and transformers undoes even that: it is taken for English."""
    from clip_benchmark.models.nllb_clip import set_language

    host = HFTokenizer(str(folders["nllb"]), context_length=77)

    def code(tokenizer):
        set_language(tokenizer, "zh")  # as clip_benchmark does after loading
        return host.tokenizer.convert_ids_to_tokens(tokenizer("狗")[0, :1].tolist())[0]

    handling = of_authors("nllb-clip-large", host)
    assert [code(AuthorsTokenizer(host, handling, language)) for language in ("zh", "zh_Hant")] == [
        "zho_Hans",
        "zho_Hant",
    ]
    assert code(AuthorsTokenizer(host, handling, "")) == code(host) == "eng_Latn"


def test_what_cannot_be_fed_so_is_told(folders):
    host = HFTokenizer(str(folders["xlm"]), context_length=77)
    with pytest.raises(ZhclipError, match=r"has no token zho_Hans: fetch it again$"):
        AuthorsTokenizer(host, of_authors("nllb-clip-base"), "zh")
    with pytest.raises(ZhclipError, match=r"is a function, whose cleaning .*; --text-handling host takes it as it is$"):
        AuthorsTokenizer(lambda texts: None, of_authors("ViT-B-16-SigLIP2"), "zh")


@pytest.mark.parametrize(
    ("name", "whose"),
    [
        ("ViT-SO400M-14-SigLIP2-378", "SigLIP 2"),
        ("hf-hub:timm/ViT-B-16-SigLIP2-256", "SigLIP 2"),
        ("local-dir:/models/siglip2/my-vit", None),  # the folder above says nothing
        ("ViT-B-16-SigLIP", "SigLIP"),
        ("nllb-clip-base-siglip", "NLLB-CLIP"),
        ("hf-hub:visheratin/nllb-siglip-mrl-base", "NLLB-CLIP"),
        ("ViT-bigG-14-worldwide", "MetaCLIP 2"),
        ("ViT-L-14-worldwide", None),  # something else of open_clip's, without weights
        ("xlm-roberta-base-ViT-B-32", None),  # trained with open_clip's own cleaning
        ("ViT-L-14", None),
        ("zhclip", None),
    ],
)
def test_whose_handling(name, whose):
    handling = of_authors(name)
    assert (handling and handling.name) == whose


def test_a_model_of_the_hub_is_known_by_its_tokenizer(folders):
    host = HFTokenizer(str(folders["gemma"]), context_length=64)
    host.tokenizer.name_or_path = "timm/ViT-B-16-SigLIP2-256"
    assert of_authors("hf-hub:somebody/model-of-mine", host).name == "SigLIP 2"


def test_of_each_multilingual_model_it_is_known_whether_there_are_two_ways():
    """LAION's and DataComp's were trained with open_clip, whose cleaning is their authors' then."""
    one_way = {model for model, _ in collections()["multilingual"] if of_authors(model) is None}
    assert one_way == {"xlm-roberta-base-ViT-B-32", "xlm-roberta-large-ViT-H-14", "ViT-L-14", "ViT-B-16"}


def test_of_every_model_with_a_tokenizer_of_its_own_it_is_decided():
    """A model that a later open_clip adds, with another tokenizer than CLIP's, trips this: how do its authors do it?"""
    import open_clip

    own = {
        model
        for model, _ in open_clip.list_pretrained()
        if open_clip.get_model_config(model)["text_cfg"].get("hf_tokenizer_name") and find(model) is None
    }
    english = {model for model in own if "CLIPA" in model or model == "roberta-ViT-B-32"}
    laion = {"xlm-roberta-base-ViT-B-32", "xlm-roberta-large-ViT-H-14"}
    assert {model for model in own if of_authors(model) is None} == english | laion


def test_laions_texts_are_open_clips(folders):
    """Their ids are those of transformers' tokenizer for the text that open_clip has cleaned."""
    from open_clip.tokenizer import get_clean_fn

    host = HFTokenizer(str(folders["xlm"]), context_length=77)
    cleaned = [get_clean_fn("whitespace")(text) for text in TEXTS]
    reference = transformers.XLMRobertaTokenizer.from_pretrained(folders["xlm"])
    ids = reference(cleaned, max_length=77, padding="max_length", truncation=True, return_tensors="pt")["input_ids"]
    assert torch.equal(host(TEXTS), ids) and not torch.equal(host(TEXTS), theirs(reference, 77))


def test_the_choices():
    for choice in (None, *text_handling.CHOICES):
        text_handling.check(choice)
    with pytest.raises(ZhclipError, match="^--text-handling raw: there are authors .* and host"):
        text_handling.check("raw")


def test_the_page_shows_what_is_done():
    """docs/multilingual.md: its example under each handling, and its numbers."""
    import re

    import open_clip
    from open_clip.tokenizer import get_clean_fn

    from zhclip_openclip.checkpoints import _open_clip_models

    page = (Path(__file__).parents[2] / "docs" / "multilingual.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ?(.*) \| `(.*)` \|$", page, re.MULTILINE)
    (_, text), *shown = [(what, example) for what, example in rows if "警车" in example]
    cleaned = {
        "open_clip, for MetaCLIP 2 and XLM-R": get_clean_fn("whitespace")(text),
        "open_clip, for SigLIP and SigLIP 2": get_clean_fn("canonicalize")(text),
        "the authors of SigLIP 2": text_handling.CLEANING["lower"](text),
    }
    assert {what: example for what, example in shown if example != "as it is"} == cleaned
    assert f"`multilingual` is {len(collections()['multilingual'])} of them" in page
    twins = [pair for pair in open_clip.list_pretrained() if _open_clip_models.with_its_activation(*pair) != pair[0]]
    assert f"with {len(twins)} pairs of a model and a tag" in " ".join(page.split())
