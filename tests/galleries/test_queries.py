"""`zhclip gallery`: what is on the page, that it is one file, what it says to bad input, and how a browser shows it."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.support import retrieval_files as files
from tests.support.browser import browse, needs_chromium
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.commands import app
from zhclip_openclip.datasets.retrieval import build_retrieval_dataset
from zhclip_openclip.datasets.wds_export import export_wds
from zhclip_openclip.galleries import queries as queries_module
from zhclip_openclip.galleries.queries import choose, write_gallery
from zhclip_openclip.metrics.evaluate import evaluate
from zhclip_openclip.metrics.per_query import load_per_query

NASTY = '<script>alert("红色")</script> & <b>T恤</b>'


class RandomModel:
    """Random features in the order of the dataset; pictures and texts arrive as their positions."""

    def __init__(self, dataset, seed=3):
        random = np.random.default_rng(seed)
        self.images = torch.tensor(random.standard_normal((len(dataset), 8)), dtype=torch.float32)
        self.texts = torch.tensor(random.standard_normal((len(dataset.texts), 8)), dtype=torch.float32)

    def encode_image(self, positions):
        return self.images[positions]

    def encode_text(self, positions):
        return self.texts[positions]


def score(dataset, folder, pretrained="tag", **more):
    """Score a dataset; writes result.json and result.npz as clip_benchmark does with us, returns the first."""
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=5, collate_fn=lambda batch: (torch.tensor([i for i, _ in batch]), [t for _, t in batch])
    )
    positions = {entry.text: position for position, entry in enumerate(dataset.texts)}
    numbers = iter(range(len(dataset)))
    dataset.transform = lambda image: next(numbers)
    metrics = evaluate(
        RandomModel(dataset),
        loader,
        lambda texts: torch.tensor([positions[text] for text in texts]),
        "cpu",
        False,
        per_query=folder / "result.npz",
        meta={"model": "some-model", "pretrained": pretrained, "dataset": dataset.name, "language": "zh"},
    )
    described = {"dataset": dataset.name, "model": "some-model", "metrics": metrics, "per_query": "result.npz", **more}
    (folder / "result.json").write_text(json.dumps(described), encoding="utf-8")
    return folder / "result.json"


@pytest.fixture
def muge(tmp_path):
    """The folder of a small MUGE, one of whose queries has markup in it."""
    folder = files.write_tsv(tmp_path / "MUGE", "valid", several=True, muge_names=True)
    queries = folder / "MR_valid_queries.jsonl"
    lines = queries.read_text("utf-8").splitlines()
    lines[3] = json.dumps({**json.loads(lines[3]), "query_text": NASTY})
    queries.write_text("\n".join(lines) + "\n", "utf-8")
    return folder


@pytest.fixture
def result(muge, tmp_path):
    return score(build_retrieval_dataset("muge", muge), tmp_path)


class Page(HTMLParser):
    """The page's queries as {section: [{text, rank, answers: [(source, right, place)], missed: [...]}]}."""

    def __init__(self, text):
        super().__init__()
        self.sections, self.links, self.ids, self.references, self.tags = {}, [], [], [], []
        self.headings, self._query, self._list, self._in = [], None, None, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        classes = (attributes.get("class") or "").split()
        self.tags.append(tag)
        self.references += [attributes[name] for name in ("src", "href", "action", "data") if name in attributes]
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "section" and "id" in attributes:
            self._queries = self.sections.setdefault(attributes["id"], [])
        elif tag == "article":
            self._query = {"text": "", "rank": "", "answers": [], "missed": []}
            self._queries.append(self._query)
            self._list = self._query["answers"]
        elif "missed" in classes:
            self._list = self._query["missed"]
        elif "tile" in classes or "line" in classes:
            self._list.append({"right": "right" in classes, "marked": False, "source": None, "place": "", "text": ""})
        elif tag == "img" and "asked" not in classes and self._list:
            self._list[-1]["source"] = attributes["src"]
        elif tag == "img" and self._query is not None:
            self._query["source"] = attributes["src"]
        elif tag == "a":
            self.links.append(attributes["href"])
        if tag in ("h3", "b", "h2", "h1") or classes[:1] in (["place"], ["text"], ["rank"]):
            self._in = tag if tag != "span" else classes[0]

    def handle_endtag(self, tag):
        self._in = None

    def handle_data(self, data):
        if self._query is None:
            if self._in in ("h1", "h2"):
                self.headings.append(data)
        elif self._in == "h3":
            self._query["text"] += data
        elif self._in in ("place", "text"):
            self._list[-1][self._in] += data
        elif self._in == "b" and "✓" in data:
            self._list[-1]["marked"] = True
        elif self._in == "b":
            self._query["rank"] += data


def gallery(*arguments):
    return CliRunner().invoke(app, ["gallery", *map(str, arguments)])


def thumbnails(dataset):
    """Mean colour of each picture of the dataset."""
    return [np.asarray(Image.open(io.BytesIO(dataset.read_image(i))).convert("RGB")).mean((0, 1)) for i in range(14)]


def shows(source, colours):
    """The positions of the pictures that a data URI may be of."""
    data = base64.b64decode(source.removeprefix("data:image/jpeg;base64,"), validate=True)
    mean = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).mean((0, 1))
    return {position for position, colour in enumerate(colours) if np.abs(mean - colour).max() < 4}


def test_page(result, muge, tmp_path):
    done = gallery(result, "--output", tmp_path / "out" / "page.html", "--dataset-root", muge, "--number", "100")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "out" / "page.html").read_text("utf-8")
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["page.html"]
    page = Page(text)
    dataset, queries = build_retrieval_dataset("muge", muge), load_per_query(tmp_path / "result.npz")
    texts = [entry.text for entry in dataset.texts]
    assert '<html lang="zh-CN">' in text and all(word in text for word in ("some-model", "tag", "muge", "valid"))
    for value in queries["meta"]["metrics"].values():
        assert f"{100 * value:.2f}" in text
    assert list(page.sections) == ["t2i-worst", "t2i-best", "t2i-random"]
    assert page.links == ["#t2i-worst", "#t2i-best", "#t2i-random"] and set(map(str, page.ids)) >= set(page.sections)
    assert len(page.ids) == len(set(page.ids))

    colours, ranks = thumbnails(dataset), queries["image_retrieval_rank"]
    for shown in page.sections.values():
        assert sorted(query["text"] for query in shown) == sorted(texts)
        for query in shown:
            position = texts.index(query["text"])
            right = set(dataset.text_to_images[position])
            assert int(query["rank"]) == ranks[position]
            assert [int(entry["place"]) for entry in query["answers"]] == [1, 2, 3, 4, 5]
            for entry, image in zip(query["answers"], queries["image_retrieval_top"][position], strict=False):
                assert image in shows(entry["source"], colours)
                assert entry["right"] == entry["marked"] == (image in right)
            assert bool(query["missed"]) == (ranks[position] > 5)
            for entry in query["missed"]:
                assert entry["right"] and entry["marked"] and shows(entry["source"], colours) & right
    in_order = [[int(query["rank"]) for query in page.sections[f"t2i-{section}"]] for section in ("worst", "best")]
    assert in_order == [sorted(ranks, reverse=True), sorted(ranks)]


def test_what_is_counted_has_its_measure_word(result, muge, tmp_path):
    text = write_gallery(result, tmp_path / "page.html", muge, number=2).read_text("utf-8")
    said = re.sub("<[^>]*>", "", text)
    assert "首张正确图片的排名" in said and "首个" not in said and re.search("共 \\d+ 张正确图片", said)
    assert "条查询中抽取" in said or "从正确结果" not in said


def test_one_file_and_nothing_in_a_caption_is_markup(result, muge, tmp_path):
    path = write_gallery(result, tmp_path / "page.html", muge, number=100)
    text = path.read_text("utf-8")
    page = Page(text)
    assert not {"script", "iframe", "object", "base"} & set(page.tags) and "<b>T恤" not in text
    assert NASTY in [query["text"] for query in page.sections["t2i-worst"]]
    assert all(reference.startswith(("data:", "#")) for reference in page.references)
    assert not re.search(r"https?://|url\(|@import|@font-face", text)
    assert "default-src 'none'" in text and "prefers-color-scheme: dark" in text
    assert str(tmp_path) not in text  # a page is for showing around


def test_both_directions(tmp_path):
    dataset = build_retrieval_dataset("coco-cn", files.write_coco_release(tmp_path / "coco"))
    score(dataset, tmp_path)
    page = Page(
        write_gallery(tmp_path / "result.npz", tmp_path / "p.html", tmp_path / "coco", number=9).read_text("utf-8")
    )
    assert list(page.sections) == [f"{way}-{kind}" for way in ("t2i", "i2t") for kind in ("worst", "best", "random")]
    assert {len(queries) for queries in page.sections.values()} == {9}
    queries, colours = load_per_query(tmp_path / "result.npz"), thumbnails(dataset)
    texts = [entry.text for entry in dataset.texts]
    for query in page.sections["i2t-worst"]:
        (image,) = shows(query["source"], colours)
        rank = int(query["rank"])
        assert rank == queries["text_retrieval_rank"][image]
        best = queries["text_retrieval_top"][image][:5]
        assert [entry["text"] for entry in query["answers"]] == [texts[item] for item in best]
        right = dataset.image_to_texts[image]
        assert [entry["marked"] for entry in query["answers"]] == [item in right for item in best]
        missed = [entry["text"] for entry in query["missed"]]
        assert sorted(missed) == (sorted(texts[item] for item in right) if rank > 5 else [])


def test_choice():
    ranks, counted = np.array([1, 7, 1, 0, 3, 1, 9]), np.array([True] * 6 + [False])
    chosen = choose(ranks, counted, 3, seed=0)
    assert chosen["worst"][:2] == [1, 4] and set(chosen["best"]) == {0, 2, 5}
    assert chosen == choose(ranks, counted, 3, seed=0) and set(choose(ranks, counted, 99, 0)["random"]) == {
        0,
        1,
        2,
        4,
        5,
    }
    assert len({tuple(choose(ranks, counted, 3, seed)["random"]) for seed in range(9)}) > 1


def test_same_page_from_shards_in_another_order(result, muge, tmp_path):
    """Fingerprints don't see the order of the files, so ids say which picture is which."""
    first = write_gallery(result, tmp_path / "1.html", muge).read_text("utf-8")
    assert first == write_gallery(tmp_path / "result.npz", tmp_path / "2.html", muge).read_text("utf-8")
    for name in ("MR_valid_imgs.tsv", "MR_valid_queries.jsonl"):
        lines = (muge / name).read_text("utf-8").splitlines()
        (muge / name).write_text("\n".join(reversed(lines)) + "\n", "utf-8")
    turned = build_retrieval_dataset("muge", muge)
    assert turned.image_ids[0] != str(load_per_query(tmp_path / "result.npz")["image_ids"][0])
    export_wds(turned, tmp_path / "wds", 5)
    for root in (muge, tmp_path / "wds"):
        again = Page(write_gallery(result, tmp_path / "3.html", root).read_text("utf-8"))
        for section, queries in Page(first).sections.items():
            for left, right in zip(queries, again.sections[section], strict=True):
                assert left["answers"] == right["answers"] and left["text"] == right["text"]


def test_left_out_pictures_and_raw_captions(muge, tmp_path):
    lines = (muge / "MR_valid_imgs.tsv").read_text().splitlines()
    lines[5] = lines[5].split("\t")[0] + "\t" + base64.b64encode(b"no picture").decode()
    (muge / "MR_valid_imgs.tsv").write_text("\n".join(lines) + "\n")
    dataset = build_retrieval_dataset("muge", muge, skip_bad_images=True)
    score(dataset, tmp_path, skipped_images={"count": 1, "images": []})
    for given in ("result.json", "result.npz"):
        assert "略去" in write_gallery(tmp_path / given, tmp_path / "p.html", muge).read_text("utf-8")

    flickr = files.write_flickr(tmp_path / "flickr", "tagged")
    raw = score(build_retrieval_dataset("flickr30k-cn", flickr, raw_captions=True), tmp_path)
    assert "T恤:n" in write_gallery(raw, tmp_path / "p.html", flickr).read_text("utf-8")


def test_a_checkpoint_is_named_without_its_folder(muge, tmp_path):
    score(build_retrieval_dataset("muge", muge), tmp_path, pretrained=str(tmp_path / "epoch_3.pt"))
    text = write_gallery(tmp_path / "result.json", tmp_path / "p.html", muge).read_text("utf-8")
    assert "epoch_3.pt" in text and str(tmp_path) not in text


def test_default_root_is_the_folder_of_the_result(result, tmp_path):
    assert gallery(result, "--output", tmp_path / "page.html").exit_code == 0  # which holds MUGE/


def rewrite(path, **changes):
    with np.load(path) as file:
        arrays = {**file, **changes}
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})


def refused(told, result, output, *arguments):
    done = gallery(result, "--output", output, *arguments)
    assert done.exit_code == 1 and isinstance(done.exception, ZhclipError), done.output
    assert re.search(told, str(done.exception)) and "\n" not in str(done.exception), str(done.exception)
    assert output.is_dir() or not output.exists()


def test_bad_results(result, muge, tmp_path):
    page, described = tmp_path / "page.html", json.loads(result.read_text())
    refused(r"nix.json: no such file", tmp_path / "nix.json", page)
    refused(r"MUGE: no such file", muge, page)
    for content in (b"", b"[1]", b"no json", b"\xff\xfe\x00", b"PK\x03\x04"):
        (tmp_path / "x.json").write_bytes(content)
        refused(r"x.json: neither a result JSON .* nor the NPZ", tmp_path / "x.json", page)
    for name in (None, "", 3):
        (tmp_path / "x.json").write_text(json.dumps({**described, "per_query": name}))
        refused(r"x.json: names no per-query file.*clip_benchmark eval", tmp_path / "x.json", page)
    for name in ("gone.npz", "../result.npz"):
        (tmp_path / "x.json").write_text(json.dumps({**described, "per_query": name}))
        refused(r"x.json: its per-query file .*npz is not beside it", tmp_path / "x.json", page)


@pytest.mark.parametrize(
    "change",
    [
        {"image_retrieval_rank": np.arange(3)},
        {"image_retrieval_top": np.full((20, 10), 14)},
        {"image_retrieval_counted": None},
        {"text_to_images_start": np.arange(5)},
        {"text_to_images_item": np.full(3, 99)},
        {"image_ids": None},
        {"meta": np.array("{}")},
        {"meta": np.array("no json")},
        {"meta": None},
        {"image_retrieval_rank": np.array([{}], dtype=object)},
    ],
    ids=str,
)
def test_damaged_per_query_file(result, muge, tmp_path, change):
    rewrite(tmp_path / "result.npz", **change)
    refused(r"result.npz: not a per-query file, or damaged", result, tmp_path / "p.html", "--dataset-root", muge)


def test_per_query_file_cut_off_or_of_another_kind(result, muge, tmp_path):
    path = tmp_path / "result.npz"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    refused(r"result.npz: not a per-query file", result, tmp_path / "p.html", "--dataset-root", muge)
    path.write_bytes(data)
    rewrite(path, image_retrieval_top=None)
    refused(r"no best items", result, tmp_path / "p.html", "--dataset-root", muge)
    path.write_bytes(data)
    rewrite(path, meta=np.array(json.dumps({"format": 99})))
    refused(r"format 99", result, tmp_path / "p.html", "--dataset-root", muge)


def test_data_that_is_not_there_or_another(result, muge, tmp_path):
    page = tmp_path / "page.html"
    refused(r"nowhere: no such folder.*--dataset-root", result, page, "--dataset-root", tmp_path / "nowhere")
    refused(r"no muge of split train", result, page, "--dataset-root", muge, "--split", "train")
    (tmp_path / "alone").mkdir()
    for name in ("result.json", "result.npz"):
        shutil.copy(tmp_path / name, tmp_path / "alone")
    refused(r"alone: no muge of split valid here.*--dataset-root$", tmp_path / "alone" / "result.json", page)
    other = files.write_tsv(tmp_path / "other", "valid", several=False, muge_names=True)
    refused(r"other data than .*result.npz was made on.*--dataset-root", result, page, "--dataset-root", other)
    meta = load_per_query(tmp_path / "result.npz")["meta"]
    for name in ("crossmodal3600", None):
        rewrite(tmp_path / "result.npz", meta=np.array(json.dumps({**meta, "dataset": name})))
        refused(r"made on (crossmodal3600|an unnamed).*muge", result, page, "--dataset-root", muge)


def test_output_that_cannot_be(result, muge, tmp_path):
    for name in ("result.json", "result.npz"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(ZhclipError, match="the result itself"):
            write_gallery(result, tmp_path / name, muge)
        assert (tmp_path / name).read_bytes() == before
    with pytest.raises(ZhclipError, match="cannot be written"):
        write_gallery(result, result / "page.html", muge)
    (tmp_path / "folder").mkdir()
    refused(r"folder: a folder", result, tmp_path / "folder", "--dataset-root", muge)


def test_a_page_that_no_browser_likes_is_not_made(result, muge, tmp_path, monkeypatch):
    """The size is told from a few pictures, and a number that fits is named."""
    text = write_gallery(result, tmp_path / "p.html", muge, number=12).read_text("utf-8")
    pictures = re.findall(r'"data:image/jpeg;base64,[^"]*', text)
    monkeypatch.setattr(queries_module, "PAGE_LIMIT", sum(map(len, pictures)) // 2)
    with pytest.raises(ZhclipError) as told:
        write_gallery(result, tmp_path / "other.html", muge, number=12)
    assert not (tmp_path / "other.html").exists()
    said = r"--number 12 makes a page of about \d+ MB with (\d+) pictures, .*; --number (\d+) has about that"
    found = re.fullmatch(said, str(told.value))
    assert int(found[1]) == len(pictures) and int(found[2]) in (5, 6)
    write_gallery(result, tmp_path / "other.html", muge, number=int(found[2]))


def test_progress_counts_the_different_pictures(result, muge, tmp_path):
    steps = []
    write_gallery(result, tmp_path / "p.html", muge, progress=lambda done, total: steps.append((done, total)))
    assert [done for done, _ in steps] == list(range(1, steps[-1][1] + 1)) and steps[-1][1] <= 14


def test_captions_that_a_terminal_would_read(tmp_path, muge):
    queries = muge / "MR_valid_queries.jsonl"
    lines = queries.read_text("utf-8").splitlines()
    lines[2] = json.dumps({**json.loads(lines[2]), "query_text": "\x1b[2J\x00 红\u202e色\nb"})
    queries.write_text("\n".join(lines) + "\n", "utf-8")
    scored = score(build_retrieval_dataset("muge", muge), tmp_path)
    text = write_gallery(scored, tmp_path / "p.html", muge, number=100).read_text("utf-8")
    assert not {"\x1b", "\x00", "\u202e", "\r"} & set(text) and "\\x1b[2J\\x00 红\\u202e色" in text


def test_metrics_that_are_no_figures_are_told(result, muge, tmp_path):
    meta = load_per_query(tmp_path / "result.npz")["meta"]
    meta["metrics"] |= {"image_retrieval_recall@1": float("nan"), "image_retrieval_recall@x": 0.5, "other": "<b>"}
    rewrite(tmp_path / "result.npz", meta=np.array(json.dumps(meta)))
    text = write_gallery(result, tmp_path / "p.html", muge).read_text("utf-8")
    assert "R@1</dt>" not in text and "R@5</dt>" in text and "nan" not in text
    assert "image_retrieval_recall@1: is NaN" in text


def test_an_interrupted_page_leaves_the_old_one(result, muge, tmp_path, monkeypatch):
    path = tmp_path / "out" / "page.html"
    path.parent.mkdir()
    path.write_text("old")

    def replace(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write_gallery(result, path, muge)
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


# ---------------------------------------------------------------- in a browser


@needs_chromium
def test_browser_finds_no_fault_and_asks_the_network_for_nothing(result, muge, tmp_path):
    page = write_gallery(result, tmp_path / "page.html", muge)
    done, addresses = browse(page, tmp_path, "--dump-dom")
    assert "CONSOLE" not in done.stderr, done.stderr
    assert not addresses
    dom = Page(done.stdout)
    assert list(dom.sections) == ["t2i-worst", "t2i-best", "t2i-random"]
    assert NASTY in [query["text"] for queries in dom.sections.values() for query in queries]


@needs_chromium
def test_browser_would_tell(result, muge, tmp_path):
    """The check before this one notices a page that asks for something."""
    page = write_gallery(result, tmp_path / "page.html", muge)
    foreign = '<img src="http://127.0.0.1:9/x.png"><script>1</script></body>'
    page.write_text(page.read_text("utf-8").replace("</body>", foreign), "utf-8")
    done, _ = browse(page, tmp_path, "--dump-dom")
    assert done.stderr.count("CONSOLE") >= 2 and "Content Security Policy" in done.stderr
    page.write_text(re.sub("<meta http-equiv[^>]*>", "", page.read_text("utf-8")), "utf-8")
    assert browse(page, tmp_path, "--dump-dom")[1] == {"http://127.0.0.1:9/x.png"}


@needs_chromium
def test_screenshot_in_light_and_dark(result, muge, tmp_path):
    page = write_gallery(result, tmp_path / "page.html", muge)
    corner, greens = {}, {}
    for scheme, option in (("light", "1"), ("dark", "0")):
        shot = tmp_path / f"{scheme}.png"
        browse(
            page,
            tmp_path,
            f"--screenshot={shot}",
            "--window-size=1280,2400",
            f"--blink-settings=preferredColorScheme={option}",
        )
        with Image.open(shot) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        corner[scheme] = pixels[2, 2].mean()
        frame = {"light": (0x0B, 0x7A, 0x34), "dark": (0x4F, 0xD0, 0x7C)}[scheme]
        greens[scheme] = int((np.abs(pixels - frame).max(axis=2) <= 2).sum())
    assert corner["light"] > 200 and corner["dark"] < 60
    assert min(greens.values()) > 2000  # the frames of right pictures
