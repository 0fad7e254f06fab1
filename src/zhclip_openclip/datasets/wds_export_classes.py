"""Writing a classification data set of one's own as WebDataset shards, in the layout that CLIP_benchmark reads.

OUTPUT/classnames.txt, OUTPUT/zeroshot_classification_templates.txt    one a line
OUTPUT/dataset_type.txt      classification
OUTPUT/test/0.tar, 1.tar...  s0000000.jpg, s0000000.cls, ...: the picture file as it was, the number of its class
OUTPUT/test/nshards.txt      number of shards, written last: without it CLIP_benchmark refuses to read the rest
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

from zhclip_openclip._files import whole_file
from zhclip_openclip._reading import reading
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._images import decode_image
from zhclip_openclip.datasets._labelled import Labelled

#: How a picture file begins that CLIP_benchmark reads from shards.
_SIGNS = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"))


def export_classes(
    dataset: Labelled,
    output: str | os.PathLike[str],
    shard_size: int = 2000,
    progress: Callable[[int, int], None] | None = None,
    folder: str = "test",
) -> Path:
    """Writes the shards, each whole or not at all; pictures of other kinds than JPEG, PNG and WebP become PNG.

    Args:
        dataset: what to write; its order is kept.
        output: the folder, which CLIP_benchmark then calls --dataset_root.
        shard_size: pictures a shard.
        progress: called with (done, all) pictures.
        folder: `test` is what CLIP_benchmark reads by default.

    Returns:
        The folder of the shards.

    Raises:
        DatasetError: a shard size below 1; a picture that cannot be read; templates that are written for each class,
            which this layout has no place for; a folder or disk that cannot be written.
    """
    if shard_size < 1:
        raise DatasetError(f"shard size {shard_size}: at least one picture goes into a shard")
    classes, templates = dataset.classes or [], dataset.templates
    if isinstance(templates, dict):
        raise DatasetError(f"{dataset.name}: prompts for each class have no place in shards; take templates with {{c}}")
    target = Path(output) / folder
    try:
        target.mkdir(parents=True, exist_ok=True)
        (target / "nshards.txt").unlink(missing_ok=True)  # from here on it is not complete
        shards = -(-len(dataset) // shard_size)
        for shard in range(shards):
            rows = range(shard * shard_size, min(len(dataset), (shard + 1) * shard_size))
            with (
                whole_file(target / f"{shard}.tar") as part,
                tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar,
            ):
                for index in rows:
                    _add(tar, dataset, index)
                    if progress:
                        progress(index + 1, len(dataset))
        for old in target.glob("*.tar"):  # of an export of more
            if old.stem.isdigit() and int(old.stem) >= shards:
                old.unlink()
        words = {"classnames.txt": classes, "zeroshot_classification_templates.txt": templates}
        for name, lines in {**words, "dataset_type.txt": ["classification"]}.items():
            _write(target.parent / name, "\n".join(lines) + "\n")
        _write(target / "nshards.txt", f"{shards}\n")
    except OSError as error:
        raise DatasetError(f"{error.filename or target} cannot be written ({error.strerror}); export again") from error
    return target


def _add(tar: tarfile.TarFile, dataset: Labelled, index: int) -> None:
    path, label = dataset.samples[index]
    with reading(path, DatasetError, "put the picture back"):
        data = Path(path).read_bytes()
    suffix = next((suffix for sign, suffix in _SIGNS if data.startswith(sign)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        suffix = "webp"
    if suffix is None:
        buffer = io.BytesIO()
        decode_image(data, Path(path).name, path).save(buffer, "PNG")
        data, suffix = buffer.getvalue(), "png"
    for name, content in ((suffix, data), ("cls", str(label).encode("ascii"))):
        member = tarfile.TarInfo(f"s{index:07d}.{name}")  # owner and time stay zero: the same data, the same shard
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def _write(path: Path, text: str) -> None:
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")
