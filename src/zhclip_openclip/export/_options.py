"""What a user asks of a format, beside the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Options:
    """precision: of the weights of ONNX files. raw: features as long as the model gives them, not of unit length.
    opset: of ONNX files. check_data: `NAME` or `NAME:FOLDER` of a retrieval data set on which the loss in recall is
    measured.
    result: a result of `clip_benchmark` for the model card. name: that Immich knows the model by.
    """

    precision: str = "fp32"
    raw: bool = False
    opset: int = 18
    check_data: str = ""
    result: Path | None = None
    name: str = ""

    def given(self) -> dict[str, str]:
        """Option -> field, of those that are not as they are by default."""
        default = Options()
        return {
            f"--{field.replace('_', '-')}": field
            for field in vars(default)
            if getattr(self, field) != getattr(default, field)
        }
