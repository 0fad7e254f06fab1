"""The zero-shot classifier: one vector for each class, from all its prompts.

    w_c = n( 1/|P_c| * sum over p in P_c of n(t(p)) )

n(x) = x / ||x||, t is the text tower, P_c the prompts of class c.

Source: Radford et al. 2021 (arXiv:2103.00020), section 3.1.4, as CLIP_benchmark's `zero_shot_classifier` computes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

from zhclip_openclip.features import finite, ranks
from zhclip_openclip.features.linear import fast_linear
from zhclip_openclip.features.progress import Progress
from zhclip_openclip.prompts._errors import PromptError

#: Tokens in a batch of prompts, by the kind of device. CPU: with 2 cores RoBERTa-large is as fast in batches of 512 to
#: 4,096 tokens, and 3 to 15 % slower in batches of 8,192; see benchmarks/zero_shot_classifier.py --tune for another
#: machine.
TOKENS_PER_BATCH = {"cpu": 4096}
_OTHER_DEVICES = 16384
#: What starting a batch costs, in tokens: a batch of a few prompts takes as long as if it had so many more.
_TOKENS_A_BATCH_COSTS = 128
#: Prompts in a batch where the tokenizer gives no plain tensor, so that their lengths are unknown.
_TEXTS_PER_BATCH = 256
#: Prompts that several processes encode before they tell each other: 200 MB of features in 768 dimensions.
_PROMPTS_BETWEEN_EXCHANGES = 2**16


def zero_shot_classifier(
    model,
    tokenizer,
    classnames: Sequence[str],
    templates: list[str] | dict[str, list[str]],
    device: str,
    amp: bool = True,
    tokens_per_batch: int | None = None,
) -> torch.Tensor:
    """(embed_dim, classes) unit vectors, one column for each class.

    Meant for the patch of `clip_benchmark.metrics.zeroshot_classification.zero_shot_classifier`: the same arguments
    and, within 1e-5, the same result. That encodes class by class; here prompts that are equal are encoded once, and
    all of them together in the order of their length, so that no batch carries much padding and each fills the machine.

    model: has `encode_text`. tokenizer: a list of texts to a (texts, length) tensor of ids.
    templates: texts with `{c}`, or class name -> finished prompts.
    amp: mixed precision; the caller decides.

    Raises PromptError: no prompts, or none for a class. FiniteError: features of a prompt that are not finite.
    """
    texts, text_of, class_of = _prompts(classnames, templates)
    kind = torch.device(device).type
    total: torch.Tensor | None = None
    batches = _Batches(model, tokenizer, texts, tokens_per_batch or TOKENS_PER_BATCH.get(kind, _OTHER_DEVICES))
    uses = _Uses(batches.prompt_of_text[text_of], class_of, batches.order)
    with torch.no_grad(), torch.autocast(kind, enabled=amp), Progress("prompts", "", len(batches.order)) as progress:
        for bounds, blocks in _encoded(model, batches, texts, device, amp, progress):
            for (start, stop), unit in zip(bounds, blocks, strict=True):
                if total is None:
                    total = torch.zeros(len(classnames), unit.shape[-1], dtype=torch.float32, device=unit.device)
                    dtype = unit.dtype
                rows, classes = uses.between(start, stop)
                # Added up at once, so that memory is needed for the classes and not for all their prompts.
                total.index_add_(0, classes.to(unit.device), unit.float()[rows.to(unit.device)])
        counts = torch.bincount(class_of, minlength=len(classnames)).to(total)
        mean = total / counts[:, None]
        norms = mean.norm(dim=-1, keepdim=True)
        # Prompts that cancel out leave nothing to divide by.
        finite.check(1 / norms, lambda row: f"the mean of the prompts of {classnames[row]!r}", device, amp)
        # A GPU adds up in an order of its own, so that of several processes all take one result.
        return ranks.from_first((mean / norms).to(dtype).T.contiguous().to(device))


def _encoded(
    model, batches: _Batches, texts: list[str], device: str, amp: bool, progress: Progress
) -> Iterator[tuple[list[tuple[int, int]], list[torch.Tensor]]]:
    """Batches one after the other: their bounds and (prompts, d) unit features on `device`.

    Several processes encode a part of some each, and get the others' parts; what is added up, and in which order, is
    that of one process.
    """
    for window in _windows(batches.bounds):
        mine = []
        for index in ranks.part(len(window)):
            with fast_linear(model, device, amp):
                features = model.encode_text(batches.tokens(*window[index]).to(device))
            mine.append(F.normalize(features, dim=-1))
            finite.check(mine[-1], lambda row, at=window[index][0]: batches.named(texts, at + row), device, amp)
            progress.add(len(features))
        if ranks.size() > 1:
            progress.wait()
            rows = torch.cat(ranks.everyones_rows(torch.cat(mine) if mine else None))
            mine = [part.to(device) for part in rows.split([stop - start for start, stop in window])]
        yield window, mine


def _windows(bounds: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """One batch at a time; of several processes as many as they encode before they tell each other."""
    window: list[tuple[int, int]] = []
    for start, stop in bounds:
        window.append((start, stop))
        if ranks.size() == 1 or stop - window[0][0] >= _PROMPTS_BETWEEN_EXCHANGES:
            yield window
            window = []
    if window:
        yield window


def _prompts(classnames: Sequence[str], templates) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """The different texts, and for each prompt of each class the position of its text and its class."""
    places: dict[str, int] = {}
    text_of: list[int] = []
    class_of: list[int] = []
    for index, name in enumerate(classnames):
        if isinstance(templates, dict):
            prompts = templates.get(name)
        else:
            prompts = [template.format(c=name) for template in templates]
        if not prompts:
            raise PromptError(f"there are no prompts for the class {name!r}; look at --custom_template_file")
        for prompt in prompts:
            text_of.append(places.setdefault(prompt, len(places)))
            class_of.append(index)
    if not places:
        raise PromptError("there are no classes to make a classifier for")
    return list(places), torch.tensor(text_of), torch.tensor(class_of)


class _Batches:
    """Different prompts in batches of about the same number of tokens, the longest first.

    The longest first, so that a machine with too little memory says so at once, and the time left is no promise that
    the end breaks.

    prompt_of_text: (texts,) which prompt a text is; two texts can be the same ids (the tokenizer lower-cases).
    order: (prompts,) prompts in the order of encoding. bounds: start and stop in that order of each batch.
    """

    def __init__(self, model, tokenizer, texts: list[str], budget: int):
        ids = tokenizer(texts)
        self._tokenizer = tokenizer
        if isinstance(ids, torch.Tensor) and ids.ndim == 2 and not ids.is_floating_point():
            ids, self.prompt_of_text = _different_rows(ids.cpu())
            self._ids: torch.Tensor | None = ids
            lengths = _lengths(ids, _pad_id(model, tokenizer))
            self.order = torch.argsort(lengths, descending=True, stable=True)
            cost = lengths[self.order] if _cuts_padding(model) else torch.full_like(lengths, ids.shape[1])
            self.bounds = _bounds(cost.tolist(), budget)
        else:  # a dictionary of tensors, of a model that is not open_clip's
            self._ids = None
            self.prompt_of_text = torch.arange(len(texts))
            self.order = torch.tensor(sorted(range(len(texts)), key=lambda index: -len(texts[index])))
            self._texts = texts
            self.bounds = _bounds([1] * len(texts), _TEXTS_PER_BATCH)

    def named(self, texts: list[str], place: int) -> str:
        """For an error: the prompt at this place of the order."""
        text = (self.prompt_of_text == self.order[place]).nonzero()[0]
        return f"the prompt {texts[int(text)]!r}"

    def tokens(self, start: int, stop: int):
        """What `encode_text` takes for the prompts `order[start:stop]`, still to be moved to the device."""
        if self._ids is not None:
            return self._ids[self.order[start:stop]]
        return self._tokenizer([self._texts[index] for index in self.order[start:stop].tolist()])


class _Uses:
    """Which classes each encoded prompt counts for, by its position in the order of encoding."""

    def __init__(self, prompts: torch.Tensor, classes: torch.Tensor, order: torch.Tensor):
        position = torch.empty_like(order)
        position[order] = torch.arange(len(order))
        self._positions, sorting = torch.sort(position[prompts], stable=True)
        self._classes = classes[sorting]

    def between(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of the batch `start` to `stop`, and the class that each of them counts for."""
        first, last = torch.searchsorted(self._positions, torch.tensor([start, stop])).tolist()
        return self._positions[first:last] - start, self._classes[first:last]


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
