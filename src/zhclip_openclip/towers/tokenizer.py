"""Tokenizers of our models: open_clip's HFTokenizer, fed with each family's own files and text normalisation."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path

import transformers
from open_clip.tokenizer import HFTokenizer

from zhclip_openclip._errors import DownloadError, ZhclipError
from zhclip_openclip.checkpoints import _files
from zhclip_openclip.checkpoints._place import Repository
from zhclip_openclip.families import Family, Model

logger = logging.getLogger(__name__)

#: One of these makes a folder usable for the tokenizer of that class.
VOCABULARY = {
    "BertTokenizerFast": ("vocab.txt", "tokenizer.json"),
    "XLMRobertaTokenizerFast": ("tokenizer.json", "sentencepiece.bpe.model"),
}
#: Files that say more about a tokenizer, fetched where they exist.
_EXTRA = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


class ChineseTokenizer(HFTokenizer):
    """Texts to token ids, as the model's authors do it.

    open_clip's class repairs texts with ftfy first, which turns Chinese full-width punctuation into ASCII; the authors
    of these models do not, so neither does this one.

    Calling it with a text or a list of texts gives a (texts, context_length) tensor of ids, padded on the right.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer_class: str,
        context_length: int,
        normalise: Callable[[str], str] | None = None,
        max_input_chars_per_word: int | None = None,
        **kwargs,
    ):
        self.tokenizer_mode = ""
        self.context_length = context_length
        self.clean_fn = normalise or _as_it_is
        self.strip_sep_token = False
        self.tokenizer = getattr(transformers, tokenizer_class).from_pretrained(folder, **kwargs)
        if max_input_chars_per_word is not None:  # WordPiece's limit, which the class takes no argument for
            self.tokenizer.backend_tokenizer.model.max_input_chars_per_word = max_input_chars_per_word


def _as_it_is(text: str) -> str:
    return text


def build(
    family: Family,
    model: Model,
    near: str | Path | Repository | None = None,
    cache_dir=None,
    context_length=None,
    **kwargs,
):
    """The tokenizer of a model.

    near: a checkpoint file or folder, or a repository; tokenizer files beside it are taken first.
    context_length: number of tokens; the config's if None.

    Raises DownloadError: no vocabulary on this machine or the hub.
    """
    folder = find(family, model, near, cache_dir)
    length = context_length or model.config()["text_cfg"].get("context_length", 77)
    options = {**family.tokenizer_options, **model.tokenizer_options, **kwargs}
    try:
        return ChineseTokenizer(folder, model.tokenizer or family.tokenizer, length, family.normalise, **options)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
            # transformers reads sentencepiece's own format with these two, and without them asks for a third.
            absent = [name for name in ("sentencepiece", "google.protobuf") if not _is_installed(name)]
            if absent:
                reason = "there is no tokenizer.json, and its sentencepiece.bpe.model needs two more packages: "
                reason += "pip install sentencepiece protobuf"
        raise ZhclipError(f"the tokenizer in {folder} cannot be loaded: {reason}") from error


def find(family: Family, model: Model, near: str | Path | Repository | None = None, cache_dir=None) -> Path:
    """The folder with the tokenizer files of a model, downloaded where they are not on this machine.

    Raises DownloadError: they are nowhere to be had.
    """
    names = VOCABULARY[model.tokenizer or family.tokenizer]
    if isinstance(near, Repository):
        vocabulary = _files.fetch(near.repo, names, cache_dir, optional=True)
        if vocabulary is not None:
            for extra in _EXTRA:
                _files.fetch(near.repo, [extra], cache_dir, optional=True)
            return vocabulary.parent
    elif near:
        path = Path(near).expanduser()
        folder = path if path.is_dir() else path.parent
        if path.exists() and any((folder / name).is_file() for name in names):
            return folder
    if family.tokenizer_path is not None:
        return family.tokenizer_path
    repos = list(dict.fromkeys([*(tag.repo for tag in model.tags.values() if tag.repo), *family.tokenizer_repos]))
    for repo in repos:  # what is here already comes before any download
        hit = _files.cached(repo, names, cache_dir)
        if hit is not None:
            return hit.parent
    first: DownloadError | None = None
    for repo in repos:
        try:
            vocabulary = _files.fetch(repo, names, cache_dir)
            for extra in _EXTRA:
                _files.fetch(repo, [extra], cache_dir, optional=True)
            return vocabulary.parent
        except DownloadError as error:
            first = first or error
    installed = _installed(family)
    if installed is not None:
        logger.warning("%s: the tokenizer could not be fetched, %s is taken (%s)", model.name, installed, first)
        return installed.parent
    raise first or DownloadError(f"{model.name} names no repository with a tokenizer")


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False


def _installed(family: Family) -> Path | None:
    """The vocabulary in a package that the family knows to have the same, where that is installed."""
    if family.tokenizer_package is None:
        return None
    package, file = family.tokenizer_package
    spec = importlib.util.find_spec(package)  # of the top level, so nothing is imported
    path = Path(spec.origin).parent / file if spec and spec.origin else None
    return path if path and path.is_file() else None
