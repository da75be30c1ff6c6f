"""What proposes the configs of one variant's search: Nevergrad, asked and told in an order that can be repeated.

Nothing of it is kept on disk but what was asked and told. The same calls in the same order give the same proposals in a new process, so a
launcher that takes over makes a new `Proposer` and repeats them: `again` in place of `ask`.
"""

import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from harness.search.space import Dimension, Point, Space
from jobs.config import Value

Values = dict[str, Value]
AUTO = "auto"
_TRANSITIONS = 64
"""Ordered values up to which Nevergrad is given each of them; longer ranges are a number in [0, 1] that is cut into bins."""
_ASKS, _DRAWS, _LISTED = 10, 2000, 100_000
"""How often the algorithm is asked for a config that is new, how many are then drawn at random, and how many are then gone through."""
_LARGEST = 1e15
"""A loss is told as at most this: what diverged must not swamp the statistics of the algorithm."""


class Proposer:
    """Proposes configs of one variant; they are numbered from 0 in the order of `known`, `ask` and `again`.

    Args:
        space: where it searches.
        algorithm: one of `algorithms.ALGORITHMS`.
        seed: of everything that is drawn.
        trials: configs of the whole search.
        wave: configs that are asked for together.
        key: what tells trainings apart: equal for values that train the same thing, None for values that cannot be trained.
    """

    def __init__(self, space: Space, *, algorithm: str, seed: int, trials: int, wave: int,
                 key: Callable[[Values], Hashable | None]) -> None:
        self.space = space
        self.differs = False
        """Whether `again` met an answer that the algorithm would not give now, because another version of it gave it."""
        self.trouble = ""
        """The last exception of the algorithm, if any: the search goes on, with configs drawn at random where it gave none."""
        self._algorithm, self._seed, self._trials, self._wave = algorithm, seed, trials, wave
        self._key = key
        self._candidates: list[Any] = []
        self._taken: set[Hashable] = set()
        self._worst: float | None = None
        self._waiting: list[tuple[int, float]] = []
        """(number, share) of what failed before there was a loss to tell for it."""

    @cached_property
    def _optimizer(self) -> Any:
        """Nevergrad's optimizer, or ours for "auto"."""
        import nevergrad as ng

        parametrization = ng.p.Tuple(*(_parameter(dim, plain=self._algorithm == AUTO) for dim in self.space.dims))
        parametrization.random_state = np.random.RandomState(self._seed)
        if self._algorithm == AUTO:
            from harness.search.surrogate import Surrogate

            return Surrogate(parametrization, budget=self._trials, num_workers=self._wave, space=self.space, seed=self._seed, new=self._new)
        return ng.optimizers.registry[self._algorithm](parametrization, budget=self._trials, num_workers=self._wave)

    def known(self, values: Mapping[str, Value]) -> None:
        """Takes the next number with values that somebody else chose: settings to try first, the best of an earlier study."""
        self._take(dict(values), self._given(values))

    def ask(self, n: int) -> list[Values]:
        """The next `n` configs, each different from all before; fewer when the space has no more of them (or no more are found)."""
        return [self._take(values, candidate) for values, candidate in self._propose(n)]

    def again(self, recorded: Sequence[Mapping[str, Value]]) -> None:
        """Repeats an `ask` whose answer is known, so that what follows is what would have followed then. The record is always right."""
        proposed = [] if self._algorithm == AUTO else self._propose(len(recorded))
        for index, values in enumerate(recorded):
            values = dict(values)
            if index < len(proposed) and proposed[index][0] == values:
                self._take(values, proposed[index][1])
                continue
            self.differs |= self._algorithm != AUTO
            self._take(values, self._given(values))

    def tell(self, number: int, loss: float | None, share: float = 1.0) -> None:
        """What came of a config.

        Args:
            number: of the config.
            loss: lower is better. None, or what is not finite, when it failed or could not be trained; that counts as the worst so far.
            share: of its epochs after which the loss was measured; a config may be told of again with a larger one.
        """
        if loss is None or not math.isfinite(loss):
            if self._worst is None:
                self._waiting.append((number, share))
            else:
                self._tell(number, self._worst, share)
            return
        loss = min(max(float(loss), -_LARGEST), _LARGEST)
        self._worst = loss if self._worst is None else max(self._worst, loss)
        self._tell(number, loss, share)
        for earlier, its_share in self._waiting:
            self._tell(earlier, self._worst, its_share)
        self._waiting.clear()

    def _tell(self, number: int, loss: float, share: float) -> None:
        candidate = self._candidates[number]
        candidate._meta["share"] = share
        self._guarded(self._optimizer.tell, candidate, loss)

    def _guarded(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What a call of the algorithm returns; None if it raised.

        Some of Nevergrad's algorithms raise now and then (in 1.0.12 with numpy 2.4 whatever holds MetaModel, NGOpt among them). What they
        do follows from what they were asked and told all the same, so that they can be repeated.
        """
        from nevergrad.common.errors import TellNotAskedNotSupportedError

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return call(*arguments)
            except TellNotAskedNotSupportedError:
                return None  # it only learns from what it proposed itself
            except Exception as error:
                self.trouble = f"{type(error).__name__}: {error}"
                return None

    def _take(self, values: Values, candidate: Any) -> Values:
        self._candidates.append(candidate)
        self._taken.add(self._key(values))
        return values

    def _new(self, values: Values) -> bool:
        """Whether values may be proposed: allowed, fit to be trained, and unlike all before."""
        if not self.space.allows(values):
            return False
        key = self._key(values)
        return key is not None and key not in self._taken

    def _propose(self, n: int) -> list[tuple[Values, Any]]:
        """Up to `n` new configs, with the candidates that Nevergrad knows them as."""
        before, proposed = set(self._taken), []
        for _ in range(n):
            found = self._asked() or self._drawn()
            if found is None:
                break
            proposed.append(found)
            self._taken.add(self._key(found[0]))
        self._taken = before
        return proposed

    def _asked(self) -> tuple[Values, Any] | None:
        """A new config from the algorithm, unless it keeps to old ones or is used up."""
        for _ in range(1 if self._algorithm == AUTO else _ASKS):
            if self._optimizer.one_shot and self._optimizer.num_ask >= self._trials:
                return None
            candidate = self._guarded(self._optimizer.ask)
            if candidate is None:
                return None
            values = self.space.decode(self._point(candidate.value))
            if self._new(values):
                candidate._meta["values"] = values
                return values, candidate
        return None

    def _drawn(self) -> tuple[Values, Any] | None:
        """A new config at random; from the list of all that are left where drawing finds none and the list is short enough."""
        rng = np.random.default_rng([self._seed, len(self._taken)])
        dims, size = len(self.space.dims), self.space.size
        drawn: Iterable[Values] = (self.space.decode(rng.random(dims)) for _ in range(_DRAWS))
        values = next(filter(self._new, drawn), None)
        if values is None and size is not None and size <= _LISTED:
            left = list(filter(self._new, self.space.every()))
            values = left[rng.integers(len(left))] if left else None
        return None if values is None else (values, self._given(values))

    def _given(self, values: Mapping[str, Value]) -> Any:
        """A candidate for values that the algorithm did not propose."""
        parts = tuple(_of_part(dim, part, plain=self._algorithm == AUTO)
                      for dim, part in zip(self.space.dims, self.space.encode(values), strict=True))
        if self._algorithm == AUTO:
            self._optimizer.suggest(parts)
            candidate = self._optimizer.ask()
        else:
            candidate = self._optimizer.parametrization.spawn_child(new_value=parts)
        candidate._meta["values"] = dict(values)  # Nevergrad's place for what an algorithm notes of a candidate
        return candidate

    def _point(self, parts: Sequence[Any]) -> Point:
        """The point of the space that a value of Nevergrad's parameters stands for."""
        return np.array([_part(dim, value, plain=self._algorithm == AUTO) for dim, value in zip(self.space.dims, parts, strict=True)])


def _listed(dim: Dimension) -> bool:
    """Whether Nevergrad is given a dimension's values one by one."""
    return dim.count > 0 and not dim.log and (not dim.ordered or dim.count <= _TRANSITIONS)


def _parameter(dim: Dimension, *, plain: bool) -> Any:
    """Nevergrad's parameter for a dimension; `plain` is a number in [0, 1] for all."""
    import nevergrad as ng

    if plain or not _listed(dim):
        return ng.p.Scalar(lower=0, upper=1)
    kind = ng.p.TransitionChoice if dim.ordered else ng.p.Choice
    return kind(range(dim.count), **({} if dim.ordered else {"deterministic": True}))


def _part(dim: Dimension, value: Any, *, plain: bool) -> float:
    """Where in [0, 1] a value of `_parameter` is."""
    return float(value) if plain or not _listed(dim) else (int(value) + 0.5) / dim.count


def _of_part(dim: Dimension, part: float, *, plain: bool) -> float | int:
    """The value of `_parameter` for a place in [0, 1]."""
    return float(part) if plain or not _listed(dim) else min(int(part * dim.count), dim.count - 1)
