"""Writing a retrieval dataset as WebDataset shards in CLIP_benchmark's own layout, with the exact pairs beside them.

    OUTPUT/dataset_type.txt      retrieval
    OUTPUT/test/0.tar, 1.tar...  s0000000.jpg, s0000000.txt, ...: the picture file as it was, its captions one a line
    OUTPUT/test/nshards.txt      number of shards
    OUTPUT/test/pairs.json       ids, texts and exact relations; its presence says that the export is complete

Plain CLIP_benchmark reads the first three, and scores the same where each text has one image. `pairs.json` holds what
they can't: several images a text, ids, directions. Everything is written under a temporary name of its own and renamed,
shards first and `pairs.json` last: an interrupted export has no nshards.txt, without which CLIP_benchmark refuses to
read it, and the next export keeps the finished shards and takes away what the other left. One export at a time is at
work in a folder; others wait for it and find it complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from zhclip_openclip._files import whole_file
from zhclip_openclip._reading import read_json
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._images import open_image
from zhclip_openclip.datasets._pairs_file import PAIRS
from zhclip_openclip.datasets._retrieval import RetrievalDataset
from zhclip_openclip.datasets._tar_images import TarImages

FORMAT_VERSION = 1
DEFAULT_SHARD_SIZE = 2000
_STATE = "export.json.part"  # what the shards of an unfinished export belong to
_LOCK = ".export.lock"
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def export_wds(
    dataset: RetrievalDataset,
    output: str | os.PathLike[str],
    shard_size: int = DEFAULT_SHARD_SIZE,
    progress: Callable[[int, int], None] | None = None,
    folder: str = "test",
    patience: float = 600,
) -> Path:
    """Writes the shards; goes on where an interrupted export of the same dataset stopped.

    Args:
        dataset: what to write; its order is kept.
        output: the folder, which CLIP_benchmark then calls --dataset_root.
        shard_size: pictures a shard.
        progress: called with (done, all) pictures.
        folder: `test` is what CLIP_benchmark reads by default, whatever the split was called at its source.
        patience: seconds to wait for another export that is at work in the same folder.

    Returns:
        The path of `pairs.json`.

    Raises:
        DatasetError: a shard size below 1; a picture that can't be read; a folder or disk that can't be written;
            another export that has not ended in time.
    """
    if shard_size < 1:
        raise DatasetError(f"shard size {shard_size}: at least one picture goes into a shard")
    target = Path(output) / folder
    try:
        target.mkdir(parents=True, exist_ok=True)
        with _alone_in(target, patience):
            return _export(dataset, target, shard_size, progress)
    except OSError as error:
        raise DatasetError(
            f"{error.filename or target} cannot be written ({error.strerror}); the finished shards are kept, and "
            "the next export goes on"
        ) from error


def _export(
    dataset: RetrievalDataset, target: Path, shard_size: int, progress: Callable[[int, int], None] | None
) -> Path:
    state = {
        "format": FORMAT_VERSION,
        "fingerprint": dataset.fingerprint(),
        "shard_size": shard_size,
        "order": _order(dataset),
    }
    if _read_json(target / PAIRS).get("export") == state:
        return target / PAIRS
    resuming = _read_json(target / _STATE) == state
    for name in (PAIRS, "nshards.txt"):  # from here on it is not complete
        (target / name).unlink(missing_ok=True)
    for left in (*target.glob("*.part"), *target.glob("*.new")):  # by a process that was killed
        if left.name != _STATE:
            left.unlink()
    if not resuming:
        for old in target.glob("*.tar"):
            old.unlink()
        _write(target / _STATE, json.dumps(state))

    shards = [target / f"{number}.tar" for number in range(-(-len(dataset) // shard_size))]
    for shard, path in enumerate(shards):
        rows = range(shard * shard_size, min(len(dataset), (shard + 1) * shard_size))
        if path.is_symlink() or not path.is_file():
            _write_shard(dataset, rows, path, progress)
        if progress:
            progress(rows.stop, len(dataset))
    written = TarImages(shards)  # reads every header back: a shard that is not whole ends the export here
    if len(written) != len(dataset):
        raise DatasetError(
            f"{target}: {len(written)} of {len(dataset)} pictures were written; remove it and export again"
        )
    _write(target.parent / "dataset_type.txt", "retrieval\n")
    _write(target / "nshards.txt", f"{len(shards)}\n")
    pairs = {
        "export": state,
        "dataset": dataset.name,
        "split": dataset.split,
        "directions": list(dataset.directions),
        "notes": dataset.notes,
        "images": dataset.image_ids,
        "sizes": [written.size(index) for index in range(len(written))],
        "texts": [
            {"id": entry.id, "text": entry.text, "images": right}
            for entry, right in zip(dataset.texts, dataset.text_to_images, strict=True)
        ],
    }
    _write(target / PAIRS, json.dumps(pairs, ensure_ascii=False))
    (target / _STATE).unlink(missing_ok=True)
    return target / PAIRS


def member_name(index: int) -> str:
    """Key of the image at this position in its shard."""
    return f"s{index:07d}"


def _order(dataset: RetrievalDataset) -> str:
    # The fingerprint leaves out the order, but finished shards are only right for one order.
    return hashlib.sha256("\n".join(dataset.image_ids).encode("utf-8")).hexdigest()


def _write_shard(
    dataset: RetrievalDataset, rows: range, path: Path, progress: Callable[[int, int], None] | None
) -> None:
    with whole_file(path) as part:
        with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
            for index in rows:
                data, extension = _as_clip_benchmark_reads(dataset, index)
                _add(tar, f"{member_name(index)}.{extension}", data)
                # Whatever splits a line for Python would become a caption of its own; pairs.json has the exact text.
                captions = [" ".join(text.splitlines()) for text in dataset.captions(index)]
                _add(tar, f"{member_name(index)}.txt", "\n".join(captions).encode("utf-8"))
                if progress:
                    progress(index, len(dataset))
        with open(part, "rb+") as file:
            os.fsync(file.fileno())


def _as_clip_benchmark_reads(dataset: RetrievalDataset, index: int) -> tuple[bytes, str]:
    """The file of a picture and its extension. CLIP_benchmark reads JPEG, PNG and WebP; anything else becomes PNG, in
    its own mode, so that a transform sees the same pixels; in RGB where PNG has no such mode (CMYK)."""
    data = dataset.read_image(index)
    extension = _extension(data)
    if extension is not None:
        return data, extension
    image = open_image(data, dataset.image_ids[index], dataset.images.where(index))
    buffer = io.BytesIO()
    (image if image.mode in _PNG_MODES else image.convert("RGB")).save(buffer, "PNG")
    return buffer.getvalue(), "png"


@contextlib.contextmanager
def _alone_in(folder: Path, patience: float) -> Iterator[None]:
    """Waits until no other export is at work in a folder. The lock goes with the process that holds it.

    Raises DatasetError: one is, after `patience` seconds.
    """
    try:
        import fcntl
    except ImportError:  # Windows: whole files alone
        yield
        return
    path, until = folder / _LOCK, time.monotonic() + patience
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it has taken the file away: what is locked here may be no lock any more.
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                break
        except BlockingIOError:
            if time.monotonic() > until:
                os.close(handle)
                raise DatasetError(
                    f"{folder}: another export has been at work here for {patience:.0f} s; start again when it ends"
                ) from None
            time.sleep(0.2)
        except OSError:  # a file system without locks: whole files alone
            break
        os.close(handle)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(handle)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # owner and time stay zero: the same data gives the same shard
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _extension(data: bytes) -> str | None:
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


def _read_json(path: Path) -> dict:
    """The object in a file of an earlier export; nothing where it is absent or damaged."""
    try:
        return read_json(path, DatasetError)
    except DatasetError:
        return {}


def _write(path: Path, text: str) -> None:
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
