"""Names that differ for a reader must differ for BERT, whose 21,128 tokens lack the rarer characters."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from pathlib import Path

import pytest

from zhclip_openclip.prompts import classnames, registry

FILES = sorted({dataset.classnames for dataset in registry.all_datasets().values()})


@pytest.fixture(scope="module")
def tokenizer():
    package = importlib.util.find_spec("cn_clip")
    if package is None:
        pytest.skip("cn_clip, which has the vocabulary, is not installed")
    transformers = pytest.importorskip("transformers")
    vocabulary = Path(package.submodule_search_locations[0]) / "clip" / "vocab.txt"
    return transformers.BertTokenizerFast(str(vocabulary))


@pytest.mark.parametrize("file", FILES)
def test_no_two_classes_are_the_same_tokens(file, tokenizer):
    names = [chinese for _, chinese in classnames.pairs(file)]
    same = defaultdict(list)
    for name, ids in zip(names, tokenizer(names)["input_ids"], strict=True):
        same[tuple(ids)].append(name)
    assert [group for group in same.values() if len(group) > 1] == []


@pytest.mark.parametrize("file", FILES)
def test_few_names_are_unknown_as_a_whole(file, tokenizer):
    """A name of nothing but unknown characters says nothing to the model; these three have no other name."""
    names = [chinese for _, chinese in classnames.pairs(file)]
    ids = tokenizer(names, add_special_tokens=False)["input_ids"]
    unknown = {name for name, row in zip(names, ids, strict=True) if set(row) == {tokenizer.unk_token_id}}
    assert unknown <= {"犰狳", "獴", "蜉蝣"}


@pytest.mark.parametrize("file", FILES)
def test_english_names_are_found_whatever_their_spelling(file):
    """No two classes have the same normalised English name, but for ImageNet's two pairs."""
    places = defaultdict(list)
    for index, (english, _) in enumerate(classnames.pairs(file)):
        places[classnames.key(english)].append(index)
    twice = [group for group in places.values() if len(group) > 1]
    assert twice == ([[657, 744], [836, 837]] if file == "imagenet1k" else [])
