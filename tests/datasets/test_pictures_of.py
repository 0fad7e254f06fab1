"""The pictures of a folder: which are listed, what links do, what is said of the rest."""

from __future__ import annotations

import os

import pytest

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.datasets import pictures_of
from zhclip_openclip.datasets.pictures_of import list_pictures


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_pictures_of_all_folders_below_in_the_order_of_their_names(tmp_path):
    put(tmp_path, "b.JPG", "a/2.png", "a/10.webp", "猫/一.jpeg", "notes.txt", "a/deep/er/z.gif")
    put(tmp_path, ".hidden.jpg", "a/._2.png", "__MACOSX/a/2.png", "@eaDir/b.jpg", ".git/x.png")
    found = list_pictures(tmp_path)
    assert found.names == ["a/10.webp", "a/2.png", "a/deep/er/z.gif", "b.JPG", "猫/一.jpeg"]
    assert [found.path(name).is_file() for name in found.names] == [True] * 5
    assert found.notes() == []


def test_pictures_of_other_kinds_are_counted(tmp_path):
    put(tmp_path, "a.jpg", "b.CR2", "c.psd", "d.psd")
    found = list_pictures(tmp_path)
    assert found.names == ["a.jpg"] and dict(found.others) == {".cr2": 1, ".psd": 2}
    assert "3 pictures of other kinds (.cr2, .psd)" in found.notes()[0]


def test_heic_is_read_where_something_reads_it(tmp_path, monkeypatch):
    put(tmp_path, "a.heic")
    pictures_of.suffixes.cache_clear()
    monkeypatch.setattr(pictures_of, "find_spec", lambda name: None)
    without = list_pictures(tmp_path)
    assert without.names == [] and "pip install pillow-heif" in without.notes()[0]
    pictures_of.suffixes.cache_clear()
    monkeypatch.setattr(pictures_of, "find_spec", lambda name: name == "pillow_heif")
    assert list_pictures(tmp_path).names == ["a.heic"]
    pictures_of.suffixes.cache_clear()


def test_links_that_lead_out_are_followed_on_request_alone(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    put(inside, "real/a.jpg")
    put(outside, "b.jpg", "more/c.jpg")
    (inside / "file.jpg").symlink_to(outside / "b.jpg")
    (inside / "folder").symlink_to(outside / "more")
    (inside / "alias.jpg").symlink_to(inside / "real" / "a.jpg")
    (inside / "broken.jpg").symlink_to(inside / "gone.jpg")
    found = list_pictures(inside)
    assert found.names == ["alias.jpg", "real/a.jpg"]
    assert sorted(found.links_out) == ["file.jpg", "folder"] and "--follow-links" in found.notes()[0]
    assert list_pictures(inside, follow_links=True).names == [
        *("alias.jpg", "file.jpg", "folder/c.jpg", "real/a.jpg"),
    ]


def test_links_in_a_circle_end(tmp_path):
    put(tmp_path, "a/b.jpg")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "a")
    found = list_pictures(tmp_path, follow_links=True)
    assert found.names == ["a/b.jpg"] and sorted(found.twice) == ["a/up", "again"]


def test_long_listings_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures_of, "EVERY", 3)
    put(tmp_path, *(f"{number}.jpg" for number in range(10)))
    told = []
    assert len(list_pictures(tmp_path, tell=told.append)) == 10
    assert told == [3, 6, 9]


def test_a_line_now_and_then_while_it_lists(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pictures_of, "EVERY", 3)
    monkeypatch.setattr(pictures_of, "SECONDS", 0.0)
    put(tmp_path, *(f"{number}.jpg" for number in range(7)))
    list_pictures(tmp_path, tell=pictures_of.on_stderr(tmp_path))
    assert capsys.readouterr().err.splitlines() == [f"listing {tmp_path}: {n} files so far" for n in (3, 6)]
    list_pictures(tmp_path, tell=pictures_of.on_stderr(tmp_path, quiet=True))
    assert capsys.readouterr().err == ""


def test_no_folder(tmp_path):
    put(tmp_path, "a.jpg")
    with pytest.raises(ZhclipError, match="not there"):
        list_pictures(tmp_path / "gone")
    with pytest.raises(ZhclipError, match="is a file"):
        list_pictures(tmp_path / "a.jpg")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(tmp_path):
    put(tmp_path, "a.jpg", "secret/b.jpg")
    (tmp_path / "secret").chmod(0)
    try:
        with pytest.raises(ZhclipError, match="secret: cannot be read"):
            list_pictures(tmp_path)
        found = list_pictures(tmp_path, skip_unreadable=True)
        assert found.names == ["a.jpg"] and found.unreadable == ["secret"]
    finally:
        (tmp_path / "secret").chmod(0o700)
