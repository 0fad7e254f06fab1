"""The rule on bf16 follows what oneDNN is allowed to use."""

import os

import pytest
import torch

from zhclip_openclip import _precision

# Does oneDNN have bf16 products of its own under this limit? Asked of PyTorch in a fresh process, since oneDNN reads
# the variable once. (With AVX512_CORE it says yes and emulates them; there the speed alone tells.)
ASK = "import torch; print(torch.ops.mkldnn._is_mkldnn_bf16_supported())"
RULE = "from zhclip_openclip import _precision; print(_precision.cpu_has_bf16())"


@pytest.fixture(autouse=True)
def capable(monkeypatch):
    """A CPU with the units and no limit."""
    if hasattr(torch.cpu, "get_capabilities"):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    else:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    for name in _precision._LIMITS:
        monkeypatch.delenv(name, raising=False)


def test_no_limit():
    assert _precision.cpu_has_bf16() and _precision.onednn_limit() is None


@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
@pytest.mark.parametrize(
    ("value", "bf16"),
    [
        ("AVX2", False),
        ("avx2_vnni_2", False),
        ("AVX512_CORE", False),
        ("AVX512_CORE_VNNI", False),
        ("AVX512_CORE_BF16", True),
        ("AVX10_1_512", True),
        ("AVX512_CORE_AMX", True),
        ("DEFAULT", True),
        ("AVX3", True),  # oneDNN does not know it and limits nothing
        ("", True),
    ],
)
def test_limits(monkeypatch, name, value, bf16):
    monkeypatch.setenv(name, value)
    assert _precision.cpu_has_bf16() is bf16
    assert _precision.use_amp("cpu", True) is bf16
    assert _precision.use_amp("cuda", True), "oneDNN has nothing to do with a GPU"


def test_the_newer_name_goes_first(monkeypatch):
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "ALL")
    assert _precision.cpu_has_bf16()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "")
    assert not _precision.cpu_has_bf16()


def test_a_limit_gives_no_units(monkeypatch):
    """A CPU without the units stays without them."""
    if hasattr(torch.cpu, "get_capabilities"):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    else:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    assert not _precision.cpu_has_bf16()


@pytest.mark.parametrize("variables", [{"ONEDNN_MAX_CPU_ISA": "avx2"}, {"DNNL_MAX_CPU_ISA": "AVX2"}])
def test_pytorch_agrees(run_python, variables):
    """oneDNN itself has no bf16 under such a limit, whatever the CPU has."""
    if not hasattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported") or os.uname().machine not in ("x86_64", "AMD64"):
        pytest.skip("this PyTorch cannot be asked")
    assert run_python(ASK, **variables).stdout.strip() == "False"
    assert run_python(RULE, **variables).stdout.strip() == "False"
