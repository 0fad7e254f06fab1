"""The cache never gives one tower, preprocessing or order the features of another, however little tells them apart."""

from __future__ import annotations

import copy
import functools
import io
import textwrap
import types

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image, ImageOps
from torchvision import transforms
from torchvision.datasets import ImageFolder

from tests.support.processes import torchrun
from zhclip_openclip.datasets.digits import Digits
from zhclip_openclip.features import fingerprint, trial, using
from zhclip_openclip.features._tower import described
from zhclip_openclip.features.finite import FiniteError
from zhclip_openclip.features.image_pass import ImagePass, encoder
from zhclip_openclip.metrics import classification

ROWS = 18  # of the digits: in batches of 8, the last one short


@pytest.fixture(scope="module")
def tiny():
    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    return model.eval(), transform


def loader(transform, size=8, **more):
    digits = Digits("test", transform)
    digits.images, digits.targets = digits.images[:ROWS], digits.targets[:ROWS]
    return torch.utils.data.DataLoader(digits, batch_size=size, **more)


def run(model, data, amp=False):
    """All features, and how many of them were made."""
    images = ImagePass(model, data, "cpu", amp, "digits")
    features = torch.cat([features for features, _ in images])
    return features, len(features) - images.reused


# ---------------------------------------------------------------- towers of the same weights


class Odd(torch.nn.Module):
    """A model of somebody else's, around ours: `change` works on what the tower gives."""

    def __init__(self, visual, change):
        super().__init__()
        self.visual, self.change = visual, change

    def encode_image(self, images):
        return self.change(self.visual(images))


def _more(features, by, unused=0.0):
    return features + by * features.roll(1, dims=-1)


def _closure(by):
    def change(features):
        return _more(features, by)

    return change


class _Object:
    def __init__(self, by):
        self.by = by

    def __call__(self, features):
        return _more(features, self.by)

    def method(self, features):
        return _more(features, self.by)


class _Buffer(torch.nn.Module):
    def __init__(self, by):
        super().__init__()
        self.register_buffer("by", torch.tensor(by), persistent=False)

    def forward(self, features):
        return _more(features, self.by)


class _Attribute(torch.nn.Module):
    def __init__(self, by, name):
        super().__init__()
        setattr(self, name, torch.tensor(by))
        self.read = lambda: getattr(self, name)

    def forward(self, features):
        return _more(features, self.read())


def _edited(by):
    """A class of the same name, whose code is another."""
    space: dict = {"torch": torch, "_more": _more}
    exec(f"class Edited(torch.nn.Module):\n def forward(self, features): return _more(features, {by})", space)
    space["Edited"].__module__ = "edited"
    return space["Edited"]()


_space: dict = {"_more": _more, "by": 0.0}
exec("def reads_a_global(features): return _more(features, by)", _space)


def _global(by):
    _space["by"] = by
    return _space["reads_a_global"]


def _hooked(model, by, pre=False):
    model = copy.deepcopy(model)
    if pre:
        model.visual.register_forward_pre_hook(lambda module, given: (given[0] * (1 + by),))
    else:
        model.visual.register_forward_hook(lambda module, given, result: _more(result, by))
    return model


def _replaced(model, by):
    model = copy.deepcopy(model)
    original = model.encode_image
    model.encode_image = lambda images, normalize=False: _more(original(images), by)
    return model


def _forward(model, by):
    """As accelerate and peft do it."""
    model = copy.deepcopy(model)
    original = model.visual.forward
    model.visual.forward = types.MethodType(lambda self, images: _more(original(images), by), model.visual)
    return model


def odd(change):
    return lambda model, by: Odd(model.visual, change(by)).eval()


TOWERS = {
    "a buffer that no file holds": odd(_Buffer),
    "a tensor as an attribute": odd(lambda by: _Attribute(by, "by")),
    "a tensor as a private attribute": odd(lambda by: _Attribute(by, "_by")),
    "a keyword of a partial": odd(lambda by: functools.partial(_more, by=by)),
    "a tensor in a partial": odd(lambda by: functools.partial(_more, by=torch.tensor(by))),
    "a closure": odd(_closure),
    "a lambda": odd(lambda by: lambda features: _more(features, by)),
    "a default": odd(lambda by: lambda features, by=by: _more(features, by)),
    "an object": odd(_Object),
    "a method of an object": odd(lambda by: _Object(by).method),
    "an edited class": odd(_edited),
    "a global": odd(_global),
    "a hook": _hooked,
    "a hook before": functools.partial(_hooked, pre=True),
    "encode_image": _replaced,
    "forward": _forward,
}


@pytest.mark.parametrize("kind", TOWERS)
def test_towers_of_the_same_weights_have_features_of_their_own(kind, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("zhclip_openclip.features._preprocessing._PROBES", ((40, 50, "RGB"),))  # they take most time
    model, transform = tiny
    data = loader(transform)
    make = TOWERS[kind]
    with using(cache=tmp_path):
        found = {}
        for by in (0.0, 0.5, 0.01):
            found[by], made = run(make(model, by), data)
            assert made == ROWS, "another's features"
        assert not torch.equal(found[0.5], found[0.01])
        for by, features in found.items():
            again, made = run(make(model, by), data)
            assert made == 0 and torch.equal(again, features)


@pytest.mark.parametrize("kind", sorted(set(TOWERS) - {"an edited class", "a global"}))
def test_a_difference_too_small_to_be_tried_out_is_seen_in_the_structure(kind, tiny):
    model, _ = tiny
    small, smaller = (TOWERS[kind](model, by) for by in (1e-9, 1e-10))
    assert fingerprint.tower(small) != fingerprint.tower(smaller)
    assert fingerprint.tower(small) == fingerprint.tower(TOWERS[kind](model, 1e-9)), "the same each time"


def test_descriptions_hold_no_addresses_and_end():
    """Of functions with code inside, of what holds itself, of names and paths in dictionaries."""

    def outer():
        return lambda: lambda: 0

    loop: list = []
    loop.append(loop)
    for value in (
        outer(),
        _Object(loop),
        loop,
        {"file": "/a"},
        torch.device("cpu"),
        open_clip,
        _closure,
        len,
        {1, "x"},
    ):
        assert " at 0x" not in str(described(value))
    assert described({"file": "/a", "size": 3}) == described({"file": "/b", "size": 3}) != described({"size": 4})
    assert described(torch.device("cuda:0")) == described(torch.device("cuda:1"))


@pytest.mark.parametrize("random", ["dropout", "noise"])
def test_random_features_are_not_kept(random, tiny, tmp_path, capsys):
    model, transform = tiny
    change = torch.nn.Dropout(0.5) if random == "dropout" else lambda features: features + torch.rand_like(features)
    made = Odd(model.visual, change).eval()
    if random == "dropout":
        change.train()
    with using(cache=tmp_path):
        state = torch.random.get_rng_state()
        images = iter(ImagePass(made, loader(transform), "cpu", False, "digits"))
        place, _ = ImagePass(made, loader(transform), "cpu", False)._place()
        assert place is None and torch.equal(state, torch.random.get_rng_state())
        assert len(list(images)) == 3 and not list(tmp_path.iterdir())
    told = capsys.readouterr().out
    assert ("change is in training mode" if random == "dropout" else "the second time") in told
    assert "digits has a model" in told and "its image features are not kept" in told


def test_the_trial_compiles_nothing_and_takes_the_precision_that_works(tiny):
    model, _ = tiny
    compiled = []

    def backend(graph, given):
        compiled.append(graph)
        return graph

    tower = torch.compile(copy.deepcopy(model), backend=backend)
    given = trial.try_out([encoder(tower, "cpu", False)], (3, 32, 32), torch.float32, "cpu")
    plain = trial.try_out([encoder(model, "cpu", False)], (3, 32, 32), torch.float32, "cpu")
    assert not compiled and trial.same(given, plain) and given.shape == (2, 64)
    half = copy.deepcopy(model).to(torch.bfloat16)
    ways = [encoder(half, "cpu", amp) for amp in (False, True)]
    assert trial.try_out(ways, (3, 32, 32), torch.float32, "cpu") is not None
    with pytest.raises(RuntimeError):
        trial.try_out(ways[:1], (3, 32, 32), torch.float32, "cpu")


def test_last_bits_are_no_difference(tiny, tmp_path, monkeypatch):
    """Other threads and other libraries give other last bits, which rounding would put into another name."""
    model, transform = tiny
    with using(cache=tmp_path):
        assert run(model, loader(transform))[1] == ROWS
        for by in (1e-6, -1e-6, 3e-6):
            monkeypatch.setattr("zhclip_openclip.features.keeping.trial.try_out", _nearly(trial.try_out, by))
            assert run(model, loader(transform))[1] == 0
            monkeypatch.undo()
        monkeypatch.setattr("zhclip_openclip.features.keeping.trial.try_out", _nearly(trial.try_out, 1e-3))
        assert run(model, loader(transform))[1] == ROWS


def _nearly(original, by):
    return lambda *given: original(*given) + by / 8  # of 64 dimensions: `by` in all


@pytest.mark.parametrize("linear", ["0", "1"])
def test_the_fast_linear_layers(linear, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("ZHCLIP_ONEDNN_LINEAR", linear)
    model, transform = tiny
    with using(cache=tmp_path):
        assert [run(model, loader(transform))[1] for _ in range(2)] == [ROWS, 0]
        assert [run(model, loader(transform), amp=True)[1] for _ in range(2)] == [ROWS, 0]


# ---------------------------------------------------------------- preprocessing


def _if(condition, change):
    return lambda image: change(image) if condition(image) else image


def _palette(image):
    if image.mode != "P":
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


PREPARATIONS = {
    "turned by its tag": ImageOps.exif_transpose,
    "palette with a transparent colour": _palette,
    "cmyk": _if(lambda image: image.mode == "CMYK", lambda image: ImageOps.invert(image.convert("RGB"))),
    "grey with alpha": _if(lambda image: image.mode == "LA", lambda image: image.getchannel("A")),
    "16 bit": _if(lambda image: image.mode == "I;16", lambda image: Image.new("L", image.size)),
    "1 bit": _if(lambda image: image.mode == "1", lambda image: image.rotate(90)),
    "half transparent": _if(
        lambda image: image.mode == "RGBA",
        lambda image: Image.alpha_composite(Image.new("RGBA", image.size, "white"), image),
    ),
    "large": _if(lambda image: min(image.size) > 2000, lambda image: image.resize((512, 512))),
    "long strips": _if(lambda image: max(image.size) > 10 * min(image.size), lambda image: image.crop((0, 0, 99, 99))),
    "small": _if(lambda image: max(image.size) < 100, lambda image: image.resize((200, 200))),
}


def _rgb(image):
    return image.convert("RGB")


BASE = [_rgb, transforms.Resize(32), transforms.CenterCrop(32), transforms.ToTensor()]


@pytest.mark.parametrize("kind", PREPARATIONS)
def test_preprocessing_that_differs_for_some_pictures_alone(kind):
    names = {
        fingerprint.preprocessing(Digits("test", transforms.Compose([*before, *BASE]))).digest
        for before in ([], [PREPARATIONS[kind]])
    }
    assert len(names) == 2


@pytest.mark.parametrize("where", [0, ROWS // 2, ROWS - 1])
def test_pictures_all_over_the_data_set_are_tried(where, tiny):
    data = loader(transforms.Compose(BASE)).dataset
    picture = np.asarray(Digits("test", None)[where][0])

    def change(image):
        return ImageOps.invert(image.convert("RGB")) if np.array_equal(np.asarray(image), picture) else image

    before = fingerprint.preprocessing(data).digest
    data.transform = transforms.Compose([change, *BASE])
    if where in (0, ROWS - 1) or where in [n * (ROWS - 1) // 7 for n in range(8)]:
        assert fingerprint.preprocessing(data).digest != before


def test_other_peoples_random_numbers_stay(tiny):
    import random

    states = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state()

    def shaken(image):
        random.random(), np.random.rand(), torch.rand(1)
        return image

    assert fingerprint.preprocessing(Digits("test", transforms.Compose([shaken, *BASE])))
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state()
    assert states[:2] == after[:2] and torch.equal(states[2], after[2])


def test_decoded_pictures_count_with_their_tags():
    """Two data sets without files whose pixels are equal, and one of whose pictures is tagged as turned."""

    def picture(orientation):
        tag = Image.Exif()
        tag[0x0112] = orientation
        file = io.BytesIO()
        Image.new("RGB", (8, 6), "red").save(file, "PNG", exif=tag)
        return Image.open(file)

    class Pictures(torch.utils.data.Dataset):
        def __init__(self, orientation):
            self.orientation, self.transform = orientation, ImageOps.exif_transpose

        def __len__(self):
            return 2

        def __getitem__(self, index):
            image = picture(self.orientation)
            return (self.transform(image) if self.transform else image), index

    names = {fingerprint.data(torch.utils.data.DataLoader(Pictures(n))) for n in (1, 6)}
    assert len(names) == 2 and None not in names


# ---------------------------------------------------------------- order


def test_an_order_of_the_loaders_own_is_not_taken_for_the_data_sets(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("zhclip_openclip.features._preprocessing._PROBES", ((40, 50, "RGB"),))
    model, transform = tiny
    data = loader(transform).dataset
    backwards = list(range(ROWS))[::-1]
    loaders = {
        "sampler": torch.utils.data.DataLoader(data, batch_size=8, sampler=backwards),
        "batches": torch.utils.data.DataLoader(data, batch_sampler=[backwards[:9], backwards[9:]]),
        "dropped": torch.utils.data.DataLoader(data, batch_size=8, drop_last=True),
        "collated": torch.utils.data.DataLoader(data, batch_size=8, collate_fn=_upside_down),
    }
    with using(cache=tmp_path):
        whole = run(model, loader(transform))[0]
        for _ in range(2):
            for kind, given in loaders.items():
                features, _ = run(model, given)
                if kind == "dropped":
                    assert torch.equal(features, whole[:16])
                elif kind == "collated":
                    assert not torch.allclose(features, whole, atol=1e-3)
                else:
                    torch.testing.assert_close(features, whole.flip(0), rtol=0, atol=2e-6)
        assert run(model, loader(transform))[1] == 0


def _upside_down(samples):
    images, labels = torch.utils.data.default_collate(samples)
    return images.flip(2), labels


def test_steps_of_a_stream_count_with_what_they_were_given(tmp_path, tiny):
    import webdataset

    model, transform = tiny
    with webdataset.TarWriter(str(tmp_path / "0.tar"), mtime=0) as writer:
        for number in range(6):
            image = Image.fromarray(np.full((8, 8, 3), 40 * number, np.uint8))
            writer.write({"__key__": f"s{number}", "png": image, "cls": number})

    def stream(first, stop, size=2):
        data = webdataset.WebDataset(str(tmp_path / "0.tar"), shardshuffle=False).decode("pil").to_tuple("png", "cls")
        data = data.slice(first, stop).map_tuple(transform)
        return torch.utils.data.DataLoader(data.batched(size), batch_size=None)

    with using(cache=tmp_path / "cache"):
        whole, made = run(model, stream(0, 6))
        assert made == 6 and run(model, stream(0, 6, size=3))[1] == 0
        for first, stop in ((0, 3), (3, 6), (0, 6)):
            features, _ = run(model, stream(first, stop))
            torch.testing.assert_close(features, whole[first:stop], rtol=0, atol=2e-6)


# ---------------------------------------------------------------- not finite


class _Overflows(torch.nn.Module):
    """Gives infinity for the image of a data set that is all white."""

    def __init__(self, visual):
        super().__init__()
        self.visual = visual

    def encode_image(self, images):
        white = (images.amin(dim=(1, 2, 3)) > 0.99)[:, None]
        return self.visual(images).masked_fill(white, torch.inf)


@pytest.mark.parametrize(
    "amp, told", [(False, "without mixed precision on cpu"), (True, "mixed precision, bfloat16.*--no_amp")]
)
@pytest.mark.parametrize("cached", [False, True])
def test_features_that_are_not_finite_are_an_error_with_a_name_and_not_kept(tiny, tmp_path, amp, told, cached):
    model, _ = tiny
    (tmp_path / "data" / "a").mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (32, 32), (number * 85,) * 3).save(tmp_path / "data" / "a" / f"{number}.png")
    data = torch.utils.data.DataLoader(ImageFolder(tmp_path / "data", transforms.ToTensor()), batch_size=3)
    broken = _Overflows(model.visual).eval()
    with using(cache=tmp_path / "cache" if cached else None, block_seconds=0.0):
        for _ in range(2):
            with pytest.raises(FiniteError, match=rf"image 4 of x \(.*/a/3\.png\) has features.*{told}"):
                classification.run_classification(broken, torch.eye(64), data, "cpu", amp, "x")
    kept = [path.name for path in (tmp_path / "cache").rglob("*.safetensors")]
    assert kept == (["000000-000001.safetensors"] if cached else [])


def test_a_classifier_and_scores_that_are_not_finite(tiny):
    model, transform = tiny
    classifier = torch.eye(64)[:, :10].contiguous()
    classifier[3, 7] = torch.nan
    with pytest.raises(FiniteError, match="the classifier of class 8 has features that are not finite"):
        classification.run_classification(model, classifier, loader(transform), "cpu", False)
    with pytest.raises(FiniteError, match="digits: scores that are not finite"):
        classification.evaluate(torch.full((3, 10), torch.nan), torch.zeros(3).long(), list("0123456789"), "digits")


# ---------------------------------------------------------------- two processes

RANKS = """
    import sys
    import numpy as np
    import open_clip
    import torch
    from pathlib import Path
    from zhclip_openclip.datasets.digits import Digits
    from zhclip_openclip.features import ranks, using
    from zhclip_openclip.features.image_pass import ImagePass

    cache = Path(sys.argv[1])
    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    model.eval()
    digits = Digits("test", transform)
    digits.images, digits.targets = digits.images[:24], digits.targets[:24]
    loader = torch.utils.data.DataLoader(digits, batch_size=8)


    def reused(**settings):
        ranks.next_cell()
        with using(**settings):
            images = ImagePass(model, loader, "cpu", False, "digits")
            made = [features for features, _ in images]
        ranks.end_cell()
        return images.reused


    with ranks.joined():
        first = ranks.rank() == 0
        assert [reused(cache=cache), reused(cache=cache)] == [0, 24]
        # One has no cache, one a tower that gives other features, one random pictures: then none of them keeps any.
        assert reused(cache=cache if first else None) == 0
        hook = model.visual.register_forward_hook(lambda module, given, result: result.roll(1) if not first else result)
        before = len(list(cache.iterdir()))
        try:
            reused(cache=cache)
        except Exception as error:
            raise AssertionError(str(error))
        hook.remove()
        digits.transform = (lambda image: transform(image.rotate(np.random.rand()))) if first else transform
        reused(cache=cache)
        digits.transform = transform
        assert len(list(cache.iterdir())) == before and reused(cache=cache) == 24
        (cache / f"ended-{ranks.rank()}").touch()
"""


def test_processes_decide_together_what_is_kept(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(RANKS), encoding="utf-8")
    done = torchrun(2, script, tmp_path / "cache", timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in (tmp_path / "cache").glob("ended-*")} == {"ended-0", "ended-1"}
    assert "other features in another process" in done.stdout and "from time to time" in done.stdout
