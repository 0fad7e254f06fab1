"""Finding picture files by image id in the folders where people keep MSCOCO and Flickr30K."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from zhclip_openclip._errors import shorten
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._images import FolderImages, Skipped


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
        file_names: the names that a picture may have.
        skip: leave out missing ones (they become problems of the source).
        way_out: what the error tells the user to do.

    Raises:
        DatasetError: missing pictures, with their number and where they were looked for.
    """
    existing = list(dict.fromkeys(folder for folder in folders if folder.is_dir()))
    found: dict[str, Path] = {}
    for folder in existing:
        for key in ids:
            if key not in found:
                for name in file_names(key):
                    if (folder / name).is_file():
                        found[key] = folder / name
                        break
        if len(found) == len(ids):
            break
    missing = [key for key in ids if key not in found]
    if missing and (not skip or not found):
        raise DatasetError(
            f"{shorten(existing)}: {len(missing)} of {len(ids)} pictures are not there, "
            f"for example {file_names(missing[0])[0]}; {way_out}"
        )
    kept = [key for key in ids if key in found]
    source = FolderImages(kept, [found[key] for key in kept])
    source.problems = [Skipped(key, str(existing[0]), f"picture {file_names(key)[0]} is not there") for key in missing]
    return source
