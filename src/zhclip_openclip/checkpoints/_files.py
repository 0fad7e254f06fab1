"""Where files come from: an explicit path, `$ZHCLIP_MODELS_DIR/<org>/<name>/`, then the Hugging Face hub and its cache.

Weights, `config.json` and tokenizer files go the same way. The hub is asked through huggingface_hub alone, so its
cache, `HF_ENDPOINT` and `HF_HUB_OFFLINE` mean what they mean everywhere.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zhclip_openclip._errors import CheckpointError, DownloadError

if TYPE_CHECKING:
    from zhclip_openclip.families import Tag

MODELS_DIR = "ZHCLIP_MODELS_DIR"
#: Seconds for which a hub that gave no answer is not asked again.
PATIENCE = 30


def models_dir() -> Path | None:
    """The folder of downloaded repositories, from the environment. Raises CheckpointError: `~` of an unknown user."""
    value = os.environ.get(MODELS_DIR, "").strip()
    return expanded(value) if value else None


def expanded(path: str | Path) -> Path:
    """`path` with `~` as the home folder. Raises CheckpointError: of a user that this machine does not know."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise CheckpointError(f"{path}: this machine knows no home folder of that user") from error


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
    from huggingface_hub import constants, hf_hub_download
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
    if constants.HF_HUB_OFFLINE:
        return _without_the_hub(repo, names, cache_dir, optional, also, "HF_HUB_OFFLINE is set")
    if silence := _silence(endpoint(), int(time.monotonic() // PATIENCE)):
        return _without_the_hub(repo, names, cache_dir, optional, also, silence)
    absent = []
    for name in names:
        try:
            return Path(hf_hub_download(repo, name, cache_dir=cache_dir))
        except LocalEntryNotFoundError as error:  # it was asked, failed (HTTP 500, broken off), and nothing is cached
            return _without_the_hub(repo, names, cache_dir, optional, also, _reason(error.__cause__ or error), error)
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
            raise _unreachable(repo, names, also, _reason(error.__cause__ or error)) from error
    if optional:
        return None
    raise DownloadError(f"{repo} on {endpoint()} holds none of {' or '.join(absent)}")


def of_other_host(tag: Tag) -> Path:
    """The file of a tag whose repository is not on the hub, from `$ZHCLIP_MODELS_DIR`.

    Raises DownloadError: it is not there; where it is, and where to put it.
    """
    folder = local_folder(tag.repo)
    for name in tag.files if folder else ():
        if (folder / name).is_file():
            return folder / name
    raise DownloadError(
        f"{' or '.join(tag.files)} is in {tag.host}{tag.repo}, not on the Hugging Face hub, and is not fetched: put it "
        f"and the tokenizer file of that repository into {_place(tag.repo)}, or give pretrained=PATH"
    )


@functools.lru_cache(maxsize=4)
def _silence(address: str, window: int) -> str:
    """Why the hub at `address` cannot be reached; "" where anything there answers.

    huggingface_hub tries for 23 seconds on each file that is not in its cache. This is one attempt, for all files of
    the same `window` of :data:`PATIENCE` seconds, with its own client, so that proxies and certificates are the same.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(address, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:
        # The client's library has changed its name more than once; the names of these errors have not.
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if kinds & {"ConnectError", "ConnectTimeout", "ProxyError"}:
            return _reason(error)
    return ""


def _without_the_hub(
    repo: str,
    names: Sequence[str],
    cache_dir: str | None,
    optional: bool,
    also: Sequence[str],
    reason: str,
    cause: Exception | None = None,
) -> Path | None:
    """What :func:`fetch` gives where the hub cannot be asked: what the cache holds.

    The hub's own tools leave a repository there without a note of the files that it does not have. So a snapshot that
    holds weights counts as complete for optional files: silently where it shows that all of it was fetched, otherwise
    with a warning.
    """
    if hit := cached(repo, names, cache_dir):
        return hit
    if optional:
        if all(_known_absent(repo, name, cache_dir) for name in names):
            return None
        snapshot = _snapshot(repo, cache_dir)
        inside = {path.name for path in snapshot.iterdir()} if snapshot else set()
        if any(Path(name).suffix in SUFFIXES for name in inside):
            if not inside & _OF_A_WHOLE_REPOSITORY:  # the same text for each file, so that it is shown once
                warnings.warn(
                    f"{repo} in the cache has weights and may lack other files, and the hub could not be asked "
                    f"({reason}): what is not there is taken for absent, and defaults hold in its place"
                )
            return None
    raise _unreachable(repo, names, also, reason) from cause


#: Files of every repository on the hub that no library asks for: who has them has fetched the whole.
_OF_A_WHOLE_REPOSITORY = {".gitattributes", "README.md"}


def _snapshot(repo: str, cache_dir: str | None) -> Path | None:
    """The folder of the cache that holds the files of a repository's main branch."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    storage = Path(cache_dir or constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")
    try:
        commit = (storage / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    folder = storage / "snapshots" / commit
    return folder if commit and folder.is_dir() else None


def _known_absent(repo: str, name: str, cache_dir: str | None) -> bool:
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    return try_to_load_from_cache(repo, name, cache_dir=cache_dir) is _CACHED_NO_EXIST


def _place(repo: str) -> str:
    root = models_dir()
    return str(root / repo) if root else f"a folder DIR/{repo} and set {MODELS_DIR}=DIR"


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if len(text) > 160:  # between words: half an address or half a quotation cannot be followed
        text = text[:160].rsplit(" ", 1)[0] + " ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _unreachable(repo: str, names: Sequence[str], also: Sequence[str], reason: str) -> DownloadError:
    folder = local_folder(repo)
    where = f"in {folder}" if folder else "on this machine"
    wanted = ", ".join(dict.fromkeys([*names, "config.json", *also]))
    return DownloadError(
        f"{repo}: {' or '.join(names)} is not {where} and could not be fetched from {endpoint()} ({reason}). "
        f"Without a network, put {wanted} and the tokenizer files of that repository into {_place(repo)}; "
        "with a mirror, set HF_ENDPOINT to its address"
    )


#: How names of files of weights end.
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
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


def located(given: str | Path) -> Path | None:
    """The file of weights that a path names: itself, or the one in the folder. None where there is nothing.

    Raises CheckpointError: a link that leads nowhere, a pipe or a device, a folder without weights or with several.
    """
    path = expanded(given)
    try:
        mode = path.stat().st_mode
    except ValueError:  # a null character: no path at all
        return None
    except OSError as error:
        if os.path.islink(path):  # Path.is_symlink raises for names that are too long
            where = "to itself" if error.errno == errno.ELOOP else f"to {os.readlink(path)}, which is not there"
            raise CheckpointError(f"{path} is a link {where}: link it anew, or name the file") from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            return None
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from error
    if stat.S_ISDIR(mode):
        return weights_in(path)
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(mode), "a device")
        raise CheckpointError(f"{path} is {kind}, not a file: weights are read in several passes, so save them first")
    return path


#: Folders of the two towers of a model, where they are apart.
TEXT, IMAGE = "text", "image"


def existing(given: str | os.PathLike[str]) -> Path | None:
    """The file or folder that `given` names, `~` expanded; None where there is none."""
    path = os.path.expanduser(given)
    return Path(path) if os.path.exists(path) else None  # which does not raise, whatever the name


def weights_at(given: str | os.PathLike[str]) -> Path:
    """The file of weights that a path of a file or a folder means. Raises CheckpointError: as :func:`located`; there is
    nothing."""
    path = located(given)
    if path is None:
        raise CheckpointError(f"{given} does not exist")
    return path


def weights_in(folder: Path) -> Path:
    """The file of weights in a folder: one of the usual names, or the only one that can hold weights.

    Where another of them is newer and holds other values, a warning names both.

    Raises CheckpointError: none, or several without a usual name.
    """
    try:
        here = sorted(folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read ({error.strerror})") from error
    usual = [folder / name for name in WEIGHTS if folder / name in here]
    if files := [path for path in usual if path.is_file()]:
        taken = files[0]
        newer = [path for path in files[1:] if path.stat().st_mtime > taken.stat().st_mtime]
        if other := [path.name for path in newer if _differ(taken, path)]:
            warnings.warn(
                f"{folder}: {taken.name} is taken, and {' and '.join(other)} beside it is newer and holds other "
                "values: name the file that you mean"
            )
        return taken
    for path in usual:  # a link that leads nowhere, or a pipe, says so
        located(path)
    others = [path for path in here if path.suffix in SUFFIXES and not path.is_dir()]
    if len(others) == 1:
        return others[0]
    if others:
        raise CheckpointError(
            f"{folder} holds several files of weights ({', '.join(p.name for p in others)}): name one of them"
        )
    if (folder / TEXT).is_dir() and (folder / IMAGE).is_dir():
        return weights_in(folder / TEXT)
    raise CheckpointError(f"{folder} holds no weights: looked for {', '.join(WEIGHTS)}, *.safetensors, *.bin, *.pt")


def image_tower_beside(text: Path) -> Path | None:
    """The folder of the image tower that belongs to the text tower in the folder `text`, as `zhclip convert --format
    transformers` writes the two of families that publish them apart; None where there is none."""
    image = text.parent / IMAGE
    return image if text.name == TEXT and image.is_dir() else None


def _differ(one: Path, other: Path) -> bool:
    """Whether two files of weights are known to hold other values. Small tensors tell: training moves every scale and
    bias, and they cost no time. False where one of them cannot be read, or is no model."""
    from zhclip_openclip.checkpoints import _read, _state_dicts

    try:
        first, second = _read.read(one), _read.read(other)
        if first.shapes != second.shapes:
            return bool(_state_dicts.known(first.shapes) == _state_dicts.known(second.shapes) == 2)
        small = [name for name, shape in first.shapes.items() if len(shape) < 2]
        values = {name: tensor.clone() for name, tensor in first.stream(small)}
        return any(
            not bool((values[name].to(tensor.dtype) == tensor.to(values[name].dtype).to(tensor.dtype)).all())
            for name, tensor in second.stream(small)
        )
    except CheckpointError:
        return False
