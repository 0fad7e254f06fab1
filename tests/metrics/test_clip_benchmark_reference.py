"""Where each text has one image and nothing ties, the numbers are CLIP_benchmark's own."""

import numpy as np
import pytest
import torch

zeroshot_retrieval = pytest.importorskip("clip_benchmark.metrics.zeroshot_retrieval")

from zhclip_openclip.metrics.evaluate import evaluate, exact_dataset  # noqa: E402
from zhclip_openclip.metrics.per_query import load_per_query  # noqa: E402


class Model:
    """Looks features up: an 'image' holds its number, a text is its number."""

    def __init__(self, images, texts):
        self.images, self.texts, self.encoded_texts = images, texts, 0

    def encode_image(self, batch):
        return self.images[batch[:, 0].long()]

    def encode_text(self, batch):
        self.encoded_texts += len(batch)
        return self.texts[batch]


class Numbers(torch.utils.data.Dataset):
    """Image i with its two texts, like any of CLIP_benchmark's retrieval datasets."""

    def __len__(self):
        return 45

    def __getitem__(self, index):
        return torch.tensor([float(index)]), [str(2 * index), str(2 * index + 1)]


class Entry:
    def __init__(self, number):
        self.id, self.text = f"t{number}", str(number)


class Exact(Numbers):
    """The same with exact relations: each text is right for the image it came with and for its neighbour."""

    name, split, directions = "numbers", "test", ("image_retrieval",)
    image_ids = [f"i{number}" for number in range(45)]
    texts = [Entry(number) for number in range(90)]
    text_to_images = [[t // 2, (t // 2 + 1) % 45] for t in range(90)]

    def fingerprint(self):
        return "f" * 64


def collate(batch):
    images, texts = zip(*batch, strict=True)
    return torch.stack(images), texts


def tokenizer(texts):
    return torch.tensor([int(text) for text in texts])


@pytest.fixture
def model():
    rng = np.random.default_rng(1)
    images = rng.standard_normal((45, 16))
    texts = np.repeat(images, 2, axis=0) + 1.5 * rng.standard_normal((90, 16))
    return Model(torch.tensor(images, dtype=torch.float32), torch.tensor(texts, dtype=torch.float32))


def loader(dataset):
    return torch.utils.data.DataLoader(dataset, batch_size=8, collate_fn=collate)


def test_same_numbers(model):
    theirs = zeroshot_retrieval.evaluate(model, loader(Numbers()), tokenizer, "cpu", False, [1, 5, 10])
    ours = evaluate(model, loader(Numbers()), tokenizer, "cpu", False, [1, 5, 10])
    assert 0.05 < theirs["image_retrieval_recall@1"] < 0.95
    for key, value in theirs.items():
        assert np.float32(ours[key]) == np.float32(value), key
    assert set(ours) - set(theirs) == {"image_retrieval_mean_recall", "text_retrieval_mean_recall"}


def test_exact_relations_are_used_and_each_text_encoded_once(model, tmp_path):
    metrics = evaluate(
        model, loader(Exact()), tokenizer, "cpu", False, [1], per_query=tmp_path / "sub" / "r.npz", meta={"model": "m"}
    )
    assert model.encoded_texts == 90
    assert not any(key.startswith("text_retrieval") for key in metrics)
    scores = torch.nn.functional.normalize(model.texts, dim=1) @ torch.nn.functional.normalize(model.images, dim=1).t()
    best = scores.argmax(dim=1).tolist()
    hits = sum(image in right for image, right in zip(best, Exact.text_to_images, strict=True))
    assert metrics["image_retrieval_recall@1"] == hits / 90

    saved = load_per_query(tmp_path / "sub" / "r.npz")
    assert (saved["image_retrieval_rank"] == 1).sum() == hits
    assert saved["image_retrieval_top"][:, 0].tolist() == best
    assert saved["image_ids"][best[0]] == f"i{best[0]}" and saved["text_ids"][3] == "t3"
    start, item = saved["text_to_images_start"], saved["text_to_images_item"]
    assert item[start[89] : start[90]].tolist() == [44, 0]
    assert saved["meta"]["dataset"] == "numbers" and saved["meta"]["model"] == "m"
    assert saved["meta"]["metrics"] == metrics
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["r.npz"]


def test_a_subset_or_a_short_loader_is_not_taken_for_the_whole(model):
    subset = torch.utils.data.Subset(Exact(), [3, 4])
    assert exact_dataset(loader(subset)) is None
    short = torch.utils.data.DataLoader(Exact(), batch_size=8, collate_fn=collate, drop_last=True)
    with pytest.raises(ValueError, match="40 of the dataset's 45 images"):
        evaluate(model, short, tokenizer, "cpu", False, [1])
