"""The analysis floor on searched studies: which config stands for a variant, what is said of it, and the figures of the search."""

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from analysis import plots, results_table, style, winners
from analysis.figures import comparison, curves, rungs, search, slices
from analysis.load import AnalysisError, Study, load
from harness.grid import parse_grid
from harness.store import Store
from harness.tables import compact
from tests.made_up_study import write_search, write_study

TWO = {"with": 0.95, "without": 0.93}
PLAIN = {f"{name}.{kind}" for name in ("curves", "comparison", "search", "slices") for kind in ("png", "pdf", "svg", "csv")}
FILES = PLAIN | {"results.md", "results.csv", "results.tex"}
HALVED = FILES | {f"rungs.{kind}" for kind in ("png", "pdf", "svg", "csv")}


@pytest.fixture(autouse=True)
def figures_of_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only these are drawn here; tests/test_bad_tables.py draws all there are."""
    monkeypatch.setattr(plots, "FIGURES", ("curves", "comparison", "search", "slices", "rungs"))


def values(of: dict[tuple[str, int], tuple[float, ...]], *, begin: int = 0) -> dict[tuple[str, int, int], float]:
    """(variant, config, seed) -> value, from the values of each config's seeds."""
    return {(*config, begin + s): v for config, each in of.items() for s, v in enumerate(each)}


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Of two configs the search likes number 0 of "a" better (92.0 to 90.0), the fresh seeds number 1 (89.0 to 85.0); "b" is confirmed at
    86.0, so that "a" is ahead by 3.0 points on every fresh seed."""
    said = values({("a", 0): (0.91, 0.93), ("a", 1): (0.90, 0.90), ("b", 0): (0.70, 0.70), ("b", 1): (0.88, 0.90)})
    again = values({("a", 0): (0.84, 0.85, 0.86), ("a", 1): (0.88, 0.89, 0.90), ("b", 0): (0.7, 0.7, 0.7), ("b", 1): (0.85, 0.86, 0.87)},
                   begin=2)
    return load(write_search(tmp_path_factory.mktemp("runs") / "s", {"a": 0.9, "b": 0.9}, configs=2, value=said | again, openings=0))


def caption(study: Study, module: plots.FigureModule) -> str:
    with style.context():
        figure = style.new_figure()
        module.draw(figure, module.table(study), study)
        return " ".join(t.get_text() for t in figure.texts).replace("\n", " ").replace("\u00a0", " ")


def test_the_winner_is_the_best_on_the_fresh_seeds_and_stands_alone(confirmed: Study) -> None:
    assert confirmed.search is not None
    assert confirmed.search.configs.query("chosen")[["variant", "config"]].to_numpy().tolist() == [["a", 1], ["b", 1]]
    assert set(confirmed.trials["phase"]) == {"confirm"}
    table = comparison.table(confirmed)
    assert table.query("kind == 'seed' and variant == 'a'")["value"].tolist() == pytest.approx([0.88, 0.89, 0.90])
    gap = table.query("kind == 'difference'").iloc[0]
    assert (gap["variant"], gap["n"], gap["value"]) == ("b", 3, pytest.approx(-0.03))
    assert set(curves.table(confirmed)["seed"].dropna()) == {2, 3, 4}


def test_what_the_search_said_stands_beside_what_was_confirmed(confirmed: Study) -> None:
    text = results_table.markdown(results_table.table(confirmed), confirmed)
    half = 100 * 4.302653 * 0.01 / math.sqrt(3)  # 2.5
    assert (f"a: config 1, the winner of 2 by val_acc: search said 90.0 % (n = 2), confirmed 89.0 ± {half:.1f} % (n = 3); "
            f"the search's best was config 0: search said 92.0 % (n = 2), confirmed 85.0 ± {half:.1f} % (n = 3)") in text
    assert "b: config 1, the winner of 2 by val_acc: search said 89.0 % (n = 2), confirmed 86.0" in text
    row = results_table.table(confirmed).set_index("variant").loc["a"]
    assert (row["config"], row["configs"], row["search_value"], row["search_n"]) == (1, 2, pytest.approx(0.90), 2)
    assert row["param_lr"] == confirmed.trials["param_lr"].iloc[0]
    assert "Not confirmed" not in text


def test_the_luck_of_being_chosen_is_left_out(tmp_path: Path) -> None:
    """Means 86 and 87: config 1 wins, by its luck with seed 2."""
    again = values({("a", 0): (0.82, 0.87, 0.89), ("a", 1): (0.97, 0.78, 0.86)}, begin=2)
    said = values({("a", 0): (0.9, 0.9), ("a", 1): (0.9, 0.9)})
    study = load(write_search(tmp_path / "s", {"a": 0.9}, configs=2, value=said | again, openings=0))
    assert study.search is not None and study.search.chosen("a")["config"] == 1
    # seed 2: config 0 (88.0 to 82.0) has 82; seed 3: config 1 (91.5 to 85.5) has 78; seed 4: config 1 (87.5 to 84.5) has 86
    assert winners.left_out(study.search, "a", "val_acc", "max") == pytest.approx((0.82 + 0.78 + 0.86) / 3)
    assert "(n = 3), 82.0 % with each seed left out of the choice" in results_table.markdown(results_table.table(study), study)


@pytest.mark.slow
def test_an_unconfirmed_best_is_said_to_be_biased_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = values({("a", 0): (0.91, 0.93), ("a", 1): (0.90, 0.90), ("b", 0): (0.70, 0.70), ("b", 1): (0.88, 0.90)})
    folder = write_search(tmp_path / "s", {"a": 0.9, "b": 0.9}, configs=2, value=said, confirm=0)
    study, warning = load(folder), "Not confirmed: each variant is the best of up to 2 configs by val_acc"
    assert study.trials["seed"].tolist() == [0, 1, 0, 1]
    assert comparison.table(study).query("kind == 'mean'")["value"].tolist() == pytest.approx([0.92, 0.89])
    assert plots.main([str(folder)]) == 0
    printed = capsys.readouterr().out
    assert warning in printed and "val_acc is biased upwards" in printed
    assert "  a: config 0, the best of 2 by val_acc: search said 92.0 % (n = 2), not confirmed\n" in printed
    assert f"**{warning}" in (folder / "figures" / "results.md").read_text(encoding="utf-8")
    for module in (comparison, curves):
        with style.context():
            figure = style.new_figure()
            module.draw(figure, module.table(study), study)
        assert warning in str(figure.get_suptitle()).replace("\n", " ")


def test_the_only_config_of_each_variant_was_chosen_by_nothing(tmp_path: Path) -> None:
    study = load(write_search(tmp_path / "s", TWO, configs=1, seeds=3, confirm=0))
    assert study.search is not None and not study.search.confirmed and study.warning() == ""


def test_what_is_not_confirmed_is_not_mixed_with_what_is(tmp_path: Path) -> None:
    bad = {("b", k): "infeasible" for k in range(4)}
    study = load(write_search(tmp_path / "s", {"a": 0.9, "b": 0.9}, configs=4, status=bad))
    assert set(study.trials["variant"]) == {"a"}
    means = comparison.table(study).query("kind == 'mean'").set_index("variant")["n"]
    assert means.to_dict() == {"a": 3, "b": 0}
    assert "b: no config has a value (4 infeasible)" in results_table.markdown(results_table.table(study), study)


def test_a_config_counts_only_when_every_fresh_seed_has_a_value(tmp_path: Path) -> None:
    again = values({("a", 0): (0.99, math.nan, 0.99), ("a", 1): (0.8, 0.8, 0.8)}, begin=2)
    study = load(write_search(tmp_path / "s", {"a": 0.9}, configs=2, value=again, openings=0))
    assert study.search is not None
    assert study.search.configs.query("chosen")["config"].tolist() == [1]


def test_less_is_better_where_the_metric_is_a_loss(tmp_path: Path) -> None:
    said = values({("a", 0): (0.3, 0.3), ("a", 1): (0.2, 0.2)})
    study = load(write_search(tmp_path / "s", {"a": 0.9}, configs=2, value=said, confirm=0, metric="val_loss", mode="min"))
    assert study.search is not None and study.search.configs.query("chosen")["config"].tolist() == [1]
    assert "biased downwards" in study.warning()
    assert search.table(study).query("kind == 'config'")["best_so_far"].tolist() == pytest.approx([0.3, 0.2])


def test_the_test_split_is_shown_with_how_often_it_was_opened(tmp_path: Path) -> None:
    again = load(write_search(tmp_path / "again", TWO, openings=2))
    assert again.headline() == ("test_acc", "max")
    assert "Test split opened 2 times" in caption(again, comparison)
    assert "Test split opened 2 times" in results_table.markdown(results_table.table(again), again)
    assert "opened" not in caption(load(write_search(tmp_path / "once", TWO)), comparison)
    assert load(write_search(tmp_path / "never", TWO, openings=0)).headline() == ("val_acc", "max")


def test_the_search_in_the_order_of_proposal(tmp_path: Path) -> None:
    said = {("a", k, s): v for k, v in enumerate((0.5, 0.7, 0.6, 0.8)) for s in range(2)}
    study = load(write_search(tmp_path / "s", {"a": 0.9}, configs=4, value=said, status={("a", 2): "failed"}))
    rows = search.table(study).query("kind == 'config'")
    assert rows["config"].tolist() == [0, 1, 2, 3]
    assert rows["best_so_far"].tolist() == pytest.approx([0.5, 0.7, 0.7, 0.8])
    assert rows["status"].tolist() == ["done", "done", "failed", "done"]
    assert rows["value"].isna().tolist() == [False, False, True, False]


def test_rungs_and_what_they_stopped(tmp_path: Path) -> None:
    study = load(write_search(tmp_path / "s", TWO, configs=9, rungs=(1, 3)))
    rows = search.table(study).query("kind == 'config' and variant == 'with'")
    assert rows["epochs"].fillna(9).value_counts().to_dict() == {1: 6, 3: 2, 9: 1}
    curve = rungs.table(study).query("variant == 'with'")
    ends = curve.groupby("config")["epoch"].max().to_dict()
    assert ends == dict(zip(rows["config"], rows["epochs"].fillna(9), strict=True))
    assert set(curve.query("status == 'done'")["n"]) == {2} and set(curve.query("rung == 1")["n"]) == {1}
    assert "Stopped so far: 12 after 1, 4 after 3 epochs" in caption(study, rungs)


def test_parameters_leave_out_what_a_config_does_not_read(tmp_path: Path) -> None:
    study = load(write_search(tmp_path / "s", TWO, configs=12))
    rows = slices.table(study)
    table = rows[rows["kind"] == "config"]
    assert list(table["parameter"].unique()) == ["lr", "depth", "optimizer", "dropout", "momentum"]
    sgd = (table["parameter"] == "optimizer") & (table["setting"] == "sgd")
    assert (table["parameter"] == "momentum").sum() == sgd.sum() > 0
    assert (table["parameter"] == "lr").sum() == 24
    with style.context():
        figure = style.new_figure()
        slices.draw(figure, rows, study)
    panels = {axis.get_xlabel(): axis for axis in figure.axes if axis.get_visible()}
    assert [t.get_text() for t in panels["lr"].get_xticklabels()] == ["10⁻³", "10⁻²", "10⁻¹"]
    assert [t.get_text() for t in panels["dropout"].get_xticklabels()] == ["0", "0.1", "0.2"]
    assert [t.get_text() for t in panels["optimizer"].get_xticklabels()] == ["sgd", "adamw"]


@pytest.mark.slow
@pytest.mark.parametrize(("files", "kwargs"), [
    ({name for name in FILES if "slices" not in name}, {"variants": {"only": 0.9}, "configs": 1, "confirm": 1, "fresh": 1}),
    (HALVED, {"variants": {"only": 0.9}, "configs": 9, "rungs": (2,), "metric": "val_loss", "mode": "min"}),
    (FILES, {"variants": TWO, "confirm": 0, "tuned": [],
             "status": {("with", k): s for k, s in enumerate(("infeasible", "failed", "lost", "unfinished"))}}),
], ids=["one config", "loss", "configs without values, and nothing says what was tuned"])
def test_poor_searches_still_give_pictures(tmp_path: Path, files: set[str], kwargs: dict) -> None:
    folder = write_search(tmp_path / "s", **kwargs)
    assert plots.main([str(folder)]) == 0
    assert {p.name for p in (folder / "figures").iterdir()} == files


@pytest.mark.slow
def test_a_search_that_has_only_begun_shows_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_search(tmp_path / "s", TWO, configs=6, rungs=(3,), confirm=0)
    table = pq.read_table(folder / "trials.parquet")
    pq.write_table(table.filter(table["budget"].is_valid()), folder / "trials.parquet")  # all rest on their first rung
    assert plots.main([str(folder)]) == 0
    said = capsys.readouterr()
    assert "left out comparison: s: no config is fully trained yet (0 of 8 trials finished; 8 pruned)" in said.err
    assert "the best so far of 4 by val_acc: search said" in said.out and "after 3 epochs (n = 1), not confirmed" in said.out
    assert {p.stem for p in (folder / "figures").iterdir()} == {"search", "slices", "rungs"}


@pytest.mark.slow
def test_more_variants_than_fit_are_said_to_be_left_out(tmp_path: Path) -> None:
    variants = {f"variant {i} of {'x' * 40}": 0.7 + i / 60 for i in range(13)}
    study = load(write_search(tmp_path / "s", variants, configs=3, rungs=(3,), fresh=1))
    assert "Shown: 12 of 13 variants" in caption(study, search) and "Shown: 12 of 13 variants" in caption(study, rungs)
    assert search.table(study)["variant"].nunique() == slices.table(study)["variant"].nunique() == 13


def test_a_search_without_any_value_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_search(tmp_path / "s", TWO, configs=2, status={(v, k): "infeasible" for v in TWO for k in range(2)})
    assert plots.main([str(folder)]) == 2
    assert "no config has a value (0 of 8 trials finished; 8 infeasible)" in capsys.readouterr().err
    assert not (folder / "figures").exists()


def test_the_tables_say_what_was_tuned(tmp_path: Path) -> None:
    grid = parse_grid("""
[study]
name = "s"
[tune]
lr = { low = 1e-3, high = 1.0, log = true }
depth = [1, 2, 3]
[tune.when.depth.1]
dropout = { low = 0.0, high = 0.5 }
[search]
trials = 4
""")
    store = Store(tmp_path / "s")
    store.create_folders()
    compact(store, grid)
    about = json.loads(pq.read_schema(store.table_file("trials")).metadata[b"harness"])
    assert about["tuned"] == [{"name": "lr", "log": True, "choices": []}, {"name": "depth", "log": False, "choices": [1, 2, 3]},
                              {"name": "dropout", "log": False, "choices": []}]


def test_a_study_without_tune_has_no_search(tmp_path: Path) -> None:
    study = load(write_study(tmp_path / "s", TWO, epochs=2))
    assert study.search is None and study.warning() == study.standing() == study.openings() == ""
    with pytest.raises(AnalysisError, match=r"has no \[tune\]"):
        search.table(study)


def test_columns_that_a_searched_table_must_have(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="lacks the column budget"):
        load(write_search(tmp_path / "s", TWO, drop=("budget",)))
