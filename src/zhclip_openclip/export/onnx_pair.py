"""Two ONNX files, `image.onnx` and `text.onnx`, with all that a program without torch needs to use them.

`config.json` says what goes in and comes out, `tokenizer.json` holds the whole way from a text to ids. A batch of texts
is padded to its longest text and no further: the text tower takes any length. open_clip's own text towers take their
context length alone, to which `tokenizer.json` pads for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zhclip_openclip import __version__
from zhclip_openclip.export import _check, _check_data, _onnx_export, _sentencepiece, _text_files
from zhclip_openclip.export._check import Bounds, Difference
from zhclip_openclip.export._options import Options
from zhclip_openclip.export._source import Source
from zhclip_openclip.families import Family, Model

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

IMAGE, TEXT, CONFIG = "image.onnx", "text.onnx", "config.json"
#: By precision. int8 is another model: how much worse is for --check-data to say, the bound is for what is broken.
BOUNDS = {"fp32": 1e-4, "fp16": 1e-2, "int8": 1e-1}


def refused(family: Family, model: Model) -> str:
    """Why there are no such files for a model; "" where there are."""
    if family.processor_of(model) == "patches":
        return (
            "a picture keeps its shape and becomes as many patches as its size asks for, and `image.onnx` takes squares"
        )
    if (model.tokenizer or family.tokenizer) == "SiglipTokenizer":
        return (
            "its tokenizer is SigLIP's, sentencepiece after a cleaning in Python, which is not written as a "
            "tokenizer.json; --format open_clip writes it"
        )
    return ""


def write(source: Source, folder: Path, options: Options) -> None:
    """Fill the empty `folder`. Raises ExportError: the tokenizer cannot be written into one file."""
    if _sentencepiece.is_used(source):
        _sentencepiece.write(source, folder)
    else:
        _text_files.write_tokenizer(source, folder, ready=True)
    _text_files.write_json(folder / CONFIG, config(source, options))
    form = _onnx_export.Form(not options.raw, options.precision, options.opset)
    _onnx_export.write(source, folder / IMAGE, folder / TEXT, form)


def config(source: Source, options: Options) -> dict:
    """What `config.json` says."""
    preprocess, bias = source.preprocess, source.module.logit_bias
    return {
        "model": source.model.name,
        "source": source.given,
        "written_by": f"zhclip-openclip {__version__}",
        "precision": options.precision,
        "opset": options.opset,
        "normalised": not options.raw,
        "embed_dim": source.embed_dim,
        "logit_scale": source.module.logit_scale.exp().item(),
        **({"logit_bias": bias.item()} if bias is not None else {}),
        "image": {
            "file": IMAGE,
            "input": {"image": ["batch", 3, source.image_size, source.image_size], "type": "float32"},
            "size": source.image_size,
            "mean": list(preprocess["mean"]),
            "std": list(preprocess["std"]),
            "interpolation": preprocess.get("interpolation", "bicubic"),
            "resize_mode": preprocess.get("resize_mode", "shortest"),
            # Of two middles: "left" is the left or upper one, "even" the one with the even coordinate.
            "middle": "left" if source.family.image_processor == "transformers" else "even",
        },
        "text": {
            "file": TEXT,
            "input": {"text": ["batch", source.context_length if source.one_length else "length"], "type": "int64"},
            "context_length": source.context_length,
            "pad_token_id": source.pad,
            **(_sentencepiece.config(source) if _sentencepiece.is_used(source) else {}),
        },
    }


def check(source: Source, folder: Path, options: Options) -> list[Difference]:
    """Run the files with onnxruntime and compare. Raises ExportError: it is not the same model."""
    bound = BOUNDS[options.precision]
    unlike = {} if source.family.image_processor == "transformers" else _RGB_FIRST
    bounds = Bounds(bound, bound, bound, unlike)
    written = Written(source, folder, normalised=not options.raw)
    found = _check.compare(source, written, bounds, f"onnxruntime, {options.precision}")
    if options.check_data:
        found += _check_data.loss(source, written, options.check_data)
    return found


_RGB_FIRST = dict.fromkeys(
    ("palette", "CMYK", "transparent"),
    "docs/deploying.md converts to RGB first, this model's authors afterwards",
)


class Written:
    """The folder, read as docs/deploying.md does: onnxruntime, tokenizers, Pillow and NumPy, no torch."""

    def __init__(self, source: Source, folder: Path, normalised: bool):
        self._config = config(source, Options())
        self._ids = self._reader(folder)
        self._image, self._text = session(folder / IMAGE), session(folder / TEXT)
        # Features of unit length are held against ours scaled to it.
        self._source, self._normalised = source, normalised

    def _reader(self, folder: Path) -> Callable[[Sequence[str]], np.ndarray]:
        if "tokenizer" in self._config["text"]:
            return _sentencepiece.Reader(folder, self._config["text"])
        import numpy as np
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return lambda texts: np.array([encoding.ids for encoding in tokenizer.encode_batch(list(texts))])

    def ids(self, texts: Sequence[str]) -> np.ndarray:
        return self._ids(texts)

    def pixels(self, pictures: Sequence[Image]) -> np.ndarray:
        import numpy as np

        told = self._config["image"]
        return np.stack([preprocessed(picture, told) for picture in pictures])

    def text(self, ids: torch.Tensor) -> torch.Tensor:
        return self._scaled(self._text.run(None, {"text": ids.numpy()})[0], self._source.text, ids)

    def image(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._scaled(self._image.run(None, {"image": pixels.numpy()})[0], self._source.image, pixels)

    def _scaled(self, features, encode, given) -> torch.Tensor:
        """Features of unit length times the length of ours, so that both are compared as they are."""
        import torch

        features = torch.as_tensor(features)
        return features * encode(given).norm(dim=-1, keepdim=True) if self._normalised else features


def session(path: Path):
    """An onnxruntime session on the CPU with as many threads as torch has."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def preprocessed(picture: Image, told: dict) -> np.ndarray:
    """A picture as the image tower takes it, (3, size, size) float32, by the `image` part of `config.json`."""
    import numpy as np
    from PIL.Image import Resampling

    size, picture = told["size"], picture.convert("RGB")
    resampling = Resampling[told["interpolation"].upper()]
    if told["resize_mode"] == "squash":
        picture = picture.resize((size, size), resampling)
    else:
        short = min(picture.size)
        width, height = (int(size * side / short) for side in picture.size)
        picture = picture.resize((width, height), resampling)
        middle = (lambda rest: rest // 2) if told["middle"] == "left" else (lambda rest: round(rest / 2))
        left, top = middle(width - size), middle(height - size)
        picture = picture.crop((left, top, left + size, top + size))
    pixels = np.asarray(picture, np.float32) / 255
    return ((pixels - np.float32(told["mean"])) / np.float32(told["std"])).transpose(2, 0, 1)
