"""Texts in batches of about the same number of tokens, sorted by their length once over all of them.

A text tower that cuts padding takes as long for a batch as its longest text; so no batch carries much padding.
"""

from __future__ import annotations

import torch

#: Tokens in a batch of prompts, by the kind of device. CPU: with 2 cores RoBERTa-large is as fast in batches of 512 to
#: 4,096 tokens, and 3 to 15 % slower in batches of 8,192; see benchmarks/zero_shot_classifier.py --tune for another
#: machine.
TOKENS_PER_BATCH = {"cpu": 4096}
_OTHER_DEVICES = 16384
#: What starting a batch costs, in tokens: a batch of a few prompts takes as long as if it had so many more.
_TOKENS_A_BATCH_COSTS = 128
#: Prompts in a batch where the tokenizer gives no plain tensor, so that their lengths are unknown.
_TEXTS_PER_BATCH = 256
#: Texts that are tokenized at once.
_TOKENIZED_AT_ONCE = 20_000


def tokens_on(device: str) -> int:
    """Tokens in a batch on this device."""
    return TOKENS_PER_BATCH.get(torch.device(device).type, _OTHER_DEVICES)


class TextBatches:
    """Different texts in batches of about the same number of tokens, the longest first.

    The longest first, so that a machine with too little memory says so at once, and the time left is no promise that
    the end breaks.

    row_of_text: (texts,) which row a text is; two texts can be the same ids (the tokenizer lower-cases).
    order: (rows,) rows in the order of encoding. bounds: start and stop in that order of each batch.
    """

    def __init__(self, model, tokenizer, texts: list[str], budget: int):
        ids = _tokenized(tokenizer, texts)
        self._tokenizer = tokenizer
        if isinstance(ids, torch.Tensor) and ids.ndim == 2 and not ids.is_floating_point():
            ids, self.row_of_text = _different_rows(ids.cpu())
            self._ids: torch.Tensor | None = ids
            lengths = _lengths(ids, _pad_id(model, tokenizer))
            self.order = torch.argsort(lengths, descending=True, stable=True)
            cost = lengths[self.order] if _cuts_padding(model) else torch.full_like(lengths, ids.shape[1])
            self.bounds = _bounds(cost.tolist(), budget)
        else:  # a dictionary of tensors, of a model that is not open_clip's
            self._ids = None
            self.row_of_text = torch.arange(len(texts))
            self.order = torch.tensor(sorted(range(len(texts)), key=lambda index: -len(texts[index])))
            self._texts = texts
            self.bounds = _bounds([1] * len(texts), _TEXTS_PER_BATCH)

    def text_at(self, texts: list[str], place: int) -> str:
        """For an error: the first text that is encoded at this place of the order."""
        return texts[int((self.row_of_text == self.order[place]).nonzero()[0])]

    def of_texts(self, encoded: torch.Tensor) -> torch.Tensor:
        """(texts, d) features in the order of the texts, of (rows, d) in the order of encoding."""
        place = torch.empty_like(self.order)
        place[self.order] = torch.arange(len(self.order))
        return encoded[place[self.row_of_text]]

    def tokens(self, start: int, stop: int):
        """What `encode_text` takes for the rows `order[start:stop]`, still to be moved to the device."""
        if self._ids is not None:
            return self._ids[self.order[start:stop]].long()
        return self._tokenizer([self._texts[index] for index in self.order[start:stop].tolist()])


def _tokenized(tokenizer, texts: list[str]):
    """What the tokenizer makes of all texts: ids in the smallest type that holds them where they are a tensor."""
    first = tokenizer(texts[:_TOKENIZED_AT_ONCE])
    if not isinstance(first, torch.Tensor) or first.is_floating_point():
        return first if len(texts) <= _TOKENIZED_AT_ONCE else tokenizer(texts)
    parts = [first.int()]
    parts += [tokenizer(texts[at : at + _TOKENIZED_AT_ONCE]).int() for at in range(len(first), len(texts), len(first))]
    return torch.cat(parts)


def _different_rows(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    places: dict[bytes, int] = {}
    inverse = [places.setdefault(row.tobytes(), len(places)) for row in ids.numpy()]
    first: dict[int, int] = {}
    for row, place in enumerate(inverse):
        first.setdefault(place, row)
    return ids[list(first.values())], torch.tensor(inverse)


def _lengths(ids: torch.Tensor, pad: int) -> torch.Tensor:
    """Columns up to the last one that is not padding, at least one."""
    return torch.where(ids != pad, torch.arange(1, ids.shape[1] + 1), 1).amax(dim=1)


def _pad_id(model, tokenizer) -> int:
    for owner in (getattr(getattr(model, "text", None), "config", None), getattr(tokenizer, "tokenizer", None)):
        pad = getattr(owner, "pad_token_id", None)
        if isinstance(pad, int):
            return pad
    return 0  # open_clip's own tokenizer


def _cuts_padding(model) -> bool:
    """Whether the time a batch takes depends on its longest text and not on the context length."""
    from zhclip_openclip.towers.text import ChineseTextEncoder

    text = getattr(model, "text", None)
    return isinstance(text, ChineseTextEncoder) and not text.output_tokens


def _bounds(cost: list[int], budget: int) -> list[tuple[int, int]]:
    """Consecutive batches of rows whose cost falls, with the least tokens in all.

    A batch costs its rows times its most costly one, which is its first, and _TOKENS_A_BATCH_COSTS for being one: so
    short prompts get batches of their own where there are enough of them, and little padding is left. No batch is over
    `budget`, but for a row that is so alone.
    """
    starts = [0, *(i for i in range(1, len(cost)) if cost[i] != cost[i - 1]), len(cost)]  # of runs of equal cost

    def batches(first: int, last: int) -> int:
        rows = max(budget // cost[starts[first]], 1)
        return -(-(starts[last] - starts[first]) // rows)

    least, cut = [0.0] * len(starts), [0] * len(starts)  # from a run on: tokens to the end, and where its batches end
    for first in range(len(starts) - 2, -1, -1):
        least[first], cut[first] = min(
            (
                (starts[last] - starts[first]) * cost[starts[first]]
                + batches(first, last) * _TOKENS_A_BATCH_COSTS
                + least[last],
                last,
            )
            for last in range(first + 1, len(starts))
        )
    bounds, first = [], 0
    while first < len(starts) - 1:
        last = cut[first]
        start, stop, count = starts[first], starts[last], batches(first, last)
        edges = [start + (stop - start) * number // count for number in range(count + 1)]
        bounds += list(zip(edges[:-1], edges[1:], strict=True))
        first = last
    return bounds
