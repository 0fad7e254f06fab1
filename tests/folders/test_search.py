"""`zhclip search`: its scores against open_clip and NumPy alone, what it keeps and notices, and what it says to bad
input."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.support.kills import dies
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip._paths import DATA
from zhclip_openclip.commands import app
from zhclip_openclip.datasets.digits import Digits
from zhclip_openclip.datasets.pictures_of import list_pictures
from zhclip_openclip.features import keeping
from zhclip_openclip.features.cache import FeatureCache
from zhclip_openclip.features.settings import using
from zhclip_openclip.folders import mismatched, written
from zhclip_openclip.folders._errors import FolderError
from zhclip_openclip.folders._model import open_model
from zhclip_openclip.folders._seen import Example
from zhclip_openclip.folders.queries import read_queries
from zhclip_openclip.folders.search import Answer, Hit, search
from zhclip_openclip.folders.shelf import open_shelf

TINY = ("--model", "zhclip-tiny")


def draw(folder: Path, number: int, name: str = "") -> Path:
    """A digit of the test split, as a small picture."""
    path = folder / (name or f"数字/{number:03d}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    Digits("test")[number][0].resize((40, 40), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="module")
def tiny():
    return open_model("zhclip-tiny", device="cpu")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder of thirty digits; not to be changed."""
    folder = tmp_path_factory.mktemp("digits") / "pictures"
    for number in range(30):
        draw(folder, number)
    _settle(folder)
    return folder


@pytest.fixture
def folder(digits, tmp_path):
    """A copy of it, to be changed."""
    shutil.copytree(digits, tmp_path / "pictures")
    return tmp_path / "pictures"


def _settle(folder):
    """Files that are old enough to be known again by their times."""
    for path in folder.rglob("*.*"):
        os.utime(path, (1.6e9, 1.6e9))


def later():
    """The clock when files that were just made have lain still: their entries cannot be given an earlier time."""
    return time.time_ns() + 10**10


def shelf_of(folder, tiny, cache, **more):
    with using(cache=cache, quiet=True):
        return open_shelf(list_pictures(folder, more.pop("follow_links", False)), tiny, workers=0, now=later, **more)


def run(*arguments, cache=None):
    more = ["--cache", str(cache)] if cache else []
    return CliRunner().invoke(app, [*map(str, arguments), *TINY, *more])


@pytest.fixture(scope="module")
def by_hand(digits):
    """(names, (n, d) pictures, texts -> (m, d)): by open_clip, Pillow and NumPy alone."""
    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    tokenizer = open_clip.get_tokenizer("zhclip-tiny")
    names = sorted(path.relative_to(digits).as_posix() for path in digits.rglob("*.png"))

    def unit(features):
        features = features.double().numpy()
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    with torch.no_grad():
        images = torch.stack([transform(Image.open(digits / name).convert("RGB")) for name in names])
        pictures = unit(model.eval().encode_image(images))

    def texts(some):
        with torch.no_grad():
            return unit(model.encode_text(tokenizer(some)))

    return names, pictures, texts


def test_scores_and_shares_are_those_of_open_clip_and_numpy(digits, by_hand, tmp_path):
    names, pictures, texts = by_hand
    done = run("search", digits, "手写的数字七", "数字二", "--format", "json", "-n", 7, cache=tmp_path / "c")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["files"] == told["different"] == told["encoded"] == 30 and told["skipped"] == []
    captions = [caption for _, caption in json.loads((DATA / "caption_bank.json").read_text("utf-8"))["captions"]]
    chance = (pictures @ texts(captions).T).flatten()
    for answer, feature in zip(told["queries"], texts(["手写的数字七", "数字二"]), strict=True):
        scores = pictures @ feature
        order = np.argsort(-scores, kind="stable")[:7]
        assert [hit["picture"] for hit in answer["hits"]] == [names[item] for item in order]
        assert [hit["score"] for hit in answer["hits"]] == pytest.approx(scores[order].tolist(), abs=1e-5)
        assert answer["mismatched_pairs"] == len(chance) == 30 * len(captions)
        shares = [(chance < scores[item]).mean() for item in order]
        assert [hit["mismatched_below"] for hit in answer["hits"]] == pytest.approx(shares, abs=2e-3)
        assert min(shares) > 0 and max(shares) <= 1


def test_the_right_digits_come_first(digits, tiny, tmp_path):
    """On what the model was trained for. A search in the wrong order would find the worst."""
    shelf, labels = shelf_of(digits, tiny, None), Digits("test").targets
    (answer,) = search(shelf, tiny, read_queries(["手写的数字三"]), 2)
    assert [labels[int(Path(hit.name).stem)] for hit in answer.hits] == [3, 3]


def test_a_picture_as_query(digits, by_hand, tiny, tmp_path):
    names, pictures, _ = by_hand
    shelf = shelf_of(digits, tiny, None)
    (own,) = search(shelf, tiny, read_queries([str(digits / names[4])]), 5)
    scores = pictures @ pictures[4]
    order = [item for item in np.argsort(-scores, kind="stable") if item != 4][:5]
    assert [hit.name for hit in own.hits] == [names[item] for item in order]
    assert own.notes == [f"the query itself, {names[4]}, is left out"]
    two = np.array([pictures[i] @ pictures[j] for i in range(30) for j in range(i)])
    assert own.pairs == len(two)
    shares = [(two < scores[item]).mean() for item in order]
    assert [hit.share for hit in own.hits] == pytest.approx(shares, abs=0.006)
    other = draw(tmp_path, 77, "other.png")
    (answer,) = search(shelf, tiny, read_queries([str(other)], "picture"), 5)
    assert answer.notes == [] and len(answer.hits) == 5


# ---------------------------------------------------------------- what is kept and noticed


def test_the_second_search_encodes_what_is_new_and_nothing_else(folder, tiny, tmp_path):
    cache = tmp_path / "cache"
    first = shelf_of(folder, tiny, cache)
    again = shelf_of(folder, tiny, cache)
    assert first.encoded == 30 and again.encoded == 0 and again.names == first.names
    assert torch.equal(again.features, first.features)

    draw(folder, 50, "新的/new.png")
    (folder / "数字/003.png").unlink()
    (folder / "数字/004.png").rename(folder / "数字/moved 004.png")
    shutil.copy(folder / "数字/005.png", folder / "copy.png")
    changed = draw(folder, 51, "数字/006.png")
    third = shelf_of(folder, tiny, cache)
    assert third.encoded == 2  # the new one and the changed one
    fresh = shelf_of(folder, tiny, tmp_path / "other")
    assert third.names == fresh.names and third.copies == fresh.copies == {0: ["数字/005.png"]}
    assert torch.allclose(third.features, fresh.features, atol=1e-6)
    assert "数字/003.png" not in third.names and third.files == 31
    at = third.names.index("数字/006.png")
    assert bytes(third.digests[at]) == hashlib.sha256(changed.read_bytes()).digest()
    assert shelf_of(folder, tiny, cache).encoded == 0


@pytest.mark.parametrize("units", [True, False])
def test_mixed_precision_on_a_cpu(folder, tmp_path, monkeypatch, units):
    """Where it is asked for, and where it is the faster way; features of each precision are kept apart."""
    from zhclip_openclip.folders import _model

    monkeypatch.setattr(_model, "use_amp", lambda device, asked: asked and units)
    words = ("search", folder, "数字三", "--format", "json", "--device", "cpu")
    plain = run(*words, cache=tmp_path)
    mixed = run(*words, "--amp", cache=tmp_path)
    again = run(*words, "--no-amp", cache=tmp_path)
    assert plain.stdout == again.stdout.replace('"encoded": 0', '"encoded": 30')
    plain, mixed = json.loads(plain.stdout), json.loads(mixed.stdout)
    assert plain["arithmetic"].startswith("fp32 on cpu") and mixed["encoded"] == (30 if units else 0)
    assert (mixed["arithmetic"] == "bfloat16 autocast on cpu") == units
    scores = [{hit["picture"]: hit["score"] for hit in told["queries"][0]["hits"]} for told in (plain, mixed)]
    shared = scores[0].keys() & scores[1].keys()
    assert shared and all(abs(scores[0][name] - scores[1][name]) < 3e-2 for name in shared)


def test_the_arithmetic_of_a_model_that_is_not_ours_is_pytorchs(folder, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("ZHCLIP_ONEDNN_LINEAR", "1")
    shelf = shelf_of(folder, tiny, tmp_path)
    assert written._about(shelf, tiny)["arithmetic"] == "fp32 on cpu, linear layers by oneDNN"
    other = dataclasses.replace(tiny, module=torch.nn.Linear(2, 2))
    assert written._about(shelf, other)["arithmetic"] == "fp32 on cpu"


def test_a_change_of_the_same_size_and_time_is_noticed(folder, tiny, tmp_path):
    """What `cp -p` and programs that write tags back leave: the time of the entry tells."""
    path = folder / "a.ppm"
    pixels = np.zeros((30, 30, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    os.utime(path, (1.6e9, 1.6e9))
    before = shelf_of(folder, tiny, tmp_path / "cache")
    time.sleep(0.02)  # the ticks of the file system
    size = path.stat().st_size
    pixels[10:20, 10:20] = 255
    Image.fromarray(pixels).save(path)
    os.utime(path, (1.6e9, 1.6e9))
    assert path.stat().st_size == size
    after = shelf_of(folder, tiny, tmp_path / "cache")
    assert after.encoded == 1 and not torch.equal(before.features[0], after.features[0])


def test_a_file_that_was_just_written_is_read_again(folder, tiny, tmp_path):
    """Within a tick of the file system a second change has the time of the first one."""
    with using(cache=tmp_path, quiet=True):
        pictures = list_pictures(folder)
        open_shelf(pictures, tiny, workers=0)  # by the real clock: the copies are a moment old
    about = (FeatureCache(tmp_path, 10**9).entries()[0]).name
    with np.load(tmp_path / about / "files.npz") as index:
        assert (index["facts"][:, 0] == -1).all()
    shelf_of(folder, tiny, tmp_path)
    with np.load(tmp_path / about / "files.npz") as index:
        assert (index["facts"][:, 0] > 0).all()


def test_another_model_has_features_of_its_own(folder, tiny, tmp_path):
    shelf_of(folder, tiny, tmp_path)
    other = open_model("zhclip-tiny", device="cpu")
    with torch.no_grad():
        next(other.module.visual.parameters()).mul_(1.5)
    shelf = shelf_of(folder, other, tmp_path)
    assert shelf.encoded == 30 and shelf_of(folder, other, tmp_path).encoded == 0
    with using(cache=tmp_path):
        before = mismatched.captions_of(tiny)
        with torch.no_grad():
            other.module.text.proj[0].weight.add_(0.1)
        after = mismatched.captions_of(other)
    assert not torch.allclose(before, after, atol=1e-3)
    assert torch.allclose(after, other.texts([caption for _, caption in mismatched.bank()]), atol=1e-6)


@pytest.mark.parametrize("file", ["features.safetensors", "files.npz"])
def test_what_is_damaged_in_the_cache_is_made_again(folder, tiny, tmp_path, file, capsys):
    first = shelf_of(folder, tiny, tmp_path)
    (path,) = tmp_path.glob(f"*/{file}")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    again = shelf_of(folder, tiny, tmp_path)
    assert torch.allclose(again.features, first.features, atol=1e-6) and again.names == first.names
    assert again.encoded == (30 if file.startswith("features") else 0)
    assert "damaged" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_write_costs_time_and_nothing_else(folder, tiny, tmp_path, monkeypatch, every):
    """every: the seventh write and so on, which are of all kinds; all of them are slow."""
    # The same model throughout: trying it out takes most of the time of so short a pass.
    facts = keeping._look(tiny.module, Example(tiny.transform), tiny.encoders(), "cpu")
    monkeypatch.setattr(keeping, "_look", lambda *given, **more: facts)
    monkeypatch.setattr(keeping, "_differs", lambda *given: "")
    for path in list(folder.rglob("*.png"))[8:]:
        path.unlink()
    whole = shelf_of(folder, tiny, None)
    for number in range(0, 200, every):
        cache = tmp_path / f"cache {number}"

        def work(cache=cache):
            with using(block_seconds=0.0):
                shelf_of(folder, tiny, cache, batch_size=3)
                draw(folder, 60, "added.png")
                shelf_of(folder, tiny, cache, batch_size=3)

        finished = dies(number, cache, work) is not None
        (folder / "added.png").unlink(missing_ok=True)
        after = shelf_of(folder, tiny, cache)
        assert after.names == whole.names and torch.allclose(after.features, whole.features, atol=1e-6), number
        assert shelf_of(folder, tiny, cache).encoded == 0
        if finished:
            break
    assert number > 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_two_at_once_on_one_folder(folder, tiny, tmp_path):
    whole, cache = shelf_of(folder, tiny, None), tmp_path / "cache"

    def work():
        torch.set_num_threads(1)
        with using(block_seconds=0.0):
            for _ in range(3):
                found = shelf_of(folder, tiny, cache, batch_size=4)
                assert torch.allclose(found.features, whole.features, atol=1e-6)

    children = []
    for _ in range(2):
        child = os.fork()
        if not child:
            try:
                work()
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert shelf_of(folder, tiny, cache).encoded == 0


# ---------------------------------------------------------------- files


def test_a_picture_counts_as_it_is_seen(tmp_path, tiny):
    """Upright, on white, scaled from 16 bits, the first frame: as the same picture saved plainly."""
    pixels = np.zeros((48, 32, 3), np.uint8)
    pixels[4:14, 6:26] = (200, 30, 30)
    pixels[30:40, 8:20] = 255
    plain = Image.fromarray(pixels)
    plain.save(tmp_path / "a plain.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    plain.rotate(90, expand=True).save(tmp_path / "b turned.png", exif=turned)
    plain.save(tmp_path / "c.webp", lossless=True)
    grey = plain.convert("L")
    grey.save(tmp_path / "d grey.png")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 256 + 7).save(tmp_path / "e 16 bit.png")
    frames = [grey.convert("P"), Image.new("P", grey.size)]
    frames[0].save(tmp_path / "f frames.gif", save_all=True, append_images=frames[1:])
    white = pixels.copy()
    white[20:, :] = 255
    Image.fromarray(white).save(tmp_path / "g on white.png")
    alpha = np.full((48, 32, 1), 255, np.uint8)
    alpha[20:] = 0
    Image.fromarray(np.concatenate([pixels, alpha], 2)).save(tmp_path / "h transparent.png")
    shelf = shelf_of(tmp_path, tiny, None)
    of = {name[0]: shelf.features[number] for number, name in enumerate(shelf.names)}
    for one, other in ("ab", "ac", "de", "df", "gh"):
        assert torch.allclose(of[one], of[other], atol=1e-5), (one, other)
    assert not torch.allclose(of["a"], of["g"], atol=1e-2) and not torch.allclose(of["a"], of["d"], atol=1e-4)


def test_unreadable_files_are_named_skipped_and_not_tried_again(folder, tiny, tmp_path, monkeypatch):
    (folder / "坏的.jpg").write_bytes(b"nothing at all")
    (folder / "empty.png").write_bytes(b"")
    whole = (folder / "数字/001.png").read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    (folder / "phone.heif").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 99)
    first = shelf_of(folder, tiny, tmp_path)
    reasons = {entry.key: entry.reason for entry in first.skipped}
    assert reasons.keys() == {"坏的.jpg", "empty.png", "half.png"}
    assert reasons["empty.png"] == "an empty file" and reasons["坏的.jpg"] == "not a picture"
    assert len(first) == first.encoded == 30 and first.files == 33
    assert any(".heif" in note and "pip install pillow-heif" in note for note in first.folder.notes())

    opened: list[str] = []
    real = open
    monkeypatch.setattr("builtins.open", lambda path, *a, **k: (opened.append(str(path)), real(path, *a, **k))[1])
    again = shelf_of(folder, tiny, tmp_path)
    assert again.skipped == first.skipped and again.encoded == 0
    assert not [path for path in opened if path.startswith(str(folder))]
    (folder / "half.png").write_bytes(whole)  # mended: a copy of 001, and so known
    mended = shelf_of(folder, tiny, tmp_path)
    assert mended.encoded == 0 and "half.png" not in {entry.key for entry in mended.skipped}
    opened.clear()
    monkeypatch.setattr("zhclip_openclip.folders._seen.reader", lambda: "another one")
    assert shelf_of(folder, tiny, tmp_path).encoded == 0  # which might read what this one could not
    assert {Path(path).name for path in opened if path.startswith(str(folder))} == {"坏的.jpg", "empty.png"}


def test_names_that_are_no_unicode_and_links(digits, folder, tiny, tmp_path):
    raw = os.fsencode(folder) + b"/\xff\xfe.png"
    try:
        shutil.copy(draw(tmp_path, 70, "x.png"), raw)
    except OSError:
        pytest.skip("a file system of Unicode")
    (folder / "out").symlink_to(digits.parent)
    done = run("search", folder, "数字一", "-n", 40, "--format", "csv", cache=tmp_path / "c")
    assert done.exit_code == 0 and "\\xff\\xfe.png" in done.stdout and "--follow-links" in done.stderr
    assert run("search", folder, "数字一", "--format", "json", cache=tmp_path / "c").exit_code == 0
    assert shelf_of(folder, tiny, tmp_path / "c").encoded == 0
    followed = shelf_of(folder, tiny, tmp_path / "c", follow_links=True)
    assert followed.files == 61 and len(followed) == 31


def test_pictures_alike_share_a_row(tmp_path, tiny):
    for name in ("a.png", "b.png", "c.png"):
        draw(tmp_path, 5, name)
    shelf = shelf_of(tmp_path, tiny, None)
    (answer,) = search(shelf, tiny, read_queries(["数字"]))
    assert [(hit.name, hit.copies) for hit in answer.hits] == [("a.png", ("b.png", "c.png"))]


# ---------------------------------------------------------------- bad input


def test_a_query_that_is_too_long_is_told_of(digits, tiny, tmp_path):
    for text, read in (("数字七" * 3, None), ("数" * 9, None), ("数字七，" * 40, True), (" 数字 " * 60, True)):
        told = tiny.read_of(text)
        ids = tiny.tokenizer([text])
        assert (told is not None) is bool(read), text
        if told is not None:
            assert torch.equal(tiny.tokenizer([text[:told]]), ids)
            assert not torch.equal(tiny.tokenizer([text[: told - 1]]), ids)
    fits = "数" * (tiny.tokenizer.context_length - 2)
    assert tiny.read_of(fits) is None and tiny.read_of(fits + "数") == len(fits)
    done = run("search", digits, "数字七，" * 40, "--format", "csv", cache=tmp_path)
    assert done.exit_code == 0 and "longer than zhclip-tiny reads" in done.stderr
    assert "longer" not in run("search", digits, "数字七，" * 40, "--quiet", cache=tmp_path).stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{empty}", "猫"], "no pictures there"),
        (["{empty}/nothing", "猫"], "is not there"),
        (["{folder}", "  "], "query 1 is empty"),
        (["{folder}", "猫", ""], "query 2 is empty"),
        (["{folder}", "没有的.jpg"], "--as text"),
        (["{folder}", "{folder}", "--as", "picture"], "is a folder"),
        (["{folder}", "{text}", "--as", "picture"], "cannot be read (not a picture)"),
        (["{folder}", "{broken}"], "the query picture cannot be read (not a picture)"),
        (["{folder}", "猫", "--output", "{empty}/x.pdf"], ".html, .csv or .json"),
        (["{folder}", "猫", "--output", "{folder}"], ".html, .csv or .json"),
        (["{folder}", "猫", "--cache", "{text}"], "another folder as --cache"),
        (["{folder}", "猫", "--device", "nonsense"], "cpu always works"),
        (["猫", "{folder}"], "the folder comes first"),
        (["{folder} ", "猫"], "take out the blanks around it"),
        (["{folder}", "{text}"], "a file of another kind; for a text"),
        (["{folder}", "{folder}"], "is a folder; for a text"),
        (["{folder}", "没有的.jpg "], "--as text"),
        (["{folder}", "猫", "--output", "{text}/x.csv"], "a.txt is a file; give another one"),
        (["{broken_folder}", "猫"], "of 1 picture none can be read"),
    ],
)
def test_bad_input(digits, tmp_path, arguments, said):
    places = {name: tmp_path / name for name in ("empty", "broken_folder")}
    for place in places.values():
        place.mkdir()
    places |= {"folder": digits, "text": tmp_path / "a.txt", "broken": tmp_path / "b.jpg"}
    for path in (places["text"], places["broken"], places["broken_folder"] / "x.jpg"):
        path.write_text("nothing")
    given = [word.format(**places) for word in arguments]
    done = run("search", *given, *([] if "--cache" in given else ["--cache", tmp_path / "cache"]))
    assert done.exit_code == 1 and isinstance(done.exception, ZhclipError), (done.output, done.exception)
    assert said in str(done.exception) and "\n" not in str(done.exception)


def test_models_that_are_not_there(digits):
    for name, pretrained, said in (
        ("zhclip-tiney", None, "did you mean zhclip-tiny"),
        ("ViT-B-32", None, "needs --pretrained: openai"),
        ("zhclip-vit-l-14-quickgelu", "nothing", "nothing"),
    ):
        with pytest.raises(ZhclipError, match=said):
            open_model(name, pretrained)
    assert read_queries(["cat.jpg on the sofa", "x.png"], "text")[1].path is None
    assert read_queries(["两只猫.jpg 里的狗"])[0].path is None  # a text with a point in it
    assert read_queries(["猫" * 3000])[0].path is None  # longer than any path
    with pytest.raises(FolderError, match="nothing to search for"):
        read_queries([])


def test_files_written(digits, tmp_path):
    outputs = [tmp_path / "out" / name for name in ("a.csv", "a.json", "a.html")]
    more = [word for path in outputs for word in ("--output", path)]
    done = run("search", digits, "数字七", "数字,二", "-n", 3, *more, "--quiet", cache=tmp_path / "c")
    assert done.exit_code == 0 and done.stderr == "" and "mismatched pairs" in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.csv", "a.html", "a.json"]
    raw = outputs[0].read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf")  # which Excel needs
    rows = list(csv.DictReader(io.StringIO(raw.decode("utf-8-sig"))))
    told = [
        (answer["query"], hit)
        for answer in json.loads(outputs[1].read_text("utf-8"))["queries"]
        for hit in answer["hits"]
    ]
    assert [(row["query"], row["picture"]) for row in rows] == [(query, hit["picture"]) for query, hit in told]
    assert [float(row["mismatched_below"]) for row in rows] == pytest.approx(
        [hit["mismatched_below"] for _, hit in told], abs=1e-6
    )


def test_a_name_is_no_formula_and_no_row_of_a_csv():
    hit = Hit(1, 0, '=HYPERLINK("x"),\n1.png', -0.25, 0.5)
    (row,) = csv.DictReader(io.StringIO(written.search_csv([Answer("@甲", "text", [hit], 4)])))
    assert row["picture"] == '\'=HYPERLINK("x"),\\n1.png' and row["query"] == "'@甲"
    assert row["score"] == "-0.25" and row["mismatched_below"] == "0.5"


def test_the_bank_is_varied_and_written_once():
    names, captions = zip(*mismatched.bank(), strict=True)
    assert len(captions) >= 200 and len(set(captions)) == len(captions) and len(set(names)) == len(names)
    assert all(4 <= len(caption) <= 30 and not caption.endswith("。") for caption in captions)
    assert all(any("\u4e00" <= character <= "\u9fff" for character in text) for text in (*names, *captions))


def test_what_is_wrong_with_a_command_is_said_before_anything_heavy_is_imported(digits):
    code = (
        "import sys\nfrom zhclip_openclip.commands import app\nfrom typer.testing import CliRunner\n"
        "for words in (['search', sys.argv[1], ''], ['classify', sys.argv[1], '--labels', '猫']):\n"
        "    assert CliRunner().invoke(app, words).exit_code == 1\n"
        "assert not {'torch', 'open_clip', 'jinja2'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, digits], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
