"""Where the pictures of a dataset come from: encoded bytes by position, with random access from any process."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zhclip_openclip._errors import printable
from zhclip_openclip._reading import reading
from zhclip_openclip.datasets._dataset_error import DatasetError

if TYPE_CHECKING:
    import PIL.Image


#: The bytes of a HEIF picture from its fifth on, in the spellings of cameras and telephones.
_HEIF = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"))


class Skipped(NamedTuple):
    """Something that was left out: an image or text id, its place as file:line, and why."""

    key: str
    where: str
    reason: str

    def printable(self) -> Skipped:
        """The same in texts that any file and terminal takes: places are paths, which may be no Unicode."""
        return Skipped(*map(printable, self))


class ImageSource:
    """Encoded pictures by position. Subclasses set `ids`, say how to read, and survive pickling and forking."""

    ids: Sequence[str]
    problems: Sequence[Skipped] = ()  # what was unreadable when the source was opened; not in `ids`

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int) -> bytes:
        """The picture file as it was encoded (JPEG, PNG, ...)."""
        raise NotImplementedError

    def size(self, index: int) -> int:
        """Bytes of the picture file; cheap."""
        raise NotImplementedError

    def where(self, index: int) -> str:
        """Its place for an error: file:line, file, or file[member]."""
        raise NotImplementedError


class FolderImages(ImageSource):
    """Picture files in folders."""

    def __init__(self, ids: Sequence[str], paths: Sequence[Path]) -> None:
        self.ids, self._paths = list(ids), [str(path) for path in paths]

    def read(self, index: int) -> bytes:
        with reading(self._paths[index], DatasetError, "put the picture back"), open(self._paths[index], "rb") as file:
            return file.read()

    def size(self, index: int) -> int:
        with reading(self._paths[index], DatasetError, "put the picture back"):
            return os.path.getsize(self._paths[index])

    def where(self, index: int) -> str:
        return self._paths[index]


class Selection(ImageSource):
    """Some pictures of another source."""

    def __init__(self, source: ImageSource, keep: Sequence[int]) -> None:
        self._source, self._keep = source, list(keep)
        self.ids = [source.ids[index] for index in self._keep]

    def read(self, index: int) -> bytes:
        return self._source.read(self._keep[index])

    def size(self, index: int) -> int:
        return self._source.size(self._keep[index])

    def where(self, index: int) -> str:
        return self._source.where(self._keep[index])


def open_image(data: bytes, key: str, where: str, draft: bool = False) -> PIL.Image.Image:
    """bytes -> the picture as it was opened: in its own mode (palette, transparency, 16 bit), its first frame, not
    turned by EXIF. Chinese-CLIP hands it to its transform like this.

    Grey becomes RGB, which no resizing can tell and every transform takes.

    Args:
        data: an encoded picture.
        key, where: its id and place, for the error.
        draft: a smaller JPEG will do; reads the whole file all the same, several times as fast.

    Raises:
        DatasetError: whatever the decoder has against it.
    """
    from PIL import Image

    if data[4:12] in _HEIF:
        _read_heif()
    try:
        image: Any = Image.open(io.BytesIO(data))
        if draft:
            image.draft("RGB", (1, 1))
        image.load()
        in_rgb = image if image.mode == "RGB" else image.convert("RGB")  # what cannot be converted is found here
        return in_rgb if image.mode in ("L", "RGB") else image
    except Exception as error:  # Pillow's plugins raise almost anything on broken files
        reason = "not a picture" if isinstance(error, Image.UnidentifiedImageError) else str(error) or repr(error)
        raise DatasetError(
            f"{where}: image {key} does not decode ({reason}); fetch the file again, or use --skip-bad-images"
        ) from None


def _read_heif() -> None:
    """Let Pillow read HEIF pictures, as telephones make them, where pillow-heif is installed. Twice is once."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return
    register_heif_opener()


def decode_image(data: bytes, key: str, where: str, draft: bool = False) -> PIL.Image.Image:
    """bytes -> RGB picture, for people and for what wants RGB. Arguments and errors as :func:`open_image`."""
    image = open_image(data, key, where, draft)
    return image if image.mode == "RGB" else image.convert("RGB")


def converts_itself(transform: object) -> bool:
    """Whether a transform has a step that converts to RGB, as those of open_clip, of OpenAI and of this package have.

    Told by the names of its steps (`_convert_to_rgb`, `to_rgb`, torchvision's `RGB`, timm's `MaybeConvertMode`), since
    trying it out would disturb one that counts or draws lots. One without such a step would take transparency for a
    colour.
    """
    steps = getattr(transform, "transforms", None)
    if isinstance(steps, (list, tuple)):
        return any(map(converts_itself, steps))
    function = getattr(transform, "lambd", transform)  # torchvision's Lambda
    name = getattr(function, "__name__", type(function).__name__).lower()
    return "rgb" in name or ("convert" in name and getattr(function, "mode", None) == "RGB")
