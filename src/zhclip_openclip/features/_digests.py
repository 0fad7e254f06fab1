"""SHA-256 digests of what an evaluation is made of: JSON, tensors, arrays, pictures."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from PIL import Image


def digest(parts: Any) -> str:
    """Of anything that JSON holds."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def content(value: Any) -> str:
    """Of a picture, a tensor, an array, or a structure of them; anything else counts by its `repr`."""
    if isinstance(value, Image.Image):
        palette = value.getpalette() if value.mode == "P" else None
        # What a transform can ask a picture for beside its pixels: which colour is none, and which side is up.
        beside = value.info.get("transparency"), value.getexif().get(0x0112, 1)
        head = f"{value.mode} {value.size} {palette} {beside}".encode()
        return hashlib.sha256(head + value.tobytes()).hexdigest()
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        return hashlib.sha256(f"{value.dtype} {tuple(value.shape)}".encode() + raw(value)).hexdigest()
    if hasattr(value, "dtype") and hasattr(value, "tobytes"):  # an array, or a number of NumPy
        return hashlib.sha256(f"{value.dtype} {value.shape}".encode() + value.tobytes()).hexdigest()
    if isinstance(value, (list, tuple)):
        return digest([content(entry) for entry in value])
    if isinstance(value, dict):
        return digest([[key, content(entry)] for key, entry in value.items()])
    return digest(repr(value))


def raw(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else memoryview(b"")
