"""What a family of models is, as data. Nothing here imports torch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from zhclip_openclip import _paths

#: OpenAI's CLIP constants, https://github.com/openai/CLIP (clip/clip.py)
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Tag:
    """One published set of weights.

    repo: the repository of the weights on the Hugging Face hub, or "" where a file of the package holds them.
    host: where `repo` is if not on the hub, as the address before its name. Nothing is fetched from there.
    files: names under which the weights may stand there, in order of preference.
    image_repo: where the image tower is published, if apart from the text tower.
    licence: as the source states it; what is not stated says so.
    """

    repo: str
    files: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")
    image_repo: str = ""
    image_files: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")
    path: Path | None = None
    licence: str = "not stated by its source"
    note: str = ""
    host: str = ""


@dataclass(frozen=True)
class Layout:
    """One form in which a family's weights are written, and the way from its key names to open_clip's.

    telltale: patterns, each of which some key must match for a checkpoint to be of this form.
    never: patterns that no key of this form matches.
    drop: patterns of keys that hold no weights of the model (buffers, unused poolers and heads).
    rename: ordered (pattern, replacement) pairs, each applied with :func:`re.sub` to the result of the one before.
        A target that ends in `#0`, `#1`, ... is that part of a fused tensor (query, key and value, one under another).
    split: (pattern, replacements) for keys that hold several parameters of equal size, one under another, with the
        target of each from top to bottom. Renaming is done with a key before it is split.
    rows: (pattern, start, stop) for keys of whose tensor the model has these rows alone.
    transpose: patterns of targets whose tensor is stored transposed.
    square: patterns of targets that lie on a square grid (n, n, ...) and are stored cell by cell (n * n, ...).
    constants: targets that the checkpoint does not hold, with the value that they have.
    part: "" for both towers, "text" or "image" where this form holds one of them.
    bare: its keys are part of many files, so it is known only where nothing but wrappers' names stands before them.
    models: pattern of the names of the models that are made of it, where one file holds more than one model.
    counts: (pattern, number, same): tensors under such keys have that many rows, or any other number where `same` is
        False. For files with the same keys as somebody else's.
    """

    name: str
    telltale: tuple[str, ...]
    rename: tuple[tuple[str, str], ...]
    never: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    split: tuple[tuple[str, tuple[str, ...]], ...] = ()
    rows: tuple[tuple[str, int, int], ...] = ()
    transpose: tuple[str, ...] = ()
    square: tuple[str, ...] = ()
    constants: Mapping[str, float] = field(default_factory=dict)
    part: str = ""
    bare: bool = False
    models: str = ""
    counts: tuple[tuple[str, int, bool], ...] = ()

    def recognises(self, keys: Iterable[str]) -> bool:
        """Whether a file with these keys is of this form. keys: a mapping to shapes where these are known."""
        shapes = keys if isinstance(keys, Mapping) else {}
        keys = list(keys)
        return (
            all(any(re.search(p, k) for k in keys) for p in self.telltale)
            and not any(re.search(p, k) for p in self.never for k in keys)
            and all(
                (tuple(shape[:1]) == (number,)) == same
                for pattern, number, same in self.counts
                for key, shape in shapes.items()
                if re.search(pattern, key)
            )
        )

    def makes(self, model: str) -> bool:
        """Whether the model of this name is made of this form, as far as the form says; "" is any."""
        return not (self.models and model) or re.search(self.models, model) is not None

    def targets(self, key: str) -> tuple[str, ...]:
        """The open_clip names of what `key` holds, from top to bottom; none for a key that is dropped."""
        if any(re.search(pattern, key) for pattern in self.drop):
            return ()
        for pattern, replacement in self.rename:
            key = re.sub(pattern, replacement, key)
        for pattern, replacements in self.split:
            if re.search(pattern, key):
                return tuple(re.sub(pattern, replacement, key) for replacement in replacements)
        return (key,)


@dataclass(frozen=True)
class Model:
    """One architecture of a family: the name of its file in `model_configs/` and the weights that exist for it.

    tags: the first is the default.
    quickgelu: the twin that differs from it in its activation alone, for families whose `config.json` decides.
    sizes: models of which weights for this one may be instead, where it is not certain with which image tower they were
        published: the shapes in the file decide.
    preprocess: what differs from open_clip's defaults in its image preprocessing.
    tokenizer: class of transformers that tokenizes for it, where that is not the family's.
    tokenizer_options: arguments of that class that a folder with a bare vocabulary does not tell.
    tokenizer_repos: where its tokenizer is published, where that is not the family's.
    image_processor: where it is not the family's.
    """

    name: str
    tags: Mapping[str, Tag]
    quickgelu: str = ""
    sizes: tuple[str, ...] = ()
    preprocess: Mapping[str, object] = field(default_factory=dict)
    tokenizer: str = ""
    tokenizer_options: Mapping[str, object] = field(default_factory=dict)
    tokenizer_repos: tuple[str, ...] = ()
    image_processor: str = ""

    @property
    def default_tag(self) -> str:
        return next(iter(self.tags))

    def config(self) -> dict:
        """The open_clip model config, from `<name>.json` in `model_configs/` or in the folder of its family.

        Raises FileNotFoundError: there is no such file.
        """
        from zhclip_openclip.families import all_families

        folders = [_paths.model_configs(), *(f.configs for f in all_families().values() if f.configs)]
        paths = [folder / f"{self.name}.json" for folder in folders]
        path = next((path for path in paths if path.is_file()), paths[0])
        return json.loads(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Family:
    """A family of models: its data sheet.

    aliases: other full model names, each with the model that it stands for.
    layouts: the forms in which its checkpoints are written.
    image_processor: "transformers" where its authors preprocess images with transformers' CLIPImageProcessor, "patches"
        where a picture keeps its shape and becomes patches (towers/patches.py), "" where they do as open_clip and
        OpenAI.
    normalise: what its authors do to a text before the tokenizer sees it.
    note: what a user should know before trusting its numbers.
    tokenizer: class of transformers that tokenizes for it.
    tokenizer_options: arguments of that class with which it does what the family's own tokenizer does.
    tokenizer_repos: where its tokenizer is published, tried after the repository of the weights.
    tokenizer_package: (package, file in it) with the same vocabulary, taken if it is installed and all else fails.
    configs: folder that holds `<model>.json` and `text_configs/`, for a family outside this package.
    towers: module that brings towers of its own, imported before one of its models is built. Image towers enter timm's
        registry there (`timm.models.register_model`), so that `timm_model_name` of a model config names them.
    """

    name: str
    title: str
    models: tuple[Model, ...]
    aliases: Mapping[str, str]
    layouts: tuple[Layout, ...]
    paper: str = ""
    source: str = ""
    note: str = ""
    image_processor: str = ""
    normalise: Callable[[str], str] | None = None
    tokenizer: str = "BertTokenizerFast"
    tokenizer_options: Mapping[str, object] = field(default_factory=dict)
    tokenizer_repos: tuple[str, ...] = ()
    tokenizer_package: tuple[str, str] | None = None
    tokenizer_path: Path | None = None
    configs: Path | None = None
    towers: str = ""

    def processor_of(self, model: Model) -> str:
        """How images are preprocessed for one of its models: `image_processor` of the model or of the family."""
        return model.image_processor or self.image_processor
