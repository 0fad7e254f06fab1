"""Tokenizers of our models: open_clip's HFTokenizer, fed with each family's own files and text normalisation."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import transformers
from open_clip.tokenizer import HFTokenizer

from zhclip_openclip._errors import CheckpointError, DownloadError
from zhclip_openclip.checkpoints import _files
from zhclip_openclip.checkpoints._place import Repository
from zhclip_openclip.families import Family, Model
from zhclip_openclip.towers import _tokenizer_files, text_configs
from zhclip_openclip.towers._tokenizer_files import EXTRA, VOCABULARY
from zhclip_openclip.towers.glm_tokenizer import GLMChineseTokenizer

logger = logging.getLogger(__name__)


class ChineseTokenizer(HFTokenizer):
    """Texts to token ids, as the model's authors do it.

    open_clip's class repairs texts with ftfy first, which turns Chinese full-width punctuation into ASCII; the authors
    of these models do not, so neither does this one.

    Its attributes are those of open_clip 4's tokenizers, whichever version is installed: `context_length`,
    `pad_token_id`, `sot_token_id` and `eot_token_id` (the first and the last id of a text), `vocab_size`.

    longest: the largest `context_length` that the model has positions for; None where that is not known.
    only: whether it takes no other.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer_class: str,
        context_length: int,
        normalise: Callable[[str], str] | None = None,
        max_input_chars_per_word: int | None = None,
        longest: int | None = None,
        only: bool = False,
        **kwargs,
    ):
        self.tokenizer_mode = ""
        self.context_length = context_length
        self.longest, self.only = longest, only
        self.clean_fn = normalise or _as_it_is
        self.strip_sep_token = False
        self.tokenizer = _class(tokenizer_class).from_pretrained(folder, **kwargs)
        self.tokenizer.padding_side = "right"  # a tokenizer_config.json may say otherwise; the towers reckon with it
        if max_input_chars_per_word is not None:  # WordPiece's limit, which the class takes no argument for
            self.tokenizer.backend_tokenizer.model.max_input_chars_per_word = max_input_chars_per_word
        self.pad_token_id = self.tokenizer.pad_token_id
        self.sot_token_id = _first_known(self.tokenizer.bos_token_id, self.tokenizer.cls_token_id)
        self.eot_token_id = _first_known(self.tokenizer.eos_token_id, self.tokenizer.sep_token_id)
        self.vocab_size = len(self.tokenizer)

    def __call__(
        self, texts: str | Sequence[str], context_length: int | None = None, pad: bool = True
    ) -> torch.Tensor | list[torch.Tensor]:
        """Token ids of a text or a sequence of texts; what is too long is cut before its last token
        (M2-Encoder's after its first).

        context_length: that of the tokenizer if None.
        pad: whether all have that length.

        Returns (texts, context_length) ids, padded on the right; without `pad` a list of (length,) ids, one a text.
        Raises CheckpointError: the model has no positions for that many tokens.
        """
        length = context_length or self.context_length
        text_configs.check_positions(length, self.longest, only=self.only)
        cleaned = [self.clean_fn(text) for text in ([texts] if isinstance(texts, str) else texts)]
        if not cleaned:
            return torch.zeros(0, length, dtype=torch.long) if pad else []
        ids = self.tokenizer(
            cleaned,
            max_length=length,
            truncation=True,
            padding="max_length" if pad else False,
            return_token_type_ids=False,
            return_attention_mask=False,
        )["input_ids"]
        return torch.tensor(ids) if pad else [torch.tensor(of_one) for of_one in ids]


#: Tokenizers of our own, by the name that a family gives; all others are transformers'.
_OWN = {GLMChineseTokenizer.__name__: GLMChineseTokenizer}


def _class(name: str) -> type:
    return _OWN.get(name) or getattr(transformers, name)


def _as_it_is(text: str) -> str:
    return text


def _first_known(*ids: int | None) -> int | None:
    return next((known for known in ids if known is not None), None)


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

    Raises DownloadError: no vocabulary on this machine or the hub. Raises CheckpointError: a file there is not what its
    name says, or no vocabulary of this model; more tokens than the model has positions for.
    """
    length = context_length or model.config()["text_cfg"].get("context_length", 77)
    config = text_configs.of(model)
    longest = text_configs.positions(config) if config else None
    only = text_configs.only(config)
    text_configs.check_positions(length, longest, model.name, only)
    folder = find(family, model, near, cache_dir)
    tokenizer_class = model.tokenizer or family.tokenizer
    names = VOCABULARY[tokenizer_class]
    told = _tokenizer_files.check(folder, names)
    options = {**family.tokenizer_options, **model.tokenizer_options, **kwargs}
    if tokenizer_class.startswith("Bert"):
        # transformers 5.0 to 5.2 keep capitals and accents where no file says otherwise, all others drop them.
        lower = told.get("do_lower_case")
        options.setdefault("do_lower_case", True if lower is None else lower)
    try:
        tokenizer = ChineseTokenizer(
            folder, tokenizer_class, length, family.normalise, longest=longest, only=only, **options
        )
    except CheckpointError:
        raise
    except Exception as error:  # tokenizers raises Exception itself, and what its parsers raise
        raise _tokenizer_files.unreadable(folder, names, error) from error
    special = _tokenizer_files.SPECIAL.get(tokenizer_class, _tokenizer_files.SPECIAL[""])
    _check_vocabulary(tokenizer, _tokenizer_files.vocabulary(folder, names), model, config, special)
    return tokenizer


def _check_vocabulary(tokenizer: ChineseTokenizer, path: Path, model: Model, config, names: Sequence[str]) -> None:
    """An error where the ids cannot be the model's: special tokens that had to be added, another padding. A warning
    where the number of tokens is another.

    config: the text tower's, None where it is not known. names: of the special tokens that it has to hold.
    """
    hf = tokenizer.tokenizer
    special = {name: getattr(hf, name) for name in names}
    absent = [token or f"a {name}" for name, token in special.items() if not token or not _holds(hf, token)]
    if absent:
        raise CheckpointError(f"{path} does not hold {' and '.join(absent)}: it is no vocabulary of {model.name}")
    if config is None:
        return
    if tokenizer.pad_token_id != config.pad_token_id:
        raise CheckpointError(
            f"{path} pads with id {tokenizer.pad_token_id} ({hf.pad_token}) and {model.name} with "
            f"{config.pad_token_id}: it is the vocabulary of another model"
        )
    end = getattr(config, "eos_token_id", None) if isinstance(config, text_configs.OpenClipText) else None
    if end not in (None, tokenizer.eot_token_id):
        raise CheckpointError(
            f"{path} ends a text with id {tokenizer.eot_token_id} ({hf.eos_token}), and {model.name} takes a text's "
            f"features from {end}: it is the vocabulary of another model"
        )
    # One in a hundred more or less are words that stand there twice, or tokens that were added.
    if abs(tokenizer.vocab_size - config.vocab_size) > config.vocab_size // 100:
        warnings.warn(
            f"{path} holds {tokenizer.vocab_size} tokens and {model.name} has {config.vocab_size}: it is cut short, or "
            "of another model, whose ids mean other words",
            stacklevel=4,
        )


def _holds(hf, token: str) -> bool:
    """Whether the vocabulary itself has a token; transformers adds the special ones that it lacks."""
    if type(hf) in _OWN.values():
        return hf.token_to_id(token) is not None
    if hasattr(hf, "sp_model"):  # sentencepiece's, which gives the unknown token's id for what it lacks
        return hf.sp_model.id_to_piece(hf.sp_model.piece_to_id(token)) == token
    return hf.backend_tokenizer.model.token_to_id(token) is not None


def find(family: Family, model: Model, near: str | Path | Repository | None = None, cache_dir=None) -> Path:
    """The folder with the tokenizer files of a model, downloaded where they are not on this machine.

    Raises DownloadError: they are nowhere to be had. Raises CheckpointError: beside `near` something else has the name
    of one.
    """
    names = VOCABULARY[model.tokenizer or family.tokenizer]
    if isinstance(near, Repository):
        vocabulary = _files.fetch(near.repo, names, cache_dir, optional=True)
        if vocabulary is not None:
            for extra in EXTRA:
                _files.fetch(near.repo, [extra], cache_dir, optional=True)
            return vocabulary.parent
    elif near:
        path = Path(near).expanduser()
        folder = path if path.is_dir() else path.parent
        if path.exists() and _tokenizer_files.in_folder(folder, names):
            return folder
    if family.tokenizer_path is not None:
        return family.tokenizer_path
    published = [tag.repo for tag in model.tags.values() if tag.repo]
    repos = list(dict.fromkeys([*published, *(model.tokenizer_repos or family.tokenizer_repos)]))
    for repo in repos:  # what is here already comes before any download
        hit = _files.cached(repo, names, cache_dir)
        if hit is not None:
            return hit.parent
    first: DownloadError | None = None
    elsewhere = {tag.repo for tag in model.tags.values() if tag.host}
    for repo in (repo for repo in repos if repo not in elsewhere):
        try:
            vocabulary = _files.fetch(repo, names, cache_dir)
            for extra in EXTRA:
                _files.fetch(repo, [extra], cache_dir, optional=True)
            return vocabulary.parent
        except DownloadError as error:
            first = first or error
    installed = _installed(family)
    if installed is not None:
        logger.warning("%s: the tokenizer could not be fetched, %s is taken (%s)", model.name, installed, first)
        return installed.parent
    if first is None:
        raise DownloadError(f"{model.name} names no repository with a tokenizer")
    raise DownloadError(
        f"{first}; where the tokenizer files lie with the weights, name their folder: "
        f"open_clip.get_tokenizer({model.name!r}, pretrained=FOLDER)"
    ) from first


def _installed(family: Family) -> Path | None:
    """The vocabulary in a package that the family knows to have the same, where that is installed."""
    if family.tokenizer_package is None:
        return None
    package, file = family.tokenizer_package
    spec = importlib.util.find_spec(package)  # of the top level, so nothing is imported
    path = Path(spec.origin).parent / file if spec and spec.origin else None
    return path if path and path.is_file() else None
