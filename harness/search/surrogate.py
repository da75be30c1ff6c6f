"""`auto`: points that fill the space, then a Gaussian process. It is an optimizer of Nevergrad's kind, asked and told like all.

The process has a Matérn-5/2 kernel with one length scale for each parameter. Its hyperparameters are those of the largest posterior
density under the priors below. The next config is, of many candidates, the one with the largest logarithm of the expected improvement.
Configs that have no loss yet count with the loss that the model expects of them, so that one wave is not spent on one spot.

What is proposed follows from the configs that were taken and from what was told of them, in their order, and from nothing else. So an
earlier search is repeated without computing its proposals, and a process that was stopped goes on with what it would have proposed.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from nevergrad.optimization import base
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.special import erfcx, log_ndtr
from scipy.stats import qmc

from harness.search.space import Point, Points, Space
from jobs.config import Value

Values = dict[str, Value]
Array = NDArray[np.float64]
SCALE, SIGNAL, NOISE = (-1.0, 1.0), (0.0, 0.5), (-5.0, 2.0)
"""(mean, standard deviation) of the normal priors on the logarithms of length scales, signal variance and noise variance, where parameters
are in [0, 1] and losses have variance 1. scikit-learn's regressor, which has no priors, was measured in its place on the tasks of
benchmarks.search: as good with 64 configs, no better than random with 16 to 32, and 3 to 17 times as slow to fit."""
WINSOR = 2.0
"""A loss counts at most as median + WINSOR * (median - best): what went badly wrong must not flatten the rest."""
FITTED, MODELLED = 150, 1000
"""At most so many losses for the hyperparameters, and for the model."""
RANDOM, PARENTS, CHILDREN, ROUNDS = 100, 5, 300, 3
"""Candidates: so many at random, and mutations of the best configs; then rounds of mutations of the best candidates."""
_JITTER = 1e-8


def features(space: Space, points: Points) -> Array:
    """What the kernel sees of points (n, D): (n, C) columns, `owners(space)` tells of which parameter.

    A range is one column, a choice without order one for each value, scaled so that two values are 1 apart. A parameter that is not
    active is at its middle, so that points with the same values are the same here.
    """
    active = space.active(points)
    columns: list[Array] = []
    for index, dim in enumerate(space.dims):
        part, on = points[:, index], active[:, index]
        if not dim.ordered:
            one_hot = np.where(on[:, None], np.eye(dim.count)[dim.places(part)], 1 / dim.count)
            columns.extend(one_hot.T / math.sqrt(2))
        elif dim.count and not dim.log:
            columns.append(np.where(on, dim.places(part) / max(dim.count - 1, 1), 0.5))
        else:
            columns.append(np.where(on, part, 0.5))
    return np.stack(columns, axis=1)


def owners(space: Space) -> NDArray[np.intp]:
    """(C,) the parameter that each column of `features` belongs to."""
    return np.repeat(np.arange(len(space.dims)), [1 if dim.ordered else dim.count for dim in space.dims])


class Process:
    """A Gaussian process with mean 0. `of` (C,) is the parameter of each column; those of one parameter share a length scale."""

    def __init__(self, of: NDArray[np.intp]) -> None:
        self._of, self._dims = of, int(of.max()) + 1
        priors = np.array([*[SCALE] * self._dims, SIGNAL, NOISE])
        self._mean, self._deviation = priors[:, 0], priors[:, 1]
        self._theta = self._mean.copy()
        """Logarithms of the length scales, of the signal variance and of the noise variance."""

    @property
    def signal(self) -> float:
        """Variance of the function."""
        return float(np.exp(self._theta[-2]))

    @property
    def noise(self) -> float:
        """Variance of what is added to it in a loss."""
        return float(np.exp(self._theta[-1])) + _JITTER

    def kernel(self, a: Array, b: Array) -> Array:
        """Covariances (n, m) of the function at the features (n, C) and (m, C)."""
        scale = np.exp(self._theta[:-2])[self._of]
        a, b = a / scale, b / scale
        squared = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T
        r = np.sqrt(5 * np.maximum(squared, 0))
        covariance: Array = self.signal * (1 + r + r * r / 3) * np.exp(-r)
        return covariance

    def fit(self, x: Array, y: Array) -> None:
        """Sets the hyperparameters to those that fit losses (n,) at features (n, C) best."""
        squared = np.zeros((self._dims, len(x), len(x)))
        for column, index in enumerate(self._of):
            squared[index] += (x[:, column, None] - x[None, :, column]) ** 2
        bounds = list(zip(self._mean - 4 * self._deviation, self._mean + 4 * self._deviation, strict=True))
        found = minimize(self._negative_posterior, self._mean, args=(squared, y), jac=True, method="L-BFGS-B", bounds=bounds,
                         options={"maxiter": 60})
        self._theta = found.x

    def _negative_posterior(self, theta: Array, squared: Array, y: Array) -> tuple[float, Array]:
        """Minus the log posterior density of hyperparameters, up to a constant, and its gradient; (D, n, n) squared differences.

        Rasmussen and Williams (2006), Gaussian Processes for Machine Learning, equations 2.30 and 5.9.
        """
        away = (theta - self._mean) / self._deviation
        shrink, n = np.exp(-2 * theta[:-2]), len(y)
        r = np.sqrt(5 * np.tensordot(shrink, squared, 1))
        decay = np.exp(theta[-2] - r)
        k = (1 + r + r * r / 3) * decay
        noise = float(np.exp(theta[-1]))
        chol = np.linalg.cholesky(k + (noise + _JITTER) * np.eye(n))
        inverse = cho_solve((chol, True), np.eye(n))
        alpha = inverse @ y
        value = 0.5 * y @ alpha + np.log(np.diag(chol)).sum() + 0.5 * (away * away).sum()
        w = inverse - np.outer(alpha, alpha)
        gradient = away / self._deviation
        gradient[:-2] += 0.5 * shrink * np.tensordot(squared, w * (1 + r) * decay * (5 / 3), 2)
        gradient[-2] += 0.5 * (w * k).sum()
        gradient[-1] += 0.5 * noise * np.trace(w)
        return float(value), gradient


def log_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """Logarithm of the improvement below `best` that is expected of normal losses, exact far below zero too.

    Ament et al. (2023), Unexpected improvements to expected improvement for Bayesian optimization, equation 9.
    """
    z = (best - mean) / deviation
    low = np.minimum(z, -1.0)
    mills = math.sqrt(math.pi / 2) * erfcx(-low / math.sqrt(2))
    tail = np.where(low < -1e4, -2 * np.log(-low), np.log(np.maximum(1 + low * mills, 1e-300)))
    near = np.exp(-z * z / 2) / math.sqrt(2 * math.pi) + z * np.exp(log_ndtr(z))
    far = -low * low / 2 - math.log(2 * math.pi) / 2 + tail
    return np.log(deviation) + np.where(z > -1, np.log(np.maximum(near, 1e-300)), far)


class Surrogate(base.Optimizer):  # type: ignore[misc]  # Nevergrad has no annotations that mypy sees
    """The optimizer behind `auto`.

    A candidate stands for the values in its `_meta["values"]`, whatever Nevergrad's parameters made of them, and counts once it has them;
    a loss counts as measured after `_meta["share"]` of the epochs.

    Args:
        parametrization: one number in [0, 1] for each parameter of `space`.
        budget: configs of the whole search.
        num_workers: configs that are asked for together.
        space: what the numbers stand for.
        seed: of everything that is drawn.
        new: whether values may be proposed: allowed, and unlike all before.
    """

    def __init__(self, parametrization: Any, budget: int | None = None, num_workers: int = 1, *, space: Space, seed: int,
                 new: Callable[[Values], bool]) -> None:
        super().__init__(parametrization, budget=budget, num_workers=num_workers)
        self._space, self._seed, self._new = space, seed, new
        self._candidates: list[Any] = []
        self._told: list[tuple[Any, float, float]] = []
        """(candidate, loss, share), in the order in which they were told."""
        self._start = num_workers
        self._posterior: Posterior | None = None

    def ask(self) -> Any:
        """The next candidate, or what was suggested."""
        candidate = super().ask()
        self._candidates.append(candidate)
        return candidate

    def _internal_ask_candidate(self) -> Any:
        self._candidates = [candidate for candidate in self._candidates if "values" in candidate._meta]  # the others were refused
        number = len(self._candidates)
        rng = np.random.default_rng([self._seed, number])
        point = None
        if number < self._start or len(self._told) < 2:
            point = next((point for point in self._filling() if self._new(self._space.decode(point))), None)
        elif self._told:
            point = self._promising(rng)
        if point is None:
            point = rng.random(len(self._space.dims))
        return self.parametrization.spawn_child(new_value=tuple(map(float, point)))

    def _internal_tell_candidate(self, candidate: Any, loss: float) -> None:
        self._told.append((candidate, loss, candidate._meta["share"]))
        self._posterior = None

    def _filling(self) -> Iterator[Point]:
        """Points that fill the space evenly: its middle, then a scrambled Sobol sequence."""
        dims = len(self._space.dims)
        yield np.full(dims, 0.5)
        yield from qmc.Sobol(dims, rng=self._seed).random_base2(max(4, self._start.bit_length() + 2))

    def _promising(self, rng: np.random.Generator) -> Point | None:
        """The new point of which most improvement is expected; None if all that were looked at are old."""
        if self._posterior is None:
            self._posterior = Posterior(self._space, self._told)
        told = {candidate.uid for candidate, _, _ in self._told}
        waiting = [self._space.encode(c._meta["values"]) for c in self._candidates if c.uid not in told]
        score, parents = self._posterior.score(np.array(waiting).reshape(-1, len(self._space.dims))), self._posterior.best(PARENTS)
        pool = np.concatenate([rng.random((RANDOM, len(self._space.dims))), mutated(self._space, parents, CHILDREN, rng)])
        scores = score(pool)
        for _ in range(ROUNDS):
            top = np.argsort(-scores, kind="stable")[:8]
            children = mutated(self._space, pool[top], 160, rng)
            pool, scores = np.concatenate([pool, children]), np.concatenate([scores, score(children)])
        order = np.argsort(-scores, kind="stable")
        return next((pool[i] for i in order if self._new(self._space.decode(pool[i]))), None)


class Posterior:
    """What the losses told so far say of all points.

    Losses that were measured after a share of the epochs only are lowered by what configs gained, on average, that were trained further.
    The logarithm of the share is one more parameter to the model, whose answers are about whole trainings.
    """

    def __init__(self, space: Space, told: list[tuple[Any, float, float]]) -> None:
        losses, shares = np.array([loss for _, loss, _ in told]), np.array([share for _, _, share in told])
        if len(told) > MODELLED:
            kept = np.zeros(len(told), dtype=bool)
            kept[np.argsort(losses, kind="stable")[:MODELLED // 2]] = True
            kept[-(MODELLED // 2):] = True
            told, losses, shares = [one for one, keep in zip(told, kept, strict=True) if keep], losses[kept], shares[kept]
        self._space = space
        self._points = np.array([space.encode(candidate._meta["values"]) for candidate, _, _ in told])
        of, x = owners(space), features(space, self._points)
        self._halving = bool(shares.min() < 1)
        if self._halving:
            of = np.append(of, len(space.dims))
            x = np.column_stack([x, np.log(shares) / np.log(shares.min())])
            losses = losses - gains([candidate.uid for candidate, _, _ in told], losses, shares)
        median = float(np.median(losses))
        y = np.minimum(losses, median + WINSOR * (median - losses.min()))
        self._x, self._y = x, (y - y.mean()) / (y.std() or 1.0)
        self._process = Process(of)
        fitted = np.arange(len(y))
        if len(y) > FITTED:
            fitted = np.sort(np.argsort(y, kind="stable")[:FITTED])
        self._process.fit(x[fitted], self._y[fitted])
        k = self._process.kernel(x, x) + self._process.noise * np.eye(len(x))
        self._alpha = cho_solve((np.linalg.cholesky(k), True), self._y)
        self._expected = self._process.kernel(self._whole(self._points), x) @ self._alpha

    def _whole(self, points: Points) -> Array:
        """The features of whole trainings at points."""
        x = features(self._space, points)
        return np.column_stack([x, np.zeros(len(x))]) if self._halving else x

    def best(self, count: int) -> Points:
        """The points of the `count` configs that are expected to be best."""
        return self._points[np.argsort(self._expected, kind="stable")[:count]]

    def score(self, waiting: Points) -> Callable[[Points], Array]:
        """What tells how promising points (n, D) are, while those of `waiting` (m, D) are tried: the log expected improvement (n,)."""
        process, n = self._process, len(self._x)
        x = np.concatenate([self._x, self._whole(waiting)])
        chol = np.linalg.cholesky(process.kernel(x, x) + process.noise * np.eye(len(x)))
        best = float(self._expected.min())

        def score(points: Points) -> Array:
            cross = process.kernel(x, self._whole(points))
            explained = solve_triangular(chol, cross, lower=True)
            variance = np.maximum(process.signal - (explained * explained).sum(axis=0), 1e-12)
            return log_improvement(cross[:n].T @ self._alpha, np.sqrt(variance), best)

        return score


def gains(names: list[str], losses: Array, shares: Array) -> Array:
    """For each loss (n,), measured of a config after a share of its epochs, how much configs gain on average from there to the end.

    The gain from one share to the next larger is the mean over the configs with losses at both; without any it is 0.
    """
    gain = np.zeros(len(losses))
    later: dict[str, float] = {}
    total = 0.0
    for share in np.unique(shares)[::-1]:
        sooner = {names[i]: float(losses[i]) for i in np.flatnonzero(shares == share)}
        gained = [loss - later[name] for name, loss in sooner.items() if name in later]
        total += float(np.mean(gained)) if gained else 0.0
        gain[shares == share] = total
        later = sooner
    return gain


def mutated(space: Space, parents: Points, count: int, rng: np.random.Generator) -> Points:
    """About `count` points near `parents` (n, D): some parameters of each are changed, by a little or by more."""
    children = np.repeat(parents, -(-count // len(parents)), axis=0)
    n, dims = children.shape
    changed = rng.random((n, dims)) < rng.choice([1.5 / dims, 0.5, 1.0], size=(n, 1))
    changed[np.arange(n), rng.integers(dims, size=n)] = True
    width = 10.0 ** rng.uniform(-2.5, -0.5, size=n)
    for index, dim in enumerate(space.dims):
        move = rng.normal(size=n)
        if not dim.ordered:
            part = rng.random(n)
        elif dim.count and not dim.log:
            part = children[:, index] + np.round(move * np.maximum(width * dim.count, 1)) / dim.count
        else:
            part = children[:, index] + move * width
        children[:, index] = np.where(changed[:, index], np.clip(part, 0, 1), children[:, index])
    return children
