"""The pass over images: what CLIP_benchmark computes, and a cache that hits for equal content alone."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from clip_benchmark.metrics import zeroshot_classification
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder

from zhclip_openclip.datasets.digits import Digits
from zhclip_openclip.features import fingerprint, trial, using
from zhclip_openclip.features.image_pass import ImagePass

ROWS = 70  # of the digits: five batches of 16, the last one short


class Counting(torch.nn.Module):
    """The tiny model, counting the images of data sets that it encodes; fails after so many, as a kill would end it."""

    def __init__(self, model, fail_after=10**9):
        super().__init__()
        self.model, self._count, self._fail_after = model, [0], fail_after  # no part of its structure
        self.visual = model.visual

    @property
    def seen(self):
        return self._count[0]

    def encode_image(self, images):
        if self.seen >= self._fail_after:
            raise KeyboardInterrupt
        if not torch.equal(images, trial.probes(tuple(images.shape[1:]), images.dtype)):
            self._count[0] += len(images)
        return self.model.encode_image(images)


@pytest.fixture(scope="module")
def tiny():
    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    return model.eval(), transform


def loader(transform, rows=ROWS, size=16, **more):
    digits = Digits("test", transform)
    digits.images, digits.targets = digits.images[:rows], digits.targets[:rows]
    return torch.utils.data.DataLoader(digits, batch_size=size, **more)


def run(model, data, amp=False):
    """All features and labels, and how many images were encoded."""
    counting = model if isinstance(model, Counting) else Counting(model).eval()
    before = counting.seen
    features, labels = zip(*ImagePass(counting, data, "cpu", amp, "digits"), strict=True)
    return torch.cat(features), torch.cat(labels), counting.seen - before


def reference(model, data):
    """CLIP_benchmark's own: with the identity for a classifier its scores are 100 times the features."""
    original = zeroshot_classification.run_classification
    original = getattr(original, "__zhclip_original__", original)
    return original(model, torch.eye(model.visual(next(iter(data))[0][:1]).shape[1]), data, "cpu", amp=False)


def test_it_is_what_clip_benchmark_computes(tiny):
    model, transform = tiny
    scores, labels = reference(model, loader(transform))
    features, ours, _ = run(model, loader(transform, num_workers=2))
    torch.testing.assert_close(100 * features, scores, rtol=0, atol=2e-5)
    assert torch.equal(ours, labels)


def test_a_second_pass_encodes_nothing_and_gives_the_same_bits(tiny, tmp_path, capsys):
    model, transform = tiny
    plain = run(model, loader(transform))
    with using(cache=tmp_path):
        first = run(model, loader(transform))
        again = run(model, loader(transform))
        other_size = run(model, loader(transform, size=7))
    assert (first[2], again[2], other_size[2]) == (ROWS, 0, 0)
    for features, labels, _ in (first, again, other_size):
        assert torch.equal(features, plain[0]) and torch.equal(labels, plain[1])
    assert "Image features: 70 from the cache, which took" in capsys.readouterr().out


def test_a_model_with_the_same_tower_costs_no_second_pass(tiny, tmp_path):
    model, transform = tiny
    other = copy.deepcopy(model)
    torch.nn.init.normal_(next(other.text.parameters()))
    with using(cache=tmp_path):
        assert fingerprint.image_tower(model) is model.visual
        assert fingerprint.tower(model) == fingerprint.tower(other)
        assert len(list(ImagePass(model, loader(transform), "cpu", False))) == 5
        hits = ImagePass(other, loader(transform), "cpu", False)
        assert len(list(hits)) == 5 and hits.reused == ROWS and hits.saved > 0


def _weight(model, transform, data):
    with torch.no_grad():
        parameter = list(model.visual.parameters())[-1]
        parameter.view(-1)[0] = torch.nextafter(parameter.view(-1)[0], torch.tensor(9.0))


def _activation(model, transform, data):
    block = next(module for module in model.visual.modules() if isinstance(module, torch.nn.GELU))
    block.approximate = "tanh"


def _pixel(model, transform, data):
    data.dataset.images = data.dataset.images.copy()
    data.dataset.images[40, 3, 3] ^= 1


def _label(model, transform, data):
    data.dataset.targets = [*data.dataset.targets[:-1], (data.dataset.targets[-1] + 1) % 10]


def _order(model, transform, data):
    data.dataset.images = data.dataset.images[::-1].copy()


def _crop(model, transform, data):
    data.dataset.transform = transforms.Compose([transforms.Pad(1), *transform.transforms])


def _hidden_crop(model, transform, data):
    data.dataset.transform = lambda image: transform(image.rotate(1))


@pytest.mark.parametrize("change", [_weight, _activation, _pixel, _label, _order, _crop, _hidden_crop])
def test_a_change_never_hits(tiny, tmp_path, change):
    model, transform = tiny
    with using(cache=tmp_path):
        run(model, loader(transform))
        changed, data = copy.deepcopy(model), loader(transform)
        change(changed, transform, data)
        assert run(changed, data)[2] == ROWS
        assert run(model, loader(transform))[2] == 0


def test_other_precision_is_another_name(tiny):
    names = {
        fingerprint.digest(fingerprint.precision(device, amp))
        for device, amp in (("cpu", False), ("cpu", True), ("cuda", True))
    }
    assert len(names) == 3


def test_two_crops_of_one_class_have_two_names():
    def name(size):
        digits = Digits("test", transforms.Compose([transforms.Resize(size), transforms.ToTensor()]))
        return fingerprint.preprocessing(digits)

    assert name(8) == name(8) != name(9)


def test_a_random_preprocessing_is_not_cached(tiny, tmp_path, capsys):
    model, transform = tiny
    data = loader(transforms.Compose([transforms.RandomRotation(90), *transform.transforms]))
    with using(cache=tmp_path):
        assert run(model, data)[2] == run(model, data)[2] == ROWS
    assert "a preprocessing that differs from time to time" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_killed_pass_goes_on_from_its_blocks_with_the_same_bits(tiny, tmp_path):
    model, transform = tiny
    whole = run(model, loader(transform))
    with using(cache=tmp_path, block_seconds=0.0):
        with pytest.raises(KeyboardInterrupt):
            run(Counting(model, fail_after=48).eval(), loader(transform))
        blocks = sorted(path.name for path in tmp_path.rglob("*.safetensors"))
        assert blocks == [f"{n:06d}-{n + 1:06d}.safetensors" for n in range(len(blocks))] and len(blocks) == 3
        (next(tmp_path.glob("*/part-16")) / blocks[1]).write_bytes(b"damaged")
        resumed = run(model, loader(transform))
    assert resumed[2] == ROWS - 32
    assert torch.equal(resumed[0], whole[0]) and torch.equal(resumed[1], whole[1])
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == ["features.safetensors"]


def test_files_count_by_content_not_by_name_or_time(tmp_path):
    def folder(name, value):
        path = tmp_path / name / "class"
        path.mkdir(parents=True)
        Image.fromarray(np.full((9, 9, 3), value, np.uint8)).save(path / f"{name}.png")
        dataset = ImageFolder(tmp_path / name, transforms.ToTensor())
        return fingerprint.data(torch.utils.data.DataLoader(dataset))

    assert folder("a", 3) == folder("b", 3) != folder("c", 4)


def test_shards_of_a_stream_count_by_content(tmp_path, tiny):
    import webdataset

    model, transform = tiny

    def stream(name, value):
        (tmp_path / name).mkdir()
        for shard in range(2):
            with webdataset.TarWriter(str(tmp_path / name / f"{shard}.tar"), mtime=0) as writer:
                for number in range(3):
                    image = Image.fromarray(np.full((8, 8, 3), value + number, np.uint8))
                    writer.write({"__key__": f"s{shard}{number}", "png": image, "cls": number})
        urls = [str(tmp_path / name / f"{shard}.tar") for shard in range(2)]
        data = webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("png", "cls")
        return torch.utils.data.DataLoader(data.map_tuple(transform).batched(2), batch_size=None)

    with using(cache=tmp_path / "cache"):
        assert [run(model, stream(*which))[2] for which in (("a", 1), ("b", 1), ("c", 2))] == [6, 0, 6]
        wider = transforms.Compose([transforms.Pad(2), *transform.transforms])
        model, transform = model, wider
        assert run(model, stream("d", 1))[2] == 6


def test_who_wants_to_be_told_is_told(tiny, tmp_path, capsys):
    model, transform = tiny
    told = []
    with using(cache=tmp_path, progress=lambda *news: told.append(news)):
        run(model, loader(transform))
        run(model, loader(transform))
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    assert (
        told[0] == ("images", 0, ROWS, 0)
        and ("images", ROWS, ROWS, 0) in told
        and told[-1] == ("images", ROWS, ROWS, ROWS)
    )


def test_clip_benchmark_keeps_its_own_pass_for_others(tiny, tmp_path, monkeypatch):
    """Without a cache a model that is not ours takes CLIP_benchmark's function; with one the result is the same."""
    model, transform = tiny
    other = Counting(model).eval()
    classifier = torch.randn(model.visual(next(iter(loader(transform)))[0][:1]).shape[1], 10)
    patched = zeroshot_classification.run_classification
    plain = patched(other, classifier, loader(transform), "cpu", amp=False)
    monkeypatch.setenv("ZHCLIP_FEATURE_CACHE", str(tmp_path))
    for expected in (2 * ROWS, 2 * ROWS):
        scores, labels = patched(other, classifier, loader(transform), "cpu", amp=False)
        assert torch.equal(scores, plain[0]) and torch.equal(labels, plain[1]) and other.seen == expected
    assert len(list(Path(tmp_path).iterdir())) == 1
