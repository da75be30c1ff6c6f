"""The decisions of a study, as the files of `waves/` have them: what is to be trained, and what was known when that was decided.

A grid without [tune] makes one: all its trials. A search makes one after the other for every variant. From them the next one can be
decided again, whatever became of the launcher: nothing else remembers what a search has done.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from harness.plan import PlannedTrial


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What the proposer was told of a config."""

    number: int
    value: float | None
    """The study's metric, averaged over seeds; None when the config is infeasible or failed."""
    share: float = 1.0
    """Of its epochs, after which the metric was measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wave:
    """What was decided at once, as `waves/` has it; in this order the proposals can be made again."""

    number: int = 0
    kind: str = "compare"
    """"compare": all trials of a grid without [tune]; "propose", "promote", "confirm": of one variant; "test": of the whole study."""
    variant: int | None = None
    """Which of the grid's variants, counted from 0; None: all of them."""
    trials: tuple[PlannedTrial, ...]
    """What is to be trained; one that an earlier wave has too is granted more."""
    told: tuple[Told, ...] = ()
    """What the proposer was told just before it was asked, in this order."""
    known: int = 0
    """How many of the proposed configs were known before: settings to try first."""
    exhausted: bool = False
    """Whether the search space has no other config left."""

    @property
    def name(self) -> str:
        """The name of its file: "000", "v001-004" or "test-001"."""
        of = "test-" if self.kind == "test" else "" if self.variant is None else f"v{self.variant:03d}-"
        return f"{of}{self.number:03d}"


def as_content(wave: Wave) -> dict[str, Any]:
    """A wave as JSON values. What all its configs have in common is written once: a hundred thousand trials are then some megabytes."""
    first = wave.trials[0].config if wave.trials else {}
    configs = {id(trial.config): trial.config for trial in wave.trials}.values()  # seeds may share theirs
    common = {name: value for name, value in first.items() if all(name in c and _same(c[name], value) for c in configs)}
    return {"wave": wave.number, "kind": wave.kind, "variant": wave.variant, "known": wave.known, "exhausted": wave.exhausted,
            "told": [[told.number, told.value, told.share] for told in wave.told], "common": common,
            "trials": [{**_line(trial), "config": {name: value for name, value in trial.config.items() if name not in common}}
                       for trial in wave.trials]}


_USUAL = {"phase": "compare", "number": 0, "budget": None, "opening": 0}
"""What need not be written of a trial."""


def _line(trial: PlannedTrial) -> dict[str, Any]:
    """A trial without its config and its wave."""
    more = {name: getattr(trial, name) for name in _USUAL}
    return {"id": trial.id, "variant": trial.variant, "seed": trial.seed, **{k: v for k, v in more.items() if v != _USUAL[k]}}


def from_content(content: dict[str, Any], only: Collection[str] | None = None) -> Wave:
    """A wave from JSON values; with `only` the trials that are wanted and no others."""
    configs: dict[tuple[str, str], dict[str, Any]] = {}  # the seeds of a config share it, which a large study feels
    trials = []
    for line in content["trials"] if only is None else [line for line in content["trials"] if line["id"] in only]:
        of = line["variant"], line["id"].partition("-")[0]
        config = configs.get(of) or configs.setdefault(of, {**content.get("common", {}), **line["config"]})
        trials.append(PlannedTrial(wave=content["wave"], **{**line, "config": config}))
    told = tuple(Told(number=number, value=value, share=share) for number, value, share in content["told"])
    return Wave(number=content["wave"], kind=content.get("kind", "compare"), variant=content.get("variant"), trials=tuple(trials),
                told=told, known=content.get("known", 0), exhausted=content.get("exhausted", False))


def _same(one: object, other: object) -> bool:
    """Whether two values are written alike: 1, 1.0 and true are not, nor are 0.0 and -0.0."""
    return one is other or (one == other and repr(one) == repr(other))
