"""The formats that a model can be written in, by the name that `--format` takes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zhclip_openclip.export import (
    _check_data,
    cn_clip_file,
    immich_folder,
    onnx_pair,
    open_clip_folder,
    sentence_transformers_folder,
    transformers_folder,
)
from zhclip_openclip.export._check import Difference
from zhclip_openclip.export._export_error import ExportError
from zhclip_openclip.export._folder import new_folder
from zhclip_openclip.export._options import PRECISIONS, Options
from zhclip_openclip.export._source import Source
from zhclip_openclip.families import Family, Model
from zhclip_openclip.families._family import OPENAI_MEAN, OPENAI_STD


@dataclass(frozen=True)
class Format:
    """One form of a model for another program.

    refused: why a model has no exact home there, "" where it has. home: what its form there is called. write: fill an
    empty folder. check: read it back with the library that it is for, and compare; raises where it is not the same.
    checked: how, in words, with the bounds. packages: what writing and checking need beyond this package's own
    dependencies, and extra: what installs them. options: those that mean something here.
    """

    name: str
    refused: Callable[[Family, Model], str]
    home: Callable[[Family, Model], str]
    write: Callable[[Source, Path, Options], None]
    check: Callable[[Source, Path, Options], list[Difference]]
    checked: str
    packages: tuple[str, ...] = ()
    extra: str = ""
    options: tuple[str, ...] = ()

    def require(self) -> None:
        """Raises ExportError: a package is missing, with the extra that installs it."""
        absent = [package for package in self.packages if importlib.util.find_spec(package) is None]
        if absent:
            raise ExportError(
                f"--format {self.name} needs {', '.join(absent)}: pip install 'zhclip-openclip[{self.extra}]'"
            )


def _always(text: str) -> Callable[[Family, Model], str]:
    return lambda family, model: text


_ONNX = ("onnx", "onnxruntime", "onnxscript")
_BOUNDS = ", ".join(f"{precision} {bound:.0e}" for precision, bound in onnx_pair.BOUNDS.items())

FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format(
            "open_clip",
            _always(""),
            lambda family, model: (
                "open_clip alone" if open_clip_folder.loads_without_us(model) else "open_clip with this package"
            ),
            open_clip_folder.fill,
            open_clip_folder.check,
            "`open_clip.create_model_and_transforms('local-dir:DIR')`; weights, towers and pictures: the same bits",
        ),
        Format(
            "transformers",
            transformers_folder.refused,
            transformers_folder.home,
            transformers_folder.write,
            transformers_folder.check,
            "`from_pretrained` of transformers, or its modules put together as the authors' code does; towers and "
            f"pictures {transformers_folder.BOUNDS.text:.0e}, pictures preprocessed by torchvision "
            f"{transformers_folder.TORCHVISION:.0e}",
            options=("result",),
        ),
        Format(
            "onnx",
            onnx_pair.refused,
            _always("`image.onnx`, `text.onnx`"),
            onnx_pair.write,
            onnx_pair.check,
            f"onnxruntime, tokenizers, Pillow and NumPy, as in the example below; by precision: {_BOUNDS}",
            _ONNX,
            "onnx",
            ("precision", "raw", "opset", "check_data"),
        ),
        Format(
            "cn_clip",
            cn_clip_file.refused,
            _always("`clip_cn_*.pt`"),
            cn_clip_file.write,
            cn_clip_file.check,
            "cn_clip's own model, tokenizer and transform, in fp32 as its evaluation runs; "
            f"{cn_clip_file.BOUNDS.text:.0e}",
            ("cn_clip",),
            "cn-clip",
        ),
        Format(
            "immich",
            immich_folder.refused,
            _always("`visual/`, `textual/`"),
            immich_folder.write,
            immich_folder.check,
            f"what Immich's service does, with onnxruntime, tokenizers and Pillow; by precision: {_BOUNDS}",
            _ONNX,
            "onnx",
            ("precision", "opset", "name"),
        ),
        Format(
            "sentence-transformers",
            sentence_transformers_folder.refused,
            _always("`SentenceTransformer(DIR)`"),
            sentence_transformers_folder.write,
            sentence_transformers_folder.check,
            f"`SentenceTransformer(DIR)`; towers {sentence_transformers_folder.BOUNDS.text:.0e}, pictures, which it "
            f"preprocesses with torchvision, {sentence_transformers_folder.BOUNDS.pictures:.0e}",
            ("sentence_transformers",),
            "sentence-transformers",
            ("result",),
        ),
    )
}


def find(name: str) -> Format:
    """The format of that name. Raises ExportError: there is none; those that there are."""
    if name not in FORMATS:
        raise ExportError(f"--format {name!r} is not known; known are {', '.join(FORMATS)}")
    return FORMATS[name]


def prepare(form: Format, family: Family, model: Model, options: Options) -> None:
    """All that can be refused before a model is loaded.

    Raises ExportError: the model has no exact home there, a package is missing, an option means nothing there.
    """
    if reason := form.refused(family, model):
        raise ExportError(f"{model.name} cannot be written as {form.name}: {reason}")
    for option, field in options.given().items():
        if field != "name" and field not in form.options:
            others = [other.name for other in FORMATS.values() if field in other.options]
            raise ExportError(f"{option} means nothing to --format {form.name}; it is for {', '.join(others)}")
    if options.precision not in PRECISIONS:
        raise ExportError(f"--precision {options.precision!r} is not known; known are {', '.join(PRECISIONS)}")
    if options.check_data:
        _check_data.refuse_unknown(options.check_data)
    form.require()


def write(form: Format, source: Source, output: Path, options: Options, force: bool = False) -> list[Difference]:
    """Write a model as the folder `output`, read it back and compare; the folder appears when all is well.

    Returns what was compared. Raises ExportError: see :func:`prepare`, `new_folder` and the format.
    """
    prepare(form, source.family, source.model, options)
    _refuse_preprocessing(form, source)
    with new_folder(output, force) as folder:
        form.write(source, folder, options)
        return form.check(source, folder, options)


def _refuse_preprocessing(form: Format, source: Source) -> None:
    """Raises ExportError: the checkpoint asks for a preprocessing that only open_clip knows, or cn_clip does not."""
    told = source.preprocess
    mode, interpolation = told.get("resize_mode", "shortest"), told.get("interpolation", "bicubic")
    if form.name == "cn_clip":
        theirs = {"resize_mode": "squash", "interpolation": "bicubic", "mean": OPENAI_MEAN, "std": OPENAI_STD}
        own = {key: tuple(told[key]) if key in ("mean", "std") else told.get(key) for key in theirs}
        wrong = [f"{key} {own[key]}" for key in theirs if own[key] != theirs[key]]
        if wrong:
            raise ExportError(f"{source.given} asks for {', '.join(wrong)}, and cn_clip preprocesses in one way only")
    elif form.name != "open_clip" and (
        mode not in ("shortest", "squash") or interpolation not in ("bicubic", "bilinear")
    ):
        raise ExportError(
            f"{source.given} asks for the resize mode {mode} with {interpolation}, which --format {form.name} has no "
            "word for; --format open_clip has"
        )
