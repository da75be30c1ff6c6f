"""From a study's folder to checked tables: finding the folder, reading the Parquet files, and what their metadata say.

Errors, all caught by command lines only:

    AnalysisError            a study that cannot be found, read or drawn; its text says what, where and what to do next
     └ NotForThisStudy       a figure of something that this study does not have, so that nothing is missing

pandas and pyarrow are imported inside `load`, so that a misspelt name is answered at once.
"""

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from analysis.winners import Search, Tuned

SCHEMA = 1
"""The version of the tables' schema that this floor reads."""
TRIALS, EPOCHS, ATTEMPTS, PREDICTIONS = "trials.parquet", "epochs.parquet", "attempts.parquet", "predictions.parquet"
TRIAL_COLUMNS = ("study", "trial_id", "variant", "seed", "status", "epoch")
EPOCH_COLUMNS = ("trial_id", "epoch")
ATTEMPT_COLUMNS = ("trial_id", "attempt", "cause", "started", "ended", "train_s", "ranks", "first_epoch", "last_epoch", "epoch_s")
PREDICTION_COLUMNS = ("trial_id", "image", "label", "predicted")
SPLIT = "param_split_seed"
"""The column that says which split of its data set a trial had."""
STATUSES = ("done", "pruned", "infeasible", "failed", "lost", "unfinished")
REBUILD = "`python -m harness.launch GRID`, with the grid of this study, writes it again from the trial folders; nothing trained is lost"


class AnalysisError(Exception):
    """A study that cannot be found, read or drawn."""


class NotForThisStudy(AnalysisError):
    """A figure of something that this study does not have; it is left out without a word unless it was asked for by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A study's tables and what its files' metadata say of it."""

    folder: Path
    name: str
    trials: "pd.DataFrame"
    """One row for each trial, as harness/tables.py wrote it. Metrics are fractions. Of a searched study only the trials that stand for
    their variants: those of one config each, on as many seeds; all others are in `search`."""
    epochs: "pd.DataFrame"
    """One row for each trial and epoch; no rows when the study has no such file."""
    attempts: "pd.DataFrame"
    """One row for each attempt at a trial; no rows when the study has no such file."""
    metric: str
    mode: str
    """"max" when more of the metric is better, "min" when less is."""
    select: str
    """"best_val" or "last": which epoch's row is a trial's result."""
    seeds: tuple[int, ...]
    variants: tuple[str, ...]
    """In the order of the grid."""
    reference: str
    """The variant that the others are compared with."""
    compared: tuple[str, ...]
    """Names of the parameters that differ between variants."""
    chance: float | None
    """What guessing gets in an accuracy, where that is one number for the whole study."""
    search: "Search | None" = None
    """All that was tried, of a study with [tune]."""
    pairs: tuple[str, ...] = ("seed",)
    """The columns that two trials have in common when they are a pair; with `SPLIT` last where variants were trained on several splits."""
    chosen_by: tuple[str, str] | None = None
    """Metric and mode that chose each trial's epoch, where they are not those of the study as it is read here."""
    asked: bool = False
    """Whether the metric was asked for, so that it is what variants are compared by."""
    caution: str = ""
    """What must stand above comparisons of a study that is made of others."""
    ours: bool = True
    """Whether it is a study of this harness and no table of another tool, which `harness.launch` cannot go on with."""

    @property
    def all_trials(self) -> "pd.DataFrame":
        """Every trial there is, also those of a search that stand for no variant."""
        return self.trials if self.search is None else self.search.trials

    def predictions(self) -> "pd.DataFrame":
        """What each tested trial said of each test image: trial_id, image, label, predicted; no rows when the study has no such file.

        Raises:
            AnalysisError: the file cannot be read.
        """
        return _optional(self.folder / PREDICTIONS, PREDICTION_COLUMNS)

    def done(self) -> "pd.DataFrame":
        """The finished trials, one for each variant and seed.

        Raises:
            AnalysisError: none is finished, or a variant has several trials of one seed, which are no replicates of each other.
        """
        done = self.trials[self.trials["status"] == "done"]
        if done.empty:
            waiting = self.all_trials["status"].isin(["unfinished", "pruned"]).any()
            none = f"no trial is finished ({self.counts()})" if self.search is None else (
                f"no config {'is fully trained yet' if waiting else 'has a value'} ({self.counts()})")
            then = "`python -m harness.launch GRID` goes on with it" if waiting else f"`python -m harness.why {self.name}` says why"
            raise AnalysisError(f"{self.name}: {none}" + (f". Nothing can be drawn yet; {then}" if self.ours else ""))
        twice = done[done.duplicated(["variant", *self.pairs])]
        if not twice.empty:
            row = twice.iloc[0]
            raise AnalysisError(f"{self.name}: variant \"{row['variant']}\" has several finished trials of seed {row['seed']}; trials with "
                                "different tuned values are no replicates, so a mean over them would mislead")
        return done

    def counts(self) -> str:
        """How many trials there are and how they ended: "52 of 60 trials finished; 5 infeasible, 3 failed"."""
        trials = self.all_trials
        found = trials["status"].value_counts()
        others = [s for s in STATUSES if s in found.index and s != "done"] + sorted(s for s in found.index if s not in STATUSES)
        text = f"{int(found.get('done', 0))} of {plural(len(trials), 'trial')} finished"
        return text + ("; " + ", ".join(f"{found[s]} {s}" for s in others) if others else "")

    def selection(self) -> str:
        """The rule that chose each trial's epoch, in words."""
        metric, mode = self.chosen_by or (self.metric, self.mode)
        if not self.ours and self.epochs.empty:
            return "a trial's values are those of the table"
        return "a trial's values are those of " + (
            "its last epoch" if self.select == "last" else f"its epoch with the {'lowest' if mode == 'min' else 'highest'} {metric}")

    def headline(self) -> tuple[str, str]:
        """The column that variants are compared by and its direction: `test_acc` where the test split was opened, else the metric. A
        confirmed config counts as tested when all of its finished trials are, so that the mean is one over all of its seeds."""
        if "test_acc" in self.trials and not self.asked:
            tested = self.trials.loc[self.trials["status"] == "done", "test_acc"].notna()
            if tested.any() and (self.search is None or tested.all()):
                return "test_acc", "max"
        return self.metric, self.mode

    def warning(self) -> str:
        """What must stand above anything that compares configs which nothing has confirmed; "" where there is nothing to warn of: one
        config that stands for its variant because it is the only one is no luckier than it is."""
        most = 1 if self.search is None or self.search.confirmed else int(self.search.configs.groupby("variant").size().max())
        if most == 1:
            return self.caution
        biased = "downwards" if self.mode == "min" else "upwards"
        return (f"Not confirmed: each variant is the best of up to {most} configs by {self.metric}, "
                f"chosen on the seeds that are shown. The best of many looks better than it is: {self.metric} is biased {biased}.")

    def standing(self) -> str:
        """Which config stands for each variant, for captions; "" in a study without [tune]."""
        if self.search is None:
            return ""
        if not self.search.confirmed:
            return "Each variant by its best fully trained config"
        extreme = "lowest" if self.mode == "min" else "highest"
        most = int(self.search.configs[self.search.configs["confirmed"].notna()].groupby("variant").size().max())
        of = f"of up to {most} configs" if most > 1 else "the config"
        text = f"Each variant by its winner, {of} trained again on fresh seeds" + (
            f" the one with the {extreme} mean {self.metric} there" if most > 1 else "")
        text += "; more are still being trained, so the winners may change" if self.search.running() else ""
        return text

    def openings(self) -> str:
        """What must be said where test values are shown: that the test split was opened more than once; else ""."""
        tested = self.search is not None and "test_acc" in self.trials and self.trials["test_acc"].notna().any()
        return f"Test split opened {self.search.openings} times" if self.search and tested and self.search.openings > 1 else ""


def plural(n: int, noun: str) -> str:
    """"1 seed", "3 seeds"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def nearest(word: str, valid: Sequence[str]) -> str:
    """The end of a message about an unknown name: the nearest valid one and the list (the first 20 of a long one)."""
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    more = f", … ({len(valid)} in all)" if len(valid) > 20 else ""
    return (f"; did you mean `{close[0]}`?" if close else "") + f" (there are: {', '.join(valid[:20])}{more})"


def find_study(word: str | None, runs: Path) -> Path:
    """The folder of a study: a folder as given, a name under `runs`, or for None the study whose trials table is the newest.

    Raises:
        AnalysisError: there is no such study, or no study at all.
    """
    if word is not None:
        for folder in (runs / word, Path(word)):
            if folder.is_dir():
                return folder
        if Path(word).is_file() and word.endswith((".parquet", ".toml")):
            raise AnalysisError(f"{word} is a file; give the study's name or its folder, e.g. {Path(word).parent}")
    found = sorted(p.name for p in runs.iterdir() if (p / "grid.toml").exists() or (p / TRIALS).exists()) if runs.is_dir() else []
    if not found:
        asked = f"no study \"{word}\": " if word is not None else ""
        raise AnalysisError(f"{asked}there are no studies in {runs}. `python -m harness.launch --local` makes a first one there; "
                            "--runs DIR names another folder")
    if word is not None:
        raise AnalysisError(f'no study "{word}" in {runs}{nearest(word, found)}')
    tables = [runs / name / TRIALS for name in found if (runs / name / TRIALS).exists()]
    if not tables:
        raise AnalysisError(f"the studies in {runs} ({', '.join(found[:20])}) have no {TRIALS} yet; `python -m harness.launch GRID` "
                            "writes it as trials end")
    return max(tables, key=lambda path: path.stat().st_mtime_ns).parent


def metric_mode(metric: str) -> str:
    """"min" for losses and errors, by their names, "max" otherwise."""
    return "min" if metric.lower().endswith(("loss", "error", "err", "rmse", "mse", "mae", "perplexity")) else "max"


def load(folder: Path, *, metric: str | None = None, mode: str | None = None) -> Study:
    """Reads and checks a study's tables. A missing epochs or attempts table gives an empty one.

    Args:
        metric: another column to compare by than the study's own metric; each trial's values stay those of the epoch that was selected.
        mode: "max" or "min"; by default the study's own, and for another metric what its name says.

    Raises:
        AnalysisError: no trials table, a file that is cut short or not ours, an unknown schema version, or a column that is missing.
    """
    from analysis.winners import NEEDED

    if not (folder / TRIALS).exists():
        raise AnalysisError(f"{folder} has no {TRIALS} yet; `python -m harness.launch GRID` writes it as trials end")
    trials, about = _read(folder / TRIALS)
    own = str(about.get("metric", "val_acc"))
    _check_columns(folder / TRIALS, trials, (*TRIAL_COLUMNS, own, *(NEEDED if "phase" in trials else ())))
    if trials.empty:
        raise AnalysisError(f"{folder / TRIALS} holds no trial yet; `python -m harness.launch GRID` goes on with the study")
    if metric or mode:
        about = _another_metric(folder, trials, about, metric or own, mode)
    return study_of(folder, trials, about, epochs=_optional(folder / EPOCHS, (*EPOCH_COLUMNS, metric or own), needed=len(EPOCH_COLUMNS)),
                    attempts=_optional(folder / ATTEMPTS, ATTEMPT_COLUMNS))


def metric_columns(trials: "pd.DataFrame") -> list[str]:
    """The columns of numbers that may be a metric: all but parameters and counters."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    counters = ("seed", "wave", "config", "budget", "epoch", "epochs", "test_opening")
    return [name for name in map(str, trials.columns) if not name.startswith("param_") and name not in counters
            and is_numeric_dtype(trials[name]) and not is_bool_dtype(trials[name])]


def _another_metric(folder: Path, trials: "pd.DataFrame", about: Mapping[str, Any], metric: str, mode: str | None) -> dict[str, Any]:
    """What the metadata say, with the metric and the mode that were asked for in place of the study's own."""
    own, own_mode = str(about.get("metric", "val_acc")), str(about.get("mode", "max"))
    if metric not in (valid := metric_columns(trials)):
        raise AnalysisError(f"{folder / TRIALS} has no metric `{metric}`{nearest(metric, valid)}")
    if metric.startswith("test_") and "phase" in trials and (trials["phase"] == "search").any():
        raise AnalysisError(f"{folder.name}: {metric} cannot be what configs are compared by, the test split chooses nothing; the results "
                            f"table has it for the winners (others: {', '.join(m for m in valid if not m.startswith('test_'))})")
    mode = mode or (own_mode if metric == own else metric_mode(metric))
    accuracy = metric.endswith("acc") and mode == "max"
    return {**about, "metric": metric, "mode": mode, "chosen_by": (own, own_mode), "chance": about.get("chance") if accuracy else None}


def study_of(folder: Path, trials: "pd.DataFrame", about: Mapping[str, Any], *, epochs: "pd.DataFrame",
             attempts: "pd.DataFrame") -> Study:
    """A study of tables that are read and checked already, and of what their metadata say."""
    from analysis.winners import search_of, standing_trials

    metric, mode = str(about.get("metric", "val_acc")), str(about.get("mode", "max"))
    present = [str(v) for v in trials["variant"].unique()]
    variants = [v for v in map(str, about.get("variants") or []) if v in present]
    variants += [v for v in present if v not in variants]
    reference, compared = str(about.get("reference") or variants[0]), [str(n) for n in about.get("compared") or []]
    compared = [name for name in compared if f"param_{name}" in trials.columns]
    search = search_of(trials, metric, mode, _tuned(about.get("tuned")))
    pairs: tuple[str, ...] = ("seed",)
    if search is None and (names := _over_splits(trials, compared)):
        trials = trials.assign(variant=trials["variant"].map(names))
        variants, reference = list(dict.fromkeys(names[v] for v in variants)), names.get(reference, reference)
        compared, pairs = [name for name in compared if f"param_{name}" != SPLIT], ("seed", SPLIT)
    if search is not None:
        trials = standing_trials(search)
        epochs = epochs.drop_duplicates(["trial_id", "epoch"], ignore_index=True)  # two variants may have a trial in common
    chance = about.get("chance")
    return Study(
        folder=folder, name=str(about.get("study") or folder.name), trials=trials, epochs=epochs, attempts=attempts, metric=metric,
        mode=mode, select=str(about.get("select", "best_val")), seeds=tuple(about.get("seeds") or ()), variants=tuple(variants),
        reference=reference, compared=tuple(compared), pairs=pairs, chosen_by=about.get("chosen_by"), asked="chosen_by" in about,
        chance=float(chance) if isinstance(chance, (int, float)) and math.isfinite(chance) else None,
        search=search, ours=not about.get("foreign"))


def _over_splits(trials: "pd.DataFrame", compared: Sequence[str]) -> dict[str, str]:
    """variant -> its name without the split, where the splits of the data are compared beside something else: the splits are repetitions
    then, as seeds are, and what is compared is the rest. {} where there is nothing to take together."""
    others = [f"param_{name}" for name in compared if f"param_{name}" != SPLIT]
    if not others or len(others) == len(compared):
        return {}
    first = trials.drop_duplicates("variant")
    names: dict[str, str] = {}
    for _, part in first.groupby(others, sort=False, dropna=False):
        variant, split = str(part["variant"].iloc[0]), f"{SPLIT.removeprefix('param_')}={part[SPLIT].iloc[0]}"
        if part[SPLIT].duplicated().any():
            return {}  # they differ by something else as well
        plain = " ".join(word for word in variant.split(" ") if word != split)
        names |= dict.fromkeys(map(str, part["variant"]), plain)
    return names if len(set(names.values())) == first.groupby(others, dropna=False).ngroups else {}


def _optional(path: Path, columns: Sequence[str], *, needed: int | None = None) -> "pd.DataFrame":
    """A table that a study may lack: one without rows then. It must have the first `needed` of the columns, by default all."""
    import pandas as pd

    if not path.exists():
        return pd.DataFrame(columns=list(columns))
    frame, _ = _read(path)
    _check_columns(path, frame, columns[:needed])
    return frame


def _tuned(listed: object) -> "list[Tuned]":
    """What the metadata say was tuned."""
    from analysis.winners import Tuned

    return [Tuned(name=str(one["name"]), log=bool(one.get("log")), choices=tuple(one.get("choices") or ()))
            for one in (listed if isinstance(listed, list) else []) if isinstance(one, dict) and "name" in one]


def _read(path: Path) -> tuple["pd.DataFrame", dict[str, Any]]:
    """One of our Parquet files, its pages' checksums verified, and the JSON of its metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # ParquetFile reads this one file; read_table would take a folder of that name, or the names around it, for a data set
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise AnalysisError(f"{path} cannot be read: it is cut short or no Parquet file ({reason}). {REBUILD}") from error
    try:
        about = json.loads((table.schema.metadata or {})[b"harness"])
        version = about["schema"]
    except (KeyError, TypeError, ValueError) as error:
        raise AnalysisError(f"{path} was not written by this harness: its metadata has no readable key \"harness\" with a schema "
                            "version") from error
    if version != SCHEMA:
        raise AnalysisError(f"{path} has schema version {version}; this code reads version {SCHEMA}. Use the checkout that wrote it, or "
                            "let `python -m harness.launch GRID` of this checkout write it again")
    return _to_pandas(table), about


def _to_pandas(table: "pa.Table") -> "pd.DataFrame":
    """pandas with whole numbers and truth values kept as such where some are missing (plain pandas makes them floats and objects)."""
    import pandas as pd
    import pyarrow as pa

    kinds: dict[Any, Any] = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    frame: pd.DataFrame = table.to_pandas(types_mapper=kinds.get, ignore_metadata=True)
    return frame


def _check_columns(path: Path, frame: "pd.DataFrame", needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise AnalysisError(f"{path} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)} "
                            f"(it has: {', '.join(map(str, frame.columns))}). {REBUILD}")
