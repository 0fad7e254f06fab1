"""Every model's towers on a GPU against the CPU, and the classifier, the image pass and its cache there."""

from __future__ import annotations

import open_clip
import pytest
import torch
from open_clip.transformer import TextTransformer
from PIL import Image

from zhclip_openclip.datasets.digits import Digits
from zhclip_openclip.families import all_families
from zhclip_openclip.features import using
from zhclip_openclip.features.image_pass import ImagePass
from zhclip_openclip.prompts.classifier import zero_shot_classifier

MODELS = [model.name for family in all_families().values() for model in family.models]
#: Largest difference of unit features: what fp32 sums lose in another order, and the digits of bf16 and fp16.
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def inputs(model, transform, rows: int = 3):
    """Pixels as its image tower wants them, and padded texts of ids below the smallest vocabulary: short ones, but for
    towers of open_clip's own, whose mask is for one length."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (rows, 60, 80, 3), generator=generator, dtype=torch.uint8).numpy()
    pixels = torch.stack([transform(Image.fromarray(picture)) for picture in noise])
    pad = getattr(getattr(model.text, "config", None), "pad_token_id", None) or 0
    length = model.text.context_length if isinstance(model.text, TextTransformer) else 12
    tokens = torch.randint(5, 60, (rows, length), generator=generator)
    tokens[0, 6:] = pad
    return pixels, tokens


@pytest.fixture(autouse=True)
def no_tf32(monkeypatch):
    """Products and convolutions of fp32 in real fp32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("reduced")
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_towers_are_those_of_the_cpu(name, device):
    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms(name, pretrained_text=False)
    pixels, tokens = inputs(model.eval(), transform)
    normal = torch.nn.functional.normalize
    expected = normal(model.encode_image(pixels), dim=-1), normal(model.encode_text(tokens), dim=-1)
    model = model.to(device)
    kind = torch.device(device).type
    for dtype, bound in BOUNDS.items():
        if kind == "cpu" and dtype == torch.float16:
            continue
        with torch.autocast(kind, dtype=dtype, enabled=dtype != torch.float32):
            found = model.encode_image(pixels.to(device)), model.encode_text(tokens.to(device))
        for ours, theirs in zip(found, expected, strict=True):
            assert (normal(ours.float(), dim=-1).cpu() - theirs).abs().max() <= bound, dtype


@pytest.fixture(scope="module")
def tiny(device):
    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    return model.eval().to(device), transform, open_clip.get_tokenizer("zhclip-tiny")


def digits(transform, rows: int = 70):
    held = Digits("test", transform)
    held.images, held.targets = held.images[:rows], held.targets[:rows]
    return torch.utils.data.DataLoader(held, batch_size=16, num_workers=1)


def test_the_classifier_is_that_of_the_cpu(tiny, device):
    model, _, tokenizer = tiny
    names, templates = list("零一二三四五六七八九"), ["手写的{c}", "数字{c}", "一张写着数字{c}的照片"]
    there = zero_shot_classifier(model, tokenizer, names, templates, device, amp=False)
    here = zero_shot_classifier(model.cpu(), tokenizer, names, templates, "cpu", amp=False)
    model.to(device)
    assert there.device.type == torch.device(device).type
    assert (there.cpu() - here).abs().max() <= 1e-5
    mixed = zero_shot_classifier(model, tokenizer, names, templates, device, amp=True)
    assert (mixed.float().cpu() - here).abs().max() <= 3e-2


@pytest.mark.parametrize("amp", [False, True])
def test_a_second_pass_takes_the_same_bits_from_the_cache(tiny, device, tmp_path, amp):
    model, transform, _ = tiny
    with using(cache=tmp_path, progress=lambda *_: None):
        first = ImagePass(model, digits(transform), device, amp, "digits")
        made = torch.cat([features for features, _ in first])
        second = ImagePass(model, digits(transform), device, amp, "digits")
        kept = torch.cat([features for features, _ in second])
    assert first.reused == 0 and second.reused == len(made) == 70
    assert made.device.type == kept.device.type == torch.device(device).type
    assert torch.equal(made, kept)


def test_a_compiled_tower(tiny, device, tmp_path):
    model, transform, _ = tiny
    expected = torch.cat([features for features, _ in ImagePass(model, digits(transform), device, False, "digits")])
    fresh = open_clip.create_model("zhclip-tiny", pretrained="digits").eval().to(device)
    with using(compile=True, progress=lambda *_: None):
        found = torch.cat([features for features, _ in ImagePass(fresh, digits(transform), device, False, "digits")])
    assert (found - expected).abs().max() <= 1e-4
