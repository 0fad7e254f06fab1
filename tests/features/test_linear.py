"""oneDNN's linear layers compute what PyTorch's own do, and only where they were asked for."""

from __future__ import annotations

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.features import arithmetic, fingerprint, linear
from zhclip_openclip.features.image_pass import encoder

pytestmark = pytest.mark.skipif(linear.operation() is None, reason="this PyTorch has no such operation")


class Model(torch.nn.Module):
    zhclip_model = "zhclip-vit-l-14"


@pytest.fixture
def calls(monkeypatch):
    """Shapes that oneDNN was given."""
    given, operation = [], linear.operation()

    def counted(input, *rest):
        given.append(tuple(input.shape))
        return operation(input, *rest)

    monkeypatch.setattr(linear, "operation", lambda: counted)
    return given


@pytest.fixture(autouse=True)
def wanted(monkeypatch):
    monkeypatch.setenv(linear.VARIABLE, "1")


@pytest.mark.parametrize("shape", [(1, 48), (257, 48), (2, 77, 48), (3, 5, 7, 48)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(calls, shape, bias):
    torch.manual_seed(0)
    layer, given = torch.nn.Linear(48, 80, bias=bias), torch.randn(shape)
    with torch.no_grad():
        expected = layer.double()(given.double())
        layer.float()
        with linear.OneDnnLinear():
            torch.testing.assert_close(layer(given).double(), expected, atol=1e-5, rtol=0)
    assert calls == [shape]


@pytest.mark.parametrize(
    "given",
    [
        torch.randn(48),  # one row
        torch.randn(0, 48),
        torch.randn(48, 4).T,  # not in the order of its rows
        torch.randn(4, 48, dtype=torch.float64),
        torch.randn(4, 48).bfloat16(),
    ],
    ids=["vector", "empty", "transposed", "float64", "bf16"],
)
def test_what_is_left_to_pytorch(calls, given):
    layer = torch.nn.Linear(48, 80).to(given.dtype)
    with torch.no_grad():
        expected = layer(given)
        with linear.OneDnnLinear():
            assert torch.equal(layer(given), expected)
    assert not calls


def test_autocast_decides_on_the_precision(calls):
    layer, given = torch.nn.Linear(48, 80), torch.randn(4, 48)
    with torch.no_grad(), linear.OneDnnLinear(), torch.autocast("cpu", torch.bfloat16):
        assert layer(given).dtype == torch.bfloat16
    assert not calls


def test_gradients_are_recorded(calls):
    layer = torch.nn.Linear(48, 80)
    with linear.OneDnnLinear():
        layer(torch.randn(4, 48)).sum().backward()
    assert layer.weight.grad is not None and not calls


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_of_open_clip(calls, batch_first):
    torch.manual_seed(0)
    layer = torch.nn.MultiheadAttention(48, 4, batch_first=batch_first).eval()
    torch.nn.init.normal_(layer.in_proj_bias)
    given = torch.randn(3, 7, 48)
    with torch.no_grad():
        expected = layer(given, given, given, need_weights=False)
        with linear.OneDnnLinear():
            found = layer(given, given, given, need_weights=False)
    assert found[1] is None and found[0].shape == expected[0].shape
    torch.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=0)
    assert len(calls) == 2, "both of its linear layers"


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_rows_are_put_in_order(monkeypatch, dtype):
    """What PyTorch multiplies position by position otherwise, each with a copy of the weights; also under autocast,
    also of `torch.nn.MultiheadAttention`, on every CPU and for models of ours alone."""
    monkeypatch.setenv(linear.VARIABLE, "0")
    torch.manual_seed(0)
    attention = torch.nn.MultiheadAttention(48, 4, batch_first=True).eval()
    layer, given = torch.nn.Linear(48, 80).requires_grad_(False), torch.randn(3, 7, 48)
    attention.requires_grad_(False)

    def products(model):
        """Results, and whether there was a product with several copies of the weights among what was computed."""
        seen = []

        class Seen(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                seen.append(function.overloadpacket)
                return function(*args, **(kwargs or {}))

        autocast = torch.autocast("cpu", dtype, enabled=dtype is not None)
        with torch.no_grad(), autocast, linear.fast_linear(model, "cpu", bool(dtype)), Seen():
            found = layer(given.transpose(0, 1)), attention(given, given, given, need_weights=False)[0]
        return found, torch.ops.aten.bmm in seen

    before, slow = products(torch.nn.Module())
    after, still_slow = products(Model())
    assert not still_slow
    assert slow, "PyTorch puts them in order itself now: this can go"
    for ours, theirs in zip(after, before, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-2 if dtype else 1e-6, rtol=0)


@pytest.mark.parametrize("case", ["mask", "padding", "weights", "others", "dropout", "causal"])
def test_attention_that_is_left_to_pytorch(calls, case):
    torch.manual_seed(0)
    layer = torch.nn.MultiheadAttention(48, 4, batch_first=True, dropout=0.5).train(case == "dropout")
    given, options = torch.randn(3, 7, 48), {"need_weights": False}
    key = torch.randn(3, 7, 48) if case == "others" else given
    hidden = torch.ones(7, 7).triu(1).bool()
    options |= {
        "mask": {"attn_mask": hidden},
        "padding": {"key_padding_mask": torch.arange(7).expand(3, 7) > 4},
        "weights": {"need_weights": True},
        "causal": {"attn_mask": hidden, "is_causal": True},
    }.get(case, {})
    with torch.no_grad():
        torch.manual_seed(1)
        expected = layer(given, key, key, **options)
        torch.manual_seed(1)
        with linear.OneDnnLinear():
            found = layer(given, key, key, **options)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert not calls


@pytest.mark.parametrize("name", ["ViT-B-32", "vit_medium_patch16_clip_224.tinyclip_yfcc15m"])
def test_both_kinds_of_image_tower(calls, monkeypatch, name):
    """open_clip's own and timm's, two layers of each."""
    torch.manual_seed(0)
    vision = (
        {"timm_model_name": name.split(".")[0], "timm_pool": "", "timm_proj": "linear", "image_size": 224}
        if name.startswith("vit")
        else {**open_clip.get_model_config(name)["vision_cfg"], "layers": 2}
    )
    model = Model()
    model.visual = open_clip.model._build_vision_tower(64, vision)
    if hasattr(model.visual, "trunk"):
        model.visual.trunk.blocks = model.visual.trunk.blocks[:2]
    model.eval()
    model.encode_image = model.visual
    images = torch.randn(3, 3, 224, 224)
    found = {}
    for value in "01":
        monkeypatch.setenv(linear.VARIABLE, value)
        found[value] = encoder(model, "cpu", amp=False)(images)
        assert bool(calls) == (value == "1")
    torch.testing.assert_close(found["1"], found["0"], atol=1e-6, rtol=0)
    assert len(calls) >= 8, "four linear layers in each of the two"


def test_the_same_for_every_number_of_threads():
    """Processes of torchrun have one thread each, and their metrics are those of one process."""
    torch.manual_seed(0)
    layer, given = torch.nn.Linear(1024, 4096), torch.randn(1028, 1024)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            with torch.no_grad(), linear.OneDnnLinear():
                found.append(layer(given))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_where_it_is_used(monkeypatch, calls):
    def used(model, device="cpu", amp=False):
        with torch.no_grad(), linear.fast_linear(model, device, amp):
            F.linear(torch.randn(2, 8), torch.randn(8, 8))
        found = bool(calls)
        calls.clear()
        return found

    assert used(Model())
    assert not used(torch.nn.Module()), "a model that is not ours"
    assert not used(Model(), amp=True)
    assert not used(Model(), device="cuda")
    monkeypatch.setenv(linear.VARIABLE, "0")
    assert not used(Model())
    monkeypatch.setenv(linear.VARIABLE, "")
    for faster in (True, False):
        with arithmetic.taken(arithmetic.Arithmetic(onednn=faster, bf16=False)):
            assert used(Model()) is faster
    monkeypatch.setenv(linear.VARIABLE, "yes")
    with pytest.raises(ZhclipError, match="ZHCLIP_ONEDNN_LINEAR=yes: neither 0 nor 1"):
        used(Model())


def test_a_pytorch_without_it(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert linear.operation.__wrapped__() is None
    monkeypatch.undo()
    monkeypatch.setattr(linear.torch.ops.mkldnn, "_linear_pointwise", lambda *given: given[0], raising=False)
    assert linear.operation.__wrapped__() is None, "it computes something else"


def test_features_have_another_name_in_the_cache(monkeypatch):
    one = fingerprint.precision("cpu", amp=False)
    monkeypatch.setenv(linear.VARIABLE, "0")
    assert fingerprint.precision("cpu", amp=False) != one
