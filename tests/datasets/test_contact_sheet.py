"""The contact sheet: pictures and Chinese captions on it, and what it says where no font is to be had."""

import io

import pytest
from PIL import Image

from tests.support import retrieval_files as files
from zhclip_openclip.datasets import contact_sheet as module
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets.contact_sheet import contact_sheet, load_font
from zhclip_openclip.datasets.retrieval import build_retrieval_dataset


@pytest.fixture
def dataset(tmp_path):
    return build_retrieval_dataset("muge", files.write_tsv(tmp_path, "valid", True))


def needs_font():
    try:
        return load_font(None, 16)
    except DatasetError:
        pytest.skip("this machine has no font with Chinese glyphs")


def test_sheet(dataset, tmp_path):
    needs_font()
    path = contact_sheet(dataset, tmp_path / "out" / "sheet.png", n=6)
    with Image.open(path) as sheet:
        assert sheet.format == "PNG" and sheet.width > sheet.height * 0.9
        colours = {colour for _, colour in sheet.convert("RGB").getcolors(10**6)}
    # the middle of picture 2 (= 1 * 14 // 6) is on it, and black ink
    middle = Image.open(io.BytesIO(files.picture(2))).convert("RGB").getpixel((17, 10))
    assert any(max(abs(a - b) for a, b in zip(middle, colour, strict=True)) < 8 for colour in colours)
    assert (0, 0, 0) in colours
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["sheet.png"]


def test_more_than_there_are_and_one(dataset, tmp_path):
    needs_font()
    for n in (1, 100):
        assert contact_sheet(dataset, tmp_path / f"{n}.png", n=n).is_file()


def test_no_font(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_FONTS", ())
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(DatasetError, match="apt-get install fonts-noto-cjk.*--font FILE"):
        contact_sheet(dataset, tmp_path / "sheet.png")
    (tmp_path / "x.ttf").write_bytes(b"no font")
    with pytest.raises(DatasetError, match="x.ttf: not a font file"):
        contact_sheet(dataset, tmp_path / "sheet.png", font=tmp_path / "x.ttf")
