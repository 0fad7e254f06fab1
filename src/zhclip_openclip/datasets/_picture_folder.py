"""Finding picture files by image id in the folders where people keep MSCOCO and Flickr30K."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from zhclip_openclip._errors import shorten
from zhclip_openclip.datasets._dataset_error import Incomplete
from zhclip_openclip.datasets._images import FolderImages, Skipped

#: What a picture may be called when it is not called what it should be; the best first.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def find_pictures(
    ids: Sequence[str],
    folders: Sequence[Path],
    file_names: Callable[[str], Sequence[str]],
    skip: bool,
    way_out: str,
) -> FolderImages:
    """The pictures of these ids, in this order.

    Args:
        ids: image ids.
        folders: where to look, best first; those that don't exist are passed over.
        file_names: the names that a picture may have. What is not there under any of them is looked for once more
            without regard to case and suffix.
        skip: leave out missing ones (they become problems of the source).
        way_out: what the error tells the user to do.

    Raises:
        Incomplete: missing pictures, with their number and where they were looked for.
    """
    existing = list(dict.fromkeys(folder for folder in folders if folder.is_dir()))
    found: dict[str, Path] = {}
    for exact in (True, False):
        for folder in existing:
            missing = [key for key in ids if key not in found]
            if not missing:
                break
            alike = None if exact else _by_stem(folder)
            for key in missing:
                path = _exact(folder, file_names(key)) if alike is None else _alike(alike, file_names(key))
                if path is not None:
                    found[key] = path
    missing = [key for key in ids if key not in found]
    if missing and (not skip or not found):
        raise Incomplete(
            f"{shorten(existing or folders)}: {len(missing)} of {len(ids)} pictures are not there, "
            f"for example {file_names(missing[0])[0]}; {way_out}"
        )
    kept = [key for key in ids if key in found]
    source = FolderImages(kept, [found[key] for key in kept])
    source.problems = [Skipped(key, str(existing[0]), f"picture {file_names(key)[0]} is not there") for key in missing]
    return source


def _exact(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    """The pictures of a folder by name without suffix, in lower case."""
    result: dict[str, list[Path]] = {}
    with os.scandir(folder) as entries:
        paths = [Path(entry.path) for entry in entries if entry.name.lower().endswith(SUFFIXES) and entry.is_file()]
    for path in sorted(paths, key=lambda path: (SUFFIXES.index(path.suffix.lower()), path.name)):
        result.setdefault(path.stem.lower(), []).append(path)
    return result


def _alike(by_stem: dict[str, list[Path]], names: Sequence[str]) -> Path | None:
    """The picture whose name differs in case and suffix alone; none where two differ in case, of which either may be
    meant."""
    for name in names:
        stem = os.path.splitext(name)[0]
        paths = by_stem.get(stem.lower(), [])
        same_case = [path for path in paths if path.stem == stem]
        if same_case or len({path.stem for path in paths}) == 1:
            return (same_case or paths)[0]
    return None
