"""What the page says in words: the verdict, what ran, and the best config. A study in, values out."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import cost, sentences, stats
from analysis.load import STATUSES, AnalysisError, NotForThisStudy, Study, plural
from analysis.parameters import configs, parameters

MAX_STANDINGS = 12
LONG_NAME = 30


# ------------------------------------------------------------------------------------------------------------ the verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """One variant in the table under the verdict; numbers as percentages of the width, texts ready to be read."""

    variant: str
    text: str
    """Mean and half-width."""
    gap: str
    """Difference to the reference, "reference", or ""."""
    n: str
    """How many seeds, and of how many where others gave no value."""
    mean: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the study shows."""

    variant: str = ""
    """The one that leads; "" where none does."""
    lead: str
    """The first sentence, after the variant's name."""
    detail: str = ""
    """What the numbers in it are."""
    sentences: list[str]
    notes: list[str]
    """What must be known with it."""
    metric: str = ""
    reference: str = ""
    standings: list[Standing]
    left_out: int = 0
    """Variants that have no row among the standings."""


def verdict(study: Study) -> Verdict:
    """The leading variant, the comparisons, and what the search said; one sentence where nothing can be compared yet."""
    notes = [study.warning()] if study.warning() else []
    if study.all_trials["status"].eq("unfinished").any():
        notes.append(f"The study is not over: {study.counts()}. The page shows it as it stood when its tables were last written.")
    try:
        done = study.done()
        said = _sentences(study)
    except AnalysisError as error:
        searched = sentences.of_study(study) if study.search is not None else []
        lead, _, then = _capital(str(error).removeprefix(f"{study.name}: "), study).partition(". ")
        return Verdict(lead=lead, detail=then and f"{then}.", notes=notes, standings=[],
                       sentences=[f"{_capital(s, study)}." for s in searched[:MAX_STANDINGS]])
    column, mode = study.headline()
    means = stats.by_variant(done, column, variants=study.variants, by=study.pairs)
    ended = stats.endings(study.trials)
    means = means.assign(unjudged=_unjudged(means, ended))
    means = means.sort_values(["unjudged", "mean"], ascending=[True, mode == "min"], kind="stable", na_position="last")
    top, unit = means.iloc[0], "\u00a0%" if stats.is_share(column) else ""
    got = f"has the {'lowest' if mode == 'min' else 'highest'} {stats.words(column)}:" if len(study.variants) > 1 else (
        f"has a {stats.words(column)} of")
    spread = f", 95 % interval {stats.show(top['low'], column)} to {stats.show(top['high'], column)}" if math.isfinite(top["low"]) else ""
    detail = f"The mean of {plural(int(top['n']), str(top['unit']))}{spread}." if top["n"] > 1 else "One seed, so without an interval."
    left = means.loc[means["unjudged"] > top["unjudged"], "variant"].tolist()
    detail += f" Not judged, as seeds diverged or are fewer than {stats.MIN_N}: {listed(left)}." if left else ""
    notes += [f"{study.openings()}."] if study.openings() else []
    return Verdict(variant=str(top["variant"]), lead=f"{got} {stats.show(top['mean'], column)}{unit}", detail=detail, sentences=said,
                   notes=notes, metric=f"{stats.words(column)}{' (%)' if stats.is_share(column) else ''}",
                   reference=study.reference if len(study.reference) <= LONG_NAME else "the reference",
                   standings=_standings(study, done, means, ended), left_out=max(0, len(means) - MAX_STANDINGS))


def _sentences(study: Study) -> list[str]:
    """Which variants may be the best, the comparisons, then all else that is said of the study."""
    compared, standing = sentences.comparison(study), sentences.standings(study)
    others = [s for s in sentences.of_study(study) if s not in (*compared, *standing)]
    said = [*standing, *(compared[:MAX_STANDINGS] if len(study.variants) > 1 else []), *others[:MAX_STANDINGS]]
    return [f"{_capital(s, study)}." for s in said]


def _unjudged(means: pd.DataFrame, ended: Mapping[str, Mapping[str, int]]) -> list[int]:
    """Why a variant does not lead, as in `stats.best`: 1 below three seeds; 2 where seeds diverged, as the others are those that went well;
    3 without any value."""
    return [3 if not n else 2 if ended.get(v, {}).get("infeasible") else int(n < stats.MIN_N)
            for v, n in zip(means["variant"], means["n"], strict=True)]


def _standings(study: Study, done: pd.DataFrame, means: pd.DataFrame, ended: Mapping[str, Mapping[str, int]]) -> list[Standing]:
    """The best variants, the reference always among them."""
    column, _ = study.headline()
    gaps = stats.paired(done, column, variants=study.variants, reference=study.reference, by=study.pairs).set_index("variant")
    rows = means.head(MAX_STANDINGS)
    if study.reference not in set(rows["variant"]):
        rows = pd.concat([rows.head(MAX_STANDINGS - 1), means[means["variant"] == study.reference]])
    ends = rows[["mean", "low", "high"]].to_numpy(dtype=float).ravel()
    ends = ends[[math.isfinite(v) for v in ends]]
    low, high = (float(ends.min()), float(ends.max())) if len(ends) else (0.0, 1.0)
    pad = 0.04 * (high - low) or 0.5

    def at(x: float) -> float | None:
        return round(100 * (x - low + pad) / (high - low + 2 * pad), 2) if math.isfinite(x) else None

    out = []
    for _, row in rows.iterrows():
        name = str(row["variant"])
        gap = "reference" if name == study.reference and len(study.variants) > 1 else ""
        if name in gaps.index and math.isfinite(difference := float(gaps["difference"][name])):
            gap, low_, high_ = _signed(difference, column), float(gaps["low"][name]), float(gaps["high"][name])
            gap += f" ({_signed(low_, column)}\u00a0to\u00a0{_signed(high_, column)})" if math.isfinite(low_) else ""
        counts = ended.get(name, {})
        of = f" of {sum(counts.values())}" if row["n"] == counts.get("done", 0) < sum(counts.values()) else ""
        out.append(Standing(variant=name, text=stats.show_with_half(row["mean"], row["half_width"], column), gap=gap,
                            n=f"{row['n']}{of}", mean=at(row["mean"]), low=at(row["low"]), high=at(row["high"])))
    return out


def _signed(difference: float, column: str) -> str:
    text = stats.show(difference, column)
    return f"+{text}" if difference > 0 and float(text) else text


def _capital(text: str, study: Study) -> str:
    """A sentence with a large first letter, unless that belongs to the name of a variant."""
    return text if text.startswith(tuple(study.variants)) else text[:1].upper() + text[1:]


# ------------------------------------------------------------------------------------------------------------- what ran


def what_ran(study: Study, folder: str) -> list[tuple[str, str]]:
    """Facts of the study: what it compared, how much of it ran, what that cost, where, and with which code."""
    trials, attempts = study.all_trials, study.attempts
    varying = parameters(study)
    compared, tuned = [p.name for p in varying if not p.tuned], [p.name for p in varying if p.tuned]
    metric = f"{stats.words(study.metric)}, {'lower' if study.mode == 'min' else 'higher'} is better; {study.selection()}"
    facts = [("Trials", study.counts()),
             ("Variants", f"{len(study.variants)}" + (f", which differ in {listed(compared)}" if compared else "")),
             ("Tuned", listed(tuned)),
             ("Configs", f"{len(study.search.configs)}" if study.search is not None else ""),
             ("Seeds", listed([str(s) for s in sorted(trials["seed"].unique())])),
             ("Metric", metric), ("Compute", _compute(study)), ("Wall time", _wall(attempts))]
    if not attempts.empty:
        gpus = _distinct(attempts, "gpu")
        facts += [("Machines", ", ".join([plural(len(_distinct(attempts, "host")), "host"), *gpus[:4]])),
                  ("Commit", _commit(attempts)),
                  ("Versions", ", ".join(f"{label} {' and '.join(found[:3])}" for label, found in
                                         (("Python", _distinct(attempts, "python")), ("PyTorch", _distinct(attempts, "torch"))) if found))]
    return [(name, text) for name, text in [*facts, ("Folder", folder)] if text]


def statuses(study: Study) -> list[tuple[str, int]]:
    """How many trials ended how."""
    found = study.all_trials["status"].value_counts()
    return [(s, int(found[s])) for s in (*STATUSES, *sorted(set(found.index) - set(STATUSES))) if found.get(s, 0)]


def _compute(study: Study) -> str:
    try:
        spent = cost.per_trial(study)
    except NotForThisStudy:
        return ""
    factor, unit = cost.scale(study, hours := float(spent["hours"].sum()))
    causes = study.attempts["cause"].value_counts()
    ended = [f"{causes[c]} ended with: {c.replace('_', ' ')}" for c in ("preempted", "node_failure", "time_limit", "lost")
             if causes.get(c, 0)]
    return "; ".join([f"{hours * factor:.3g} {unit} in {plural(len(study.attempts), 'attempt')}", *ended])


def _wall(attempts: pd.DataFrame) -> str:
    if attempts.empty or attempts["started"].isna().all():
        return ""
    began, ended = attempts["started"].min(), attempts[["started", "ended"]].max().max()
    seconds = (ended - began).total_seconds()
    long = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
    return f"{long}, from {began:%Y-%m-%d %H:%M} to {ended:{'%H:%M' if began.date() == ended.date() else '%Y-%m-%d %H:%M'}} UTC"


def _commit(attempts: pd.DataFrame) -> str:
    known = attempts.dropna(subset=["commit"]) if "commit" in attempts else attempts.head(0)
    found = []
    for commit, rows in known.groupby("commit", sort=False):
        dirty = "dirty" in rows and rows["dirty"].fillna(False).astype(bool).any()
        found.append(f"{str(commit)[:10]}{' with uncommitted changes' if dirty else ''}")
    return "; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")


def _distinct(attempts: pd.DataFrame, column: str) -> list[str]:
    return sorted(attempts[column].dropna().astype(str).unique()) if column in attempts else []


def listed(names: list[str]) -> str:
    """Names in a row, the first twelve of many."""
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def grid_text(study: Study) -> str:
    """The frozen grid; "" where there is none."""
    try:
        return (study.folder / "grid.toml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


# ------------------------------------------------------------------------------------------------------------ the best config


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """The config to go on with."""

    title: str
    """Which it is and what it got."""
    toml: str
    trial: str
    """Its first trial."""


def best_config(study: Study) -> Best | None:
    """The config that is best in the study's metric, of those that stand for their variants; None where none has a value.

    The metric decides, and never the test split: a config that was chosen by it would have no honest test value any more.
    """
    column = "confirmed" if study.search is not None and study.search.confirmed else "value"
    rows = configs(study)
    if column == "confirmed" and study.search is not None:
        rows = rows.merge(study.search.configs[["variant", "config", "confirmed", "confirmed_n"]], on=["variant", "config"])
        rows = rows.assign(n=rows["confirmed_n"])
    rows = rows[rows["chosen"] & rows[column].notna()]
    if rows.empty:
        return None
    diverged = study.trials.loc[study.trials["status"] == "infeasible", "variant"]
    rows = rows.assign(diverged=rows["variant"].isin(diverged))  # what is left of such a variant are the seeds that went well
    row = rows.sort_values(["diverged", column], ascending=[True, study.mode == "min"], kind="stable").iloc[0]
    unit = " %" if stats.is_share(study.metric) else ""
    over = plural(int(row["n"]), "seed") if row["n"] == 1 else f"{row['n']} seeds"
    which = f"{row['variant']}, config {row['config']}" if study.search is not None else f"{row['variant']}"
    title = f"{which}: {stats.words(study.metric)} {stats.show(float(row[column]), study.metric)}{unit} ({over})"
    trial = study.all_trials[study.all_trials["trial_id"] == row["trial_id"]].iloc[0]
    return Best(title=title, toml=_toml(trial, [p.name for p in parameters(study)]), trial=str(row["trial_id"]))


def _toml(trial: "pd.Series[Any]", first: list[str]) -> str:
    """A trial's parameters as the table [fixed] of a grid: what varies first, then the others."""
    names = [c.removeprefix("param_") for c in trial.index if c.startswith("param_") and not pd.isna(trial[c])]
    names = [n for n in names if n != "weights_digest"]  # the harness's own note of where weights come from
    varying = [n for n in first if n in names]
    others = [n for n in names if n not in varying]
    keys = {n: n if re.fullmatch(r"[A-Za-z0-9_-]+", n) else _toml_string(n) for n in names}
    width = max(map(len, keys.values()), default=0)
    lines = ["[fixed]"]
    for part in (varying, others):
        lines += ["", "# the same in all configs"] if part is others and varying and others else []
        lines += [f"{keys[n]:<{width}} = {_toml_value(trial[f'param_{n}'])}" for n in part]
    return "\n".join(lines) + "\n"


def _toml_value(one: Any) -> str:
    one = one.item() if hasattr(one, "item") else one
    if isinstance(one, bool):
        return str(one).lower()
    return repr(one) if isinstance(one, (int, float)) else _toml_string(str(one))


def _toml_string(text: str) -> str:
    """A basic string of TOML: JSON's, with all but letters as they are, and without the one control character that JSON lets pass."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def where(folder: Path) -> str:
    """The folder as a command would name it from here."""
    whole, here = folder.resolve(), Path.cwd()
    return whole.relative_to(here).as_posix() if whole.is_relative_to(here) and whole != here else whole.as_posix()
