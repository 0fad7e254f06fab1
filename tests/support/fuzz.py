"""Damaged and made-up input for readers, by Hypothesis. Not a test.

A run is short and the same each time. `ZHCLIP_FUZZ_SECONDS=120` makes each test go on for so long with other inputs,
and `ZHCLIP_FUZZ_SEED=3` chooses which: a failure comes again under the same seed.
"""

from __future__ import annotations

import copy
import os
import time
import unicodedata
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from zhclip_openclip._errors import ZhclipError

SECONDS = float(os.environ.get("ZHCLIP_FUZZ_SECONDS", "0"))
SEED = int(os.environ.get("ZHCLIP_FUZZ_SEED", "0"))
T = TypeVar("T")

#: What has broken readers before: numbers without end, depth, half characters, signs that act on terminals and lines.
WORDS = (
    b"null",
    b"NaN",
    b"-1",
    b"1e999",
    b"true",
    b'"\\ud83d"',
    b"9" * 5000,
    b"[" * 3000,
    b'{"a":' * 2000,
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xb5\xda",
    b"\n",
    b"\r",
    b"\t",
    b"#",
    b"\x1b]0;x\x07",
    b"\xff" * 8,
    b"\x00" * 512,
    b"../",
    b"300000000",
)

#: Values of JSON of every kind, a text with half a surrogate pair and deep ones among them.
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(["", " ", "\u200b", "第一", "1000", "1000.0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def run(check: Callable[[Any], None], strategy: st.SearchStrategy, examples: int = 60) -> None:
    """Call `check` on values of a strategy: so many, and as many again until the time that was asked for is over."""
    until, round_ = time.monotonic() + SECONDS, 0
    # Files and processes make an example slow now and then, which says nothing about what is tested.
    how = settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))

    def once(value):
        check(value)

    while True:
        seed(SEED * 1_000_003 + round_)(how(given(strategy)(once)))()
        round_ += 1
        if time.monotonic() >= until:
            return


@st.composite
def damaged(draw, *originals: bytes) -> bytes:
    """One of these with up to four changes, as copies, editors, disks and people make them."""
    data = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([1, 1, 2, 8, 100])))
        kind = draw(st.sampled_from(["set", "flip", "cut", "take out", "put in", "instead", "twice"]))
        if kind == "set":
            data = data[:start] + bytes([draw(st.integers(0, 255))]) + data[start + 1 :]
        elif kind == "flip" and start < len(data):
            data = data[:start] + bytes([data[start] ^ 1 << draw(st.integers(0, 7))]) + data[start + 1 :]
        elif kind == "cut":
            data = data[:start]
        elif kind == "take out":
            data = data[:start] + data[end:]
        elif kind == "twice":
            data = data[:end] + data[start:]
        elif kind in ("put in", "instead"):
            word = draw(st.sampled_from(WORDS) | st.binary(max_size=6))
            data = data[:start] + word + data[start if kind == "put in" else end :]
    return data


@st.composite
def altered(draw, document):
    """A JSON document in which one value, at any depth, is another one, or a field is gone."""
    document = copy.deepcopy(document)
    place = document
    while True:
        key = draw(st.sampled_from(sorted(place)) if isinstance(place, dict) else st.integers(0, len(place) - 1))
        inner = place[key]
        if not (isinstance(inner, (dict, list)) and inner) or draw(st.integers(0, 5)) == 0:
            break
        place = inner
    if isinstance(place, dict) and draw(st.integers(0, 7)) == 0:
        del place[key]
    else:
        place[key] = draw(JSON | st.sampled_from([-1, 0, 1, 2**31, "0", True, [0], [-1], [[0]]]))
    return document


def refused(read: Callable[[], T]) -> T | None:
    """What `read` gives; None if it refuses in the way that is promised: by an error of ours, of one line that any
    terminal and file takes. Any other exception is the caller's."""
    try:
        return read()
    except ZhclipError as error:
        message = str(error)
        assert message and not {unicodedata.category(sign) for sign in message} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
        return None
