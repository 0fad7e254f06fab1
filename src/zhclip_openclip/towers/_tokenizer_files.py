"""What lies in a folder of tokenizer files: which one is read, and whether each is what its name says.

transformers and tokenizers raise whatever their parsers raise, and take some wrong files without a word: a vocabulary
in GBK becomes one of broken words, one behind a byte order mark loses its padding.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from zhclip_openclip import _reading
from zhclip_openclip._errors import CheckpointError

#: One of these makes a folder usable for the tokenizer of that class; they are fetched in this order.
VOCABULARY = {
    "BertTokenizerFast": ("vocab.txt", "tokenizer.json"),
    "XLMRobertaTokenizerFast": ("tokenizer.json", "sentencepiece.bpe.model"),
    "GLMChineseTokenizer": ("sp.model",),
    "PreTrainedTokenizerFast": ("tokenizer.json",),  # which decides everything: Gemma's, for one
    "SiglipTokenizer": ("spiece.model",),
}
#: Tokens without which a vocabulary is none for a class; of those that are not named, the last.
SPECIAL = {
    **dict.fromkeys(
        ("BertTokenizerFast", "XLMRobertaTokenizerFast", "GLMChineseTokenizer"),
        ("pad_token", "unk_token", "cls_token", "sep_token"),
    ),
    "": ("pad_token", "unk_token", "eos_token"),
}
#: Files that say more about a tokenizer, fetched where they exist.
EXTRA = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def in_folder(folder: Path, names: tuple[str, ...]) -> bool:
    """Whether one of `names` is a file in `folder`.

    Raises CheckpointError: something of that name is there that is no file, which would be passed over for files that
    belong to other weights.
    """
    for name in names:
        path = folder / name
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder, and the tokenizer reads a file of that name: remove it")
        if path.is_symlink() and not path.exists():
            raise CheckpointError(f"{path} is a link to a file that is not there: fetch it again")
    return any((folder / name).is_file() for name in names)


def vocabulary(folder: Path, names: tuple[str, ...]) -> Path:
    """The file that transformers reads the tokenizer from: its own, tokenizer.json, where that is there."""
    present = [folder / name for name in sorted(names, key="tokenizer.json".__ne__) if (folder / name).is_file()]
    return present[0] if present else folder / names[0]


def check(folder: Path, names: tuple[str, ...]) -> dict:
    """What `tokenizer_config.json` says, or an empty dict.

    Raises CheckpointError: a file is no JSON, no vocabulary, of another encoding; its name, what it is, the way out.
    """
    told = {}
    for name in EXTRA:
        if (folder / name).is_file():
            content = _reading.read_json(folder / name, CheckpointError)
            told = content if name == EXTRA[0] else told
    lower = told.get("do_lower_case")
    if not isinstance(lower, bool | None):
        raise CheckpointError(f"{folder / EXTRA[0]}: do_lower_case is {lower!r}: neither true nor false")
    path = vocabulary(folder, names)
    with _reading.reading(path, CheckpointError):
        kind = _reading.kind_of(path)
    if path.suffix == ".json":
        if kind != "a JSON text":
            raise CheckpointError(f"{path} is {kind or 'no JSON text'}, not a tokenizer: fetch it again")
    elif path.suffix == ".txt":
        _check_words(path, kind)
    elif kind:
        raise CheckpointError(f"{path} is {kind}, not a sentencepiece model: fetch it again")
    return told


def _check_words(path: Path, kind: str) -> None:
    """A `vocab.txt`: a word a line, UTF-8. It begins with `[PAD]`, as a JSON text may begin."""
    if kind and kind != "a JSON text":
        raise CheckpointError(f"{path} is {kind}, not a vocabulary: fetch it again")
    with _reading.reading(path, CheckpointError, "a vocabulary is a text in UTF-8, a word a line: fetch it again"):
        raw = path.read_bytes()
        if raw.startswith(b"\xef\xbb\xbf"):
            raise CheckpointError(f"{path} begins with a byte order mark, which spoils its first word: fetch it again")
        raw.decode("utf-8")


def unreadable(folder: Path, names: tuple[str, ...], cause: Exception) -> CheckpointError:
    """The error for files that are what they should be and that the libraries cannot read all the same."""
    path = vocabulary(folder, names)
    if path.name in ("sentencepiece.bpe.model", "spiece.model"):
        # transformers reads sentencepiece's own format with these two, and without them asks for a third.
        absent = [name for name in ("sentencepiece", "google.protobuf") if not is_installed(name)]
        if absent:
            return CheckpointError(
                f"the tokenizer in {folder} cannot be loaded: there is no tokenizer.json that would do, and its "
                f"{path.name} needs two more packages: pip install sentencepiece protobuf"
            )
    if path.name == "sp.model":
        return CheckpointError(f"{path}: {_reading.reason_of(cause)}; no model of sentencepiece's: fetch it again")
    import tokenizers

    return CheckpointError(
        f"{path}: {_reading.reason_of(cause)}; fetch it and what lies beside it again, or install a newer tokenizers "
        f"than {tokenizers.__version__} if a newer one wrote it"
    )


def is_installed(name: str) -> bool:
    """Whether a package can be imported, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False
