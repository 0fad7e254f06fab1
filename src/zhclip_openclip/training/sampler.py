"""Batches of pairs in which no text and no image stands twice, for any number of processes and accumulated steps.

The pairs that a contrastive loss compares with each other are those of all processes and of all steps that are
accumulated before one update; that is what a batch is here. It is dealt out to processes and steps afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from zhclip_openclip.training._errors import TrainingError

#: How many other places are looked at for a pair that cannot stay where it is.
_TRIES = 64


class PairBatches:
    """A batch sampler for a DataLoader: each turn gives the pair numbers of this process's next batch.

    Every process makes the same plan from `seed` and the epoch and takes its own part of it, so that they share
    nothing, and a run that is resumed goes on with the batches that it would have had.

    distinct: whether no text and no image stands twice in a batch; where `distinct` is asked for and some text or image
        has more pairs than there are batches, it cannot be and is False.
    """

    def __init__(
        self,
        image: np.ndarray,
        text: np.ndarray,
        batch_size: int,
        *,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        distinct: bool = True,
        source: np.ndarray | None = None,
        factors: Sequence[float] = (),
        samples: int | None = None,
    ) -> None:
        """
        Args:
            image, text: (n,) the image and the text of each pair.
            batch_size: pairs of one process in one step.
            accumulate, rank, world_size: steps to an update; this process; processes.
            seed: of the order, together with the epoch.
            source, factors: (n,) the set of each pair, and for each set how often its pairs come in an epoch: 2 is
                twice, 0.5 is a half of them, others in each epoch.
            samples: pairs an epoch, drawn from all of them anew in each; by default all.

        Raises TrainingError: fewer pairs than a batch, or a batch of none; factors that do not fit the sets or are no
        positive numbers.
        """
        if batch_size < 1 or accumulate < 1:
            raise TrainingError(f"--batch-size {batch_size}, {accumulate} accumulated: one at least is needed")
        self.image, self.text = image, text
        self.batch_size, self.accumulate, self.rank, self.world_size = batch_size, accumulate, rank, world_size
        self.seed, self.epoch, self.samples = seed, 0, samples
        self._sets = _sets(len(image), source, factors)
        self.total = sum(int(factor) * len(pairs) + _part(factor, pairs) for pairs, factor in self._sets)
        if samples is not None:
            self.total = min(self.total, samples)
        self.batch = batch_size * accumulate * world_size
        self.batches = self.total // self.batch
        if not self.batches:
            limit = "--train-num-samples larger, or " if self.total == samples else ""
            raise TrainingError(
                f"{self.total} pairs are fewer than one batch of {self.batch} (--batch-size {batch_size}, "
                f"{accumulate} accumulated, {world_size} processes): make {limit}--batch-size or --accum-freq smaller"
            )
        copies = max((int(np.ceil(factor)) for _, factor in self._sets), default=1)
        most = max(int(np.bincount(image).max()), int(np.bincount(text).max())) * copies
        self.distinct = distinct and most <= self.batches

    def __len__(self) -> int:
        """Batches of one process in an epoch."""
        return self.batches * self.accumulate

    @property
    def num_samples(self) -> int:
        """Pairs that all processes together see in an epoch; what does not fill a batch is left for another epoch."""
        return self.batches * self.batch

    def set_value(self, epoch: int) -> None:
        """The epoch whose order comes next (under the name that open_clip_train's `SharedEpoch` has for it)."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.plan():
            steps = batch.reshape(self.accumulate, self.world_size, self.batch_size)
            for step in steps:
                yield step[self.rank].tolist()

    def plan(self) -> np.ndarray:
        """(batches, pairs of a batch) the pair numbers of this epoch, of all processes."""
        rng = np.random.default_rng([self.seed, self.epoch])
        chosen = [
            np.concatenate([np.tile(pairs, int(factor)), rng.permutation(pairs)[: _part(factor, pairs)]])
            for pairs, factor in self._sets
        ]
        pairs = rng.permutation(np.concatenate(chosen))[: self.num_samples]
        if not self.distinct:
            return pairs.reshape(self.batches, self.batch)
        return pairs[deal(self.image[pairs], self.text[pairs], self.batches, rng)]


def _part(factor: float, pairs: np.ndarray) -> int:
    return round((factor - int(factor)) * len(pairs))


def _sets(n: int, source: np.ndarray | None, factors: Sequence[float]) -> list[tuple[np.ndarray, float]]:
    """The pairs of each set, and how often they come."""
    if not factors:
        return [(np.arange(n), 1.0)]
    sets = 1 if source is None else int(source.max(initial=-1)) + 1
    if len(factors) != sets:
        raise TrainingError(f"{len(factors)} upsampling factors for {sets} sets: give one a set, as 1::2")
    if not all(0 < factor < float("inf") for factor in factors):
        raise TrainingError(f"upsampling factors {list(factors)}: positive numbers are needed")
    source = np.zeros(n, np.int64) if source is None else source
    return [(np.flatnonzero(source == number), float(factor)) for number, factor in enumerate(factors)]


def deal(image: np.ndarray, text: np.ndarray, batches: int, rng: np.random.Generator) -> np.ndarray:
    """(batches, n / batches) the numbers 0..n-1 in batches in which no text and no image stands twice.

    image, text: (n,) of each pair, n a multiple of `batches`, none more often than there are batches.

    The pairs are sorted by the kind that repeats more, in an order drawn anew, and dealt out to the batches in turn,
    like cards: those of one text are neighbours and so come into different batches. Pairs of which the other side
    stands twice in a batch afterwards change places with others. One for which no place is found stays; that is seldom,
    and the losses reckon with it.
    """
    n = len(image)
    image, text = np.unique(image, return_inverse=True)[1], np.unique(text, return_inverse=True)[1]
    dealt, other = (text, image) if np.bincount(text).max() >= np.bincount(image).max() else (image, text)
    order = np.lexsort((rng.random(n), rng.permutation(dealt.max() + 1)[dealt]))
    batch_of = np.empty(n, np.int64)
    batch_of[order] = np.arange(n) % batches
    _part_them(batch_of, dealt, other, rng)
    rows = np.argsort(batch_of, kind="stable").reshape(batches, -1)
    return rng.permuted(rows[rng.permutation(batches)], axis=1)


def _part_them(batch_of: np.ndarray, dealt: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> None:
    """Change places, in `batch_of`, until nothing of `other` stands twice in a batch; `dealt` stays so."""
    code = other * (int(batch_of.max()) + 1) + batch_of
    order = np.argsort(code, kind="stable")
    twice = order[1:][code[order][1:] == code[order][:-1]]
    if not len(twice):
        return
    kinds = [_Members(dealt), _Members(other)]

    def free(pair: int, batch: int, instead: int) -> bool:
        """Whether `pair` may stand in `batch` once `instead` has left it."""
        for kind in kinds:
            there = kind.of(pair)
            if np.any((batch_of[there] == batch) & (there != instead) & (there != pair)):
                return False
        return True

    for pair in rng.permutation(twice):
        here = batch_of[pair]
        if free(pair, here, pair):
            continue  # the one that it met has moved
        for candidate in rng.integers(0, len(batch_of), _TRIES):
            there = batch_of[candidate]
            if there != here and free(pair, there, candidate) and free(candidate, here, pair):
                batch_of[pair], batch_of[candidate] = there, here
                break


class _Members:
    """For each pair all pairs of the same kind."""

    def __init__(self, kind: np.ndarray) -> None:
        self._kind = kind
        self._order = np.argsort(kind, kind="stable")
        self._start = np.searchsorted(kind[self._order], np.arange(kind.max() + 2))

    def of(self, pair: int) -> np.ndarray:
        kind = self._kind[pair]
        return self._order[self._start[kind] : self._start[kind + 1]]
