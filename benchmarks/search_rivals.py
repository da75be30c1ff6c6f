"""The candidates of benchmarks.search behind one interface: ours, random, Nevergrad's, Optuna's and Ray Tune's.

Each rival's search space is written as its documentation shows and as its users write it: Nevergrad's integers are cast, a number that is
chosen from a list is an ordered choice to Nevergrad (`TransitionChoice`) and a choice to Optuna and Ray. A condition (momentum only under
sgd) is kept by ours, random and Optuna, which have a plain way to say it; the others tune all parameters always. All settings are
the rivals' defaults. A rival that is not installed is left out.
"""

import ast
import hashlib
import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.search_tasks import Task
from harness.grid_draft import Tuned
from jobs.config import Value

Config = dict[str, Value]


class Search(Protocol):
    """One search from its beginning to its end."""

    def ask(self, n: int) -> list[Config]:
        """The next `n` configs."""

    def tell(self, losses: Sequence[float]) -> None:
        """What the configs of the last `ask` came to, in their order."""


def active(tuned: Sequence[Tuned], values: Config) -> Config:
    """The values whose conditions hold."""
    return {t.name: values[t.name] for t in tuned if all(values.get(name) == wanted for name, wanted in t.when)}


class Ours:
    """harness.search with one of its algorithms."""

    def __init__(self, task: Task, *, seed: int, trials: int, wave: int, algorithm: str = "auto"):
        from harness.search.proposer import Proposer
        from harness.search.space import Space

        self._proposer = Proposer(Space(task.tuned, {}, defaults={}), algorithm=algorithm, seed=seed, trials=trials, wave=wave,
                                  key=lambda values: tuple(sorted(values.items())))
        self._told, self._asked = 0, 0

    def ask(self, n: int) -> list[Config]:
        proposed = self._proposer.ask(n)
        if self._proposer.trouble:  # it goes on at random then, which would be measured as what it is not
            raise RuntimeError(self._proposer.trouble)
        self._asked += len(proposed)
        return proposed

    def tell(self, losses: Sequence[float]) -> None:
        for number, loss in enumerate(losses, start=self._told):
            self._proposer.tell(number, loss)
        self._told = self._asked


class Random:
    """Uniform points of our space; configs may come twice."""

    def __init__(self, task: Task, *, seed: int, trials: int, wave: int):
        from harness.search.space import Space

        self._space = Space(task.tuned, {}, defaults={})
        self._rng = np.random.default_rng([seed, 1])  # not the stream of Ray Tune's generator, which is made of the bare seed

    def ask(self, n: int) -> list[Config]:
        return [self._space.decode(self._rng.random(len(self._space.dims))) for _ in range(n)]

    def tell(self, losses: Sequence[float]) -> None:
        """Nothing is learned."""


class Nevergrad:
    """An optimizer of Nevergrad's registry on a parametrisation in its own classes."""

    def __init__(self, task: Task, *, seed: int, trials: int, wave: int, optimizer: str):
        import nevergrad as ng
        from nevergrad.optimization import metamodel

        # Nevergrad 1.0.12 makes a number of an array that holds one, which NumPy 2.4 refuses: NGOpt would end in a TypeError.
        metamodel.float = lambda array: float(np.asarray(array).item())
        warnings.filterwarnings("ignore", module="nevergrad|cma|bayes_opt")
        self._task = task
        self._space = ng.p.Dict(**{t.name: self._parameter(ng.p, t) for t in task.tuned})
        self._space.random_state.seed(seed)
        self._optimizer = ng.optimizers.registry[optimizer](self._space, budget=trials, num_workers=wave)
        self._asked: list[Any] = []

    @staticmethod
    def _parameter(p: Any, tuned: Tuned) -> Any:
        if tuned.choices:
            return p.TransitionChoice(list(tuned.choices)) if tuned.ordered else p.Choice(list(tuned.choices))
        assert tuned.low is not None and tuned.high is not None, "a range has ends"
        if tuned.step is not None:
            return p.TransitionChoice(list(range(int(tuned.low), int(tuned.high) + 1, int(tuned.step))))
        number = (p.Log if tuned.log else p.Scalar)(lower=tuned.low, upper=tuned.high)
        return number.set_integer_casting() if tuned.kind == "int" else number

    def ask(self, n: int) -> list[Config]:
        self._asked = [self._optimizer.ask() for _ in range(n)]
        return [active(self._task.tuned, candidate.value) for candidate in self._asked]

    def tell(self, losses: Sequence[float]) -> None:
        for candidate, loss in zip(self._asked, losses, strict=True):
            self._optimizer.tell(candidate, loss)


class Optuna:
    """Optuna's default sampler, a tree-structured Parzen estimator; a wave is asked, then told."""

    def __init__(self, task: Task, *, seed: int, trials: int, wave: int):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", module="optuna")
        self._task = task
        self._study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        self._asked: list[Any] = []

    def _suggest(self, trial: Any) -> Config:
        values: Config = {}
        for t in self._task.tuned:
            if all(values.get(name) == wanted for name, wanted in t.when):
                if t.choices:
                    values[t.name] = trial.suggest_categorical(t.name, list(t.choices))
                elif t.kind == "int":
                    values[t.name] = trial.suggest_int(t.name, t.low, t.high, log=t.log, step=int(t.step or 1))
                else:
                    values[t.name] = trial.suggest_float(t.name, t.low, t.high, log=t.log, step=t.step)
        return values

    def ask(self, n: int) -> list[Config]:
        self._asked = [self._study.ask() for _ in range(n)]
        return [self._suggest(trial) for trial in self._asked]

    def tell(self, losses: Sequence[float]) -> None:
        for trial, loss in zip(self._asked, losses, strict=True):
            self._study.tell(trial, loss)


def _ray_space(tuned: Sequence[Tuned]) -> dict[str, Any]:
    """The space in Ray Tune's words."""
    from ray import tune

    def domain(t: Tuned) -> Any:
        if t.choices:
            return tune.choice(list(t.choices))
        if t.kind == "int":
            assert t.low is not None and t.high is not None, "a range has ends"
            if t.step is not None:
                return tune.qrandint(int(t.low), int(t.high), int(t.step))
            return (tune.lograndint if t.log else tune.randint)(int(t.low), int(t.high) + 1)
        return (tune.loguniform if t.log else tune.uniform)(t.low, t.high)

    return {t.name: domain(t) for t in tuned}


class RayDefault:
    """What Ray Tune searches with unless told otherwise: its BasicVariantGenerator, which draws at random."""

    def __init__(self, task: Task, *, seed: int, trials: int, wave: int):
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
        from ray.tune.experiment import Experiment
        from ray.tune.search.basic_variant import BasicVariantGenerator

        def nothing(config: Config) -> None:
            """What an experiment must have; it never runs."""

        self._task, self._searcher = task, BasicVariantGenerator(random_state=seed)
        self._searcher.add_configurations([Experiment("bench", run=nothing, config=_ray_space(task.tuned), num_samples=trials)])

    def ask(self, n: int) -> list[Config]:
        return [active(self._task.tuned, self._searcher.next_trial().config) for _ in range(n)]

    def tell(self, losses: Sequence[float]) -> None:
        """Nothing is learned."""


class RayHyperOpt:
    """Ray Tune with HyperOptSearch at its defaults: Hyperopt's estimator of the same kind as Optuna's, after 20 random configs."""

    def __init__(self, task: Task, *, seed: int, trials: int, wave: int):
        from ray.tune.search.hyperopt import HyperOptSearch

        logging.getLogger("ray.tune").setLevel(logging.ERROR)
        logging.getLogger("hyperopt").setLevel(logging.ERROR)
        space = HyperOptSearch.convert_search_space(_ray_space(task.tuned))
        self._task, self._searcher = task, HyperOptSearch(space, metric="loss", mode="min", random_state_seed=seed)
        self._asked = 0
        self._wave: list[str] = []

    def ask(self, n: int) -> list[Config]:
        self._wave = [str(number) for number in range(self._asked, self._asked + n)]
        self._asked += n
        return [active(self._task.tuned, self._searcher.suggest(name)) for name in self._wave]

    def tell(self, losses: Sequence[float]) -> None:
        for name, loss in zip(self._wave, losses, strict=True):
            self._searcher.on_trial_complete(name, {"loss": loss})


def _nevergrad(optimizer: str) -> Callable[..., Search]:
    return lambda task, **options: Nevergrad(task, optimizer=optimizer, **options)


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One column of the comparison."""

    make: Callable[..., Search]
    """(task, seed=, trials=, wave=) -> a search."""
    needs: tuple[str, ...] = ()
    """Packages it is made of."""
    note: str = ""

    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]

    def made_by(self) -> str:
        """Packages with their versions, and for ours the digest of its sources: what another one found is not this one's result."""
        return " ".join(f"{name} {_version(name)}" for name in self.needs) or (_sources() if self.make is Ours else "numpy")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"


def _sources() -> str:
    """The digest of the code that proposes, without its comments and docstrings."""
    digest = hashlib.sha256()
    for name in ("proposer", "space", "surrogate"):
        tree = ast.parse((Path(__file__).parent.parent / "harness" / "search" / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                node.body = [part for part in node.body if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))]
        digest.update(ast.dump(tree).encode())
    return f"sources {digest.hexdigest()[:8]}"


CANDIDATES: dict[str, Candidate] = {
    "auto": Candidate(make=Ours, note="ours"),
    "Nevergrad NGOpt": Candidate(make=_nevergrad("NGOpt"), needs=("nevergrad",), note="also the default of hydra-nevergrad-sweeper"),
    "ScrHammersley": Candidate(make=_nevergrad("ScrHammersleySearch"), needs=("nevergrad",), note="space-filling, learns nothing"),
    "Optuna TPE": Candidate(make=Optuna, needs=("optuna",), note="also the default of hydra-optuna-sweeper"),
    "Ray Tune": Candidate(make=RayDefault, needs=("ray",), note="its default, BasicVariantGenerator, is random search"),
    "Ray HyperOpt": Candidate(make=RayHyperOpt, needs=("ray", "hyperopt"), note="HyperOptSearch, 20 random configs first"),
    "random": Candidate(make=Random),
}
OURS, RANDOM = "auto", "random"

