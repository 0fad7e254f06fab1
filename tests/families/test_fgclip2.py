"""FG-CLIP 2's pictures, tokens and refusals, and an evaluation from files to numbers.

That both towers equal transformers' is in test_fidelity.py.
"""

from __future__ import annotations

import importlib
import io
import json
import math
import sys

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from tests.families.test_preprocessing import IMAGES, assert_equal, picture
from tests.support import gemma, retrieval_files
from tests.support.reduced import build, create
from tests.support.reference_fgclip2 import packed_pictures
from zhclip_openclip._errors import CheckpointError, ZhclipError
from zhclip_openclip.towers.patches import BEGINS_ROW, MOST, VALUES, ToPatches, budget, grid, unpack

pytestmark = [
    pytest.mark.usefixtures("reduced"),
    pytest.mark.filterwarnings("ignore:.*it is cut short, or of another model"),  # the vocabularies here are small
]

NAME, TAG = "fg-clip2-base", "qihoo360"


@pytest.fixture
def published(models_dir):
    """The reduced model with random weights in its repository, with a small vocabulary of Gemma's kind."""
    build(NAME, TAG).save(models_dir)
    gemma.write(models_dir / "qihoo360/fg-clip2-base")
    return models_dir


# pictures


@pytest.fixture(scope="module")
def theirs():
    """transformers' processor with PIL: a picture and a budget -> pixels, rows and columns."""
    try:
        code = importlib.import_module("transformers.models.siglip2.image_processing_pil_siglip2")
        processor = code.Siglip2ImageProcessorPil()
    except ModuleNotFoundError:  # before version 5 there was one with PIL alone
        import transformers

        processor = transformers.Siglip2ImageProcessor()

    def process(image, most):
        told = processor(image, max_num_patches=most, return_tensors="np")
        return torch.as_tensor(np.asarray(told["pixel_values"][0])).float(), told["spatial_shapes"][0]

    return process


def authors_budget(width: int, height: int) -> int:
    """`determine_max_value` of their README and scripts."""
    whole = (width // 16) * (height // 16)
    for more_than, most in ((784, 1024), (576, 784), (256, 576), (128, 256)):
        if whole > more_than:
            return most
    return 128


def test_pixels_are_those_of_transformers(theirs):
    ours = open_clip.create_model_and_transforms(NAME, device="meta")[2]
    assert isinstance(ours, ToPatches)

    def as_published(image):
        image = image.convert("RGB")  # as all of their scripts do
        most = authors_budget(*image.size)
        pixels, (rows, columns) = theirs(image, most)
        result = torch.zeros(MOST, VALUES + 1)
        result[: len(pixels), :VALUES] = pixels
        result[: rows * columns, VALUES] = 1
        result[: rows * columns : columns, VALUES] = 2
        return result

    images = {name: image for name, image in IMAGES.items() if max(image.size) <= 700}
    images |= {f"RGB {w}x{h}": picture(w, h) for w, h in ((400, 384), (470, 449), (2000, 3), (512, 512), (800, 600))}
    assert len({authors_budget(*image.size) for image in images.values()}) == 5
    assert_equal(ours, as_published, images)


def test_grids_are_those_of_transformers():
    code = importlib.import_module("transformers.models.siglip2.image_processing_siglip2")
    random = np.random.default_rng(0)
    sizes = [
        (1, 1),
        (1, 5000),
        (5000, 1),
        (16, 16),
        (448, 448),
        (449, 448),
        *random.integers(1, 3000, (400, 2)).tolist(),
    ]
    for width, height in sizes:
        for most in (128, 256, 576, 784, 1024):
            wanted = code.get_image_size_for_max_num_patches(height, width, 16, most)
            rows, columns = grid(width, height, most)
            assert (16 * rows, 16 * columns) == tuple(wanted), (width, height, most)
            assert rows * columns <= most


@pytest.mark.parametrize(
    ("size", "most"),
    [((1, 1), 128), ((16 * 16, 16 * 8), 128), ((16 * 43, 16 * 3), 256), ((256, 256), 256), ((272, 256), 576),
     ((384, 384), 576), ((400, 384), 784), ((448, 448), 784), ((464, 448), 1024), ((4000, 3000), 1024)],
)  # fmt: skip
def test_budgets(size, most):
    assert budget(*size) == most == authors_budget(*size)


def test_what_is_packed_comes_out_again():
    packed = packed_pictures()
    patches, coordinates, valid = unpack(packed)
    assert patches.shape[1] == valid.sum(1).max() < MOST  # rows that no picture has are left out
    for number, (width, height) in enumerate(((200, 90), (60, 300))):
        rows, columns = grid(width, height, budget(width, height))
        wanted = [[row, column] for row in range(rows) for column in range(columns)]
        assert coordinates[number, : rows * columns].tolist() == wanted
        assert valid[number].sum() == rows * columns
        assert not coordinates[number, rows * columns :].any()


def test_a_strip_is_exact_in_every_precision():
    """Flags are whole numbers up to 2; a column of 1,000 would not survive bfloat16."""
    packed = ToPatches((0.5,) * 3, (0.5,) * 3)(picture(16_000, 16)).unsqueeze(0)
    exact = unpack(packed)[1]
    assert exact.max() > 256
    for precision in (torch.bfloat16, torch.float16):
        assert torch.equal(unpack(packed.to(precision))[1], exact)


def test_a_tensor_is_no_picture():
    with pytest.raises(ZhclipError, match="is a PIL image here, and a Tensor was given"):
        ToPatches((0.5,) * 3, (0.5,) * 3)(torch.zeros(3, 224, 224))


# the tower


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return open_clip.create_model(NAME).eval()


@torch.no_grad()
def test_neighbours_and_their_lengths_do_not_matter(model):
    packed = packed_pictures()
    together = model.encode_image(packed)
    for number, one in enumerate(packed):
        used = int((one[:, -1] > 0).sum())
        assert torch.allclose(model.encode_image(one[None]), together[number], atol=1e-5)
        assert torch.allclose(model.encode_image(one[None, :used]), together[number], atol=1e-5)


@torch.no_grad()
def test_a_picture_of_whole_patches_is_the_same_as_pixels(model):
    """(3, 96, 160) as it is, and cut into 6 x 10 patches by hand."""
    pixels = torch.randn(1, 3, 96, 160)
    packed = torch.zeros(1, 70, VALUES + 1)
    for row in range(6):
        for column in range(10):
            patch = pixels[0, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            packed[0, 10 * row + column, :VALUES] = patch.permute(1, 2, 0).flatten()
            packed[0, 10 * row + column, VALUES] = BEGINS_ROW if column == 0 else 1
    assert torch.allclose(model.encode_image(pixels), model.encode_image(packed), atol=1e-5)


@torch.no_grad()
def test_half_precision_and_autocast(model):
    packed = packed_pictures()
    exact = model.encode_image(packed)
    half = open_clip.create_model(NAME, precision="bf16")
    half.load_state_dict(model.state_dict())
    results = [half.eval().encode_image(packed.bfloat16())]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results.append(model.encode_image(packed))
    for features in results:
        assert torch.nn.functional.cosine_similarity(features.float(), exact).min() > 0.99


@pytest.mark.parametrize("shape", [(1, 3, 100, 96), (1, 5, 768), (1, 1, 96, 96)])
def test_other_tensors_are_told(model, shape):
    with pytest.raises(ZhclipError, match=r"the image tower takes patches .*; given was \(1, ") as caught:
        model.encode_image(torch.zeros(*shape))
    assert len(str(caught.value).splitlines()) == 1


# texts


TEXTS = ["一只小猫 a cat", "Hello T恤 （全角）！，", "", "x  y\n龘😀", "<eos> [MASK] ÀÉ", "好" * 100, "HELLO Hello"]


@pytest.mark.parametrize("name", [NAME, f"{NAME}-long"])
def test_tokens_are_those_of_transformers(models_dir, name):
    """Of the class that its repository names, with the lower case that its authors write, and of SigLIP 2's, which
    transformers 5 gave its own."""
    import transformers

    gemma.write(models_dir / "qihoo360/fg-clip2-base")
    ours = open_clip.get_tokenizer(name)(TEXTS)
    length = 196 if name.endswith("long") else 64
    options = dict(max_length=length, padding="max_length", truncation=True, return_tensors="pt")
    own = transformers.AutoTokenizer.from_pretrained(models_dir / "qihoo360/fg-clip2-base")
    assert torch.equal(ours, own([text.lower() for text in TEXTS], **options)["input_ids"])
    if hasattr(transformers, "Siglip2Tokenizer"):
        siglip2 = transformers.Siglip2Tokenizer.from_pretrained(models_dir / "qihoo360/fg-clip2-base")
        assert torch.equal(ours, siglip2(TEXTS, **options)["input_ids"])
    assert ours.shape == (len(TEXTS), length)
    assert ours[2].tolist() == [1] + [0] * (length - 1)  # an end and padding
    assert ours[5, -1] == 1  # cut, before the end


def test_another_vocabulary_is_told(tmp_path):
    gemma.write(tmp_path)
    told = json.loads((tmp_path / "tokenizer.json").read_text())
    told["model"]["vocab"]["<end>"] = told["model"]["vocab"].pop("<eos>")
    told["post_processor"], told["added_tokens"] = None, []
    (tmp_path / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match="does not hold <eos>: it is no vocabulary of fg-clip2-base"):
        open_clip.get_tokenizer(NAME, pretrained=str(tmp_path))


# what it cannot do


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"force_image_size": 224}, "force_image_size=224 is not for fg-clip2-base: .*; fg-clip2-base-square256 takes"),
        ({"force_preprocess_cfg": {"resize_mode": "squash"}}, "image_resize_mode='squash' is not for fg-clip2-base"),
        ({"force_context_length": 32}, "context_length=32 does not fit: fg-clip2-base takes 64 tokens of every text"),
    ],
)
def test_sizes_that_it_does_not_have(options, told):
    with pytest.raises(CheckpointError, match=told) as caught:
        open_clip.create_model(NAME, **options)
    assert len(str(caught.value).splitlines()) == 1


def test_the_square_one_takes_another_size(published):
    model, _, transform = open_clip.create_model_and_transforms(
        f"{NAME}-square256", pretrained=TAG, force_image_size=320
    )
    assert transform(picture(50, 70)).shape == (3, 320, 320)
    with torch.no_grad():
        assert torch.isfinite(model.eval().encode_image(torch.randn(1, 3, 320, 320))).all()


def test_a_shorter_context_is_refused_by_the_tokenizer(published):
    with pytest.raises(CheckpointError, match="context_length=32 does not fit: fg-clip2-base takes 64 tokens"):
        open_clip.get_tokenizer(NAME, context_length=32)
    with pytest.raises(CheckpointError, match="context_length=32 does not fit"):
        open_clip.get_tokenizer(NAME)("一", context_length=32)


def test_each_size_is_told_the_model_that_fits(published):
    (published / "qihoo360/fg-clip2-base/config.json").unlink()
    with pytest.raises(CheckpointError, match="it fits fg-clip2-base and fg-clip2-base-square256: load it under"):
        create("fg-clip2-large", published / "qihoo360/fg-clip2-base/model.safetensors")


def test_scale_and_bias_are_loaded(published):
    reference = build(NAME, TAG).modules["qihoo360/fg-clip2-base"]
    model = create(NAME, TAG)
    assert math.isclose(model.logit_scale.item(), reference.logit_scale.item())
    assert math.isclose(model.logit_bias.item(), reference.logit_bias.item())


def test_a_model_of_open_clips_own_is_not_taken_for_it():
    """SigLIP 2's configs have the same text tower."""
    from zhclip_openclip.checkpoints import _beside

    for name in ("ViT-B-16-SigLIP2", "ViT-L-16-SigLIP2-256", "ViT-H-14-worldwide-quickgelu", "ViT-B-16"):
        assert _beside.model_of({"model_cfg": open_clip.get_model_config(name)}) == ""
    for name in (f"{NAME}-long", "metaclip2-vit-s-16-mt5"):
        assert _beside.model_of({"model_cfg": open_clip.get_model_config(name)}) == name


# an evaluation


@pytest.fixture
def evaluate(published, monkeypatch, tmp_path):
    """`clip_benchmark eval` of 20 captions of 14 pictures in this process, with a cache of features."""
    import clip_benchmark.cli as cli

    retrieval_files.write_tsv(tmp_path / "MUGE", "valid", several=True, muge_names=True)
    monkeypatch.setenv("ZHCLIP_FEATURE_CACHE", str(tmp_path / "cache"))

    def run(output: str) -> dict:
        words = ["--model", NAME, "--pretrained", TAG, "--dataset", "muge", "--dataset_root", tmp_path / "MUGE"]
        words += [
            "--language",
            "zh",
            "--num_workers",
            "1",
            "--batch_size",
            "5",
            "--output",
            tmp_path / output,
            "--no_amp",
        ]
        monkeypatch.setattr(sys, "argv", ["clip_benchmark", "eval", *map(str, words)])
        cli.main()
        return json.loads((tmp_path / output).read_text())["metrics"]

    return run


@torch.no_grad()
def test_an_evaluation_is_that_of_its_features(evaluate, monkeypatch):
    """Recalls of features that are made one picture and one text at a time; and again, with features from the cache."""
    from zhclip_openclip.towers import naflex

    seen = []
    forward = naflex.PackedNaFlexVit.forward
    monkeypatch.setattr(
        naflex.PackedNaFlexVit,
        "forward",
        lambda self, x, *rest: (seen.append(tuple(x.shape)), forward(self, x, *rest))[1],
    )
    told = evaluate("first.json")
    batches = [shape for shape in seen if shape[0] != 2]  # two are tried out for the name in the cache
    assert sorted(shape[0] for shape in batches) == [4, 5, 5] and {shape[1:] for shape in seen} == {(MOST, VALUES + 1)}
    seen.clear()
    assert evaluate("second.json") == told
    assert {shape[0] for shape in seen} <= {2}

    model, _, transform = open_clip.create_model_and_transforms(NAME, pretrained=TAG)
    tokenizer = open_clip.get_tokenizer(NAME)
    model.eval()
    pictures = [Image.open(io.BytesIO(retrieval_files.picture(number))) for number in range(retrieval_files.IMAGES)]
    images = torch.cat([model.encode_image(transform(image)[None], normalize=True) for image in pictures])
    hits = {1: 0, 5: 0, 10: 0}
    relations = retrieval_files.relations(True)
    for _, text, right in relations:
        order = (images @ model.encode_text(tokenizer(text), normalize=True)[0]).argsort(descending=True).tolist()
        for k in hits:
            hits[k] += bool(set(order[:k]) & set(right))
    for k, count in hits.items():
        assert told[f"image_retrieval_recall@{k}"] == pytest.approx(count / len(relations))


@pytest.mark.slow
def test_open_clip_train_trains_it(published, tmp_path, monkeypatch):
    """With SigLIP's loss, patches in every batch; the checkpoint is read again under the same name."""
    import logging

    from open_clip_train.main import main

    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    before = root.handlers[:], root.level
    words = (
        f"--model {NAME} --pretrained {TAG} --siglip --train-data digits-retrieval --train-num-samples 16 --batch-size 8 "
        "--epochs 1 --lr 1e-4 --warmup 1 --workers 0 --device cpu --precision fp32 --name run"
    )
    try:
        with pytest.raises(ZhclipError, match="--aug-cfg is not for fg-clip2-base: its pictures become patches"):
            main([*words.split(), "--aug-cfg", "scale=(0.9,1.0)"])
        main([*words.replace("--name run", "--name second").split()])
    finally:
        root.handlers[:], root.level = before
    trained = create(NAME, tmp_path / "logs/second/checkpoints/epoch_1.pt")
    assert not torch.equal(trained.visual.trunk.norm.weight, create(NAME, TAG).visual.trunk.norm.weight)
