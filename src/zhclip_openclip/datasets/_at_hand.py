"""A data set that may be at hand, and what was found of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from zhclip_openclip._content import Content
from zhclip_openclip.prompts import languages


@dataclass(frozen=True)
class Entry:
    """One data set of `data/datasets.json`.

    task: 'retrieval' or 'classification'. images, texts: what is scored, None where its source does not say; prompts of
    a class list do not count as texts. gb: of the download, decimal; None where its source does not say. get, place:
    where from, and where to. embedded: needs no files. published: its authors' files, as {dataset, folders, files,
    needs}. language: what --language says. own_prompts: of a class list, which has templates of its own. host: of a
    retrieval set of clip_benchmark's own, see `host_sets.py`.
    """

    name: str
    title: str
    task: str
    images: int | None
    get: str
    place: str
    licence: str
    texts: int | None = None
    gb: float | None = None
    gb_note: str = ""
    images_elsewhere: dict[str, int] = field(default_factory=dict)
    images_note: str = ""
    note: str = ""
    embedded: bool = False
    published: tuple[dict, ...] = ()
    language: str = languages.SIMPLIFIED
    own_prompts: bool = False
    host: dict | None = None

    @property
    def has_templates(self) -> bool:
        """Whether templates can be chosen for it."""
        return self.task == "classification" and not self.own_prompts

    @property
    def has_gallery(self) -> bool:
        """Whether a page with its queries can be made: its pictures are read by this package."""
        return self.task == "retrieval" and self.host is None


@dataclass(frozen=True)
class Found:
    """A data set that is at hand.

    spelling: what clip_benchmark's --dataset takes. root: its --dataset_root; None for embedded data. layout: what the
    files were recognised as. images, texts: to encode; texts are prompts for a class list. fingerprint: of the data,
    where it costs no reading of all files. shards: of a WebDataset, for which more readers are of no use.

    What a result is bound to beside the fingerprint: listing, of the files that a class list is read from (see
    `_content.py`); prompts, a digest of class names and templates; pictures, the content of those of a retrieval set.
    expected: images of the published data set.
    """

    spelling: str
    root: Path | None
    layout: str
    images: int
    texts: int
    fingerprint: str | None = None
    shards: int | None = None
    listing: str | None = field(default=None, compare=False)
    prompts: str | None = field(default=None, compare=False)
    pictures: Content | None = field(default=None, compare=False)
    expected: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Missing:
    """A data set that is not at hand. reason: one line. absent: nothing of it is there; otherwise it cannot be read."""

    reason: str
    absent: bool = False
