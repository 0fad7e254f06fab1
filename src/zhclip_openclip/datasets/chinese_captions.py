"""clip_benchmark's own retrieval sets in Chinese: their captions without part-of-speech tags and spaces between words.

clip_benchmark 1.6.2 hands `flickr30k --language zh` to the model with the tags of the word segmenter still in its
captions (https://github.com/LAION-AI/CLIP_benchmark/pull/101).
"""

from __future__ import annotations

from zhclip_openclip.datasets.captions import clean_captions
from zhclip_openclip.datasets.unreadable import Guarded

#: Data sets of clip_benchmark with Chinese captions, and what they call simplified and traditional Chinese.
LANGUAGES = {
    "crossmodal3600": {"zh": "zh"},
    "xtd10": {"zh": "zh"},
    "xtd200": {"zh": "zho_Hans", "zh_Hant": "zho_Hant"},
    "flickr30k-200": {"zh": "zho_Hans", "zh_Hant": "zho_Hant"},
    "multilingual_mscoco_captions": {"zh": "zh"},
    "flickr30k": {"zh": "zh"},
    "flickr8k": {"zh": "zh"},
}


class ChineseCaptions:
    """A map-style data set of (image, captions) with its captions cleaned; all else is the data set it stands for.
    An image that cannot be read is an error of one line with its name.

    raw: leave the captions as they are.
    """

    #: Asks for the scoring that our own retrieval sets have.
    official_scoring = True

    def __init__(self, dataset, raw: bool = False):
        self._dataset = Guarded(dataset, type(dataset).__name__)
        self._raw = raw

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int):
        image, captions = self._dataset[index]
        return image, captions if self._raw else clean_captions(captions)

    def __getattr__(self, name: str):
        if name.startswith("__") or name == "_dataset":  # while it is being unpickled there is no data set yet
            raise AttributeError(name)
        return getattr(self._dataset, name)
