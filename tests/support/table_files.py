"""Writes the data sets of the published tables with a few pictures each, in the layouts that circulate. Not a test."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support import retrieval_files
from zhclip_openclip.prompts import classnames


def picture(path: Path, number: int, size: int = 24) -> Path:
    """A picture file that differs from all others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(number, "PNG" if path.suffix == ".png" else "JPEG", size))
    return path


def encoded(number: int, kind: str = "PNG", size: int = 24) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def english(name: str) -> list[str]:
    """The class names that the data set itself has."""
    return [name for name, _ in classnames.pairs(name)]


def elevater(root: Path, name: str, labels: list[str], each: int = 2) -> Path:
    """Chinese-CLIP's evaluation data: label_cn.txt and test/000/..."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "label_cn.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    width = 1 if len(labels) <= 10 else 3
    for label in range(len(labels)):
        for number in range(each):
            picture(folder / "test" / f"{label:0{width}}" / f"{number}.png", 100 * label + number)
    return folder


def shards(folder: Path, classes: list[str], images: int = 6) -> Path:
    """WebDataset as clip_benchmark exports it, two shards."""
    (folder / "test").mkdir(parents=True)
    for shard in range(2):
        with tarfile.open(folder / "test" / f"{shard}.tar", "w") as tar:
            for number in range(shard * images // 2, (shard + 1) * images // 2):
                label = str(number % len(classes)).encode()
                for name, data in ((f"s{number:07d}.png", encoded(number)), (f"s{number:07d}.cls", label)):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    (folder / "test" / "nshards.txt").write_text("2\n")
    (folder / "classnames.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of {c}\n")
    return folder


def eurosat(root: Path) -> None:
    folders = ["AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop"]
    for label, name in enumerate([*folders, "Residential", "River", "SeaLake"]):
        picture(root / "eurosat" / "2750" / name / f"{name}_1.jpg", label)


def fer2013(root: Path) -> Path:
    for label, name in enumerate(["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]):
        for number in range(3):
            picture(root / "fer2013" / "test" / name / f"{number}.png", 10 * label + number)
    return root / "fer2013"


def mnist(root: Path) -> None:
    folder = root / "mnist" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        pixels = np.random.default_rng(0).integers(0, 255, (10, 28, 28), dtype=np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, 10, 28, 28) + pixels.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 10) + bytes(range(10)))


def dtd(root: Path) -> None:
    names = english("dtd")
    (root / "dtd" / "dtd" / "labels").mkdir(parents=True)
    for label, name in enumerate(names):
        picture(root / "dtd" / "dtd" / "images" / name / f"{name}_1.jpg", label)
    lines = [f"{name}/{name}_1.jpg" for name in names]
    (root / "dtd" / "dtd" / "labels" / "test1.txt").write_text("\n".join(lines) + "\n")


def fgvc_aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    names = english("fgvc_aircraft")
    data.mkdir(parents=True)
    (data / "variants.txt").write_text("\n".join(names) + "\n")
    (data / "images_variant_test.txt").write_text(f"0000001 {names[0]}\n0000002 {names[7]}\n")
    for number in (1, 2):
        picture(data / "images" / f"{number:07d}.jpg", number)


def voc2007(root: Path) -> None:
    base = root / "voc2007" / "VOCdevkit" / "VOC2007"
    (base / "ImageSets" / "Main").mkdir(parents=True)
    (base / "Annotations").mkdir()
    (base / "ImageSets" / "Main" / "aeroplane_test.txt").write_text("000001 -1\n000002  1\n")
    for number, name in ((1, "dog"), (2, "aeroplane")):
        picture(base / "JPEGImages" / f"{number:06d}.jpg", number)
        box = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>18</ymax></bndbox>"
        text = f"<annotation><object><name>{name}</name>{box}</object></annotation>"
        (base / "Annotations" / f"{number:06d}.xml").write_text(text)


def imagenet1k(root: Path) -> None:
    """Its 1,000 folders, which the number of classes is told by."""
    wnids = ["n01440764", *(f"n02{number:06d}" for number in range(998)), "n15075141"]
    data = encoded(0, "JPEG", 8)
    for wnid in wnids:
        file = root / "imagenet1k" / "val" / wnid / f"{wnid}_1.JPEG"
        file.parent.mkdir(parents=True)
        file.write_bytes(data)


def cifar100(root: Path) -> Path:
    """Files of the right names that are not CIFAR's: torchvision would fetch them again."""
    folder = root / "cifar100" / "cifar-100-python"
    folder.mkdir(parents=True)
    for name in ("meta", "test", "train"):
        (folder / name).write_bytes(gzip.compress(json.dumps({"name": name}).encode()))
    return folder


def everything(root: Path) -> Path:
    """Each data set of the tables in one of its layouts."""
    retrieval_files.write_tsv(root / "MUGE", "valid", several=True, muge_names=True)
    retrieval_files.write_tsv(root / "datasets" / "Flickr30k-CN", "test", several=False)
    retrieval_files.write_tsv(root / "COCO-CN", "test", several=False)
    elevater(root / "elevater", "cifar-10", ["飞机", "汽车", "鸟", "猫", "鹿", "狗", "青蛙", "马", "船", "卡车"])
    shards(root / "wds_vtab-cifar100", english("cifar100"))
    shards(root / "wds" / "vtab" / "pcam", ["lymph node", "lymph node containing metastatic tumor tissue"])
    elevater(root, "kitti-distance", ["近处有车", "中距离有车", "远处有车", "没有车"])
    for write in (eurosat, fer2013, mnist, dtd, fgvc_aircraft, voc2007, imagenet1k):
        write(root)
    return root
