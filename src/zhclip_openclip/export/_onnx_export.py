"""Both towers as ONNX files: any number of inputs, texts of any length, fp32, fp16 or int8."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zhclip_openclip.export._export_error import ExportError
from zhclip_openclip.export._source import Source

if TYPE_CHECKING:
    import torch

#: A file of the format holds 2 GiB at most (protobuf's limit); weights of more than this stand in `NAME.onnx.data`.
IN_ONE_FILE = 2 * 10**9
#: What stays in fp32 in fp16 files: LayerNormalization, since sums of squares overflow there and onnxruntime 1.32 dies
#: of a memory fault when it optimises it in fp16 together with QuickGELU; the length of a feature for the same reason.
_FP32_OPERATIONS = ("LayerNormalization", "ReduceL2")
#: What is quantised: products with weights, and the table of the tokens' embeddings, most of a multilingual model.
_INT8_OPERATIONS = ("MatMul", "Gemm", "Gather")


@dataclass(frozen=True)
class Form:
    """How the files are made.

    normalise: features of unit length. precision: fp32, fp16 or int8. output: name of the features. text_type: of the
    token ids, int64 or int32.
    """

    normalise: bool = True
    precision: str = "fp32"
    opset: int = 18
    output: str = "features"
    text_type: str = "int64"


def write(source: Source, image: Path, text: Path, form: Form) -> None:
    """Write both towers: input `image` (batch, 3, size, size) float32, input `text` (batch, length) ids.

    The length of texts is any, or the context length where the text tower takes no other.
    """
    import torch

    size, ids = source.image_size, getattr(torch, form.text_type)
    pixels = torch.zeros(2, 3, size, size)
    length = source.context_length if source.one_length else min(9, source.context_length)
    tokens = torch.full((2, length), 5, dtype=ids)  # not all one padding token: the exporter follows this example
    towers = _towers(source, form)
    _write_tower(towers["image"], pixels, {0: "batch"}, "image", image, form)
    axes = {0: "batch"} if source.one_length else {0: "batch", 1: "length"}
    _write_tower(towers["text"], tokens, axes, "text", text, form)


def _towers(source: Source, form: Form) -> Mapping[str, torch.nn.Module]:
    import torch

    class Tower(torch.nn.Module):
        def __init__(self, module: torch.nn.Module, is_text: bool):
            super().__init__()
            self.module, self.is_text = module, is_text

        def forward(self, given):
            # The text tower keeps whatever length it is given while it is exported: see towers/text.py.
            features = self.module(given.long() if self.is_text else given)
            return torch.nn.functional.normalize(features, dim=-1) if form.normalise else features

    return {"image": Tower(source.module.visual, False).eval(), "text": Tower(source.module.text, True).eval()}


def _write_tower(tower, example, dynamic: Mapping[int, str], name: str, path: Path, form: Form) -> None:
    import torch

    size = sum(tensor.numel() * tensor.element_size() for tensor in tower.state_dict().values())
    apart = size > IN_ONE_FILE
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, _quiet(), torch.no_grad():
        plain = path if form.precision == "fp32" else Path(folder) / path.name
        program = torch.onnx.export(
            tower,
            (example,),
            input_names=[name],
            output_names=["features"],
            dynamic_shapes=({axis: torch.export.Dim.DYNAMIC for axis in dynamic},),
            opset_version=form.opset,
            dynamo=True,
            verbose=False,
        )
        written = program.model.opset_imports.get("")
        if written != form.opset:  # it goes on without a word where it cannot convert
            raise ExportError(f"--opset {form.opset}: PyTorch's exporter wrote version {written}; ask for that one")
        _tidy(program, form.output)
        program.save(str(plain), external_data=apart)
        if form.precision == "fp16":
            _to_fp16(plain, path, apart)
        elif form.precision == "int8":
            _to_int8(plain, path, apart)


def _tidy(program, output: str) -> None:
    """Call the features `output`, and take out what the exporter tells of this machine (paths of source files).

    A value within that has the name gives way.
    """
    graph = program.model.graph
    for node in graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            if value.name == output:
                value.name = f"{output}_within"
    graph.metadata_props.clear()
    program.model.metadata_props.clear()
    graph.outputs[0].name = output


def _to_fp16(plain: Path, path: Path, apart: bool) -> None:
    """Weights and activations in fp16; inputs and outputs stay float32."""
    import onnx
    from onnxruntime.transformers import float16

    # The exporter has written the shapes and types already; onnx cannot infer them over 2 GB.
    model = float16.convert_float_to_float16(
        onnx.load(plain),
        keep_io_types=True,
        disable_shape_infer=True,
        op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, *_FP32_OPERATIONS],
    )
    onnx.save(model, path, save_as_external_data=apart, location=f"{path.name}.data")


def _to_int8(plain: Path, path: Path, apart: bool) -> None:
    """onnxruntime's dynamic quantisation: weights in int8, one scale a channel; activations as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(plain),
        str(path),
        op_types_to_quantize=list(_INT8_OPERATIONS),
        per_channel=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=apart,
        extra_options={"MatMulConstBOnly": True},  # products of two activations, as in attention, stay as they are
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter and the quantiser tell about themselves. A failure still says all."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file of weights below `folder`, data beside a file counted with it."""
    result: dict[str, int] = {}
    for path in sorted(folder.rglob("*.onnx")):
        data = path.with_name(path.name + ".data")
        result[str(path.relative_to(folder))] = os.path.getsize(path) + (os.path.getsize(data) if data.exists() else 0)
    return result
