"""The pages of a search and a classification: one file, nothing in it is markup, and how a browser shows it."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.support.browser import browse, needs_chromium
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.commands import app
from zhclip_openclip.datasets.digits import Digits
from zhclip_openclip.folders import page as page_module
from zhclip_openclip.folders.written import percent

NASTY = '<script>alert("红")</script> & <b>红'
LONG = "二〇二四年国庆节在海边拍的一张名字特别特别长的照片" * 3


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder of pictures, page of a search, page of labels)."""
    root = tmp_path_factory.mktemp("pages")
    folder = root / "假期<b>"
    folder.mkdir()
    names = [NASTY.replace("/", "∕"), LONG, *(f"{number}" for number in range(8))]
    for number, name in enumerate(names):
        Digits("test")[number][0].resize((300, 200)).save(folder / f"{name}.png")
    (folder / "broken <i>.jpg").write_bytes(b"")
    more = ["--model", "zhclip-tiny", "--cache", str(root / "cache"), "--quiet"]
    queries = [NASTY, "数字三", str(folder / "5.png")]
    outputs = [root / "search.html", root / "labels.html"]
    for words in (
        ["search", str(folder), *queries, "-n", "20", "--output", str(outputs[0])],
        ["classify", str(folder), "--labels", f"{NASTY},数字一,其他", "--output", str(outputs[1])],
    ):
        done = CliRunner().invoke(app, [*words, *more])
        assert done.exit_code == 0, (done.output, done.exception)
    return folder, *outputs


def test_one_file_and_nothing_in_it_is_markup(made):
    folder, *pages = made
    for path in pages:
        text = path.read_text("utf-8")
        assert "<script" not in text and "<i>" not in text and "<b>红" not in text and "假期&lt;b&gt;" in text
        sources = re.findall(r'(?:src|href)="([^"]*)"', text)
        assert len(sources) > 10 and all(source.startswith(("data:", "#")) for source in sources)
        assert not re.search(r"https?://|url\(|@import|@font-face", text)
        assert "default-src 'none'" in text and "prefers-color-scheme: dark" in text
        assert str(folder) not in text and str(folder.parent) not in text  # a page is for showing around
        assert "broken &lt;i&gt;.jpg: an empty file" in text
        assert "ten handwritten digits and nothing else" in text  # what the model is for


def test_pictures_are_those_that_were_found(made):
    folder, search, _ = made
    text = search.read_text("utf-8")
    tiles = re.findall(
        r'<img src="data:image/jpeg;base64,([^"]*)" width="(\d+)" height="(\d+)" loading="lazy" alt="(\d)\.png', text
    )
    assert len(tiles) == 8 * 3 - 1  # the query picture itself is left out
    for source, width, height, name in tiles:
        image = Image.open(io.BytesIO(base64.b64decode(source)))
        assert image.size == (int(width), int(height)) and max(image.size) == page_module._THUMBNAIL
        seen = Image.open(folder / f"{name}.png").convert("RGB").resize(image.size)
        assert np.abs(np.asarray(image.convert("RGB"), int) - np.asarray(seen, int)).mean() < 6


def test_a_share_is_rounded_down():
    assert percent(1.0) == "100%" and percent(0.99999) == "99.99%" and percent(0.9) == "90%" and percent(0) == "0%"
    assert percent(0.29) == "29%"


def test_a_page_that_would_be_too_large_says_so(made, tmp_path, monkeypatch):
    folder = made[0]
    monkeypatch.setattr(page_module, "PAGE_LIMIT", 20_000)
    output = tmp_path / "p.html"
    words = ["search", str(folder), "数字", "--model", "zhclip-tiny", "--cache", str(tmp_path / "c")]
    done = CliRunner().invoke(app, [*words, "--output", str(output)])
    assert isinstance(done.exception, ZhclipError) and "smaller --number" in str(done.exception)
    assert not output.exists() and not list(tmp_path.glob("*.part"))


@needs_chromium
def test_in_a_browser(made, tmp_path):
    for number, path in enumerate(made[1:]):
        done, asked = browse(path, tmp_path, "--window-size=1000,1400", f"--screenshot={tmp_path / f'{number}.png'}")
        assert not asked and "Refused" not in done.stderr
        shot = np.asarray(Image.open(tmp_path / f"{number}.png").convert("RGB"))
        assert len(np.unique(shot.reshape(-1, 3), axis=0)) > 100


def test_for_readers_without_a_mouse(made):
    """Every picture has a text, the contents are a landmark, and what has the focus is marked."""
    for path in made[1:]:
        text = path.read_text("utf-8")
        assert all(re.search(r'alt="[^"]+', tag) for tag in re.findall(r"<img [^>]*>", text))
        assert '<nav aria-label="目录 contents">' in text and ":focus-visible" in text
        targets = re.findall(r'href="#([^"]*)"', text)
        assert targets and all(f'id="{target}"' in text for target in targets)
    assert 'alt="查询图片 5.png"' in made[1].read_text("utf-8")
