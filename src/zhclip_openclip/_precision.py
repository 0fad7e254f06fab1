"""Which precision an evaluation runs in: decided by what the hardware can do."""

from __future__ import annotations

import os

#: The variables that limit the instructions which oneDNN, PyTorch's library for bf16 products, may use. It reads the
#: first that is not empty, in any case of letters. https://uxlfoundation.github.io/oneDNN (CPU Dispatcher Control).
_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
#: Their values without bf16 products. On a CPU with the units, a linear layer in bf16 was 2.1 times as fast as in fp32
#: without a limit and with AVX512_CORE_BF16 or more, and at most 0.6 times as fast with each of these. Any other value,
#: a misspelt one too, is no limit that matters here.
_WITHOUT_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 numbers itself, and oneDNN may let it. One that does not is slower in bf16 than
    in fp32, by 2 to 7 times where it was measured."""
    import torch

    if onednn_limit() in _WITHOUT_BF16:
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16"))
    return any(
        getattr(torch.cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


def onednn_limit() -> str | None:
    """The instruction set that the user limits oneDNN to, in capitals, or None."""
    values = (os.environ.get(name) for name in _LIMITS)
    return next((value.upper() for value in values if value), None)


def use_amp(device: str, asked: bool) -> bool:
    """Whether to use mixed precision on `device` where it was asked for: on a CPU only if that is the faster way."""
    if not asked or not str(device).startswith("cpu"):
        return asked
    from zhclip_openclip.features import arithmetic

    return arithmetic.chosen().bf16
