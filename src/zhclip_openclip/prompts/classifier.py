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
from zhclip_openclip.features.spent import TEXTS, timed
from zhclip_openclip.features.text_batches import TextBatches, tokens_on
from zhclip_openclip.prompts._errors import PromptError

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
    what: str = "",
) -> torch.Tensor:
    """(embed_dim, classes) unit vectors, one column for each class.

    Meant for the patch of `clip_benchmark.metrics.zeroshot_classification.zero_shot_classifier`: the same arguments
    and, within 1e-5, the same result. That encodes class by class; here prompts that are equal are encoded once, and
    all of them together in the order of their length, so that no batch carries much padding and each fills the machine.

    model: has `encode_text`. tokenizer: a list of texts to a (texts, length) tensor of ids.
    templates: texts with `{c}`, or class name -> finished prompts.
    amp: mixed precision; the caller decides. what: they are prompts of, for people.

    Raises PromptError: no prompts, or none for a class. FiniteError: features of a prompt that are not finite.
    """
    texts, text_of, class_of = _prompts(classnames, templates)
    kind = torch.device(device).type
    total: torch.Tensor | None = None
    batches = TextBatches(model, tokenizer, texts, tokens_per_batch or tokens_on(device))
    uses = _Uses(batches.row_of_text[text_of], class_of, batches.order)
    with torch.no_grad(), torch.autocast(kind, enabled=amp), Progress("prompts", what, len(batches.order)) as progress:
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
    model, batches: TextBatches, texts: list[str], device: str, amp: bool, progress: Progress
) -> Iterator[tuple[list[tuple[int, int]], list[torch.Tensor]]]:
    """Batches one after the other: their bounds and (prompts, d) unit features on `device`.

    Several processes encode a part of some each, and get the others' parts; what is added up, and in which order, is
    that of one process.
    """
    for window in _windows(batches.bounds):
        mine = []
        for index in ranks.part(len(window)):
            with timed(TEXTS), fast_linear(model, device, amp):
                features = model.encode_text(batches.tokens(*window[index]).to(device))
            mine.append(F.normalize(features, dim=-1))
            finite.check(
                mine[-1],
                lambda row, at=window[index][0]: f"the prompt {batches.text_at(texts, at + row)!r}",
                device,
                amp,
            )
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
