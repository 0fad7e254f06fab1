"""Where files come from: an explicit path, `$ZHCLIP_MODELS_DIR/<org>/<name>/`, then the Hugging Face hub and its cache.

Weights, `config.json` and tokenizer files go the same way. The hub is asked through huggingface_hub alone, so its
cache, `HF_ENDPOINT` and `HF_HUB_OFFLINE` mean what they mean everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from zhclip_openclip._errors import CheckpointError, DownloadError

MODELS_DIR = "ZHCLIP_MODELS_DIR"


def models_dir() -> Path | None:
    """The folder of downloaded repositories, from the environment."""
    value = os.environ.get(MODELS_DIR, "").strip()
    return Path(value).expanduser() if value else None


def endpoint() -> str:
    """The hub's address as huggingface_hub sees it."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def local_folder(repo: str) -> Path | None:
    """`$ZHCLIP_MODELS_DIR/<org>/<name>` where that is a folder."""
    root = models_dir()
    folder = root / repo if root and repo else None
    return folder if folder and folder.is_dir() else None


def cached(repo: str, names: Sequence[str], cache_dir: str | None = None) -> Path | None:
    """The first of `names` that is on this machine already, without asking the network."""
    from huggingface_hub import try_to_load_from_cache

    folder = local_folder(repo)
    for name in names:
        if folder and (folder / name).is_file():
            return folder / name
    for name in names:
        hit = try_to_load_from_cache(repo, name, cache_dir=cache_dir)
        if isinstance(hit, str):
            return Path(hit)
    return None


def fetch(
    repo: str,
    names: Sequence[str],
    cache_dir: str | None = None,
    optional: bool = False,
    also: Sequence[str] = (),
) -> Path | None:
    """The first of `names` that repository `repo` has, downloaded where it is not on this machine.

    optional: None for a repository that has none of them. A repository that cannot be asked is an error all the same,
        since nobody knows then what its file would have said.
    also: other files that will be needed from there, to be named in an error.

    Raises DownloadError: neither here nor to be had, with the files to fetch and where to put them.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    folder = local_folder(repo)
    if folder:
        for name in names:
            if (folder / name).is_file():
                return folder / name
        if optional:
            return None  # a folder of the user's is complete as it is
    absent = []
    for name in names:
        try:
            return Path(hf_hub_download(repo, name, cache_dir=cache_dir))
        except LocalEntryNotFoundError as error:  # offline, or no answer, and not in the cache
            if _known_absent(repo, name, cache_dir):
                absent.append(name)
                continue
            raise _unreachable(repo, names, also, error, folder) from error
        except EntryNotFoundError:
            absent.append(name)
        except GatedRepoError as error:
            raise DownloadError(
                f"{repo} on {endpoint()} asks you to accept its conditions: do so on its page, then `hf auth login`"
            ) from error
        except RepositoryNotFoundError as error:
            raise DownloadError(
                f"{endpoint()} has no repository {repo}, or not for you: check HF_ENDPOINT, or put its files into "
                f"{_place(repo)}"
            ) from error
        except Exception as error:  # HTTP errors, broken connections, a full disk, a file that came cut short
            raise _unreachable(repo, names, also, error, folder) from error
    if optional:
        return None
    raise DownloadError(f"{repo} on {endpoint()} holds none of {' or '.join(absent)}")


def _known_absent(repo: str, name: str, cache_dir: str | None) -> bool:
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    return try_to_load_from_cache(repo, name, cache_dir=cache_dir) is _CACHED_NO_EXIST


def _place(repo: str) -> str:
    root = models_dir()
    return str(root / repo) if root else f"a folder DIR/{repo} and set {MODELS_DIR}=DIR"


def _unreachable(
    repo: str, names: Sequence[str], also: Sequence[str], error: Exception, folder: Path | None
) -> DownloadError:
    cause = error.__cause__ or error
    reason = " ".join(str(cause).split())[:160] or type(cause).__name__
    where = f"in {folder}" if folder else "on this machine"
    wanted = ", ".join(dict.fromkeys([*names, "config.json", *also]))
    return DownloadError(
        f"{repo}: {' or '.join(names)} is not {where} and could not be fetched from {endpoint()} "
        f"({type(cause).__name__}: {reason}). "
        f"Without a network, put {wanted} and the tokenizer files of that repository into {_place(repo)}; "
        "with a mirror, set HF_ENDPOINT to its address"
    )


#: Names under which weights stand in a folder, in order of preference; open_clip's own first.
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "epoch_latest.pt",
)


def weights_in(folder: Path) -> Path:
    """The file of weights in a folder: one of the usual names, or the only one that can hold weights."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    others = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".pt", ".pth"))
    if len(others) == 1:
        return others[0]
    if others:
        raise CheckpointError(
            f"{folder} holds several files of weights ({', '.join(p.name for p in others)}): name one of them"
        )
    raise CheckpointError(f"{folder} holds no weights: looked for {', '.join(WEIGHTS)}, *.safetensors, *.bin, *.pt")


def existing(given: str) -> Path | None:
    """The file or folder that `given` names, `~` expanded; None where there is none."""
    path = Path(given).expanduser()
    return path if path.exists() else None


def weights_at(given: str | os.PathLike[str]) -> Path:
    """The file of weights that a path of a file or a folder means."""
    path = Path(given).expanduser()
    return weights_in(path) if path.is_dir() else path
