"""What trials cost, and the figures of training and cost, against expectations computed by hand and on poor and hostile studies."""

import datetime
import importlib
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis import cost, plots, style
from analysis.figures import curves, curves_cost, first_best, isolation, pareto, progress, rungs, schedules
from analysis.load import AnalysisError, NotForThisStudy, Study, load
from analysis.stats.expected import expected_best
from benchmarks.made_up_space import write_space
from tests.made_up_study import EPOCHS, write_search, write_study, write_table

MINE = ("curves", "curves_cost", "schedules", "progress", "isolation", "pareto", "first_best", "rungs", "search")
BEGIN = datetime.datetime(2026, 3, 2, 9, tzinfo=datetime.UTC)
TIME = pa.timestamp("us", tz="UTC")
ATTEMPTS = pa.schema([("trial_id", pa.string()), ("attempt", pa.int64()), ("cause", pa.string()), ("started", TIME), ("ended", TIME),
                      ("device", pa.string()), ("gpus", pa.float64()), ("ranks", pa.int64()),
                      ("fused", pa.int64()), ("first_epoch", pa.int64()),
                      ("last_epoch", pa.int64()), ("train_s", pa.float64()), ("images_per_s", pa.float64()),
                      ("peak_memory_gb", pa.float64()), ("epoch_s", pa.list_(pa.float64()))])


def attempt(trial: str, started_s: float, ended_s: float | None, *, first: int = 1, epoch_s: Sequence[float] = (), number: int = 0,
            **more: Any) -> dict[str, Any]:
    """A row of the attempts table; times are seconds since `BEGIN`."""
    return {"trial_id": trial, "attempt": number, "cause": "done", "started": BEGIN + datetime.timedelta(seconds=started_s),
            "ended": None if ended_s is None else BEGIN + datetime.timedelta(seconds=ended_s), "device": "cpu",
            "gpus": None, "ranks": 1, "fused": 1,
            "first_epoch": first if len(epoch_s) else None, "last_epoch": first + len(epoch_s) - 1 if len(epoch_s) else None,
            "train_s": math.fsum(epoch_s), "epoch_s": list(epoch_s), **more}


def with_attempts(folder: Path, rows: Sequence[Mapping[str, Any]] | None = None, *, epoch_s: float = 60.0) -> Study:
    """The study with these attempts; by default one for each trial, a trial after the other, every epoch as long as said."""
    if rows is None:
        count = pq.read_table(folder / "epochs.parquet").to_pandas().groupby("trial_id").size()
        trials, made, now = pq.read_table(folder / "trials.parquet")["trial_id"].to_pylist(), [], 0.0
        for trial in dict.fromkeys(trials):
            n = int(count.get(trial, 0))
            made.append(attempt(trial, now, now + n * epoch_s, epoch_s=[epoch_s] * n))
            now += n * epoch_s
        rows = made
    write_table(folder / "attempts.parquet", rows, ATTEMPTS, {"schema": 1})
    return load(folder)


def drawn(study: Study, module: plots.FigureModule, size: str = "paper") -> tuple[str, Any]:
    """The texts below and above the panels, and the figure."""
    with style.context(size):
        figure = style.new_figure()
        module.draw(figure, module.table(study), study)
        figure.draw_without_rendering()
        return " ".join(t.get_text() for t in figure.texts).replace("\n", " ").replace("\u00a0", " "), figure


def ids(study: Study) -> list[str]:
    return [str(i) for i in study.all_trials["trial_id"]]


def test_a_trial_costs_the_time_of_all_its_attempts_also_that_of_an_epoch_cut_off(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", {"a": 0.9}, seeds=3, epochs=3)
    one, two, three = ids(load(folder))
    study = with_attempts(folder, [
        # two ranks; killed at 100 s in the middle of epoch 3, and again from epoch 2 on
        attempt(one, 0, 100, epoch_s=(30, 40), ranks=2, cause="killed", peak_memory_gb=2.0),
        attempt(one, 300, 420, first=2, epoch_s=(50, 55), number=1, ranks=2, peak_memory_gb=3.0),
        attempt(two, 0, None, epoch_s=(10, 10), cause="lost"),  # nobody knows when it ended
        attempt(three, 50, 80)])  # of a job that notes no times
    hours = cost.per_trial(study).set_index("trial_id")
    assert hours.loc[one, "hours"] == pytest.approx(2 * (100 + 120) / 3600)
    assert hours.loc[one, "attempts"] == 2 and hours.loc[one, "peak_memory_gb"] == 3.0
    assert hours.loc[two, "hours"] == pytest.approx(20 / 3600) and hours.loc[three, "hours"] == pytest.approx(30 / 3600)
    epochs = cost.per_epoch(study)
    of_one = epochs[epochs["trial_id"] == one]
    assert of_one["epoch"].tolist() == [1, 2, 3]
    assert of_one["hours"].tolist() == pytest.approx([2 * s / 3600 for s in (30, 100 + 50, 100 + 105)])
    assert set(epochs["trial_id"]) == {one, two}


def test_what_was_trained_as_one_program_is_divided_once(tmp_path: Path) -> None:
    """Four trials in one program of 120 s: 30 s each, of which its epochs, whose seconds are each trial's part already, took 25."""
    folder = write_study(tmp_path / "s", {"a": 0.9}, seeds=4, epochs=2)
    study = with_attempts(folder, [attempt(trial, 0, 120, epoch_s=(12, 13), fused=4) for trial in ids(load(folder))])
    assert cost.per_trial(study)["hours"].tolist() == pytest.approx([30 / 3600] * 4)
    assert cost.per_epoch(study)["hours"].tolist() == pytest.approx([12 / 3600, 25 / 3600] * 4)


def test_epochs_of_which_only_some_were_timed_are_left_out(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", {"a": 0.9}, seeds=1, epochs=3)
    trial, = ids(load(folder))
    study = with_attempts(folder, [attempt(trial, 0, 90, epoch_s=(20, 20)) | {"last_epoch": 3}])
    assert cost.per_epoch(study).empty and cost.per_trial(study)["hours"].tolist() == pytest.approx([90 / 3600])
    with pytest.raises(NotForThisStudy, match="do not say how long the epochs took"):
        curves_cost.table(study)


def test_hours_are_of_what_was_held(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", {"a": 0.9}, seeds=1, epochs=1)
    study = with_attempts(folder)
    assert cost.unit(study) == "slot-hours"
    assert cost.scale(study, 3.0) == (1.0, "slot-hours")
    assert cost.scale(study, 1.0) == (60.0, "slot-minutes") and cost.scale(study, 0.01) == (3600.0, "slot-seconds")
    trial, = ids(study)
    shared = with_attempts(folder, [attempt(trial, 0, 60, device="cuda", gpus=0.25),
                                    attempt(trial, 60, 120, number=1, device="cuda", ranks=2),
                                    attempt(trial, 120, 180, number=2, ranks=3, gpus=0)])
    assert cost.unit(shared) == "GPU-hours"  # a quarter of one, one for each process where nobody noted it, slots of a CPU
    assert cost.per_trial(shared)["hours"].tolist() == pytest.approx([(0.25 + 2 + 3) * 60 / 3600])
    (folder / "attempts.parquet").unlink()
    with pytest.raises(NotForThisStudy, match=r"no attempts\.parquet"):
        cost.per_trial(load(folder))


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_expected_best_is_the_mean_over_all_subsets(mode: str) -> None:
    values, best = [0.3, 0.9, 0.5, 0.5, 0.1, 0.77, -2.0], {"max": max, "min": min}[mode]
    byhand = [np.mean([best(some) for some in itertools.combinations(values, n)]) for n in range(1, 8)]
    assert expected_best(values, range(1, 8), mode=mode).tolist() == pytest.approx(byhand, abs=1e-12)


def test_the_expected_best_of_many_is_that_of_the_uniform_distribution() -> None:
    grid = np.arange(1, 20_001) / 20_001
    sizes = np.array([1, 2, 10, 1000, 20_000])
    assert expected_best(grid, sizes, mode="max") == pytest.approx(sizes / (sizes + 1), rel=1e-9)


@pytest.mark.parametrize(("values", "size"), [([0.1, 0.2], 3), ([0.1, 0.2], 0), ([0.1, math.inf], 1), ([0.1, math.nan], 1)])
def test_the_expected_best_of_what_there_is_not(values: list[float], size: int) -> None:
    with pytest.raises(ValueError, match=r"finite values and sizes from 1 to 2"):
        expected_best(values, [size], mode="max")


def test_means_over_hours_are_between_the_epochs_of_each_seed(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", {"a": 0.9}, seeds=3, epochs=3)
    trials = ids(load(folder))
    epochs = pq.read_table(folder / "epochs.parquet").to_pandas()
    epochs["val_acc"] = [0.1, 0.3, 0.5, 0.0, 0.4, 0.5, 0.2, 0.2, 0.8]
    about = pq.read_schema(folder / "epochs.parquet").metadata
    pq.write_table(pa.Table.from_pandas(epochs, preserve_index=False).replace_schema_metadata(about), folder / "epochs.parquet")
    # epochs end after 1, 2, 3 hours; 2, 4, 6; 1, 1.5, 4: all know the hours from 2 to 3
    study = with_attempts(folder, [attempt(t, 0, 6 * 3600, epoch_s=[3600 * h for h in each])
                                   for t, each in zip(trials, ((1, 1, 1), (2, 2, 2), (1, 0.5, 2.5)), strict=True)])
    table = curves_cost.table(study)
    mean = table[table["trial_id"].isna() & (table["metric"] == "val_acc")]
    assert (mean["hours"].min(), mean["hours"].max(), set(mean["n"])) == (2, 3, {3})
    ends = mean.iloc[[0, -1]]
    assert ends["value"].tolist() == pytest.approx([np.mean([0.3, 0.0, 0.2 + 0.6 * 0.2]), np.mean([0.5, 0.2, 0.2 + 0.6 * 0.6])])
    assert ends["half_width"].iloc[1] == pytest.approx(4.302653 * np.std([0.5, 0.2, 0.56], ddof=1) / math.sqrt(3), rel=1e-5)
    seeds = table[table["trial_id"].notna() & (table["metric"] == "val_acc")]
    assert seeds["hours"].tolist() == pytest.approx([1, 2, 3, 2, 4, 6, 1, 1.5, 4])
    text, figure = drawn(study, curves_cost)
    assert "each seed interpolated between its epochs" in text and figure.axes[0].get_xlabel() == "slot-hours of a trial"


def test_seeds_that_have_no_hours_in_common_have_no_mean(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", {"a": 0.9}, seeds=2, epochs=3)
    slow, quick = ids(load(folder))
    study = with_attempts(folder, [attempt(slow, 0, 900, epoch_s=(300,) * 3), attempt(quick, 0, 30, epoch_s=(10,) * 3)])
    assert curves_cost.table(study)["trial_id"].notna().all()
    assert "no hours in common" in drawn(study, curves_cost)[0]


def test_the_best_that_a_seed_ever_was_is_not_cut_off(tmp_path: Path) -> None:
    """One seed peaks in the middle, above all means and all last values."""
    folder = write_study(tmp_path / "s", {"a": 0.8, "b": 0.7}, epochs=12)
    table = pq.read_table(folder / "epochs.parquet").to_pandas()
    table.loc[(table["trial_id"] == ids(load(folder))[0]) & (table["epoch"] == 6), "val_acc"] = 0.95
    write_table(folder / "epochs.parquet", table.to_dict("records"), EPOCHS, {"schema": 1})
    low, high = drawn(load(folder), curves)[1].axes[0].get_ylim()
    assert high > 0.95 and low > 0.1


@pytest.mark.slow
def test_of_very_many_seeds_the_first_are_drawn_and_the_means_are_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load(write_study(tmp_path / "s", {f"v{i}": 0.3 + i / 50 for i in range(14)}, seeds=4, epochs=5))
    whole = curves.table(study)
    monkeypatch.setattr(curves, "MAX_ROWS", 100)
    monkeypatch.setattr(curves, "MAX_SEEDS", 3)
    table = curves.table(study)
    means, of_all = (t[t["trial_id"].isna()].reset_index(drop=True) for t in (table, whole))
    pd.testing.assert_frame_equal(means, of_all)
    seeds = table[table["trial_id"].notna()]
    assert set(seeds["variant"]) == {"v0", *(f"v{i}" for i in range(3, 14))} and set(seeds["seed"]) == {0, 1, 2}
    assert "mean over 4 seeds; thin: the first 3 of them" in drawn(study, curves)[0]


def test_several_seeds_on_one_split_are_one_value(tmp_path: Path) -> None:
    names = [f"depth={d} split_seed={s}" for d in (1, 2) for s in range(3)]
    params = {name: {"depth": int(name[6]), "split_seed": int(name[-1])} for name in names}
    study = with_attempts(write_study(tmp_path / "s", dict.fromkeys(names, 0.9), seeds=2, epochs=4, params=params))
    table = curves.table(study)
    of_one = table[(table["variant"] == "depth=1") & (table["metric"] == "val_acc") & (table["epoch"] == 3)]
    seeds, mean = of_one[of_one["trial_id"].notna()], of_one[of_one["trial_id"].isna()].iloc[0]
    splits = seeds["value"].to_numpy().reshape(2, 3).mean(axis=0) if seeds["seed"].tolist() == [0] * 3 + [1] * 3 else np.zeros(3)
    assert mean["n"] == 3 and mean["value"] == pytest.approx(splits.mean())
    assert mean["half_width"] == pytest.approx(4.302653 * splits.std(ddof=1) / math.sqrt(3), rel=1e-5)
    costly = curves_cost.table(study)
    assert set(costly.loc[costly["trial_id"].isna(), "n"]) == {3}
    last, ends = (t[t["trial_id"].isna() & (t["metric"] == "val_acc") & (t["variant"] == "depth=1")].iloc[-1] for t in (costly, table))
    assert (last["value"], last["half_width"]) == (pytest.approx(ends["value"]), pytest.approx(ends["half_width"]))
    assert "mean over 3 splits; thin: single trials" in drawn(study, curves)[0]


def of_rates(folder: Path, rates: Mapping[str, Sequence[float]]) -> Study:
    """A study whose variants have these learning rates."""
    write_study(folder, dict.fromkeys(rates, 0.9), seeds=2, epochs=len(next(iter(rates.values()))))
    table = pq.read_table(folder / "epochs.parquet")
    lr = pa.array([float(r) for each in rates.values() for r in [*each, *each]])
    pq.write_table(table.set_column(table.schema.get_field_index("lr"), "lr", lr), folder / "epochs.parquet")
    return load(folder)


def test_schedules_stand_above_the_losses(tmp_path: Path) -> None:
    study = of_rates(tmp_path / "s", {"cosine": (0.1, 0.09, 0.05, 0.01), "flat": (0.1, 0.1, 0.1, 0.1), "too": (0.1, 0.1, 0.1, 0.1)})
    table = schedules.table(study)
    rates = table[table["metric"] == "lr"]
    assert rates[rates["variant"] == "cosine"]["value"].tolist() == [0.1, 0.09, 0.05, 0.01] and set(rates["n"]) == {1}
    assert list(dict.fromkeys(table["metric"])) == ["lr", "train_loss", "val_loss"]
    losses = curves.table(study)
    assert table.loc[table["metric"] == "val_loss", "value"].tolist() == losses.loc[
        losses["trial_id"].isna() & (losses["metric"] == "val_loss"), "value"].tolist()
    _, figure = drawn(study, schedules)
    above, below = figure.axes
    assert (above.get_yscale(), above.get_ylabel(), below.get_xlabel()) == ("linear", "learning rate", "epoch")
    assert {t.get_text() for t in above.texts} >= {"cosine", "flat, too"}  # the same schedule is one line


@pytest.mark.parametrize(("rates", "scale"), [
    ({"a": (0.1, 0.1, 0.01, 0.01, 0.001, 0.001)}, "log"), ({"a": (0.1, 0.05, 0.02), "b": (0.005, 0.002, 0.001)}, "log"),
    ({"a": (0.1, 0.05, 0.0), "b": (0.09, 0.05, 0.0)}, "linear"), ({"a": (0.1, 0.0, 0.0), "b": (1e-3, 1e-4, 0.0)}, "log")])
def test_the_axis_of_a_schedule_is_logarithmic_where_its_range_asks(tmp_path: Path, rates: dict, scale: str) -> None:
    assert drawn(of_rates(tmp_path / "s", rates), schedules)[1].axes[0].get_yscale() == scale


def test_rates_that_stay_are_no_schedules(tmp_path: Path) -> None:
    with pytest.raises(NotForThisStudy, match="no learning rate changes"):
        schedules.table(of_rates(tmp_path / "s", {"a": (0.1, 0.1), "b": (0.2, 0.2)}))


def searched(folder: Path, values: Mapping[str, Sequence[float]], **more: Any) -> Path:
    """A search without confirmation of one seed for each config, with these values."""
    said = {(v, k, 0): value for v, each in values.items() for k, value in enumerate(each)}
    return write_search(folder, dict.fromkeys(values, 0.9), configs=max(map(len, values.values())), seeds=1,
                        **{"confirm": 0, "value": said, "epochs": 3, **more})


def test_progress_follows_the_order_in_which_configs_ended(tmp_path: Path) -> None:
    folder = searched(tmp_path / "s", {"a": (0.6, 0.9, 0.7, 0.5)}, status={("a", 3): "infeasible"})
    trials = ids(load(folder))
    ends = (40, 300, 20, 100)
    study = with_attempts(folder, [attempt(t, 0, end, epoch_s=(5,)) for t, end in zip(trials, ends, strict=True)])
    table = progress.table(study)
    configs = table[table["kind"] == "config"]
    assert configs["config"].tolist() == [2, 0, 3, 1]
    assert configs["wall_h"].tolist() == pytest.approx([s / 3600 for s in (20, 40, 100, 300)])
    assert configs["hours"].tolist() == pytest.approx([s / 3600 for s in (20, 60, 160, 460)])
    assert configs["best_so_far"].tolist() == pytest.approx([0.7, 0.7, 0.7, 0.9])
    expected = table[table["kind"] == "expected"]
    # 0.6, 0.7 and 0.9, and 0.6 again for the one that diverged
    assert expected["n"].tolist() == [1, 2, 3, 4]
    assert expected["value"].tolist() == pytest.approx([0.7, 4.7 / 6, 0.85, 0.9])
    assert table[table["kind"] == "wave"]["wall_h"].tolist() == [0.0]
    text, _ = drawn(study, progress)
    assert "configs were drawn independently" in text and "those that diverged count as the worst" in text


def test_there_is_no_expected_best_of_configs_that_were_trained_differently(tmp_path: Path) -> None:
    study = with_attempts(write_search(tmp_path / "s", {"a": 0.9, "b": 0.8}, configs=9, rungs=(1, 3)))
    assert set(progress.table(study)["kind"]) == {"config", "wave"}
    assert "No expected best of n configs: halving gave them different training" in drawn(study, progress)[0]


def test_isolation_takes_the_best_of_each_part(tmp_path: Path) -> None:
    study = load(searched(tmp_path / "s", {"a": [0.5 + k / 100 for k in range(20)], "b": [0.6 + k / 100 for k in range(20)]}))
    table, trials = isolation.table(study), study.all_trials
    for variant, choice in itertools.product("ab", ("sgd", "adamw")):
        mine = trials[(trials["variant"] == variant) & (trials["param_optimizer"] == choice)]
        row = table[(table["variant"] == variant) & (table["parameter"] == "optimizer") & (table["setting"] == choice)].iloc[0]
        assert (row["value"], row["n"]) == (pytest.approx(mine["val_acc"].max()), len(mine))
    lr = table[table["parameter"] == "lr"]
    assert lr["n"].sum() == 40 and lr["part"].max() <= isolation.BINS - 1
    for _, row in lr.iterrows():
        of_part = trials["param_lr"].between(row["low"] * (1 - 1e-9), row["high"] * (1 + 1e-9))
        inside = trials[(trials["variant"] == row["variant"]) & of_part]
        assert row["value"] == pytest.approx(inside["val_acc"].max()) and row["n"] == len(inside)
    absent = table[(table["parameter"] == "momentum") & (table["setting"] == isolation.ABSENT)]
    assert absent["n"].sum() == (trials["param_optimizer"] == "adamw").sum()
    ranks = table[(table["kind"] == "config") & (table["variant"] == "b")].set_index("config")["rank"]
    assert ranks[19] == 1 and ranks[0] == 20
    assert "better than the best of few by luck alone" in drawn(study, isolation)[0]


def test_isolation_of_a_loss_takes_the_least(tmp_path: Path) -> None:
    study = load(searched(tmp_path / "s", {"a": [0.9, 0.3, 0.5]}, metric="val_loss", mode="min"))
    table = isolation.table(study)
    assert table[(table["kind"] == "config") & (table["rank"] == 1)]["config"].tolist() == [1]
    assert table.loc[table["parameter"] == "lr", "value"].min() == pytest.approx(0.3)


def test_the_front_is_what_nothing_beats_in_both(tmp_path: Path) -> None:
    folder = searched(tmp_path / "s", {"a": (0.6, 0.9, 0.7, 0.8, 0.9, 0.95)}, status={("a", 5): "failed"})
    ends = (10, 40, 20, 30, 50, 5)
    study = with_attempts(folder, [attempt(t, 0, s) for t, s in zip(ids(load(folder)), ends, strict=True)])
    table = pareto.table(study)
    assert table.loc[table["front"], "config"].tolist() == [0, 1, 2, 3]  # 4 costs more than 1 for the same
    assert (table["place"] == "").all() and not table["cheapest"].any()
    text, _ = drawn(study, pareto)
    assert "Nothing is confirmed on fresh seeds: which cheaper ones are level with the best cannot be said" in text
    assert all("lr " in name for name in table.loc[table["front"], "name"])


def test_what_was_confirmed_is_on_the_front_too(tmp_path: Path) -> None:
    """The fresh seeds of one config took half the time of the search and are as good, so that nothing else is better for less."""
    value = {("a", k, s): 0.9 for k in range(2) for s in range(5)}
    folder = write_search(tmp_path / "s", {"a": 0.9}, configs=2, epochs=2, confirm=1, value=value)
    trials = load(folder).all_trials
    spent = [10 if phase == "confirm" else 20 for phase in trials["phase"]]
    study = with_attempts(folder, [attempt(t, 0, s) for t, s in zip(trials["trial_id"], spent, strict=True)])
    table = pareto.table(study)
    assert table.loc[table["front"], "kind"].tolist() == ["confirmed"]
    assert "Line: the front; nothing that is fully trained beats a point of it in both" in drawn(study, pareto)[0]


def test_the_cheapest_that_cannot_be_told_from_the_best(tmp_path: Path) -> None:
    """"big" is ahead of "middle" by 0.1 points that vary by more, of "small" by 10."""
    acc = {("small", s): v for s, v in enumerate((0.80, 0.81, 0.82, 0.80))}
    acc |= {("middle", s): v for s, v in enumerate((0.905, 0.909, 0.924, 0.898))}
    acc |= {("big", s): v for s, v in enumerate((0.90, 0.915, 0.92, 0.905))}
    folder = write_study(tmp_path / "s", {"big": 0.9, "middle": 0.9, "small": 0.8}, seeds=4, epochs=2, test_acc=acc)
    spent = {0: 400, 1: 100, 2: 20}  # by variant, seconds of a trial
    study = with_attempts(folder, [attempt(t, 0, spent[int(t[:16], 16)]) for t in ids(load(folder))])
    table = pareto.table(study).set_index("variant")
    assert table["place"].to_dict() == {"big": "best", "middle": "level", "small": "behind"}
    assert table.index[table["cheapest"]].tolist() == ["middle"]
    assert table["hours"].to_dict() == pytest.approx({"big": 400 / 3600, "middle": 100 / 3600, "small": 20 / 3600})
    assert table["front"].all() and set(table["metric"]) == {"test_acc"}
    told = "the cheapest of 2 that cannot be told from the best (paired by seed, 95 %; 3 judged), 1.67 instead of 6.67 slot-minutes"
    assert told in drawn(study, pareto)[0]


def test_first_against_best_says_what_differs_and_what_was_gained(tmp_path: Path) -> None:
    folder = searched(tmp_path / "s", {"a": (0.6, 0.9, 0.7), "b": (0.8, 0.7, 0.6)})
    study = load(folder)
    table = first_best.table(study)
    values = table[(table["kind"] == "value") & (table["variant"] == "a")].set_index("which")
    assert values["value"].to_dict() == pytest.approx({"first": 0.6, "best": 0.9}) and values["config"].to_dict() == {"first": 0, "best": 1}
    trials = study.all_trials[study.all_trials["variant"] == "a"].set_index("config")
    differing = {n for n in ("lr", "depth", "optimizer", "dropout", "momentum")
                 if repr(trials.loc[0, f"param_{n}"]) != repr(trials.loc[1, f"param_{n}"])}
    assert set(table.loc[(table["kind"] == "parameter") & (table["variant"] == "a"), "name"]) == differing
    assert set(table.loc[table["variant"] == "b", "which"]) == {"best"}
    text, figure = drawn(study, first_best)
    assert "Gained: a: 30.0 points in the search." in text and "nothing is confirmed yet" in text and "is biased" in text
    assert "the first is the best" in {t.get_text() for axis in figure.axes for t in axis.texts}


def test_first_against_best_shows_what_was_confirmed(tmp_path: Path) -> None:
    said = {("a", k, s): v for k, each in enumerate(((0.8, 0.8), (0.95, 0.95), (0.5, 0.5))) for s, v in enumerate(each)}
    said |= {("a", k, s): v for k, v in ((0, 0.82), (1, 0.90)) for s in (2, 3, 4)}
    study = load(write_search(tmp_path / "s", {"a": 0.9}, configs=3, value=said, confirm=3, epochs=4))
    table = first_best.table(study)
    assert table[table["name"] == "confirmed"].set_index("which")["value"].to_dict() == pytest.approx({"first": 0.82, "best": 0.90})
    assert "Gained: 15.0 points in the search, 8.0 points on fresh seeds" in drawn(study, first_best)[0]


def test_values_after_fewer_epochs_are_no_gain(tmp_path: Path) -> None:
    study = load(write_search(tmp_path / "s", {"a": 0.9}, configs=9, rungs=(1, 3), confirm=0, status={("a", 8): "failed"}))
    assert study.search is not None and study.search.configs.loc[0, "status"] == "pruned"
    text = drawn(study, first_best)[0]
    assert "Gained" not in text and "values after fewer epochs do not compare" in text


def test_many_configs_on_rungs_are_drawn_as_a_few_artists(tmp_path: Path) -> None:
    study = load(write_search(tmp_path / "s", {"a": 0.9}, configs=300, rungs=(1, 3), epochs=6))
    _, figure = drawn(study, rungs)
    axis = figure.axes[0]
    assert sum(len(c.get_segments()) for c in axis.collections) == 300 and len(axis.lines) < 20


HOSTILE = {f"{i} $x_{i}$ \\frac{{a}} & <b>%#{{~^'\"\n{'n' * 60}": 0.5 + i / 50 for i in range(8)}
POOR: dict[str, dict[str, Any]] = {
    "one config": {"variants": {"only": 0.9}, "configs": 1, "seeds": 1, "confirm": 0, "epochs": 1},
    "only failures": {"variants": {"a": 0.9}, "configs": 2, "status": {("a", 0): "failed", ("a", 1): "infeasible"}, "confirm": 0},
    "running": {"variants": {"a": 0.9, "b": 0.8}, "configs": 4, "confirm": 0, "status": {("a", k): "unfinished" for k in range(4)}},
    "NaN and inf": {"variants": {"a": 0.9}, "configs": 5, "confirm": 0, "value": {("a", 1, 0): math.nan, ("a", 2, 0): math.inf}},
    "a loss, confirmed": {"variants": {"a": 0.9, "b": 0.8}, "configs": 6, "metric": "val_loss", "mode": "min"},
    "all alike": {"variants": {"a": 0.9}, "configs": 4, "seeds": 1, "confirm": 0, "value": {("a", k, 0): 1.0 for k in range(4)}},
    "hostile names": {"variants": HOSTILE, "configs": 4, "epochs": 3},
    "halved": {"variants": {"a": 0.9, "b": 0.8}, "configs": 9, "rungs": (1, 3)},
}


@pytest.mark.slow
@pytest.mark.parametrize("kwargs", POOR.values(), ids=POOR)
def test_poor_searches_give_pictures_or_one_sentence(tmp_path: Path, kwargs: dict[str, Any]) -> None:
    folder = write_search(tmp_path / "s", **kwargs)
    study, without = with_attempts(folder), with_attempts(folder, [])
    for name in MINE:
        module = importlib.import_module(f"analysis.figures.{name}")
        try:
            assert len(module.table(study))
        except AnalysisError as error:
            assert "\n" not in str(error)
        else:
            assert drawn(study, module)[0]
        if name in ("curves_cost", "progress", "pareto"):
            with pytest.raises(AnalysisError):
                module.table(without)


@pytest.mark.parametrize("status", [{}, {("a", 0): "infeasible", ("b", 1): "failed", ("b", 2): "unfinished"}], ids=["whole", "in part"])
@pytest.mark.slow
def test_studies_without_tune_have_the_figures_of_training(tmp_path: Path, status: dict) -> None:
    study = with_attempts(write_study(tmp_path / "s", {"a": 0.9, "b": 0.8}, epochs=9, status=status))
    for module in (curves, curves_cost, schedules, pareto):
        assert drawn(study, module)[0].startswith("s: ")
    for module in (isolation, progress, first_best):
        with pytest.raises(NotForThisStudy, match=r"no \[tune\]"):
            module.table(study)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["paper", "slide"])
def test_a_thousand_trials_leave_nothing_cut_off(tmp_path: Path, size: str) -> None:
    study = load(write_space(tmp_path / "space", trials=1000, epochs=10))
    for name in ("curves", "curves_cost", "schedules", "progress", "isolation", "pareto", "first_best", "search"):
        module = importlib.import_module(f"analysis.figures.{name}")
        with style.context(size):
            figure = style.new_figure()
            module.draw(figure, module.table(study), study)
            figure.draw_without_rendering()
            whole = figure.bbox.padded(2)
            texts = [t for axis in figure.axes if axis.get_visible() for t in axis.texts if t.get_text()] + figure.texts
            for text in texts:
                box = text.get_window_extent()
                assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1, (name, text.get_text())
