"""Caption files of the COCO-CN and Flickr30K-CN releases and their offspring: one caption a line, after an image id.

COCO_val2014_000000324313#0<tab>caption         COCO-CN, written by people
COCO_val2014_000000324313#zhm#0 caption         zhm: translated by people; zhb: by a machine
4385058960#zhm#0 一:m 只:q 狗:n                  Flickr30K-CN, segmented and tagged
4385058960.jpg#0<tab>一只狗                      Flickr30K-CNA's test file
4385058960.jpg,一只狗                            CLIP_benchmark's spelling, under the header `image,caption`
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets._text_lines import text_lines

_SUFFIX = r"\.(?i:jpe?g|png|webp|gif|bmp|tiff?)"
_NUMBERED = re.compile(rf"(?P<image>[^\s#,]+?)(?P<ext>{_SUFFIX})?(?:#(?P<kind>[a-z]+))?#(?P<number>\d+)\s+(?P<text>.*)")
_BARE = re.compile(rf"(?P<image>[^\s#,]+?)(?P<ext>{_SUFFIX})\s*[,\t ](?P<text>.*)")


class CaptionLine(NamedTuple):
    """An image id without extension, the text's id, the text, 'zhm'/'zhb'/'' for how it was made, its place, and what
    the line calls the picture: with the extension that stands there."""

    image: str
    id: str
    text: str
    kind: str
    where: str
    file: str


def caption_lines(path: Path) -> Iterator[CaptionLine]:
    """All captions of a file; an error names the line that is none."""
    seen: Counter[str] = Counter()
    for number, (place, line, complete) in enumerate(text_lines(path)):
        line = line.strip()
        match = _NUMBERED.fullmatch(line) or _BARE.fullmatch(line)
        if match is None or not match["text"].strip():
            if number == 0 and line.replace(" ", "").lower() in ("image,caption", "image\tcaption"):
                continue
            if not complete:
                raise DatasetError(f"{place}: the last line is cut off: copy the file again")
            raise DatasetError(f"{place}: no caption line ({line[:40]!r}); needed: image id, #number, tab, caption")
        groups = match.groupdict()
        image, kind = groups["image"], groups.get("kind") or ""
        name = groups.get("number")
        if name is None:
            name = str(seen[image])
            seen[image] += 1
        key = "#".join(part for part in (image, kind, name) if part)
        yield CaptionLine(image, key, match["text"].strip(), kind, place, image + (groups["ext"] or ""))


def has_captions(path: Path) -> bool:
    """Whether the first line is a caption (an id list has none). Raises DatasetError: not UTF-8, empty."""
    _, line, _ = next(text_lines(path))
    return bool(_NUMBERED.fullmatch(line.strip()) or _BARE.fullmatch(line.strip()))
