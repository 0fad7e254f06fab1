"""Chinese captions as people would write them: without part-of-speech tags and without spaces between words.

The Chinese sets of the Flickr family were published segmented into words (BosonNLP), the test sets with a tag after
each word: `一个:m 男人:n 穿着:v T恤:n`. Fed to a model as they are they cost about 20 points of recall
(CLIP_benchmark's pull request #101).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# The tag set that ICTCLAS, BosonNLP and jieba share: a letter, some refined by further ones.
_TAGS = frozenset(
    """
    a b c d e f g h i j k l m n o p q r s t u v w x y z
    ad ag al an bg bl dg dl df en eng id ip lb mg mq ng nl nr nrf nrj nrt ns nsf nt nx nz qt qv rg rr ry rys ryt ryv
    rz rzs rzt rzv tg ud ude uder udeng udh ug uguo uj ul ule ulian uls usuo uv uyy uz uzhe uzhi url tel email
    vd vf vg vi vl vn vq vshi vx vyou wb wd wf wh wj wky wkz wm wn wp ws wt ww wyy wyz xi xu xx yg zg un
    """.split()  # noqa: SIM905, a hundred quoted letters are no easier to read
)
#: Characters of a caption; a model reads about a hundred of them.
LONGEST = 10_000
_LONGEST_TAG = max(map(len, _TAGS))
_CHINESE = re.compile("[⺀-鿿豈-﫿＀-￯　-〿\U00020000-\U0003ffff]")


def clean_caption(text: str) -> str:
    """Removes part-of-speech tags and the spaces between words; leaves what has neither as it is.

    A caption counts as tagged when at least two thirds of its words carry a known tag: `比分 3:a` is not. Spaces go
    where a Chinese character (or full-width sign) stands on either side, so that Latin words stay apart. Cleaning
    twice is cleaning once. What has more than `LONGEST` characters is no caption, and is left as it is.
    """
    if len(text) > LONGEST:
        return text
    while True:  # a caption may hold a colon as a word of its own (`::w`), which looks like a tag when words are joined
        words = text.split()
        cleaned = _join(_untag(words))
        if cleaned == text:
            return cleaned
        # Joined once, words stay apart as they are until one has lost its last tag: all but that one go at once.
        text = " ".join(_without_common_tags(cleaned.split())) if is_tagged(cleaned) else cleaned


def clean_captions(texts: Iterable[str]) -> list[str]:
    """`clean_caption` of each; usable as a dataset's `target_transform`."""
    return [clean_caption(text) for text in texts]


def is_tagged(text: str) -> bool:
    """Whether the words of a caption carry part-of-speech tags."""
    words = text.split()
    tagged = sum(bool(_tags(word, 1)) for word in words)
    return tagged > 0 and 3 * tagged >= 2 * len(words) and _CHINESE.search(text) is not None


def _tags(word: str, most: int | None = None) -> list[int]:
    """Where the tags at the end of a word begin, the last one first; at most so many."""
    places: list[int] = []
    end = len(word)
    while most is None or len(places) < most:
        colon = word.rfind(":", max(0, end - _LONGEST_TAG - 1), end)
        if colon < 0 or word[colon + 1 : end] not in _TAGS:
            break
        places.append(colon)
        end = colon
    return places


def _untag(words: list[str]) -> list[str]:
    """Without the last tag of each word."""
    if not is_tagged(" ".join(words)):
        return words
    return [word[: places[0]] if (places := _tags(word, 1)) else word for word in words]


def _without_common_tags(words: list[str]) -> list[str]:
    """Without as many tags as leave each tagged word one: a word with thousands costs one step, not thousands."""
    places = [_tags(word) for word in words]
    count = min((len(cuts) for cuts in places if cuts), default=1) - 1
    return [word[: cuts[count - 1]] if cuts and count else word for word, cuts in zip(words, places, strict=True)]


def _join(words: list[str]) -> str:
    parts: list[str] = []
    for word in filter(None, words):
        if parts and not (_CHINESE.match(parts[-1][-1]) or _CHINESE.match(word[0])):
            parts.append(" ")
        parts.append(word)
    return "".join(parts)
