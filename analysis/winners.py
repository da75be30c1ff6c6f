"""Which config stands for each variant of a searched study, and what the search and the confirmation said of it.

A search leaves many configs of one variant, most of them trained in part. They are no seeds of each other, so one of them stands for the
variant: of those that were trained again on fresh seeds the one with the best mean there; and while none has been, the best of those that
are fully trained, which is biased, because the same values chose it. Pure: frames in, frames out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import stats

NO_VALUE = ("infeasible", "failed", "lost", "cancelled", "unfinished")
"""Why a config has no value, in the order in which one trial of it decides for all."""
NEEDED = ("config", "budget")
"""Columns that a table with phases has."""
_WITH_VALUE = ("done", "pruned")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """One parameter of the search space."""

    name: str
    log: bool = False
    choices: tuple[object, ...] = ()
    """In the grid's order; empty for a range."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """All that a searched study tried."""

    trials: pd.DataFrame
    """Every trial, of the search and of the confirmation."""
    configs: pd.DataFrame
    """One row for each config, from `configs`."""
    tuned: tuple[Tuned, ...]
    confirmed: bool
    """Whether the configs that stand for variants were confirmed."""
    openings: int
    """How often the test split was opened."""

    @property
    def halved(self) -> bool:
        """Whether configs were stopped at rungs."""
        return bool(self.configs.loc[self.configs["value"].notna(), "epochs"].notna().any())

    def running(self) -> bool:
        """Whether trials of the confirmation are not finished."""
        return bool(((self.trials["phase"] == "confirm") & (self.trials["status"] == "unfinished")).any())

    def chosen(self, variant: str) -> "pd.Series[float] | None":
        """The row of `configs` that stands for a variant."""
        rows = self.configs[(self.configs["variant"] == variant) & self.configs["chosen"]]
        return None if rows.empty else rows.iloc[0]


def search_of(trials: pd.DataFrame, metric: str, mode: str, tuned: Sequence[Tuned]) -> Search | None:
    """What a study searched; None when it has no [tune], or its tables are of before there was one."""
    if "phase" not in trials or not trials["phase"].isin(["search", "confirm"]).any():
        return None
    found = configs(trials, metric, mode)
    known = tuple(t for t in tuned if f"param_{t.name}" in trials) or _guessed(trials)
    openings = trials["test_opening"].max() if "test_opening" in trials else None
    return Search(trials=trials, configs=found, tuned=known, confirmed=bool(found["confirmed"].notna().any()),
                  openings=0 if openings is None or pd.isna(openings) else int(openings))


def _guessed(trials: pd.DataFrame) -> tuple[Tuned, ...]:
    """The parameters that differ between configs of one variant, for tables that do not say what was tuned."""
    names = [c for c in trials.columns if c.startswith("param_")]
    return tuple(Tuned(name=name.removeprefix("param_")) for name in names if trials.groupby("variant")[name].nunique().gt(1).any())


def configs(trials: pd.DataFrame, metric: str, mode: str) -> pd.DataFrame:
    """One row for each config of each variant, in the order of proposal.

    Returns:
        variant, config, status ("done", "pruned", or one of `NO_VALUE`), epochs (the rung that it has got to; empty when it was granted
        all), n and value (mean of the metric over the seeds of that rung; empty unless every one has a finite value, as the harness
        decides), confirmed_n, confirmed (mean over fresh seeds, likewise), confirmed_half_width (t, 95 %), chosen (whether it stands for
        its variant).
    """
    cells: dict[tuple[str, int], dict[str, list[tuple[float, str, float]]]] = {}
    columns = [trials[name] for name in ("variant", "config", "phase", "budget", "status")]
    values = trials[metric].to_numpy(dtype=float, na_value=math.nan)
    for variant, config, phase, budget, status, value in zip(*columns, values, strict=True):
        cell = cells.setdefault((str(variant), int(config)), {"search": [], "confirm": []})
        epochs = math.inf if pd.isna(budget) else float(budget)
        cell["confirm" if phase == "confirm" else "search"].append((epochs, str(status), float(value)))
    rows = []
    place = {variant: i for i, variant in enumerate(dict.fromkeys(variant for variant, _ in cells))}
    for (variant, config), cell in sorted(cells.items(), key=lambda item: (place[item[0][0]], item[0][1])):
        granted = max((epochs for epochs, _, _ in cell["search"]), default=math.inf)
        status, search = _judged([(s, v) for epochs, s, v in cell["search"] if epochs == granted])
        again, fresh = _judged([(s, v) for _, s, v in cell["confirm"]])
        confirmed = stats.summarise(fresh if again == "done" else [])
        rung = None if math.isinf(granted) or status == "done" else int(granted)
        rows.append((variant, config, status, rung, len(search), stats.summarise(search).mean, confirmed.n, confirmed.mean, confirmed.half))
    out = pd.DataFrame(rows, columns=["variant", "config", "status", "epochs", "n", "value", "confirmed_n", "confirmed",
                                      "confirmed_half_width"]).astype({"epochs": "Int64"})
    by = "confirmed" if out["confirmed"].notna().any() else "value"
    standing = out if by == "confirmed" else out[out["status"] == "done"]
    best = standing.dropna(subset=[by]).sort_values([by, "config"], ascending=[mode == "min", True]).groupby("variant").head(1)
    out["chosen"] = out.index.isin(best.index)
    return out


def _judged(trials: Sequence[tuple[str, float]]) -> tuple[str, list[float]]:
    """The status of a config whose trials ended so, and its values, none unless all have one."""
    statuses = {status if status not in _WITH_VALUE or math.isfinite(value) else "infeasible" for status, value in trials}
    without = [status for status in (*NO_VALUE, *sorted(statuses)) if status in statuses and status not in _WITH_VALUE]
    if without or not trials:
        return without[0] if without else "unfinished", []
    return "pruned" if "pruned" in statuses else "done", [value for _, value in trials]


def standing_trials(search: Search) -> pd.DataFrame:
    """The trials that stand for their variants: those of the chosen configs, on fresh seeds where they were confirmed."""
    chosen = search.configs.loc[search.configs["chosen"], ["variant", "config"]].astype({"variant": object})
    phase = search.trials["phase"] == "confirm" if search.confirmed else search.trials["phase"] == "search"
    keys = set(chosen.itertuples(index=False, name=None))
    mine = [pair in keys for pair in zip(search.trials["variant"], search.trials["config"].astype(int), strict=True)]
    return search.trials[phase & pd.Series(mine, index=search.trials.index)].reset_index(drop=True)


def curse(search: Search, metric: str, *, mode: str, variants: Sequence[str]) -> pd.DataFrame:
    """The winner's curse of each variant: what the search said of its best config beside what fresh seeds and the test split said.

    The best of many configs was chosen by its luck too. Nothing was chosen by the fresh seeds before they were trained, so what they say
    of the search's best is not biased, and the difference is what the search overstated that config by. What they say of the winner is a
    little too good again, since it won on them; `left_out` is that without the luck.

    Returns:
        variant, search_best (number of the config that was the search's best), search_best_value (what the search said of it),
        search_best_confirmed (its mean on fresh seeds), overstated (how much better the search said, in the metric's unit), overstated_low,
        overstated_high (t, 95 %, of the fresh seeds: what the search said is a fixed number), winner (number of the config that stands for
        the variant), confirmed, left_out, infeasible, judged (configs that ran into nonsense, of those that were tried to an end). NaN or
        empty for what is not known.
    """
    sign = -1.0 if mode == "min" else 1.0
    rows = []
    for variant in variants:
        of = search.configs[search.configs["variant"] == variant]
        best, chosen = _best(of, mode), search.chosen(variant) if search.confirmed else None
        value, again, half = (math.nan,) * 3 if best is None else (float(best[c]) for c in ("value", "confirmed", "confirmed_half_width"))
        bias = sign * (value - again)
        bad = of["status"].eq("infeasible")
        rows.append((variant, None if best is None else best["config"], value, again, bias, bias - half, bias + half,
                     None if chosen is None else chosen["config"], math.nan if chosen is None else float(chosen["confirmed"]),
                     left_out(search, variant, metric, mode) if search.confirmed else math.nan,
                     int(bad.sum()), int((bad | of["status"].isin(_WITH_VALUE)).sum())))
    return pd.DataFrame(rows, columns=["variant", "search_best", "search_best_value", "search_best_confirmed", "overstated",
                                       "overstated_low", "overstated_high", "winner", "confirmed", "left_out", "infeasible",
                                       "judged"]).astype({"search_best": "Int64", "winner": "Int64"})


def sentences(search: Search, metric: str, *, mode: str, variants: Sequence[str]) -> list[str]:
    """What the search and the confirmation said of each variant, a sentence for each; then what the search overstated, all in all."""
    found = curse(search, metric, mode=mode, variants=variants)
    out = [_sentence(variant, search, metric, mode) + _infeasible(int(bad), int(of))
           for variant, bad, of in zip(found["variant"], found["infeasible"], found["judged"], strict=True)]
    known = found.dropna(subset=["overstated"])
    if len(known) == 1:
        bias, low, high = (float(known[c].iloc[0]) for c in ("overstated", "overstated_low", "overstated_high"))
        out.append(f"what the search said of its best config of {known['variant'].iloc[0]} is {_better(bias, low, high, metric)}")
    elif len(known):
        s = stats.summarise(known["overstated"].to_numpy())
        out.append(f"what the search said of its best config is, on average over {s.n} variants, "
                   f"{_better(s.mean, s.mean - s.half, s.mean + s.half, metric)}")
    return out


def _better(bias: float, low: float, high: float, metric: str) -> str:
    """"1.2 points better than what fresh seeds say of it (95 % CI 0.3 to 2.1)", or "worse" with the interval turned."""
    low, high = (low, high) if bias >= 0 else (-high, -low)
    interval = f" (95 % CI {stats.show(low, metric)} to {stats.show(high, metric)})" if math.isfinite(low) else ""
    amount = f"{stats.show(abs(bias), metric)} {'points' if stats.is_share(metric) else f'of {stats.words(metric)}'}"
    return f"{amount} {'better' if bias >= 0 else 'worse'} than what fresh seeds say of it{interval}"


def _infeasible(bad: int, of: int) -> str:
    """The share of configs that ran into nonsense, with its interval; "" where none did."""
    if not bad:
        return ""
    s = stats.share(bad, of)
    return (f"; {bad} of {of} configs infeasible ({stats.show(s.share, 'acc')} %, 95 % CI {stats.show(s.low, 'acc')} to "
            f"{stats.show(s.high, 'acc')})")


def _sentence(variant: str, search: Search, metric: str, mode: str) -> str:
    rows = search.configs[search.configs["variant"] == variant]
    chosen, best = search.chosen(variant), _best(rows, mode)
    unit = " %" if stats.is_share(metric) else ""

    def said(row: "pd.Series[float]") -> str:
        value = f"{stats.show(float(row['value']), metric)}{unit}"
        epochs = "" if pd.isna(row["epochs"]) else f" after {row['epochs']} epochs"
        return f"search said {value}{epochs} (n = {row['n']})"

    def confirmed(row: "pd.Series[float]") -> str:
        shown = stats.show_with_half(float(row["confirmed"]), float(row["confirmed_half_width"]), metric)
        return f"confirmed {shown}{unit} (n = {row['confirmed_n']})"

    if best is None and chosen is None:
        found = rows["status"].value_counts()
        why = ", ".join(f"{found[s]} {s}" for s in dict.fromkeys((*NO_VALUE, *found.index)) if s in found.index)
        return f"{variant}: no config has a value ({why})"
    if chosen is None or not search.confirmed:
        row = best if chosen is None else chosen
        assert row is not None
        partly = " so far" if chosen is None and not pd.isna(row["epochs"]) else ""
        of = "the only one" if len(rows) == 1 else f"the best{partly} of {len(rows)} by {metric}"
        return f"{variant}: config {row['config']}, {of}: {said(row)}, not confirmed"
    text = f"{variant}: config {chosen['config']}, {'the only one' if len(rows) == 1 else f'the winner of {len(rows)} by {metric}'}: "
    text += f"{said(chosen)}, {confirmed(chosen)}" if math.isfinite(float(chosen["value"])) else confirmed(chosen)
    if abs((without := left_out(search, variant, metric, mode)) - float(chosen["confirmed"])) > 1e-12:
        text += f", {stats.show(without, metric)}{unit} with each seed left out of the choice"
    others = rows[~rows["chosen"] & rows["confirmed"].notna()]
    if best is not None and best["config"] != chosen["config"]:
        text += f"; the search's best was config {best['config']}: {said(best)}"
        text += f", {confirmed(best)}" if best["config"] in set(others["config"]) else ", not confirmed"
    first = others[(others["config"] == 0) & (best is None or best["config"] != 0)]
    if not first.empty and _tested(search, variant, 0):  # beside the winner only what the grid says to try first is tested
        text += f"; config 0, which the grid says to try first: {confirmed(first.iloc[0])}"
    return text


def left_out(search: Search, variant: str, metric: str, mode: str) -> float:
    """What the winner of a variant has, without the luck of having been chosen by the seeds that are reported: for each fresh seed the
    value there of the config that is best on the others, averaged. NaN for fewer than two seeds or a config without a value on one.

    The mean of the winner itself is a little too good; benchmarks/confirm.py measures both.
    """
    trials = search.trials[(search.trials["variant"] == variant) & (search.trials["phase"] == "confirm")]
    known = set(search.configs.loc[(search.configs["variant"] == variant) & search.configs["confirmed"].notna(), "config"])
    values = trials[trials["config"].isin(known)].pivot(index="config", columns="seed", values=metric).astype(float)
    table = values.to_numpy()
    if table.shape[1] < 2 or not np.isfinite(table).all():
        return math.nan
    others = (table.sum(axis=1, keepdims=True) - table) * (-1 if mode == "min" else 1)
    return float(table[others.argmax(axis=0), range(table.shape[1])].mean())


def _tested(search: Search, variant: str, config: int) -> bool:
    """Whether the test split was opened for a config."""
    trials = search.trials
    mine = (trials["variant"] == variant) & (trials["config"] == config)
    return "test_opening" in trials and bool(trials.loc[mine, "test_opening"].notna().any())


def _best(rows: pd.DataFrame, mode: str) -> "pd.Series[float] | None":
    """The search's best config: of those that got furthest the one with the best value."""
    known = rows.dropna(subset=["value"])
    reached = known["epochs"].astype(float).fillna(math.inf)
    furthest = known[reached == reached.max()].sort_values(["value", "config"], ascending=[mode == "min", True])
    return None if furthest.empty else furthest.iloc[0]
