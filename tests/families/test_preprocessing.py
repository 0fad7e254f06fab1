"""Images become the tensors that each family's own code makes of them: pixel for pixel, with PIL on both sides.

transformers' processors exist twice: with PIL, as they were when these models were published, and with torchvision on
tensors, which rounds after resizing and is up to a few steps of 1/255 away. The first is the reference.
"""

from __future__ import annotations

import io

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torchvision import transforms
from transformers import CLIPImageProcessor

from zhclip_openclip.families import all_families

pytestmark = pytest.mark.usefixtures("reduced")

SIZES = [(640, 480), (480, 640), (1, 1), (1, 300), (300, 1), (224, 224), (225, 223), (301, 224), (335, 224), (224, 335)]
SIZES += [(1000, 333), (257, 411), (17, 5), (2000, 3)]
MODES = ["L", "LA", "1", "P", "PA", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "I", "F"]
STEP = 1 / 255 / 0.26130258  # one grey level, in units of the smallest standard deviation


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(width * 10_000 + height)
    colours = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width)).astype(np.uint16))
    if mode in ("RGBA", "LA"):
        image = colours.convert(mode)
        image.putalpha(Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8)))
        return image
    return colours.convert("P").convert("PA") if mode == "PA" else colours.convert(mode)


def rotated() -> Image.Image:
    """A photograph that says in its EXIF data that it lies on its side."""
    image, file = picture(60, 40), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(file, "JPEG", exif=exif)
    return Image.open(io.BytesIO(file.getvalue()))


IMAGES = {f"RGB {w}x{h}": picture(w, h) for w, h in SIZES}
IMAGES |= {f"{mode} {w}x{h}": picture(w, h, mode) for mode in MODES for w, h in [(301, 224), (50, 70)]}
IMAGES["EXIF"] = rotated()


def pil_processor(chinese: bool = False, **options):
    """transformers' processor on PIL images: a class of its own since version 5, the only one before."""
    name = "ChineseCLIPImageProcessor" if chinese else "CLIPImageProcessor"
    try:
        import importlib

        module = "chinese_clip" if chinese else "clip"
        code = importlib.import_module(f"transformers.models.{module}.image_processing_pil_{module}")
        kind = getattr(code, f"{name}Pil")
    except ModuleNotFoundError:
        import transformers

        kind = getattr(transformers, name)
    return lambda image: torch.as_tensor(
        np.asarray(kind(**options)(image, return_tensors="np")["pixel_values"][0]), dtype=torch.float32
    )


def transform_of(name: str):
    with torch.device("meta"):
        return open_clip.create_model_and_transforms(name, pretrained_text=False, device="meta")[2]


def assert_equal(ours, theirs, images=IMAGES, tolerance: float = 1e-6):
    different = {
        name: difference
        for name, image in images.items()
        if (difference := (ours(image) - theirs(image)).abs().max().item()) > tolerance
    }
    assert not different


@pytest.mark.parametrize("name", ["altclip", "taiyiclip-vit-b-32", "clip-chinese", "zhclip"])
def test_as_transformers(name):
    theirs = pil_processor()

    def as_published(image):
        """Newer versions of transformers 5 lay transparent images on white; all before drop the transparency."""
        return theirs(image.convert("RGB") if "A" in image.getbands() else image)

    assert_equal(transform_of(name), as_published)


@pytest.mark.parametrize(("name", "size"), [("mclip", 224), ("mclip-vit-b-32", 224), ("mclip-vit-b-16-plus-240", 240)])
def test_as_openai(name, size):
    """Multilingual-CLIP's authors use OpenAI's preprocessing (clip/clip.py, `_transform`), and open_clip's."""
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    theirs = transforms.Compose(
        [
            transforms.Resize(size, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            lambda image: image.convert("RGB"),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    assert_equal(transform_of(name), theirs)


@pytest.mark.parametrize(
    ("name", "size"),
    [("cnclip", 224), ("cnclip-vit-l-14-336", 336), ("cnclip-rn50", 224), ("cnclip-vit-b-16", 224)],
)
def test_as_cn_clip(name, size):
    from cn_clip.clip.utils import image_transform

    assert_equal(transform_of(name), image_transform(size))


@pytest.mark.parametrize("name", ["m2-encoder", "m2-encoder-0.4b"])
def test_as_m2_encoder(name):
    """prj/M2_Encoder: m2_encoder.py, vlmo/transforms/square_transform.py, and what the model does with pixels first
    (vlmo/modules/vlmo_module.py, infer_image)."""
    steps = transforms.Compose(
        [
            transforms.Resize((224, 224), interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.5] * 3, std=[0.5] * 3),
        ]
    )
    assert_equal(transform_of(name), lambda image: steps(image.convert("RGB")))


@pytest.mark.parametrize(("name", "size"), [("cnclip", 224), ("cnclip-vit-l-14-336", 336)])
def test_cnclip_as_transformers_on_rgb(name, size):
    """transformers converts to RGB before it squashes and cn_clip after: on RGB images they agree."""
    theirs = pil_processor(chinese=True, size={"height": size, "width": size}, do_center_crop=False)
    images = {name: image for name, image in IMAGES.items() if image.mode == "RGB"}
    assert len(images) > len(SIZES)
    assert_equal(transform_of(name), theirs, images)


def test_transformers_on_tensors_is_a_few_steps_away():
    differences = []
    ours, theirs = transform_of("altclip"), CLIPImageProcessor()
    for width, height in [(640, 480), (301, 224), (257, 411)]:
        tensor = torch.as_tensor(np.asarray(theirs(picture(width, height), return_tensors="pt")["pixel_values"][0]))
        differences.append((ours(picture(width, height)) - tensor).abs())
    assert max(difference.max() for difference in differences) <= 3 * STEP
    assert max(difference.mean() for difference in differences) < 0.5 * STEP


def test_every_model_has_its_size():
    for family in all_families().values():
        for model in family.models:
            size = model.config()["vision_cfg"]["image_size"]
            shape = (1024, 769) if family.processor_of(model) == "patches" else (3, size, size)
            assert transform_of(model.name)(picture(70, 40)).shape == shape, model.name


@pytest.mark.parametrize("name", ["altclip", "cnclip-vit-b-16"])
def test_models_from_create_model_from_pretrained_preprocess_the_same(name, models_dir):
    from tests.support.reduced import build
    from zhclip_openclip.families import find

    _, model = find(name)
    reference = build(model.name, model.default_tag)
    reference.save(models_dir)
    _, transform = open_clip.create_model_from_pretrained(name, pretrained=model.default_tag)
    image = IMAGES["RGBA 50x70"]
    assert torch.equal(transform(image), transform_of(name)(image))


def test_models_that_are_not_ours_keep_open_clips_transform():
    _, train, val = open_clip.create_model_and_transforms("ViT-S-32-alt", pretrained=None)
    assert "CenterCrop" in repr(val) and "FloorCenterCrop" not in repr(val)
