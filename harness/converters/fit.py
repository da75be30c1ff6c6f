"""A search of another tool in the words of a grid: our names, our types, values that a parameter may have."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.converters import GENERIC, Choice, Domain, Fixed, Parameter, Range, Sweep, Trouble, Unmapped, clean
from harness.converters.literal import Opaque
from harness.errors import UsageError, printable
from harness.grid_draft import text_of
from jobs import registry
from jobs.config import PARAMETERS, Value, check_value

_MOST_COMPARED = 100
SEEDS = "seeds"

SYNONYMS: dict[str, str] = {synonym: name for name, synonyms in {
    "lr": "learning_rate learningrate init_lr initial_lr base_lr lr0 lr_init",
    "batch_size": "bs batch batchsize train_batch_size batch_size_train",
    "epochs": "epoch max_epochs num_epochs n_epochs nepochs max_epoch",
    "weight_decay": "wd weightdecay",
    "dropout": "dropout_rate dropout_prob dropout_p drop_rate p_dropout dropout_probability",
    "model": "arch architecture network net model_name model_type",
    "optimizer": "optim opt optimiser optimizer_name optimizer_type",
    "momentum": "sgd_momentum",
    "schedule": "scheduler lr_scheduler lr_schedule",
    "step_size": "lr_step_size scheduler_step_size",
    "gamma": "lr_gamma",
    "filters": "num_filters n_filters base_filters filters_1 filters1 conv1_filters",
    "filters_2": "filters2 conv2_filters", "filters_3": "filters3 conv3_filters",
    "depth": "num_layers n_layers layers num_blocks n_blocks num_conv_layers",
    "kernel_size": "kernel ksize",
    "hidden": "hidden_size hidden_units hidden_dim fc_layer_size fc_size",
    "batch_norm": "batchnorm use_batch_norm use_batchnorm bn use_bn batch_normalization",
    "dataset": "data dataset_name", "augment": "augmentation data_augmentation aug",
    "image_size": "img_size input_size resolution", "patience": "early_stopping_patience",
    SEEDS: "seed random_seed rng_seed manual_seed random_state",
}.items() for synonym in synonyms.split()}
"""What other people call our parameters, where it can mean nothing else."""
_VALUES = {"cosineannealinglr": "cosine", "cosineannealing": "cosine", "steplr": "step", "constant": "none"}


@dataclass(slots=True, eq=False)
class Entry:
    """One line of [fixed], [compare] or [tune]."""

    section: str
    name: str
    literal: str
    parameter: Parameter
    when: tuple[tuple[str, Value], ...] = ()
    told: list[str] = field(default_factory=list)
    """What the report says about it."""


@dataclass(slots=True)
class Report:
    """What a conversion did besides copying."""

    lost: list[str] = field(default_factory=list)
    approximate: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    chosen: list[str] = field(default_factory=list)
    """What the file does not say and a grid needs."""

    def lines(self) -> list[str]:
        """The report as text, one item per line."""
        parts = {"not mapped": self.lost, "approximations": self.approximate, "renamed": self.renamed, "chosen": self.chosen}
        return [line for title, items in parts.items() if items
                for line in (f"{title} ({len(items)}):", *(f"  {short(item)}" for item in dict.fromkeys(items)))]


def short(text: str) -> str:
    """Text on one line of at most 300 characters, without what a terminal would act on."""
    line = " ".join(printable(text.replace("\n", " ")).split())
    return line if len(line) <= 300 else line[:299] + "…"


class Conversion:
    """A grid in the making."""

    def __init__(self, sweep: Sweep, *, job: str = "", metrics: Sequence[str] = ()):
        self.sweep, self.job, self.metrics = sweep, job, metrics
        self.report = Report(lost=list(sweep.lost), approximate=list(sweep.approximate))
        self.entries: list[Entry] = []
        self.seeds: list[int] = []
        self._choosers: dict[str, dict[str, tuple[str, Value]]] = {}
        """Name in the file -> repr of a value in the file -> the condition in the grid."""
        for parameter in sweep.parameters:
            try:
                self._add(parameter)
            except Trouble as error:
                self._lose(parameter, str(error))
        self._settle_conditional()

    def _lose(self, parameter: Parameter, why: str) -> None:
        self.report.lost.append(f"{parameter.name}: {short(parameter.spec)[:200]}; {why}")

    def _add(self, parameter: Parameter) -> None:
        """One parameter as an entry.

        Raises:
            Trouble: it has no counterpart, or none of its values has.
        """
        name = self._name(parameter.name)
        if isinstance(parameter.domain, Unmapped):
            raise Trouble(parameter.domain.why)
        if name == SEEDS:
            self._add_seeds(parameter)
            return
        when = self._conditions(parameter)
        if any(e.name == name and e.when == when for e in self.entries):
            raise Trouble(f"another parameter is `{name}` already")
        notes, before = list[str](), len(self.report.renamed)
        domain = self._fit_range(name, parameter.domain, notes) if isinstance(parameter.domain, Range) else parameter.domain
        values = self._fit(parameter, name, domain.values if isinstance(domain, Choice) else [domain.value] if isinstance(domain, Fixed)
                           else ())
        known = list(dict.fromkeys((isinstance(v, bool), v) for v in values.values()))
        self._choosers[parameter.name] = {text: (name, v) for text, v in values.items()}
        if isinstance(domain, Range):
            entry = Entry("tune", name, _range_text(domain), parameter, when)
        elif len(known) == 1:
            entry = Entry("fixed", name, toml(known[0][1]), parameter, when)
        else:
            section = "compare" if isinstance(domain, Choice) and domain.compared else "tune"
            entry = Entry(section, name, f"[{', '.join(toml(v) for _, v in known)}]", parameter, when)
        if entry.section == "compare" and when:
            raise Trouble("what is compared cannot depend on another parameter")
        if name != parameter.name:
            self.report.renamed.append(f"{parameter.name} -> {name}")
        if isinstance(parameter.domain, (Choice, Range)) and parameter.domain.approximation:
            notes.append(parameter.domain.approximation)
        notes = [f"{name}: {note}" for note in notes]
        self.report.approximate += notes
        entry.told = [*notes, *self.report.renamed[before:]]
        self.entries.append(entry)

    def _name(self, name: str) -> str:
        """Our name of a parameter.

        Raises:
            Trouble: there is none.
            UsageError: a name that cannot be a column, in a grid with [job].
        """
        parts = [re.sub(r"\W+", "_", re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", part), flags=re.ASCII) for part in name.split(".")]
        if self.job:
            kept = name if re.fullmatch(r"\w+", name, re.ASCII) else "_".join(parts)
            if not re.fullmatch(r"[A-Za-z_]\w{0,63}", kept, re.ASCII):
                raise UsageError(f"parameter {short(name)[:80]!r} cannot be a column of a table: letters, digits and _, at most 64; "
                                 "rename it in the file")
            return kept
        leaf = parts[-2] if len(parts) > 1 and parts[-1].lower() in GENERIC else parts[-1]
        for word in ("_".join(parts).lower(), leaf.lower()):
            found = SYNONYMS.get(word, word)
            if found in PARAMETERS or found == SEEDS:
                return found
        raise Trouble("no parameter of the built-in training (--job keeps it)")

    def _conditions(self, parameter: Parameter) -> tuple[tuple[str, Value], ...]:
        """The conditions of a parameter in the grid's words; those that always hold are left out."""
        found = []
        for chooser, value in parameter.when:
            condition = self._choosers.get(chooser, {}).get(repr(value))
            if condition is None:
                raise Trouble(f"it belongs to {chooser} = {value}, which is not mapped")
            if not any(e.name == condition[0] and e.section == "fixed" for e in self.entries):
                found.append(condition)
        return tuple(found)

    def _add_seeds(self, parameter: Parameter) -> None:
        domain = parameter.domain
        values = list(domain.values) if isinstance(domain, Choice) else [domain.value] if isinstance(domain, Fixed) else (
            list(range(int(domain.low), int(domain.high) + 1)) if isinstance(domain, Range) and domain.whole and not domain.log
            and not domain.step and domain.high - domain.low < 10 else [])
        if not values or parameter.when or self.seeds or not all(type(v) is int and 0 <= v < 2**31 for v in values):
            raise Trouble("study.seeds is a list of whole numbers from 0 on, and holds for all trials")
        self.seeds = list(dict.fromkeys(v for v in values if isinstance(v, int)))
        self.report.renamed.append(f"{parameter.name} -> study.seeds")
        if isinstance(domain, (Choice, Range)) and not domain.compared:
            self.report.approximate.append("study.seeds: every config is trained with each of the seeds, not with one that is drawn")

    def _fit(self, parameter: Parameter, name: str, values: Sequence[object]) -> dict[str, Value]:
        """The values of a choice as those of a parameter of ours, by their repr in the file; the report has those that cannot be.

        Raises:
            Trouble: none can.
        """
        fitted: dict[str, Value] = {}
        missed = []
        for value in values:
            try:
                fitted[repr(value)] = found = _plain(value) if self.job else _fit_builtin(name, value)
            except ValueError as error:
                text = value.why if isinstance(value, Unmapped) else value.text if isinstance(value, Opaque) else str(value)
                missed.append((text, str(error)))
            else:
                if isinstance(value, str) and text_of(found) != value:
                    self.report.renamed.append(f"{name}: {value} -> {text_of(found)}")
        if missed and not fitted:
            raise Trouble(missed[0][1])
        self.report.lost += [f"{parameter.name} = {short(text)[:80]}; {why}" for text, why in missed]
        return fitted

    def _fit_range(self, name: str, drawn: Range, notes: list[str]) -> Domain:
        """A range within what a parameter may be, in its type."""
        kind = (int if drawn.whole and all(float(v).is_integer() for v in (drawn.low, drawn.high, drawn.step or 1)) else float) \
            if self.job else PARAMETERS[name].type
        if kind is bool and (drawn.low, drawn.high, drawn.whole) == (0, 1, True):
            return Choice((False, True), compared=drawn.compared)
        if kind not in (int, float):
            raise Trouble(f"`{name}` has values such as {toml(PARAMETERS[name].default)}, and no range")
        low, high, step = drawn.low, drawn.high, drawn.step
        step = 1 if drawn.whole and not drawn.log and step is None and kind is float else step
        if kind is int:
            if step is not None and not float(step).is_integer():
                raise Trouble(f"`{name}` is a whole number, and so has to be the distance of its values")
            if not drawn.whole and step is None:
                notes.append("only whole numbers")
            low, high, step = math.ceil(low), math.floor(high), None if step is None else int(step)
        if not self.job:
            low, high = _within(name, low, high, step, notes)
        low, high, step = kind(clean(low)), kind(clean(high)), step if step is None else kind(clean(step))
        if low > high:
            raise Trouble("no value of it is allowed")
        if low == high:
            return Fixed(low)
        if drawn.compared:
            count = round((high - low) / (step or 1)) + 1
            if count > _MOST_COMPARED:
                raise Trouble(f"{count} values are too many to try them all")
            return Choice(tuple(kind(clean(low + k * (step or 1))) for k in range(count)), compared=True)
        return Range(low, high, log=drawn.log, step=None if kind is int and step == 1 else step, whole=kind is int)

    def _settle_conditional(self) -> None:
        """Values that are fixed under a condition go into [fixed] when nothing else sets that parameter."""
        for name in dict.fromkeys(e.name for e in self.entries if e.section == "fixed" and e.when):
            same = [e for e in self.entries if e.name == name]
            if len({(e.section, e.literal) for e in same}) > 1:
                for entry in [e for e in same if e.section == "fixed"]:
                    self.drop(entry, f"it is {entry.literal} under {_condition_text(entry.when)} and something else elsewhere")
                continue
            read_by = {} if self.job else registry.readers(name)
            if not all(any(value in read_by.get(chooser, ()) for chooser, value in e.when) for e in same):
                note = f"{name}: {same[0].literal} always, not only under {' or '.join(_condition_text(e.when) for e in same)}"
                self.report.approximate.append(note)
                same[0].told.append(note)
            self.entries = [e for e in self.entries if e.name != name or e is same[0]]
            same[0].when = ()

    def drop(self, entry: Entry, why: str) -> None:
        """Takes an entry out, and what depends on it; they are not mapped, then."""
        if entry.section in ("fixed", "compare", "tune"):
            if entry not in self.entries:
                return
            self.entries.remove(entry)
        self.report.approximate = [note for note in self.report.approximate if note not in entry.told]
        self.report.renamed = [note for note in self.report.renamed if note not in entry.told]
        self._lose(entry.parameter, why)
        for other in [e for e in self.entries if any(name == entry.name for name, _ in e.when)]:
            self.drop(other, f"it depends on {entry.name}, which is not mapped")


def _plain(value: object) -> Value:
    """A value that a grid can hold.

    Raises:
        ValueError: it is a list, a table or nothing.
    """
    if isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError("it is no literal" if isinstance(value, (Opaque, Unmapped)) else
                     "a number, a string, true or false is meant")


def _fit_builtin(name: str, value: object) -> Value:
    """A value as a parameter of the built-in training has it: "SGD" is "sgd", 8.0 is 8, "0.1" is 0.1.

    Raises:
        ValueError: it has no such value.
    """
    kind, choices = PARAMETERS[name].type, PARAMETERS[name].metadata["choices"]
    if value is None and "none" in choices:
        return "none"
    value = _plain(value)
    if kind in (int, float) and isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise ValueError("a number is meant") from None
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if kind is bool and value in (0, 1, "true", "false", "True", "False"):
        value = value in (1, "true", "True")
    if kind is str and isinstance(value, str) and choices and value not in choices:
        word = re.sub(r"[\W_]", "", value).lower()
        word = _VALUES.get(word, word)
        value = next((c for c in choices if re.sub(r"[\W_]", "", c).lower() == word), value)
    return check_value(name, value)


def _within(name: str, low: float, high: float, step: float | None, notes: list[str]) -> tuple[float, float]:
    """A range cut to what a parameter of the built-in training may be."""
    limits = PARAMETERS[name].metadata
    cut_low, cut_high = max(low, limits["low"]), min(high, limits["high"])
    if cut_low <= limits["above"]:
        cut_low = limits["above"] + (step or (cut_high - limits["above"]) / 1000)
    if step and cut_low > low:
        cut_low = low + math.ceil((cut_low - low) / step - 1e-9) * step
    cut_high = cut_low + math.floor((cut_high - cut_low) / step + 1e-9) * step if step else cut_high
    if (cut_low, cut_high) != (low, high):
        notes.append(f"cut from {low:g} to {high:g} to what it may be, {cut_low:g} to {cut_high:g}")
    return cut_low, cut_high


def toml(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool) or not isinstance(value, str):
        return text_of(value) if isinstance(value, (bool, int, float)) else repr(value)
    if not value.isprintable():
        raise UsageError(f"{short(value)[:80]!r} has control characters or line breaks; take them out")
    return json.dumps(value, ensure_ascii=False)


def _range_text(drawn: Range) -> str:
    parts = [f"low = {toml(drawn.low)}", f"high = {toml(drawn.high)}"]
    parts += ["log = true"] if drawn.log else []
    parts += [f"step = {toml(drawn.step)}"] if drawn.step else []
    return f"{{ {', '.join(parts)} }}"


def _condition_text(when: Sequence[tuple[str, Value]]) -> str:
    return " and ".join(f"{name} = {text_of(value)}" for name, value in when)
