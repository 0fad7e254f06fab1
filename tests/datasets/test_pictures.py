"""What a transform gets: the picture as it was opened, as Chinese-CLIP's own evaluation hands it on."""

import base64
import io
import runpy
import shutil
import sys

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torchvision.transforms import Compose, Lambda

from tests.support import retrieval_files as files
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._images import converts_itself, open_image
from zhclip_openclip.datasets.retrieval import build_retrieval_dataset
from zhclip_openclip.datasets.wds_export import export_wds
from zhclip_openclip.datasets.wds_open import open_wds
from zhclip_openclip.features import fingerprint
from zhclip_openclip.towers.images import as_transformers, to_rgb


def _noise(mode: str) -> Image.Image:
    """Colours side by side, half of them transparent where the mode has that."""
    pixels = np.random.default_rng(5).integers(0, 256, (9, 13, 4), dtype=np.uint8)
    return Image.fromarray(pixels, "RGBA").resize((90, 62), Image.Resampling.NEAREST).convert(mode)


def _encoded(image: Image.Image, form: str, **more) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **more)
    return buffer.getvalue()


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _encoded(_noise("RGB"), "JPEG", exif=exif)


KINDS = {
    "jpeg": lambda: _encoded(_noise("RGB"), "JPEG"),
    "grey jpeg": lambda: _encoded(_noise("L"), "JPEG"),
    "cmyk jpeg": lambda: _encoded(_noise("CMYK"), "JPEG"),
    "turned by exif": _turned,
    "rgba png": lambda: _encoded(_noise("RGBA"), "PNG"),
    "palette png": lambda: _encoded(_noise("RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=16), "PNG"),
    "palette with transparency": lambda: _encoded(_noise("RGB").quantize(16), "PNG", transparency=3),
    "grey with transparency": lambda: _encoded(_noise("LA"), "PNG"),
    "1 bit png": lambda: _encoded(_noise("1"), "PNG"),
    "16 bit png": lambda: _encoded(Image.fromarray(np.arange(90 * 62, dtype=np.uint16).reshape(62, 90) * 11), "PNG"),
    "gif": lambda: _encoded(_noise("RGB").quantize(32), "GIF"),
    "moving gif": lambda: _encoded(
        _noise("RGB").quantize(8), "GIF", save_all=True, append_images=[Image.new("P", (90, 62), 3)]
    ),
    "bmp": lambda: _encoded(_noise("RGB"), "BMP"),
    "tiff": lambda: _encoded(_noise("RGBA"), "TIFF"),
    "webp": lambda: _encoded(_noise("RGBA"), "WEBP", lossless=True),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A TSV with a picture of every kind, and Chinese-CLIP's LMDB of it in `lmdb`."""
    folder = tmp_path_factory.mktemp("pictures")
    lines = [f"{1000 + n}\t{base64.b64encode(make()).decode()}\n" for n, make in enumerate(KINDS.values())]
    texts = [f'{{"text_id": {n}, "text": "{kind}", "image_ids": [{1000 + n}]}}\n' for n, kind in enumerate(KINDS)]
    (folder / "valid_imgs.tsv").write_text("".join(lines))
    (folder / "valid_texts.jsonl").write_text("".join(texts))
    return folder


@pytest.fixture(scope="module")
def preprocess():
    """Chinese-CLIP's, as test_preprocessing.py has it of the models themselves."""
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return open_clip.image_transform(
        224, is_train=False, mean=mean, std=std, resize_mode="squash", interpolation="bicubic"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Chinese-CLIP's script")
def test_pixels_are_those_of_chinese_clips_evaluation(folder, preprocess, monkeypatch, tmp_path):
    pytest.importorskip("lmdb")
    data = pytest.importorskip("cn_clip.eval.data")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    monkeypatch.setattr(sys, "argv", ["build_lmdb_dataset", "--data_dir", str(copy), "--splits", "valid"])
    runpy.run_module("cn_clip.preprocess.build_lmdb_dataset", run_name="__main__")
    theirs = data.EvalImgDataset(str(copy / "lmdb" / "valid" / "imgs"), resolution=224)
    pixels = {int(key): picture for key, picture in (theirs[index] for index in range(len(theirs)))}
    for name in ("tsv", "lmdb"):
        if name == "lmdb":
            (copy / "valid_imgs.tsv").unlink()
        dataset = build_retrieval_dataset("muge", copy, preprocess)
        assert dataset.layout.lower().endswith(name) and len(dataset) == len(KINDS)
        for index, key in enumerate(dataset.image_ids):
            assert torch.equal(dataset[index][0], pixels[int(key)]), dataset.texts[index].text


def test_a_transform_that_does_not_convert_gets_rgb(folder, preprocess):
    dataset = build_retrieval_dataset("muge", folder, lambda image: (image.mode, image.tobytes()))
    bare = build_retrieval_dataset("muge", folder)
    for index in range(len(dataset)):
        opened = Image.open(io.BytesIO(dataset.read_image(index))).convert("RGB")
        assert dataset[index][0] == ("RGB", opened.tobytes())
        assert bare[index][0].mode == "RGB" and bare[index][0].tobytes() == opened.tobytes()
    assert not dataset.as_opened and not bare.as_opened
    dataset.transform = preprocess  # clip_benchmark's patch sets it later
    assert dataset.as_opened and dataset[0][0].shape == (3, 224, 224)


def test_what_converts_itself(preprocess):
    assert converts_itself(preprocess)
    assert not converts_itself(lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1))
    assert converts_itself(as_transformers(preprocess)) and converts_itself(Compose([Compose([to_rgb]), np.array]))
    assert converts_itself(Compose([Lambda(to_rgb)])) and not converts_itself(Compose([Lambda(np.array)]))
    assert not converts_itself(None)
    assert converts_itself(open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")[2])


def test_shards_with_pairs_give_the_same_pixels(folder, preprocess, tmp_path):
    """Also of formats that CLIP_benchmark does not read, which become PNG in their own mode."""
    source = build_retrieval_dataset("muge", folder, preprocess)
    export_wds(source, tmp_path / "wds")
    copy = open_wds(tmp_path / "wds", preprocess)
    for index, kind in enumerate(KINDS):
        assert torch.equal(copy[index][0], source[index][0]), kind


def test_shards_without_pairs_are_read_as_clip_benchmark_reads_them(folder, preprocess, tmp_path):
    builder = pytest.importorskip("clip_benchmark.datasets.builder")
    export_wds(build_retrieval_dataset("muge", folder), tmp_path / "wds")
    with_pairs = open_wds(tmp_path / "wds", preprocess)
    (tmp_path / "wds" / "test" / "pairs.json").unlink()
    plain = open_wds(tmp_path / "wds", preprocess)
    theirs = list(builder.build_wds_dataset("x", transform=preprocess, data_dir=str(tmp_path / "wds")))
    assert len(plain) == len(theirs) == len(KINDS)
    for index, (picture, captions) in enumerate(theirs):
        assert torch.equal(plain[index][0], picture) and plain[index][1] == captions
    # The files are the same and the pixels are not: no cache may take one for the other.
    names = [fingerprint.data(torch.utils.data.DataLoader(dataset)) for dataset in (plain, with_pairs)]
    assert len(set(names)) == 2


def test_a_mode_that_cannot_be_converted_is_named():
    for data in (b"", b"GIF89a", _encoded(_noise("RGB"), "PNG")[:200]):
        with pytest.raises(DatasetError, match="valid_imgs.tsv:3: image 1002 does not decode"):
            open_image(data, "1002", "valid_imgs.tsv:3")


def test_pictures_of_other_case_and_suffix(tmp_path):
    """A release copied by a program that renames: by the name in the captions, then without case and suffix."""
    folder = files.write_flickr(tmp_path, "cna")
    pictures = sorted((folder / "flickr30k-images").glob("*.jpg"))
    pictures[0].rename(pictures[0].with_suffix(".JPG"))
    pictures[1].rename(pictures[1].with_suffix(".png"))
    pictures[2].rename(pictures[2].with_suffix(".Jpeg"))
    dataset = build_retrieval_dataset("flickr30k-cn", folder)
    assert [dataset.read_image(n) for n in range(files.IMAGES)] == [files.picture(n) for n in range(files.IMAGES)]
    # One that is there under its own name is never taken from another.
    pictures[3].with_suffix(".PNG").write_bytes(b"another")
    assert build_retrieval_dataset("flickr30k-cn", folder).read_image(3) == files.picture(3)
    captions = folder / "flickr30k_cn_test.txt"
    named = captions.read_text("utf-8").replace(f"{pictures[3].stem}.jpg", f"{pictures[3].stem}.PNG")
    captions.write_text(named, "utf-8")
    assert build_retrieval_dataset("flickr30k-cn", folder).read_image(3) == b"another"
