"""Writing a retrieval dataset as WebDataset shards in CLIP_benchmark's own layout, with the exact pairs beside them.

    OUTPUT/dataset_type.txt      retrieval
    OUTPUT/test/0.tar, 1.tar...  s0000000.jpg, s0000000.txt, ...: the picture file as it was, its captions one a line
    OUTPUT/test/nshards.txt      number of shards
    OUTPUT/test/pairs.json       ids, texts and exact relations; its presence says that the export is complete

Plain CLIP_benchmark reads the first three, and scores the same where each text has one image. `pairs.json` holds what
they can't: several images a text, ids, directions. Everything is written under a temporary name and renamed, shards
first and `pairs.json` last: an interrupted export has no nshards.txt, without which CLIP_benchmark refuses to read it,
and the next export keeps the finished shards.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._images import decode_image
from zhclip_openclip.datasets._retrieval import RetrievalDataset
from zhclip_openclip.datasets._tar_images import TarImages

FORMAT_VERSION = 1
DEFAULT_SHARD_SIZE = 2000
PAIRS = "pairs.json"
_STATE = "export.json.part"  # what the shards of an unfinished export belong to


def export_wds(
    dataset: RetrievalDataset,
    output: str | os.PathLike[str],
    shard_size: int = DEFAULT_SHARD_SIZE,
    progress: Callable[[int, int], None] | None = None,
    folder: str = "test",
) -> Path:
    """Writes the shards; goes on where an interrupted export of the same dataset stopped.

    Args:
        dataset: what to write; its order is kept.
        output: the folder, which CLIP_benchmark then calls --dataset_root.
        shard_size: pictures a shard.
        progress: called with (done, all) pictures.
        folder: `test` is what CLIP_benchmark reads by default, whatever the split was called at its source.

    Returns:
        The path of `pairs.json`.

    Raises:
        DatasetError: a shard size below 1; a picture that can't be read.
    """
    if shard_size < 1:
        raise DatasetError(f"shard size {shard_size}: at least one picture goes into a shard")
    target = Path(output) / folder
    target.mkdir(parents=True, exist_ok=True)
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
    if not resuming:
        for old in target.glob("*.tar"):
            old.unlink()
        _write(target / _STATE, json.dumps(state))

    shards = [target / f"{number}.tar" for number in range(-(-len(dataset) // shard_size))]
    for shard, path in enumerate(shards):
        rows = range(shard * shard_size, min(len(dataset), (shard + 1) * shard_size))
        if not path.is_file():
            _write_shard(dataset, rows, path, progress)
        if progress:
            progress(rows.stop, len(dataset))
    written = TarImages(shards)  # reads every header back: a shard that is not whole ends the export here
    if len(written) != len(dataset):
        raise DatasetError(
            f"{target}: {len(written)} of {len(dataset)} pictures were written; remove it and export again"
        )
    _write(Path(output) / "dataset_type.txt", "retrieval\n")
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
    part = path.with_name(path.name + ".part")
    with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
        for index in rows:
            data = dataset.read_image(index)
            extension = _extension(data)
            if extension is None:  # CLIP_benchmark reads JPEG, PNG and WebP; anything else becomes PNG, without loss
                buffer = io.BytesIO()
                decode_image(data, dataset.image_ids[index], dataset.images.where(index)).save(buffer, "PNG")
                data, extension = buffer.getvalue(), "png"
            _add(tar, f"{member_name(index)}.{extension}", data)
            # Whatever splits a line for Python would become a caption of its own; pairs.json has the exact text.
            captions = [" ".join(text.splitlines()) for text in dataset.captions(index)]
            _add(tar, f"{member_name(index)}.txt", "\n".join(captions).encode("utf-8"))
            if progress:
                progress(index, len(dataset))
    with open(part, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)


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
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".new")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
