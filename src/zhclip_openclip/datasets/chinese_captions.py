"""clip_benchmark's own retrieval sets in Chinese: their language codes, and their captions without part-of-speech tags
and spaces between words.

clip_benchmark 1.6.2 hands `flickr30k --language zh` to the model with the tags of the word segmenter still in its
captions (https://github.com/LAION-AI/CLIP_benchmark/pull/101). Each of its data sets has codes of its own for Chinese,
and its English ones read whatever `--language` says in English.
"""

from __future__ import annotations

from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets.captions import clean_captions
from zhclip_openclip.datasets.unreadable import Guarded
from zhclip_openclip.prompts import languages
from zhclip_openclip.prompts._files import packaged

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
#: Those whose texts are English whatever the language, and where the like is in Chinese.
_ENGLISH = {
    "mscoco_captions": "coco-cn, coco-cn-translated and xtd10 have Chinese captions of MSCOCO's pictures",
    "winoground": "no Chinese version of it is known here",
    "sugar_crepe": "no Chinese version of it is known here",
}


def code(dataset: str, language: str) -> str | None:
    """What a data set of clip_benchmark's calls the Chinese that is asked for; None for any other language or data set.

    Raises PromptError: it looks like Chinese and is none. DatasetError: the data set has no such Chinese, with the code
    of what it has.
    """
    if dataset in LANGUAGES:
        codes = LANGUAGES[dataset]
        if language in codes.values():
            return language
        normal = languages.normalise(language)
        if normal in codes:
            return codes[normal]
        if normal == languages.TRADITIONAL:
            raise DatasetError(
                f"--language {language}: the Chinese captions of {dataset} are in simplified characters; that is "
                f"--language {codes[languages.SIMPLIFIED]}"
            )
        return None
    english = _ENGLISH.get(dataset.partition("/")[0])
    if english and languages.is_chinese(language):
        raise DatasetError(f"--language {language}: {dataset} has English texts alone, --language en; {english}")
    return None


class ChineseCaptions:
    """A map-style data set of (image, captions) with its captions cleaned; all else is the data set it stands for.
    An image that cannot be read is an error of one line with its name.

    name: of the data set, for what a reader of the numbers should know. raw: leave the captions as they are.

    Raises DatasetError: it is empty.
    """

    #: Asks for the scoring that our own retrieval sets have.
    official_scoring = True

    def __init__(self, dataset, name: str = "", raw: bool = False):
        self._dataset = Guarded(dataset, name or type(dataset).__name__)
        self._raw = raw
        self.notes = _notes(dataset, name)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int):
        image, captions = self._dataset[index]
        return image, captions if self._raw else clean_captions(captions)

    def __getattr__(self, name: str):
        if name.startswith("__") or name == "_dataset":  # while it is being unpickled there is no data set yet
            raise AttributeError(name)
        return getattr(self._dataset, name)


def _notes(dataset, name: str) -> list[str]:
    """clip_benchmark takes what a server answers for captions, however few lines that are."""
    here, file = len(dataset), getattr(dataset, "ann_file", "")
    again = f"remove {file}, so that clip_benchmark writes it again" if file else "fetch it again"
    if not here:
        raise DatasetError(f"{name}: there is no caption in it; {again}")
    published = packaged("datasets.json")["datasets"].get(name, {}).get("images")
    if published and here != published:
        return [f"{here:,} pictures, and the published {name} has {published:,}; if the copy is not complete, {again}"]
    return []
