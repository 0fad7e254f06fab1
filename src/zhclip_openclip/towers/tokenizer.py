"""Tokenizers of our models: open_clip's HFTokenizer, fed with each family's own files and text normalisation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import transformers
from open_clip.tokenizer import HFTokenizer

from zhclip_openclip._errors import DownloadError, ZhclipError
from zhclip_openclip.checkpoints import _files
from zhclip_openclip.families import Family, Model

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
        **kwargs,
    ):
        self.tokenizer_mode = ""
        self.context_length = context_length
        self.clean_fn = normalise or _as_it_is
        self.strip_sep_token = False
        self.tokenizer = getattr(transformers, tokenizer_class).from_pretrained(folder, **kwargs)


def _as_it_is(text: str) -> str:
    return text


def build(family: Family, model: Model, near: str | Path | None = None, cache_dir=None, context_length=None, **kwargs):
    """The tokenizer of a model.

    near: a checkpoint file or folder; tokenizer files beside it are taken first.
    context_length: number of tokens; the config's if None.

    Raises DownloadError: no vocabulary on this machine or the hub.
    """
    folder = find(family, model, near, cache_dir)
    length = context_length or model.config()["text_cfg"].get("context_length", 77)
    try:
        return ChineseTokenizer(folder, family.tokenizer, length, family.normalise, **kwargs)
    except (OSError, ValueError) as error:
        raise ZhclipError(f"the tokenizer in {folder} cannot be loaded: {' '.join(str(error).split())[:200]}") from error


def find(family: Family, model: Model, near: str | Path | None = None, cache_dir=None) -> Path:
    """The folder with the tokenizer files of a model, downloaded where they are not on this machine."""
    names = VOCABULARY[family.tokenizer]
    if near:
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
    raise first or DownloadError(f"{model.name} names no repository with a tokenizer")
