"""A sheet of pictures with their captions, to see at a glance whether a dataset was read right."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from zhclip_openclip._files import whole_file
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._images import decode_image
from zhclip_openclip.datasets._labelled import Captioned, Labelled
from zhclip_openclip.datasets._retrieval import RetrievalDataset

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

# (file, face in a collection) where systems keep a font with Chinese glyphs; face 2 of Noto's collection is simplified
_FONTS = (
    ("/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc", 2),
    ("/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc", 2),
    ("/usr/share/fonts/google-noto-cjk/NotoSansCJK-Regular.ttc", 2),
    ("/usr/share/fonts/truetype/wqy/wqy-microhei.ttc", 0),
    ("/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc", 0),
    ("/usr/share/fonts/wqy-microhei/wqy-microhei.ttc", 0),
    ("/System/Library/Fonts/PingFang.ttc", 0),
    ("/System/Library/Fonts/Hiragino Sans GB.ttc", 0),
    ("/System/Library/Fonts/STHeiti Light.ttc", 0),
    ("C:/Windows/Fonts/msyh.ttc", 0),
    ("C:/Windows/Fonts/simhei.ttf", 0),
    ("C:/Windows/Fonts/simsun.ttc", 0),
)
_CELL, _PICTURE, _PAD, _COLUMNS, _SIZE, _LINES = 280, 200, 12, 4, 16, 5


def contact_sheet(
    dataset: RetrievalDataset | Labelled,
    path: str | os.PathLike[str],
    n: int = 12,
    font: str | os.PathLike[str] | None = None,
) -> Path:
    """Writes a PNG with n pictures, evenly spread over the dataset, each with its id and captions.

    Args:
        dataset: what to show.
        path: where to.
        n: how many pictures.
        font: a font file with Chinese glyphs; by default one of the system's.

    Raises:
        DatasetError: no font with Chinese glyphs; a picture that does not decode.
    """
    from PIL import Image, ImageDraw

    if isinstance(dataset, Labelled):
        dataset = Captioned(dataset)
    face = load_font(font, _SIZE)
    count = max(1, min(n, len(dataset)))
    chosen = [index * len(dataset) // count for index in range(count)]
    columns = min(_COLUMNS, count)
    line = _SIZE + 6
    height = _PICTURE + (_LINES + 1) * line + 2 * _PAD
    sheet = Image.new("RGB", (columns * _CELL + _PAD, -(-count // columns) * height + line + 2 * _PAD), "white")
    draw = ImageDraw.Draw(sheet)
    counted = getattr(dataset, "counted", None) or f"{len(dataset.texts)} 条文本"
    title = f"{dataset.name} · {dataset.split} · {len(dataset)} 张图片 · {counted}"
    draw.text((_PAD, _PAD), title, font=face, fill="black")
    for place, index in enumerate(chosen):
        left = _PAD + place % columns * _CELL
        top = line + 2 * _PAD + place // columns * height
        picture = decode_image(dataset.read_image(index), dataset.image_ids[index], dataset.images.where(index))
        scale = min((_CELL - _PAD) / picture.width, _PICTURE / picture.height)
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        sheet.paste(picture.resize(size), (left + (_CELL - _PAD - size[0]) // 2, top + (_PICTURE - size[1]) // 2))
        top += _PICTURE + 4
        draw.text((left, top), _wrap(dataset.image_ids[index], draw, face, 1)[0], font=face, fill="#777777")
        captions = dataset.captions(index) or ["（没有文本）"]
        lines = [part for text in captions for part in _wrap(f"· {text}", draw, face, 3)]
        if len(lines) > _LINES:
            lines = [*lines[: _LINES - 1], f"… 共 {len(captions)} 条"]
        for number, text in enumerate(lines, start=1):
            draw.text((left, top + number * line), text, font=face, fill="black")
    path = Path(path)
    with whole_file(path) as part:
        sheet.save(part, "PNG")
    return path


def load_font(font: str | os.PathLike[str] | None, size: int) -> ImageFont.FreeTypeFont:
    """A font that has Chinese glyphs: the given one, else the first of the system's.

    Raises:
        DatasetError: the given file is no font or has no Chinese glyphs; the system has none.
    """
    from PIL import ImageFont

    for file, face in [(str(font), 0)] if font is not None else _candidates():
        if font is None and not os.path.isfile(file):
            continue
        try:
            loaded = ImageFont.truetype(file, size, index=face)
        except OSError:
            if font is not None:
                raise DatasetError(f"{file}: not a font file; give --font a .ttf, .otf or .ttc") from None
            continue
        if _has_chinese(loaded):
            return loaded
        if font is not None:
            raise DatasetError(f"{file}: the font has no Chinese glyphs; give --font one that has (Noto Sans CJK)")
    raise DatasetError(
        "no font with Chinese glyphs found; install one (apt-get install fonts-noto-cjk, dnf install "
        "google-noto-sans-cjk-fonts) or give --font FILE"
    )


def _candidates() -> Iterator[tuple[str, int]]:
    yield from _FONTS
    # Whatever else fontconfig knows, on systems that have it.
    lister = shutil.which("fc-list")
    if lister:
        listed = subprocess.run([lister, ":lang=zh", "file", "index"], capture_output=True, text=True, check=False)
        for line in sorted(listed.stdout.splitlines()):
            file, _, index = line.partition(": :index=")
            yield file.rstrip(": "), int(index) if index.isdigit() else 0


def _has_chinese(font: ImageFont.FreeTypeFont) -> bool:
    # A font draws the same box for every glyph that it lacks.
    drawn = {bytes(font.getmask(character)) for character in ("中", "猫", "\U0010fffd")}
    return len(drawn) == 3


def _wrap(text: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, most: int) -> list[str]:
    """Breaks a text into at most so many lines of the width of a cell, an ellipsis for the rest."""
    lines, width = [""], _CELL - _PAD
    for character in " ".join(text.split()):
        if draw.textlength(lines[-1] + character, font=font) <= width:
            lines[-1] += character
        elif len(lines) < most:
            lines.append(character)
        else:
            lines[-1] = lines[-1][:-1] + "…"
            break
    return lines
