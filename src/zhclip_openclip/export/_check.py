"""Is what was written the same model? Both towers on fixed inputs, read back by the library that the folder is for.

A difference is the largest one of any component of any feature, as a share of the length of ours: of features of unit
length it is the plain difference, and a wrong scale shows too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from zhclip_openclip.export._export_error import ExportError
from zhclip_openclip.export._source import Source

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

#: Short and long, both scripts, what tokenizers differ about: full-width and curly punctuation, capitals, accents,
#: tokens with a meaning, an emoji, a space too many, nothing.
TEXTS = (
    "猫",
    "两只黑白相间的小狗在雪地里奔跑。",
    "一张“红色”的照片，拍于２０２４年！",
    "A Photo of a Café in Zürich, naïve",
    "臺灣的街道與騎樓",
    "[SEP]和</s>都是普通的字 [MASK]",
    "  空  格\t和\n换行 ",
    "笑脸😀与龘䶮",
    "",
    "很长的句子" * 40,
)
#: How many inputs are given at once.
BATCHES = (1, 3)
#: How many tokens and pictures of random content are tried beside the real ones.
_RANDOM = 4


def pictures() -> dict[str, Image]:
    """Pictures by kind: what preprocessings differ about. The same ones on every machine.

    The sizes of all but "odd margin" leave even margins at 224, 240 and 336 pixels.
    """
    import numpy as np
    from PIL import Image

    def made(width: int, height: int, channels: int = 3) -> np.ndarray:
        x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
        waves = [np.sin(7 * x * (c + 1) + 5 * y) + np.cos(11 * y - 3 * c * x) for c in range(channels)]
        return ((np.stack(waves, axis=-1) + 2) * 63.75).astype("uint8")

    colour = Image.fromarray(made(200, 200))
    return {
        "wide": Image.fromarray(made(480, 320)),
        "tall": Image.fromarray(made(60, 90)),
        "tiny": Image.fromarray(made(9, 9)),
        "grey": Image.fromarray(made(300, 200, 1)[:, :, 0]),
        "odd margin": Image.fromarray(made(184, 61)),
        "palette": colour.quantize(16),
        "CMYK": colour.convert("CMYK"),
        "transparent": Image.fromarray(made(200, 200, 4), "RGBA"),
    }


class Written(Protocol):
    """A folder that was written, read by the library that it is for. Rows are (inputs, ...); arrays of any kind."""

    def ids(self, texts: Sequence[str]): ...

    def pixels(self, pictures: Sequence[Image]): ...

    def text(self, ids: torch.Tensor): ...

    def image(self, pixels: torch.Tensor): ...


@dataclass(frozen=True)
class Bounds:
    """What differences may be. text, image: of the towers on the same ids and pixels. pictures: of features of
    pictures that the other side preprocessed itself. unlike: kinds of pictures that it is known to preprocess
    otherwise, each with the reason; their difference is told and not bounded."""

    text: float = 1e-5
    image: float = 1e-5
    pictures: float = 1e-5
    unlike: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """what: was compared. value: the largest difference. bound: None where it is only told. note: why."""

    what: str
    value: float
    bound: float | None = None
    note: str = ""

    def __str__(self) -> str:
        told = f"{self.what}: {self.value:.1e}"
        told += f" (at most {self.bound:.0e})" if self.bound is not None else ""
        return told + (f"; {self.note}" if self.note else "")


def compare(source: Source, written: Written, bounds: Bounds, name: str = "") -> list[Difference]:
    """Hold a folder against the model that it was written from.

    name: of what read it, for the lines. Returns what was compared.
    Raises ExportError: a text is cut into other tokens, or a difference is over its bound.
    """
    _compare_tokens(source, written)
    label = f"{name}, " if name else ""
    found = [
        bounded(f"{label}texts", _texts(source, written), bounds.text),
        bounded(f"{label}images", _images(source, written), bounds.image),
    ]
    return found + compare_pictures(source, written, bounds.pictures, bounds.unlike, name)


def compare_pictures(
    source: Source, written: Written, bound: float, unlike: Mapping[str, str], name: str = ""
) -> list[Difference]:
    """The last part of :func:`compare`: features of pictures that each side preprocesses itself."""
    label = f"{name}, " if name else ""
    kinds = _pictures(source, written)
    alike = [kind for kind in kinds if kind not in unlike]
    worst = max(alike, key=lambda kind: kinds[kind])
    found = [bounded(f"{label}pictures, worst of {len(alike)} kinds ({worst})", kinds[worst], bound)]
    # Pictures that differ for one reason are told on one line.
    for reason in dict.fromkeys(unlike.values()):
        group = [kind for kind, told in unlike.items() if told == reason]
        found.append(Difference(f"{label}pictures: {', '.join(group)}", max(kinds[k] for k in group), None, reason))
    return found


def bounded(what: str, value: float, bound: float) -> Difference:
    """A difference that has to be within its bound. Raises ExportError: it is not, or it is no number."""
    difference = Difference(what, value, bound)
    if not value <= bound:
        raise ExportError(
            f"what was written is not the same model: {difference}. Nothing was left behind. This is our bug, unless "
            "the checkpoint holds values that are not finite"
        )
    return difference


def largest(theirs, ours) -> float:
    """The largest difference of any component, as a share of the length of that row of `ours`; nan where one is."""
    import torch

    theirs, ours = torch.as_tensor(theirs).detach().double(), ours.double()
    if theirs.shape != ours.shape:
        raise ExportError(f"features have the shape {list(theirs.shape)} in place of {list(ours.shape)}: our bug")
    return ((theirs - ours).abs() / ours.norm(dim=-1, keepdim=True)).max().item()


def trimmed(ids: torch.Tensor, pad: int) -> torch.Tensor:
    """Without the columns on the right that hold nothing but padding."""
    from zhclip_openclip.towers.text import trim

    return trim(ids, pad)


def _compare_tokens(source: Source, written: Written) -> None:
    import torch

    ours = source.ids(TEXTS)
    theirs = torch.as_tensor(written.ids(TEXTS)).long()
    for row, text in enumerate(TEXTS):
        mine, other = (trimmed(ids[row : row + 1], source.pad)[0].tolist() for ids in (ours, theirs))
        if mine != other:
            raise ExportError(
                f"what was written cuts {text[:20]!r} into the tokens {other[:12]}, and {source.model.name} into "
                f"{mine[:12]}: it would be another model"
            )


def _texts(source: Source, written: Written) -> float:
    """Real texts padded to the context length and not at all, random ids, in batches of several sizes."""
    import torch

    padded = source.ids(TEXTS)
    generator = torch.Generator().manual_seed(0)
    length = source.context_length if source.one_length else min(16, source.context_length)
    vocabulary = source.module.text.vocab_size
    low = min(106, vocabulary // 2)
    random = torch.randint(low, vocabulary, (_RANDOM, length), generator=generator)
    random[1:, length // 2 - 1] = source.tokenizer.eot_token_id  # where some take their features from
    random[1:, length // 2 :] = source.pad
    given = [padded[start : start + size] for size in BATCHES for start in (0, size)] + [padded, random]
    if not source.one_length:
        given += [trimmed(padded[row : row + 1], source.pad) for row in range(len(padded))]  # one text, not padded
        given.append(trimmed(padded[: BATCHES[-1]], source.pad))
    return max(largest(written.text(ids), source.text(ids)) for ids in given)


def _images(source: Source, written: Written) -> float:
    import torch

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(_RANDOM, 3, source.image_size, source.image_size, generator=generator)
    found, start = [], 0
    for size in BATCHES:
        given = pixels[start : start + size]
        found.append(largest(written.image(given), source.image(given)))
        start += size
    return max(found)


def _pictures(source: Source, written: Written) -> dict[str, float]:
    """The difference by kind of picture, each side through its own preprocessing."""
    import torch

    kinds = pictures()
    ours = source.image(source.pixels(list(kinds.values())))
    theirs = torch.as_tensor(written.image(torch.as_tensor(written.pixels(list(kinds.values())))))
    return {kind: largest(theirs[row : row + 1], ours[row : row + 1]) for row, kind in enumerate(kinds)}
