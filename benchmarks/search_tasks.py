"""The tasks of benchmarks.search: search spaces as a grid would have them, each with a loss whose least value is known.

Six are formulas: `lr3`, `train9` (with and without noise) and `disc7` imitate the validation error of a training, `branin_mix` and
`hartmann6` are functions that optimisers have long been compared on. `digits` looks its losses up in a table of real trainings.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks import search_digits
from harness.grid_draft import Tuned
from jobs.config import Value

Values = Mapping[str, Value]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A search space and what its configs are worth."""

    name: str
    tuned: tuple[Tuned, ...]
    loss: Callable[[Values], float]
    """The true loss of the active parameters' values; lower is better."""
    best: Values
    """A config with the least true loss."""
    seen: Callable[[Values, int, int], float]
    """(values, seed of the search, number of the trial) -> the loss that the search is told."""

    @property
    def optimum(self) -> float:
        """The least true loss."""
        return self.loss(self.best)

    def fingerprint(self) -> str:
        """Eight digits that change with the space or the losses, so that results of another task of this name are not mixed in."""
        from harness.search.space import Space

        space, rng = Space(self.tuned, {}, defaults={}), np.random.default_rng(0)
        points = [space.decode(point) for point in rng.random((20, len(self.tuned)))]
        losses = [f"{loss:.9g}" for point in points for loss in (self.loss(point), self.seen(point, 0, 0))]
        return hashlib.sha256(json.dumps([points, losses, f"{self.optimum:.9g}"]).encode()).hexdigest()[:8]


def _range(name: str, low: float, high: float, *, log: bool = False, step: float | None = None,
           when: tuple[tuple[str, Value], ...] = ()) -> Tuned:
    """A range; of whole numbers when both ends are."""
    kind = "int" if isinstance(low, int) and isinstance(high, int) else "float"
    return Tuned(name=name, kind=kind, low=low, high=high, log=log, step=step, when=when)


def _choice(name: str, *values: Value) -> Tuned:
    """Choices; ordered when they are numbers, as in a grid."""
    kind = type(values[0]).__name__
    return Tuned(name=name, kind=kind, choices=values, ordered=kind in ("int", "float"))


def _number(values: Values, name: str) -> float:
    return float(values[name])


def _error(floor: float, penalties: Sequence[float]) -> float:
    """A validation error between `floor`, where all penalties are zero, and 0.9, where training fails: far away all is equally bad."""
    return floor + (0.9 - floor) * (1 - math.exp(-sum(penalties)))


def _exactly(loss: Callable[[Values], float]) -> Callable[[Values, int, int], float]:
    """A search that sees true losses."""
    return lambda values, seed, number: loss(values)


def _lr_excess(values: Values, best: Mapping[str, float]) -> float:
    """Powers of ten between the learning rate and the optimizer's best one; sgd's is lower by as much as momentum lengthens its steps."""
    optimizer = str(values["optimizer"])
    scale = (1 - _number(values, "momentum")) / 0.1 if optimizer == "sgd" else 1.0
    return math.log10(_number(values, "lr") / (best[optimizer] * scale))


_SGD = (("optimizer", "sgd"),)


def _lr3() -> Task:
    """Learning rate, optimizer, and sgd's momentum: a narrow valley along which the two trade."""

    def loss(values: Values) -> float:
        excess = _lr_excess(values, {"sgd": 0.03, "adam": 0.001, "rmsprop": 0.0004})
        other = (_number(values, "momentum") - 0.9) ** 2 if values["optimizer"] == "sgd" else {"adam": 0.005, "rmsprop": 0.03}[
            str(values["optimizer"])]
        return _error(0.05, [0.25 * excess**2 * (2 if excess > 0 else 1), other])

    tuned = (_range("lr", 1e-5, 1.0, log=True), _choice("optimizer", "sgd", "adam", "rmsprop"), _range("momentum", 0.0, 0.99, when=_SGD))
    return Task(name="lr3", tuned=tuned, loss=loss, seen=_exactly(loss), best={"lr": 0.03, "optimizer": "sgd", "momentum": 0.9})


def _train9_loss(values: Values) -> float:
    """A training of nine parameters: a larger batch wants a larger learning rate, a larger network more dropout and weight decay."""
    sgd, batch = values["optimizer"] == "sgd", math.log2(_number(values, "batch_size") / 64)
    size = math.log2(_number(values, "filters") / 64) + (_number(values, "depth") - 4) / 2
    excess = _lr_excess(values, {"sgd": 0.05, "adam": 0.001, "adamw": 0.002}) - 0.15 * batch
    decay = math.log10(_number(values, "weight_decay")) + 3.5 - 0.3 * size
    return _error(0.08, [
        0.10 * excess**2 * (3 if excess > 0 else 1),
        0.3 * (_number(values, "momentum") - 0.9) ** 2 if sgd else {"adam": 0.02, "adamw": 0.008}[str(values["optimizer"])],
        {"cosine": 0.0, "step": 0.008, "none": 0.03}[str(values["schedule"])],
        0.003 * batch**2, 0.010 * (_number(values, "depth") - 4) ** 2, 0.012 * math.log2(_number(values, "filters") / 64) ** 2,
        0.25 * (_number(values, "dropout") - 0.2 - 0.08 * size) ** 2, 0.006 * decay**2])


def _train9(name: str, *, noise: float) -> Task:
    """`noise`: standard deviation of what a search sees."""

    def seen(values: Values, seed: int, number: int) -> float:
        return _train9_loss(values) + noise * float(np.random.default_rng((seed, number)).standard_normal())

    tuned = (_range("lr", 1e-4, 1.0, log=True), _range("weight_decay", 1e-6, 1e-1, log=True), _choice("optimizer", "sgd", "adam", "adamw"),
             _range("momentum", 0.5, 0.99, when=_SGD), _choice("schedule", "none", "step", "cosine"),
             _range("batch_size", 16, 512, log=True), _range("depth", 1, 6), _range("filters", 16, 128, step=8),
             _range("dropout", 0.0, 0.6))
    best: Values = {"lr": 0.05, "weight_decay": 10**-3.5, "optimizer": "sgd", "momentum": 0.9, "schedule": "cosine", "batch_size": 64,
                    "depth": 4, "filters": 64, "dropout": 0.2}
    return Task(name=name, tuned=tuned, loss=_train9_loss, seen=seen, best=best)


def _branin_mix() -> Task:
    """Branin's function (three equal minima) of two numbers, turned by a choice and lifted by a whole number."""

    def branin(x: float, y: float) -> float:
        return (y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6) ** 2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10

    def loss(values: Values) -> float:
        x, y, kind = _number(values, "x"), _number(values, "y"), str(values["kind"])
        x = {"plain": x, "mirrored": 5 - x, "shifted": x + 2, "flat": x}[kind]
        lifted = {"plain": 0.0, "mirrored": 1.5, "shifted": 4.0, "flat": 8.0}[kind]
        aim = 3 if kind in ("plain", "flat") else 6
        return branin(x, y) * (0.3 if kind == "flat" else 1.0) + lifted + 1.5 * (_number(values, "n") - aim) ** 2

    tuned = (_range("x", -5.0, 10.0), _range("y", 0.0, 15.0), _choice("kind", "plain", "mirrored", "shifted", "flat"), _range("n", 1, 8))
    return Task(name="branin_mix", tuned=tuned, loss=loss, seen=_exactly(loss), best={"x": math.pi, "y": 2.275, "kind": "plain", "n": 3})


_HARTMANN = np.array([[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]])
_HARTMANN_AT = np.array([[1312, 1696, 5569, 124, 8283, 5886], [2329, 4135, 8307, 3736, 1004, 9991],
                         [2348, 1451, 3522, 2883, 3047, 6650], [4047, 8828, 8732, 5743, 1091, 381]]) / 1e4


def _hartmann6() -> Task:
    """Hartmann's function of six numbers: four wells of different depth. Constants and minimiser: Dixon and Szegő, 1978."""

    def loss(values: Values) -> float:
        x = np.array([_number(values, f"x{n}") for n in range(6)])
        return -float(np.array([1.0, 1.2, 3.0, 3.2]) @ np.exp(-(_HARTMANN * (x - _HARTMANN_AT) ** 2).sum(axis=1)))

    best: Values = {f"x{n}": value for n, value in enumerate((0.20168952, 0.15001069, 0.47687398, 0.27533243, 0.31165162, 0.65730053))}
    return Task(name="hartmann6", tuned=tuple(_range(f"x{n}", 0.0, 1.0) for n in range(6)), loss=loss, seen=_exactly(loss), best=best)


def _disc7() -> Task:
    """Seven discrete parameters, 46,080 configs: ordered lists, whole numbers, a step, names and a switch that turns another around."""

    def loss(values: Values) -> float:
        batch, units = math.log2(_number(values, "batch_size") / 64), (_number(values, "units") - 48) / 16
        layers = _number(values, "layers") - (3 if values["norm"] is True else 2)
        return _error(0.1, [
            0.02 * batch**2, 0.015 * (units + 0.5 * batch) ** 2, 0.03 * layers**2, 0.0 if values["norm"] is True else 0.03,
            {"relu": 0.0, "gelu": 0.01, "tanh": 0.08, "sigmoid": 0.3}[str(values["activation"])] * (2 if layers > 0 else 1),
            {"none": 0.06, "flip": 0.02, "crop": 0.0}[str(values["augment"])],
            0.5 * (_number(values, "dropout") - (0.25 if values["augment"] == "crop" else 0.5)) ** 2])

    tuned = (_choice("batch_size", 16, 32, 64, 128, 256), _range("layers", 1, 8), _choice("activation", "relu", "gelu", "tanh", "sigmoid"),
             _choice("norm", False, True), _range("units", 16, 128, step=16), _choice("dropout", 0.0, 0.1, 0.25, 0.5, 0.6, 0.7),
             _choice("augment", "none", "flip", "crop"))
    best: Values = {"batch_size": 64, "layers": 3, "activation": "relu", "norm": True, "units": 48, "dropout": 0.25, "augment": "crop"}
    return Task(name="disc7", tuned=tuned, loss=loss, seen=_exactly(loss), best=best)


def _digits() -> Task:
    """Real trainings on the digits: the mean validation error of three seeds; a search sees the one that its own seed chooses."""
    table = search_digits.read()

    def loss(values: Values) -> float:
        return 1 - float(np.mean(table[search_digits.key(values)]))

    def seen(values: Values, seed: int, number: int) -> float:
        return 1 - table[search_digits.key(values)][seed % len(search_digits.SEEDS)]

    tuned = tuple(_choice(name, *values) for name, values in search_digits.SPACE.items())
    return Task(name="digits", tuned=tuned, loss=loss, seen=seen, best=min(search_digits.configs(), key=loss))


TASKS: dict[str, Callable[[], Task]] = {
    "lr3": _lr3,
    "train9 noisy": lambda: _train9("train9 noisy", noise=0.02),
    "train9": lambda: _train9("train9", noise=0.0),
    "branin_mix": _branin_mix,
    "hartmann6": _hartmann6,
    "disc7": _disc7,
    "digits": _digits,
}
"""Name -> what makes the task."""
