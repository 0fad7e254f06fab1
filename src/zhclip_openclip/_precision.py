"""Which precision an evaluation runs in: decided by what the hardware can do."""

from __future__ import annotations


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 numbers itself. One that does not is slower in bf16 than in fp32, by 7 times
    where it was measured."""
    import torch

    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16"))
    return any(
        getattr(torch.cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


def use_amp(device: str, asked: bool) -> bool:
    """Whether to use mixed precision on `device` where it was asked for: on a CPU only if it has units for it."""
    return asked and (not str(device).startswith("cpu") or cpu_has_bf16())
