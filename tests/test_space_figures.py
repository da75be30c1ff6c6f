"""The figures of the search space, the statistics and the model behind them: on tables computed by hand and a space of known truth."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from analysis import parameters, scales, style
from analysis.figures import association, importance, interactions, parallel, slices
from analysis.load import AnalysisError, NotForThisStudy, Study, load, study_of
from analysis.parameters import Parameter
from analysis.plots import FigureModule
from analysis.stats import association as stats
from analysis.stats import importance as model
from benchmarks.made_up_space import write_space
from tests.made_up_study import write_search, write_study

FIGURES: tuple[FigureModule, ...] = (parallel, slices, interactions, importance, association)
IRRELEVANT = ["momentum", "beta2", "width", "kernel", "weight_decay", "label_smoothing"]


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A thousand configs whose truth is in the docstring of benchmarks/made_up_space.py."""
    return load(write_space(tmp_path_factory.mktemp("runs") / "space", epochs=2))


def searched(columns: dict[str, object], values: list[float], *, tuned: list[dict[str, object]], status: dict[int, str] | None = None,
             epochs: list[int | None] | None = None, **about: object) -> Study:
    """A search with these parameters and values, a config in each row."""
    n = len(values)
    trials = pd.DataFrame({"study": "s", "trial_id": [f"{i}-s0" for i in range(n)], "variant": "v", "seed": 0, "phase": "search",
                           "config": range(n), "budget": pd.array(epochs or [None] * n, dtype="Int64"), "epoch": 1, "val_acc": values,
                           "status": [(status or {}).get(i, "pruned" if epochs and epochs[i] else "done") for i in range(n)],
                           **{f"param_{name}": column for name, column in columns.items()}})
    return study_of(Path("s"), trials, {"metric": "val_acc", "mode": "max", "tuned": tuned, **about},
                    epochs=pd.DataFrame(columns=["trial_id", "epoch"]), attempts=pd.DataFrame())


def drawn(module: FigureModule, study: Study, size: str = "paper") -> Figure:
    with style.context(size):
        figure = style.new_figure()
        module.draw(figure, module.table(study), study)
        figure.draw_without_rendering()
        return figure


def caption(module: FigureModule, study: Study) -> str:
    return " ".join(t.get_text() for t in drawn(module, study).texts).replace("\n", " ").replace("\u00a0", " ")


# the statistics

def test_spearman_by_hand() -> None:
    """Ranks 1 2 3 4 5 and 2 1 4 3 5: 1 - 6 (1 + 1 + 1 + 1) / (5 · 24) = 0.8."""
    x = np.array([1.0, 2, 3, 4, 50])
    assert stats.spearman(x, np.array([0.2, 0.1, 4, 3, 9])) == pytest.approx(0.8)
    assert stats.spearman(x, -x ** 3) == pytest.approx(-1)
    assert math.isnan(stats.spearman(x, np.ones(5)))


def test_epsilon_by_hand() -> None:
    """Ranks 1 2 4 | 3 5 6 around 3.5: total 17.5; group sums -3.5 and 3.5, so between 2 · 12.25 / 3 = 8.1667 and eta squared 0.46667;
    epsilon squared 1 - 0.53333 · 5 / 4 = 0.33333."""
    values, groups = np.array([0.1, 0.2, 0.4, 0.3, 5.0, 60.0]), np.array([0, 0, 0, 1, 1, 1])
    assert stats.epsilon(values, groups) == pytest.approx(math.sqrt(1 / 3))
    assert stats.epsilon(np.array([1.0, 1, 2, 2]), np.array([0, 0, 1, 1])) == pytest.approx(1)
    assert stats.epsilon(np.array([1.0, 4, 2, 3]), np.array([0, 0, 1, 1])) == 0
    assert math.isnan(stats.epsilon(np.ones(4), np.array([0, 0, 1, 1])))
    assert math.isnan(stats.epsilon(np.arange(4.0), np.arange(4)))


def test_cramers_v_by_hand() -> None:
    """[[8, 2], [2, 8]]: phi squared 4 · 9 / 5 / 20 = 0.36, less 1/19; k - 1 shrinks to 1 - 1/19: V squared 0.30737 / 0.94737."""
    a = np.array([0] * 10 + [1] * 10)
    b = np.array([0] * 8 + [1] * 2 + [0] * 2 + [1] * 8)
    assert stats.cramers_v(a, b) == pytest.approx(math.sqrt((0.36 - 1 / 19) / (1 - 1 / 19)))
    assert stats.cramers_v(a, a) == pytest.approx(1)
    assert stats.cramers_v(a, np.array([0, 1] * 10)) == 0
    assert math.isnan(stats.cramers_v(a, np.zeros(20, dtype=int)))


def test_bins_hold_about_equally_many_and_equal_values_share_one() -> None:
    assert stats.quantile_bins(np.arange(10.0)).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert stats.quantile_bins(np.array([0.0, 0, 0, 0, 0, 0, 1, 2, 3, 4])).tolist() == [0] * 6 + [1, 2, 3, 4]
    assert len(set(stats.quantile_bins(np.array([0.0] * 90 + list(range(1, 11)))))) == 2


def test_a_hump_is_seen_and_named() -> None:
    lr, width = np.linspace(-2, 2, 40), np.tile([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], 5)
    rows = pd.DataFrame({"lr": lr, "depth": np.repeat([1, 2, 3, 4], 10), "width": width})
    factors = [Parameter(name=name, numeric=True) for name in rows]
    cells = stats.table(rows, factors, pd.Series(-lr ** 2))
    hump = cells[(cells["first"] == "lr") & (cells["second"] == "")].iloc[0]
    assert abs(stats.spearman(lr, -lr ** 2)) < 0.02 and hump["value"] > 0.9
    assert (hump["statistic"], hump["n"], hump["course"]) == (stats.EPSILON, 40, "hump")
    assert stats.table(rows, factors, pd.Series(lr ** 2)).iloc[0]["course"] == "dip"
    assert stats.table(rows, factors, pd.Series(lr)).iloc[0]["course"] == "rising"
    assert stats.table(rows, factors, pd.Series(-lr)).iloc[0]["course"] == "falling"
    nothing = cells[(cells["first"] == "width") & (cells["second"] == "")].iloc[0]
    assert nothing["value"] < 0.1 and nothing["course"] == ""


def test_each_pair_has_the_statistic_of_its_kinds_on_the_rows_that_have_both() -> None:
    rows = pd.DataFrame({"lr": np.arange(20.0), "momentum": [math.nan] * 13 + list(range(7)), "optimizer": ["sgd", "adamw"] * 10,
                         "model": ["a", "a", "b", "b"] * 5})
    factors = [Parameter(name="lr", numeric=True), Parameter(name="momentum", numeric=True),
               Parameter(name="optimizer", numeric=False, choices=("sgd", "adamw")),
               Parameter(name="model", numeric=False, choices=("a", "b"))]
    cells = stats.table(rows, factors, pd.Series(np.arange(20.0))).set_index(["first", "second"])
    assert cells.loc[("lr", "momentum"), ["statistic", "n"]].tolist() == ["ρ", 7]
    assert math.isnan(cells.loc[("lr", "momentum"), "value"])  # fewer than 8
    assert cells.loc[("lr", "optimizer"), ["statistic", "n"]].tolist() == ["ε", 20]
    assert cells.loc[("optimizer", "model"), ["statistic", "n"]].tolist() == ["V", 20]


# the model

def test_total_effects_of_a_linear_function_are_its_sobol_indices() -> None:
    """3a + b of independent uniforms: variances 9 and 1, no interaction."""
    x, read = np.random.default_rng(0).uniform(size=(20_000, 3)), np.ones((20_000, 3), dtype=bool)
    total, pairs = model.effects(lambda rows: 3 * rows[:, 0] + rows[:, 1], x, read, [(), (), ()], np.random.default_rng(1), pairs=3)
    assert total == pytest.approx([0.9, 0.1, 0.0], abs=0.02)
    assert all(share < 1e-12 for _, _, share in pairs)


def test_interactions_of_a_product_are_its_sobol_indices() -> None:
    """ab with means 0: all of the variance needs both; + c with a third of that variance leaves them three quarters of all."""
    x, read = np.random.default_rng(0).uniform(-1, 1, size=(40_000, 3)), np.ones((40_000, 3), dtype=bool)

    def product(rows: np.ndarray) -> np.ndarray:
        return rows[:, 0] * rows[:, 1] + rows[:, 2] / 3

    total, pairs = model.effects(product, x, read, [(), (), ()], np.random.default_rng(1), pairs=3)
    assert total == pytest.approx([0.75, 0.75, 0.25], abs=0.02)
    assert pairs[0][:2] in {(0, 1), (1, 0)} and pairs[0][2] == pytest.approx(0.75, abs=0.02)
    assert all(share < 1e-12 for _, _, share in pairs[1:])


def test_what_a_choice_switches_on_goes_along_with_it() -> None:
    rows = pd.DataFrame({"optimizer": ["sgd", "adamw"] * 20, "momentum": [0.9, math.nan] * 20, "nesterov": [True, None] * 20,
                         "lr": np.arange(40.0)})
    factors = [Parameter(name="optimizer", numeric=False, choices=("sgd", "adamw")), Parameter(name="momentum", numeric=True),
               Parameter(name="nesterov", numeric=False, choices=(True, False)), Parameter(name="lr", numeric=True)]
    assert model.switched(rows, factors) == ((1, 2), (), (), ())
    x = model.matrix(rows, factors)

    def checked(table: np.ndarray) -> np.ndarray:
        assert ((table[:, 0] == 0) == (table[:, 1] >= 0)).all()  # momentum with sgd, and with nothing else
        return table[:, 0]

    total, _ = model.effects(checked, x, x >= 0, model.switched(rows, factors), np.random.default_rng(0), pairs=4)
    assert total[0] > 0.9 and total[1] == total[3] == 0


def test_the_truth_of_the_made_up_space_is_found(space: Study) -> None:
    found = model.importance(space)
    shares = found.shares.set_index("parameter")
    assert found.shares["parameter"].tolist()[:4] == ["lr", "init", "depth", "optimizer"]
    assert (found.n, found.of) == (969, 969) and found.r2 > 0.8
    assert (shares.loc[IRRELEVANT, "low"] < 0.002).all() and (shares.loc[IRRELEVANT, "high"] < 0.02).all()
    assert (shares.loc[["lr", "init", "depth", "optimizer"], "low"] > 0.005).all()
    assert ((shares["low"] <= shares["share"]) & (shares["share"] <= shares["high"])).all()
    assert {*found.pairs.iloc[0][["first", "second"]]} == {"lr", "depth"}
    assert found.pairs["share"].iloc[0] > 3 * found.pairs["share"].iloc[1]
    assert shares.loc["momentum", ["within", "n"]].tolist() == ["optimizer", int(parameters.configs(space).query(
        "value == value or status == 'infeasible'")["momentum"].notna().sum())]
    pd.testing.assert_frame_equal(found.shares, model.importance(space).shares)


def test_what_the_model_learns_from(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pd.DataFrame({"value": [0.0, *np.linspace(0.5, 0.9, 20), math.nan, math.nan], "epochs": pd.array([None] * 23, dtype="Int64"),
                         "status": ["done"] * 21 + ["infeasible", "failed"]})
    better = model.objective(rows, "max")
    assert better.min() == better[21] == pytest.approx(0.5) and math.isnan(better[22]) and better[0] == better[21]
    assert model.objective(rows, "min").idxmax() == 0
    rows["epochs"] = pd.array([None] * 10 + [3] * 13, dtype="Int64")  # halved: places instead, what went further ahead
    assert model.objective(rows, "max", clip=0)[[0, 9, 10, 20, 21]].tolist() == pytest.approx([11 / 20, 1, 0, 0.5, 0])


def test_no_importances_where_nothing_is_learned_or_there_is_too_little() -> None:
    rng = np.random.default_rng(0)
    two = {"lr": 10 ** rng.uniform(-4, 0, 60), "dropout": rng.uniform(0, 0.5, 60)}
    tuned: list[dict[str, object]] = [{"name": "lr", "log": True}, {"name": "dropout"}]
    noise = searched(two, list(rng.normal(0.5, 0.1, 60)), tuned=tuned)
    with pytest.raises(AnalysisError, match=r"explains \d+ % of it in .* not seen \(R² = -?0\.\d\d; 0\.2 is asked\)") as refused:
        model.importance(noise)
    assert not isinstance(refused.value, NotForThisStudy)
    constant = searched(two, [0.5] * 60, tuned=tuned)
    with pytest.raises(AnalysisError, match="R² = 0.00"):
        model.importance(constant)
    few = searched({name: column[:19] for name, column in two.items()}, [0.5] * 19, tuned=tuned)
    with pytest.raises(NotForThisStudy, match="19 configs have a result, and 2 parameters need 20"):
        importance.table(few)
    assert model.by_importance(noise) == (parameters.factors(noise), "in the grid's order")


# what varies, and its axes

def test_variants_whose_parameters_cannot_be_told_apart_are_one_factor(tmp_path: Path) -> None:
    product = {f"{a}{b}": {"depth": a, "width": b} for a in (1, 2) for b in (16, 32)}
    told = load(write_study(tmp_path / "told", dict.fromkeys(product, 0.8), params=product, epochs=2))
    assert [f.name for f in parameters.factors(told)] == ["depth", "width"]
    named = {"small": {"depth": 1, "width": 16}, "large": {"depth": 2, "width": 32}}
    study = load(write_study(tmp_path / "named", {"small": 0.7, "large": 0.8}, params=named, epochs=2))
    only, = parameters.factors(study)
    assert (only.name, only.choices) == ("variant", ("small", "large"))
    with pytest.raises(NotForThisStudy, match="two parameters that vary"):
        parallel.table(study)


def test_a_parameter_may_be_called_like_a_column_of_ours() -> None:
    study = searched({"epochs": [1, 2, 3, 4], "value": [0.1, 0.2, 0.3, math.inf], "place": list("abab")}, [0.5, 0.6, 0.7, 0.8],
                     tuned=[{"name": name} for name in ("epochs", "value", "place")])
    rows = parameters.configs(study)
    assert rows.columns.is_unique and rows["param_epochs"].tolist() == [1, 2, 3, 4] and rows["epochs"].isna().all()
    assert rows["value"].tolist() == [0.5, 0.6, 0.7, 0.8] and rows["param_value"].isna().tolist() == [False, False, False, True]
    data = parallel.table(study)
    assert list(data.columns[-3:]) == ["param_epochs", "param_value", "param_place"]
    drawn(parallel, study)


def test_places_put_what_went_further_ahead() -> None:
    rows = pd.DataFrame({"value": [0.9, 0.5, 0.5, 0.7, math.nan], "epochs": pd.array([1, None, None, 3, 3], dtype="Int64")})
    assert parameters.places(rows, "max").tolist()[:4] == pytest.approx([0, 2.5 / 3, 2.5 / 3, 1 / 3])
    assert math.isnan(parameters.places(rows, "max")[4])
    flat = rows.assign(epochs=pd.array([None] * 5, dtype="Int64"))
    assert parameters.places(flat, "min").tolist()[:4] == pytest.approx([0, 2.5 / 3, 2.5 / 3, 1 / 3])


def test_scales() -> None:
    lr = scales.scale(Parameter(name="lr", numeric=True, log=True), pd.Series([1e-4, 1e-2, 1.0, math.nan]))
    assert lr.at(pd.Series([1e-4, 1e-3, 1.0])).tolist() == pytest.approx([0, 0.25, 1]) and math.isnan(lr.at(pd.Series([math.nan]))[0])
    assert [text for _, text in lr.ticks(5)] == ["10⁻⁴", "10⁻³", "10⁻²", "10⁻¹", "1"]
    narrow = scales.scale(Parameter(name="lr", numeric=True, log=True), pd.Series([2e-5, 4e-5]))
    assert len(narrow.ticks(4)) > 1 and narrow.ticks(4)[0][1] == "2·10⁻⁵"
    choices = scales.scale(Parameter(name="batch", numeric=True, choices=(32, 64, 512)), pd.Series([512, 32]))
    assert choices.at(pd.Series([512, 32])).tolist() == pytest.approx([5 / 6, 1 / 6])
    assert [text for _, text in choices.ticks()] == ["32", "64", "512"] and len(choices.ticks(2)) == 2
    single = scales.scale(Parameter(name="x", numeric=True), pd.Series([0.3, 0.3]))
    assert single.at(pd.Series([0.3])).tolist() == pytest.approx([0.5])
    assert [scales.short(v) for v in (0.00123, 1.24e-4, 1e-5, 99.7, -0.5, 0, "a", True)] == [
        "0.0012", "1.2·10⁻⁴", "10⁻⁵", "100", "−0.5", "0", "a", "true"]


# the figures

def test_parallel_draws_the_worst_first_and_the_best_on_top(space: Study) -> None:
    data = parallel.table(space)
    assert len(data) == 969 and (data["status"] == "infeasible").sum() == 38 and data["value"].isna().sum() == 38
    assert data["value"].iloc[:38].isna().all() and data["value"].iloc[38:].is_monotonic_increasing
    assert data["best"].sum() == 10 and data["best"].iloc[-10:].all()
    assert list(data.columns[-13:])[:4] == ["lr", "init", "depth", "optimizer"]
    lines = [c for c in drawn(parallel, space).axes[0].collections if isinstance(c, LineCollection)]
    assert [len(c.get_segments()) for c in lines] == [38, 921, 10, 10]
    assert [bool(c.get_rasterized()) for c in lines] == [False, True, False, False]
    said = caption(parallel, space)
    assert "931 of 1000 trials finished; 38 infeasible, 21 failed, 10 unfinished" in said and "n/a: the config does not read" in said


def test_configs_that_do_not_read_a_parameter_pass_below_its_axis(space: Study) -> None:
    data = parallel.table(space)
    column = list(data.columns[-13:]).index("momentum")
    best = drawn(parallel, space).axes[0].collections[-1]
    heights = [path.vertices[np.isclose(path.vertices[:, 0], column), 1][0] for path in best.get_paths()]
    unread = data[data["best"]]["momentum"].isna().tolist()
    assert any(unread) and [height < -0.1 for height in heights] == unread


def test_the_better_is_the_higher_also_where_less_is_better(tmp_path: Path) -> None:
    study = load(write_search(tmp_path / "s", {"a": 0.9}, configs=12, metric="val_loss", mode="min"))
    best = drawn(parallel, study).axes[0].collections[-1]
    assert all(path.vertices[-1, 1] > 0.7 for path in best.get_paths())
    assert parallel.table(study)["value"].is_monotonic_decreasing


def test_medians_and_bands_of_a_range_and_of_choices() -> None:
    """Bins of eight: the values 1 to 8, 9 to 16, 17 to 24 (hundredths). Places floor(0.2 · 7 + 0.5) = 1, 4 and 6 of 0 to 7."""
    values = [i / 100 for i in range(1, 25)]
    study = searched({"lr": [float(i) for i in range(24)], "optimizer": ["sgd"] * 20 + ["adamw"] * 4}, values,
                     tuned=[{"name": "lr"}, {"name": "optimizer", "choices": ["sgd", "adamw"]}], status={0: "infeasible", 1: "infeasible"})
    rows = slices.table(study)
    middles = rows[rows["kind"] == "middle"]
    lr = middles[middles["parameter"] == "lr"]
    assert lr["setting"].tolist() == [3.5, 11.5, 19.5] and lr["n"].tolist() == [8, 8, 8]
    assert lr["value"].tolist() == pytest.approx([0.05, 0.13, 0.21]) and lr["high"].tolist() == pytest.approx([0.07, 0.15, 0.23])
    assert lr["low"].iloc[1:].tolist() == pytest.approx([0.10, 0.18]) and math.isnan(lr["low"].iloc[0])  # diverged is the worst
    choice, = middles[middles["parameter"] == "optimizer"].to_dict("records")  # four configs of adamw are too few
    assert (choice["setting"], choice["n"], choice["value"]) == ("sgd", 20, pytest.approx(0.11))
    assert rows["best"].sum() == 2 * (22 // 4)
    assert "in bins of 8 to 20 configs, what diverged being the worst" in caption(slices, study)


@pytest.mark.slow
def test_a_halved_search_has_no_medians_and_interactions_of_ranks(tmp_path: Path) -> None:
    study = load(write_search(tmp_path / "s", {"a": 0.9, "b": 0.8}, configs=40, rungs=(1, 3)))
    assert set(slices.table(study)["kind"]) == {"config"}
    data = interactions.table(study)
    assert data.loc[data["kind"] == "config", "value"].between(0, 1).all() and data["value"].max() == 1
    assert "mean of the rank by val_acc" in caption(interactions, study)


def test_cells_are_means_of_what_was_run_with_their_n() -> None:
    """Two optimizers, two depths; sgd at depth 2 was never run, and one of three diverged at depth 1."""
    settings = [("sgd", 1, 0.5), ("sgd", 1, 0.7), ("sgd", 1, math.nan), ("adamw", 1, 0.4), ("adamw", 2, 0.9), ("adamw", 2, 0.8)]
    study = searched({"optimizer": [s[0] for s in settings], "depth": [s[1] for s in settings]}, [s[2] for s in settings],
                     tuned=[{"name": "optimizer", "choices": ["sgd", "adamw"]}, {"name": "depth", "choices": [1, 2]}],
                     status={2: "infeasible"})
    data = interactions.table(study)
    cells = data[data["kind"] == "cell"].set_index(["low", "other_low"])
    assert cells.index.tolist() == [("sgd", 1), ("adamw", 1), ("adamw", 2)] and data["share"].isna().all()
    assert cells["value"].tolist() == pytest.approx([0.6, 0.4, 0.85])
    assert cells["n"].tolist() == [2, 1, 2] and cells["diverged"].tolist() == [1, 0, 0]
    lines = data[data["kind"] == "line"]
    assert list(zip(lines["setting"], lines["other_low"], lines["value"], strict=True)) == [("sgd", 1, 0.5), ("adamw", 1, 0.4),
                                                                                           ("adamw", 2, pytest.approx(0.85))]
    assert "the pairs are of parameters that go with the objective, each alone" in caption(interactions, study)


@pytest.mark.slow
def test_the_strongest_interaction_has_a_line_for_each_choice_over_the_range(space: Study) -> None:
    data = interactions.table(space)
    first = data.iloc[0]
    assert (first["first"], first["second"]) == ("lr", "depth") and data.drop_duplicates(["first", "second"]).shape[0] == 3
    lines = data[(data["kind"] == "line") & (data["second"] == "depth")]
    assert lines["other_low"].unique().tolist() == [1, 2, 3, 4] and (lines.groupby("other_low").size() == 6).all()
    best = {depth: rows.loc[rows["value"].idxmax(), "setting"] for depth, rows in lines.groupby("other_low")}
    assert best[1] > best[4]  # deeper networks want less
    titles = [axes.get_title(loc="left") for axes in drawn(interactions, space).axes]
    assert titles[0].startswith("lr × depth: 1") and titles[2] == "median val_acc by depth"


def test_association_says_that_parameters_are_a_design_check(space: Study) -> None:
    data = association.table(space)
    assert len(data) == 13 * 12 / 2 + 13
    lr = data[(data["first"] == "lr") & (data["second"] == "")].iloc[0]
    assert lr["course"] == "hump" and lr["n"] == 969
    figure = drawn(association, space)
    written = [t.get_text() for t in figure.axes[0].texts]
    assert "ε ∩" in written and "Between parameters: a check of\nthe design, not a finding" in written
    both = data[(data["first"].isin(["momentum", "beta2"])) & data["second"].isin(["momentum", "beta2"])].iloc[0]
    assert both["n"] == 0 and math.isnan(both["value"]) and "n 0" in written


def test_importance_prints_how_well_the_model_fits(space: Study) -> None:
    said = caption(importance, space)
    assert "random forest of 969 configs (R² = 0.9" in said and "95 % interval of the forest's share, from 16 refits" in said
    texts = [t.get_text() for t in drawn(importance, space).axes[0].get_yticklabels()]
    assert texts[0] == "lr" and "momentum (within optimizer)" in texts


HOSTILE = ("$x_\\alpha", "50% & more #1", "{a}~^b", '<b>"q"</b>', "o'clock\nnew", "y" * 200, "value", "n")


@pytest.fixture(scope="module")
def wide() -> Study:
    """Twenty parameters with names and choices that break markup, of which two matter; NaN and inf among settings and values."""
    rng, n = np.random.default_rng(0), 220
    columns: dict[str, object] = {}
    tuned: list[dict[str, object]] = []
    for j in range(20):
        name = HOSTILE[j] if j < len(HOSTILE) else f"parameter_{j}"
        choices = [f"choice {i} <&> $_{{{i}}} " + "z" * 7 * i for i in range(2 + j % 9)] if j % 4 == 2 else []
        columns[name] = np.array(choices, dtype=object)[rng.integers(0, len(choices), n)] if choices else \
            10 ** rng.uniform(-5, 0, n) if j % 4 == 0 else rng.uniform(-1, 1, n) if j % 4 == 1 else rng.integers(-5, 1000, n)
        tuned.append({"name": name, "log": j % 4 == 0, "choices": choices})
    lr, other = np.asarray(columns[HOSTILE[0]], dtype=float), np.asarray(columns[HOSTILE[1]], dtype=float)
    values = 0.5 + 0.1 * np.tanh(np.log10(lr) + 2) + 0.05 * other + rng.normal(0, 0.01, n)
    values[3], lr[4], other[5] = math.inf, math.nan, math.inf
    return searched(columns | {HOSTILE[0]: lr, HOSTILE[1]: other}, list(values), tuned=tuned, status={7: "infeasible"},
                    study="w$_{x}")


@pytest.mark.parametrize("module", FIGURES, ids=lambda module: module.NAME)
@pytest.mark.parametrize("size", ["paper", "slide"])
@pytest.mark.slow
def test_hostile_names_and_many_parameters_neither_break_nor_leave_the_page(module: FigureModule, size: str, wide: Study) -> None:
    figure = drawn(module, wide, size)
    width = figure.bbox.width
    for axes in figure.axes:
        labels = [*axes.get_xticklabels(), *axes.get_yticklabels()] if axes.axison else []
        for text in [t for t in [*axes.texts, *labels] if t.get_text() and axes.get_visible()]:
            box = text.get_window_extent()
            assert box.x0 > -4 and box.x1 < width + 4, text.get_text()
    if module not in (interactions, importance):
        assert "In the CSV alone: " in " ".join(t.get_text() for t in figure.texts).replace("\n", " ")
        data = module.table(wide)
        assert "parameter_19" in {*data.columns, *data.get("parameter", ()), *data.get("first", ())}


@pytest.mark.parametrize("module", FIGURES, ids=lambda module: module.NAME)
def test_poor_studies_are_one_sentence(module: FigureModule, tmp_path: Path) -> None:
    bad = {("only", k): "failed" for k in range(6)}
    for name, kwargs in (("one", {"configs": 1}), ("failures", {"configs": 6, "status": bad, "confirm": 0})):
        study = load(write_search(tmp_path / name, {"only": 0.9}, **kwargs))
        with pytest.raises(AnalysisError) as refused:
            module.table(study)
        assert str(refused.value).startswith(f"{name}: ") and "\n" not in str(refused.value)


@pytest.mark.slow
def test_many_configs_are_thinned_and_said_to_be(tmp_path: Path) -> None:
    study = load(write_space(tmp_path / "s", trials=20_000, epochs=1))
    assert len(parallel.table(study)) > 19_000
    assert "Drawn: the best and others at random, 2,000 of 19," in caption(parallel, study)
    assert "1,000 configs, at random of 19," in caption(importance, study)
    assert "Of a random 10,000 configs" in caption(association, study)


def test_a_compared_parameter_that_only_some_variants_read(tmp_path: Path) -> None:
    """A whole number for one variant, nothing for the others."""
    params = {"steps": {"depth": 1, "step_size": 5}, "none": {"depth": 1, "step_size": None}, "deep": {"depth": 2, "step_size": None}}
    study = load(write_study(tmp_path / "s", dict.fromkeys(params, 0.9), params=params, seeds=2, epochs=3))
    rows = parameters.configs(study).set_index("variant")
    assert rows.loc["steps", "step_size"] == 5 and rows["step_size"].isna().tolist() == [False, True, True]
    assert rows["depth"].tolist() == [1, 1, 2]
