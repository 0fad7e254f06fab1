"""Unreadable images in data sets of torchvision's."""

from __future__ import annotations

import pickle

import pytest
from PIL import Image

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.datasets.unreadable import Guarded

folders = pytest.importorskip("torchvision.datasets")


@pytest.fixture
def dataset(tmp_path):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(3):
            Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / label / f"{number}.png")
    (tmp_path / "a" / "1.png").write_bytes(b"no picture")
    whole = (tmp_path / "b" / "2.png").read_bytes()
    (tmp_path / "b" / "2.png").write_bytes(whole[: len(whole) // 2])
    return folders.ImageFolder(str(tmp_path), transform=lambda image: image.size)


def test_names_the_image(dataset):
    guarded = Guarded(dataset, "fer2013")
    assert len(guarded) == 6 and guarded[0] == ((16, 16), 0) and guarded.classes == ["a", "b"]
    with pytest.raises(
        ZhclipError, match=r"a/1\.png: image a/1\.png does not decode \(.*\).*--skip-bad-images"
    ) as caught:
        guarded[1]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_skips_and_names(dataset, workers):
    guarded = Guarded(dataset, "fer2013", skip=True, workers=workers)
    assert [skipped.key for skipped in guarded.skipped] == ["a/1.png", "b/2.png"]
    assert [label for _, label in guarded] == [0, 0, 1, 1]
    assert guarded[0] == ((16, 16), 0)  # the transform is back


def test_without_a_list_of_files():
    class Two:
        def __len__(self):
            return 2

        def __getitem__(self, index):
            if index:
                raise OSError("image file is truncated")
            return 0, 0

    with pytest.raises(ZhclipError, match="mine, sample 1: image 1 does not decode"):
        Guarded(Two(), "mine")[1]
    assert [skipped.key for skipped in Guarded(Two(), "mine", skip=True).skipped] == ["1"]


def test_nothing_readable(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"")
    with pytest.raises(ZhclipError, match="none of 1 images"):
        Guarded(folders.ImageFolder(str(tmp_path), allow_empty=True), "x", skip=True)


def test_other_errors_stay():
    class Bad:
        def __getitem__(self, index):
            raise KeyError(index)

    with pytest.raises(KeyError):
        Guarded(Bad(), "x")[0]


def test_errors_of_a_transform_stay(dataset):
    def broken(image):
        raise ValueError("expected 4 channels")

    dataset.transform = broken
    with pytest.raises(ValueError, match="expected 4 channels") as caught:
        Guarded(dataset, "x")[0]
    assert not isinstance(caught.value, ZhclipError)


def _a_bomb(path):
    Image.new("1", (20_000, 10_000)).save(path)


def _a_wrong_header(path):
    Image.new("RGB", (9, 9)).save(path)
    path.write_bytes(path.read_bytes().replace(b"9 9", b"x 9", 1))


@pytest.mark.parametrize(("name", "make"), [("9.png", _a_bomb), ("9.ppm", _a_wrong_header)])
def test_whatever_pillow_raises(tmp_path, name, make):
    """DecompressionBombError is no OSError, and a damaged PPM is a ValueError."""
    (tmp_path / "a").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "a" / "1.png")
    make(tmp_path / "a" / name)
    pictures = folders.ImageFolder(str(tmp_path), transform=lambda image: image.size)
    with pytest.raises(ZhclipError, match=rf"a/{name} does not decode"):
        Guarded(pictures, "fer2013")[1]
    guarded = Guarded(pictures, "fer2013", skip=True)
    assert len(guarded) == 1 and [skipped.key for skipped in guarded.skipped] == [f"a/{name}"]


def test_goes_to_other_processes(dataset):
    dataset.transform = dataset.transforms = None
    assert len(pickle.loads(pickle.dumps(Guarded(dataset, "x")))) == 6


def test_new_attributes_are_its_own(dataset):
    guarded = Guarded(dataset, "x")
    guarded.classes = ["甲", "乙"]
    assert guarded.classes == ["甲", "乙"] and dataset.classes == ["a", "b"]
    with pytest.raises(AttributeError):
        guarded.nothing_of_that_name  # noqa: B018
