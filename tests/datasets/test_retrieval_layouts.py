"""Every layout that people have gives the same dataset, and the numbers of Chinese-CLIP's scripts."""

import json
import pickle

import numpy as np
import pytest
import torch

from tests.support import retrieval_files as files
from tests.support.cn_clip_runs import run_scripts, write_jsonl
from zhclip_openclip.datasets.retrieval import build_retrieval_dataset, dataset_name, default_split
from zhclip_openclip.datasets.wds_export import export_wds
from zhclip_openclip.datasets.wds_open import open_wds
from zhclip_openclip.metrics.evaluate import evaluate

SEVERAL = {"muge": True, "flickr30k-cn": False, "coco-cn": False}
LAYOUTS = {
    "muge": ["tsv", "tsv_muge_names", "tsv_crlf_bom", "lmdb"],
    "flickr30k-cn": ["tsv", "lmdb", "cna", "segmented", "tagged", "csv"],
    "coco-cn": ["tsv", "lmdb", "release", "release_2017"],
}
ALL = [(name, layout) for name, layouts in LAYOUTS.items() for layout in layouts]


def write(folder, name, layout, monkeypatch):
    split = default_split(name)
    if layout == "lmdb":
        pytest.importorskip("lmdb")
        return files.write_lmdb(folder, split, SEVERAL[name], monkeypatch)
    if layout.startswith("release"):
        return files.write_coco_release(folder, 2017 if layout.endswith("2017") else 2014)
    if not layout.startswith("tsv"):
        return files.write_flickr(folder, layout)
    crlf = layout.endswith("crlf_bom")
    return files.write_tsv(
        folder, split, SEVERAL[name], muge_names=layout.endswith("muge_names"), end="\r\n" if crlf else "\n", bom=crlf
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        root = tmp_path_factory.mktemp("layouts")
        return {
            (name, layout): build_retrieval_dataset(
                name, write(root / name / layout, name, layout, monkeypatch), to_tensor
            )
            for name, layout in ALL
        }


def to_tensor(image):
    return torch.from_numpy(np.array(image.resize((4, 3)))).float().permute(2, 0, 1) / 255 - 0.5


class PixelModel:
    """Colours against characters: no good, but different for each picture and text, and without ties."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.mix, self.letters = torch.randn(36, 12, generator=generator), torch.randn(997, 12, generator=generator)

    def encode_image(self, batch):
        return batch.flatten(1) @ self.mix

    def encode_text(self, batch):
        return self.letters[batch].mean(dim=1)


def tokenizer(texts):
    return torch.tensor([[(ord(c) * 31 + n) % 997 for n, c in enumerate(text.ljust(24, "_")[:24])] for text in texts])


@pytest.mark.parametrize("name, layout", ALL)
def test_same_pairs_and_pictures(built, name, layout):
    dataset = built[name, layout]
    assert len(dataset) == files.IMAGES and dataset.name == name and not dataset.skipped and not dataset.notes
    expected = files.relations(SEVERAL[name])
    assert [entry.text for entry in dataset.texts] == [text for _, text, _ in expected]
    assert dataset.text_to_images == [images for _, _, images in expected]
    for image, texts in enumerate(dataset.image_to_texts):
        assert texts == [t for t, (_, _, images) in enumerate(expected) if image in images]
        picture, captions = dataset[image]
        assert captions == [expected[t][1] for t in texts]
        assert dataset.read_image(image) == files.picture(image)
        assert picture.shape == (3, 3, 4)
    assert dataset.directions == (("image_retrieval",) if name == "muge" else ("image_retrieval", "text_retrieval"))
    assert dataset.check(decode=True)["pairs"] == sum(len(images) for _, _, images in expected)


def test_one_fingerprint_whatever_the_layout(built):
    assert len({built["muge", layout].fingerprint() for layout in LAYOUTS["muge"]}) == 1
    assert built["coco-cn", "release"].fingerprint() == built["coco-cn", "release_2017"].fingerprint()
    assert built["muge", "tsv"].fingerprint() != built["coco-cn", "tsv"].fingerprint()


@pytest.fixture(scope="module")
def reference(built, tmp_path_factory):
    """What Chinese-CLIP's scripts make of the features of every set in every layout."""
    pytest.importorskip("cn_clip")
    root, model = tmp_path_factory.mktemp("features"), PixelModel()
    folders = {}
    for (name, layout), dataset in built.items():
        folder = folders[name, layout] = root / name / layout
        folder.mkdir(parents=True)
        images = torch.stack([dataset[i][0] for i in range(len(dataset))])
        images = torch.nn.functional.normalize(model.encode_image(images), dim=-1)
        texts = torch.nn.functional.normalize(model.encode_text(tokenizer([t.text for t in dataset.texts])), dim=-1)
        write_jsonl(folder / "img.jsonl", [{"image_id": i, "feature": f.tolist()} for i, f in enumerate(images)])
        write_jsonl(folder / "txt.jsonl", [{"text_id": t, "feature": f.tolist()} for t, f in enumerate(texts)])
        right = [{"text_id": t, "text": "", "image_ids": r} for t, r in enumerate(dataset.text_to_images)]
        write_jsonl(folder / "texts.jsonl", right)
    run_scripts(folders.values())
    return folders


@pytest.mark.parametrize("name, layout", ALL)
def test_same_numbers_as_chinese_clip(built, reference, name, layout):
    dataset = built[name, layout]
    loader = torch.utils.data.DataLoader(dataset, batch_size=5, collate_fn=_collate)
    metrics = evaluate(PixelModel(), loader, tokenizer, "cpu", False, [1, 5, 10])
    assert 0 < metrics["image_retrieval_recall@5"] < 1
    for direction, short in (("image_retrieval", "ir"), ("text_retrieval", "tr")):
        theirs = json.loads((reference[name, layout] / f"{short}.json").read_text())["scoreJson"]
        found = {key: value * 100 for key, value in metrics.items() if key.startswith(direction)}
        if direction not in dataset.directions:
            assert not found
            continue
        assert found == {
            f"{direction}_mean_recall": theirs["mean_recall"],
            **{f"{direction}_recall@{k}": theirs[f"r{k}"] for k in (1, 5, 10)},
        }


def _collate(batch):
    images, texts = zip(*batch, strict=True)
    return torch.stack(images), texts


@pytest.mark.parametrize("layout, method", [("tsv", "fork"), ("lmdb", "fork"), ("lmdb", "spawn")])
def test_several_workers(built, layout, method):
    dataset = built["muge", layout]
    dataset[3]  # whatever this process has opened by now must not be shared
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=4, num_workers=2, collate_fn=_collate, multiprocessing_context=method
    )
    seen = [(image, texts) for images, captions in loader for image, texts in zip(images, captions, strict=True)]
    assert len(seen) == len(dataset)
    for index in (13, 0, 7):
        assert torch.equal(seen[index][0], dataset[index][0]) and seen[index][1] == dataset[index][1]


@pytest.mark.parametrize("name, layout", [("muge", "tsv"), ("muge", "lmdb"), ("coco-cn", "release")])
def test_pickles(built, name, layout):
    copy = pickle.loads(pickle.dumps(built[name, layout]))
    assert copy.fingerprint() == built[name, layout].fingerprint() and copy[5][1] == built[name, layout][5][1]


def test_batches_as_clip_benchmark_asks_for_them(built):
    batches = built["coco-cn", "tsv"].batched(4)
    loaded = list(torch.utils.data.DataLoader(batches, batch_size=None, num_workers=0))
    assert [len(texts) for _, texts in loaded] == [4, 4, 4, 2]
    assert torch.equal(loaded[3][0][1], built["coco-cn", "tsv"][13][0])
    whole = evaluate(PixelModel(), torch.utils.data.DataLoader(batches, batch_size=None), tokenizer, "cpu", False)
    single = torch.utils.data.DataLoader(built["coco-cn", "tsv"], batch_size=5, collate_fn=_collate)
    assert whole == evaluate(PixelModel(), single, tokenizer, "cpu", False)


def test_raw_captions_are_an_option(built, tmp_path):
    folder = files.write_flickr(tmp_path, "tagged")
    raw = build_retrieval_dataset("flickr30k-cn", folder, raw_captions=True)
    assert raw.texts[0].text == files.tagged(0) and built["flickr30k-cn", "tagged"].texts[0].text == files.clean(0)


def test_coco_cn_uses_what_people_wrote(tmp_path):
    folder = files.write_coco_release(tmp_path / "a")
    texts = [entry.text for entry in build_retrieval_dataset("coco-cn", folder).texts]
    assert len(texts) == 2 * files.IMAGES and not any(text.startswith("翻译") for text in texts)
    # one file with everything: the translations are left out; with translations alone: another set
    release = folder / "coco-cn-version1805v1.1"
    written = (release / "imageid.human-written-caption.txt").read_text("utf-8").splitlines()[1:]
    translated = (release / "imageid.manually-translated-caption.txt").read_text("utf-8").splitlines()
    (release / "coco-cn_test.txt").write_text("\n".join(written + translated) + "\n", encoding="utf-8")
    assert [entry.text for entry in build_retrieval_dataset("coco-cn", folder).texts] == texts
    (release / "coco-cn_test.txt").write_text("\n".join(translated) + "\n", encoding="utf-8")
    assert [entry.text for entry in build_retrieval_dataset("coco-cn", folder).texts] == texts  # of the file beside it
    (release / "imageid.human-written-caption.txt").unlink()
    with pytest.raises(ValueError, match="coco-cn-translated and not coco-cn"):
        build_retrieval_dataset("coco-cn", folder)


@pytest.mark.parametrize("inside", ["", "MUGE", "muge", "MUGE/MUGE", "Multimodal_Retrieval"])
def test_finds_the_folder(tmp_path, inside):
    files.write_tsv(tmp_path / inside, "valid", True)
    assert len(build_retrieval_dataset("MUGE", tmp_path)) == files.IMAGES


def test_names():
    assert [dataset_name(name) for name in ("MUGE", "flickr30k_cn", "COCO-CN", "coco_cn", "cifar10")] == [
        "muge",
        "flickr30k-cn",
        "coco-cn",
        "coco-cn",
        None,
    ]
    with pytest.raises(ValueError, match="it has muge, flickr30k-cn, coco-cn"):
        build_retrieval_dataset("flickr", ".")


@pytest.mark.parametrize("name, layout", [("muge", "lmdb"), ("coco-cn", "release")])
def test_webdataset_scores_the_same_to_the_last_digit(built, tmp_path, name, layout):
    export_wds(built[name, layout], tmp_path, shard_size=5)
    shards = open_wds(tmp_path, to_tensor)
    metrics = [
        evaluate(PixelModel(), torch.utils.data.DataLoader(loaded, batch_size=None), tokenizer, "cpu", False)
        for loaded in (built[name, layout].batched(5), shards.batched(5))
    ]
    assert metrics[0] == metrics[1] and len(metrics[0]) == 4 * len(shards.directions)
