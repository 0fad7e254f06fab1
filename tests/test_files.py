"""Files are whole or not there, for every process at once, and nothing of theirs stays behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time

import pytest

from zhclip_openclip._files import whole_file


def write(path, content=b"new"):
    with whole_file(path) as part:
        part.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["a" * 242, "a" * 255, "图" * 85, "e\u0301" * 80], ids=len)
def test_names_as_long_as_the_file_system_takes(tmp_path, name):
    assert write(tmp_path / name).read_bytes() == b"new"
    assert os.listdir(tmp_path) == [name]


def test_names_that_are_no_utf8(tmp_path):
    name = os.fsdecode(b"\xff.html")
    write(tmp_path / name)
    assert os.listdir(os.fsencode(tmp_path)) == [b"\xff.html"]


def test_a_link_is_replaced_and_not_written_through(tmp_path):
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("link", "dangling"):
        assert not write(tmp_path / name).is_symlink()
    assert (tmp_path / "theirs").read_text() == "theirs" and not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_only_files_are_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(OSError, match="Not a regular file"):
            write(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


def test_the_content_is_on_the_disk_before_the_name(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append(os.fstat(file).st_size), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("name"), replace(*names)))
    write(tmp_path / "a", b"12345")
    assert done == [5, "name"]


@pytest.mark.parametrize("code, passes", [(errno.EINVAL, True), (errno.ENOSPC, False), (errno.EIO, False)])
def test_a_disk_that_fails_at_last(tmp_path, monkeypatch, code, passes):
    (tmp_path / "a").write_bytes(b"old")

    def fsync(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    if passes:  # a file system that cannot be asked
        write(tmp_path / "a")
    else:
        with pytest.raises(OSError, match=os.strerror(code)):
            write(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == (b"new" if passes else b"old") and os.listdir(tmp_path) == ["a"]


def test_what_a_kill_left_is_taken_away_a_day_later(tmp_path):
    days_ago = time.time() - 2 * 86_400
    old, fresh, others = "a.html0_bcd9ef.part", "a.htmlabcdefgh.part", ("b.htmlabcdefgh.part", "a.html.part", "a.htmlx")
    for name in (old, fresh, *others):
        (tmp_path / name).write_bytes(b"half")
    for name in (old, *others):
        os.utime(tmp_path / name, (days_ago, days_ago))
    write(tmp_path / "a.html")
    assert sorted(os.listdir(tmp_path)) == sorted(["a.html", fresh, *others])


def test_many_processes_write_one_file_and_all_see_it_whole(tmp_path):
    """Three writers of files of different sizes; a reader never finds anything but one of them, whole."""
    code = """
import sys
from zhclip_openclip._files import whole_file
path, sign = sys.argv[1:]
for turn in range(60):
    with whole_file(path) as part:
        part.write_bytes(sign.encode() * 100_000 * (1 + turn % 3))
"""
    path = write(tmp_path / "page.html", b"z" * 100_000)
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), sign]) for sign in "abc"]
    found = set()
    while any(writer.poll() is None for writer in writers):
        content = path.read_bytes()
        assert len(set(content)) == 1 and len(content) in (100_000, 200_000, 300_000)
        found.add(content[:1])
    assert [writer.returncode for writer in writers] == [0, 0, 0] and len(found) > 1
    assert os.listdir(tmp_path) == ["page.html"]
