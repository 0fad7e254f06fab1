"""The classifier against CLIP_benchmark's own, on text towers with and without our trimming."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from zhclip_openclip import prompts
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.features import text_batches
from zhclip_openclip.prompts.classifier import zero_shot_classifier

theirs = pytest.importorskip("clip_benchmark.metrics.zeroshot_classification")
THEIRS = getattr(theirs.zero_shot_classifier, "__zhclip_original__", theirs.zero_shot_classifier)
NAMES = ["猫", "非洲野狗", "美洲短吻鳄", "车", "汽车"]
TEMPLATES = ["{c}", "一张{c}的照片", "{c}的照片", "画面正中央的一只很大的{c}", "一张{c}的照片"]


class Characters:
    """One id a character, padded with 0 to 20; texts differ by case only as little as BERT's do."""

    def __call__(self, texts):
        rows = [[2, *(ord(c) % 997 + 3 for c in text.lower())][:20] for text in texts]
        return torch.tensor([row + [0] * (20 - len(row)) for row in rows])


class Watched(torch.nn.Module):
    """A text tower that notes the shape of each batch; its features depend on every token."""

    def __init__(self, width=16):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(1000, width, padding_idx=0)
        self.position = torch.nn.Parameter(torch.randn(20, width))
        self.linear = torch.nn.Linear(width, 12)
        self.batches = []

    def encode_text(self, ids):
        self.batches.append(tuple(ids.shape))
        mask = (ids != 0)[..., None]
        return self.linear(torch.tanh((self.embedding(ids) + self.position[: ids.shape[1]]) * mask).sum(1))


@pytest.fixture(scope="module")
def bert():
    """A small text tower of ours, built as the large ones are, with a projection as ZH-CLIP has it."""
    from transformers import BertConfig

    from zhclip_openclip.towers.text import ChineseTextEncoder

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=1000,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        pad_token_id=0,
        max_position_embeddings=32,
    )
    text = ChineseTextEncoder("x", 24, config=config, pooler_type="mean_pooler", proj_type="mlp", pretrained=False)
    return SimpleNamespace(text=text.eval(), encode_text=text)


@pytest.mark.parametrize("budget", [None, 1, 40, 10_000])
def test_is_clip_benchmarks(bert, budget):
    expected = THEIRS(bert, Characters(), NAMES, TEMPLATES, "cpu", amp=False)
    result = zero_shot_classifier(bert, Characters(), NAMES, TEMPLATES, "cpu", amp=False, tokens_per_batch=budget)
    assert result.shape == expected.shape == (24, 5) and result.dtype == expected.dtype
    assert (result - expected).abs().max() < 1e-5
    assert len({tuple(column.tolist()) for column in result.T}) == 5


def test_is_clip_benchmarks_on_a_model_that_is_not_ours():
    model = Watched()
    expected = THEIRS(model, Characters(), NAMES, TEMPLATES, "cpu", amp=False)
    assert (zero_shot_classifier(model, Characters(), NAMES, TEMPLATES, "cpu", amp=False) - expected).abs().max() < 1e-5


def test_mixed_precision_is_clip_benchmarks_to_its_own_precision(bert):
    expected = THEIRS(bert, Characters(), NAMES, TEMPLATES, "cpu", amp=True)
    result = zero_shot_classifier(bert, Characters(), NAMES, TEMPLATES, "cpu", amp=True)
    assert result.dtype == expected.dtype
    assert (result.float() - expected.float()).abs().max() < 2e-2


@pytest.mark.parametrize("dictionary", [False, True])
def test_prompts_of_its_own_for_each_class(bert, dictionary):
    templates = {name: [f"{name}的照片", "照片", *(["多一张"] * index)] for index, name in enumerate(NAMES)}
    if not dictionary:
        templates = [*TEMPLATES, TEMPLATES[0]]
    expected = THEIRS(bert, Characters(), NAMES, templates, "cpu", amp=False)
    assert (zero_shot_classifier(bert, Characters(), NAMES, templates, "cpu", amp=False) - expected).abs().max() < 1e-5


def test_equal_prompts_are_encoded_once():
    model = Watched()
    zero_shot_classifier(model, Characters(), ["Cat", "cat", "dog"], ["{c}", "a {c}", "{c}"], "cpu", amp=False)
    assert sum(rows for rows, _ in model.batches) == 4


def test_equal_prompts_still_count_twice():
    """A template that is in a list twice weighs twice in the mean, as in CLIP_benchmark."""
    once = zero_shot_classifier(Watched(), Characters(), ["cat"], ["{c}", "a {c}"], "cpu", amp=False)
    twice = zero_shot_classifier(Watched(), Characters(), ["cat"], ["{c}", "a {c}", "a {c}"], "cpu", amp=False)
    assert (once - twice).abs().max() > 1e-3


def test_batches_go_from_long_to_short_and_keep_the_budget(bert):
    seen = []
    model = SimpleNamespace(text=bert.text, encode_text=lambda ids: (seen.append(ids), bert.text(ids))[1])
    zero_shot_classifier(model, Characters(), NAMES, TEMPLATES, "cpu", amp=False, tokens_per_batch=30)
    lengths = [(ids != 0).sum(1) for ids in seen]
    assert torch.equal(torch.cat(lengths), torch.cat(lengths).sort(descending=True).values)
    assert all(len(ids) * int(length.max()) <= 30 for ids, length in zip(seen, lengths, strict=True))
    assert len(seen) < len(torch.cat(lengths)) / 2


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("budget", [1, 300, 4096])
def test_batches_cover_everything_once_with_little_padding(seed, budget):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(5, 20, (1000,), generator=generator).sort(descending=True).values.tolist()
    bounds = text_batches._bounds(lengths, budget)
    assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])] and bounds[-1][1] == 1000
    assert all(start < stop and ((stop - start) * lengths[start] <= max(budget, 20)) for start, stop in bounds)
    tokens = sum((stop - start) * lengths[start] for start, stop in bounds)
    assert tokens <= 1.1 * sum(lengths)


def test_few_prompts_share_a_batch():
    assert text_batches._bounds([9, 8, 7, 6, 5], 4096) == [(0, 5)]


def test_without_trimming_a_batch_costs_its_whole_width():
    model = Watched()
    zero_shot_classifier(model, Characters(), NAMES, TEMPLATES, "cpu", amp=False, tokens_per_batch=60)
    assert len(model.batches) == 7 and max(rows for rows, _ in model.batches) == 3


def test_tokenizer_that_gives_a_dictionary():
    """As clip_benchmark's Japanese models have it."""

    class Ids(dict):
        def to(self, device):
            return self

    model = Watched()
    tower = SimpleNamespace(encode_text=lambda d: model.encode_text(d["input_ids"]))
    expected = THEIRS(model, Characters(), NAMES, TEMPLATES, "cpu", amp=False)
    tokenizer = Characters()
    result = zero_shot_classifier(
        tower, lambda texts: Ids(input_ids=tokenizer(texts)), NAMES, TEMPLATES, "cpu", amp=False
    )
    assert (result - expected).abs().max() < 1e-5


def test_progress_counts_prompts(capsys):
    zero_shot_classifier(Watched(), Characters(), NAMES, TEMPLATES, "cpu", amp=False)
    shown = capsys.readouterr().err
    assert "Encoding prompts" in shown and "20/20" in shown  # 5 classes, 4 different templates


def test_our_smallest_model_through_open_clip():
    open_clip = pytest.importorskip("open_clip")
    tiny = open_clip.create_model("zhclip-tiny", pretrained_text=False).eval()
    dataset = SimpleNamespace(classes=[str(digit) for digit in range(10)])
    prompts.localise(dataset, "digits", "zh")

    def tokenizer(texts):
        ids = Characters()(texts)
        return torch.where(ids > 0, ids % tiny.text.vocab_size, 0)

    expected = THEIRS(tiny, tokenizer, dataset.classes, dataset.templates, "cpu", amp=False)
    result = zero_shot_classifier(tiny, tokenizer, dataset.classes, dataset.templates, "cpu", amp=False)
    assert (result - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("names", "templates", "error"),
    [
        ([], ["{c}"], "no classes"),
        (["猫"], [], "no prompts for the class '猫'"),
        (["猫"], {"狗": ["狗"]}, "no prompts"),
    ],
)
def test_nothing_to_encode(names, templates, error):
    with pytest.raises(ZhclipError, match=error):
        zero_shot_classifier(Watched(), Characters(), names, templates, "cpu", amp=False)
