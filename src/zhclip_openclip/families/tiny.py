"""The embedded model: a ViT and a BERT of 64 channels, trained on handwritten digits by `benchmarks/train_tiny.py`.

Its weights (tag `digits`) and its vocabulary are files of the package, so the whole way from `create_model` to a result
of `clip_benchmark` can be gone without a network.
"""

from __future__ import annotations

from zhclip_openclip import _paths
from zhclip_openclip.families._family import Family, Model, Tag

_TINY = _paths.DATA / "tiny"

FAMILY = Family(
    name="tiny",
    title="ZH-CLIP tiny",
    source="trained by this package",
    models=(
        Model(
            "zhclip-tiny",
            tags={
                "digits": Tag(
                    repo="",
                    path=_TINY / "model.safetensors",
                    licence="MIT",
                    note="ten handwritten digits and nothing else",
                )
            },
        ),
    ),
    aliases={},
    layouts=(),
    tokenizer_path=_TINY,
)
