"""ZH-CLIP at its published depth, against the reference of plain Hugging Face modules."""

from __future__ import annotations

import open_clip
import pytest
import torch

from tests.families.test_zhclip import compare
from tests.support.zhclip_reference import Reference


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_full_size(activation, tmp_path):
    torch.manual_seed(0)
    reference = Reference(activation, layers=24).eval()
    path = reference.save(tmp_path, "model.safetensors")
    compare(open_clip.create_model("zhclip", pretrained=str(path)), reference, images=(2,), texts=((3, 77),))
