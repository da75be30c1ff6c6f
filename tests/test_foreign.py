"""Tables of other tools, several studies as one, and another metric, through the command line."""

import json
from pathlib import Path

import pandas as pd
import pytest

from analysis import foreign, plots, stats, together
from analysis.figures import comparison
from analysis.foreign import Asked
from analysis.load import SPLIT, AnalysisError, Study, load
from tests.made_up_study import write_search, write_study


def run(*arguments: object) -> int:
    return plots.main([str(a) for a in arguments])


def error(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert run(*arguments) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1
    return text


def table(path: Path, rows: list[dict[str, object]]) -> Path:
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


CONFIGS = (("sgd", 0.1, 0.5), ("sgd", 0.01, 0.6), ("adam", 0.1, 0.7), ("adam", 0.01, 0.65))
RUNS: list[dict[str, object]] = [{"optimizer": o, "lr": lr, "seed": s, "val_acc": a + s / 100} for o, lr, a in CONFIGS for s in range(3)]


def test_a_csv_file_becomes_a_search_of_what_is_not_compared(tmp_path: Path) -> None:
    study = foreign.read(table(tmp_path / "results.csv", RUNS), Asked(metric="val_acc", params=("lr",), compare=("optimizer",)))
    assert (study.name, study.metric, study.mode, study.compared) == ("results", "val_acc", "max", ("optimizer",))
    assert study.variants == ("optimizer=sgd", "optimizer=adam") and study.search is not None
    best = study.search.configs.query("chosen").set_index("variant")["value"]
    assert best.to_dict() == {"optimizer=sgd": pytest.approx(0.61), "optimizer=adam": pytest.approx(0.71)}
    assert [t.name for t in study.search.tuned] == ["lr"] and "Not confirmed" in study.warning()
    assert study.selection() == "a trial's values are those of the table"


def test_what_is_compared_alone_is_no_search_and_paired_by_seed(tmp_path: Path) -> None:
    rows = [r for r in RUNS if r["lr"] == 0.1]
    study = foreign.read(table(tmp_path / "r.csv", rows), Asked(params=("optimizer",)))
    assert study.search is not None and study.variants == ("r",)  # nothing says that optimizer is what is compared
    study = foreign.read(tmp_path / "r.csv", Asked(compare=("optimizer",)))
    gap = comparison.table(study).query("kind == 'difference'").iloc[0]
    assert (gap["n"], gap["pairs"], gap["value"]) == (3, 3, pytest.approx(0.2))


@pytest.mark.slow
def test_the_command_draws_beside_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = table(tmp_path / "my results.csv", RUNS)
    assert run(path, "--metric", "val_acc", "--params", "lr", "--compare", "optimizer", "--only", "comparison,search") == 0
    assert {p.name for p in (tmp_path / "my results-figures").iterdir()} == {f"{n}.{k}" for n in ("comparison", "search")
                                                                            for k in ("png", "pdf", "svg", "csv")}
    assert run(path, "--params", "lr", "--compare", "optimizer", "--only", "comparison", "--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / "comparison.png").exists()


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "tsv", "semicolon"])
def test_other_formats_say_the_same(tmp_path: Path, kind: str) -> None:
    frame, path = pd.DataFrame(RUNS), tmp_path / f"r.{'csv' if kind == 'semicolon' else kind}"
    if kind == "parquet":
        frame.to_parquet(path)
    elif kind.startswith("json"):
        frame.to_json(path, orient="records", lines=kind == "jsonl")
    else:
        frame.to_csv(path, sep="\t" if kind == "tsv" else ";", index=False)
    study = foreign.read(path, Asked(params=("lr",), compare=("optimizer",)))
    assert study.trials["val_acc"].tolist() == pytest.approx([0.6, 0.61, 0.62, 0.7, 0.71, 0.72])


def test_names_of_other_tools_and_percent(tmp_path: Path) -> None:
    rows = [{"number": i, "value": 0.0, "params_lr": lr, "config/width": 8, "user_attrs_val_acc": 90.0 + i, "state": state}
            for i, (lr, state) in enumerate(((0.1, "TrialState.COMPLETE"), (0.2, "PRUNED"), (0.3, "FAIL"), (0.4, "running")))]
    study = foreign.read(table(tmp_path / "optuna.csv", rows), Asked(metric="val_acc", params=("lr", "width")))
    assert study.all_trials["val_acc"].tolist() == pytest.approx([0.90, 0.91, 0.92, 0.93])
    assert study.all_trials["status"].tolist() == ["done", "pruned", "failed", "unfinished"]
    assert study.all_trials["param_lr"].tolist() == [0.1, 0.2, 0.3, 0.4]


def test_runs_without_a_number_have_failed_and_less_of_a_loss_is_better(tmp_path: Path) -> None:
    rows = [{"lr": i / 10, "my_loss": value} for i, value in enumerate((0.5, float("nan"), float("inf"), 0.3), start=1)]
    study = foreign.read(table(tmp_path / "r.csv", rows), Asked(metric="my_loss", params=("lr",)))
    assert study.mode == "min" and study.counts() == "2 of 4 trials finished; 2 failed"
    assert study.search is not None and study.search.configs.query("chosen")["config"].tolist() == [3]


def test_rows_with_epochs_are_curves_and_the_best_is_the_result(tmp_path: Path) -> None:
    rows = [{"variant": v, "seed": s, "epoch": e, "depth": 1 + (v == "b"), "val_acc": 0.5 + 0.1 * e - (0.3 if e == 3 else 0)}
            for v in "ab" for s in range(2) for e in (1, 2, 3)]
    study = foreign.read(table(tmp_path / "r.csv", rows), Asked(params=("depth",)))
    assert study.variants == ("a", "b") and study.compared == ("depth",) and len(study.epochs) == 12
    assert study.trials[["epoch", "epochs", "val_acc"]].drop_duplicates().to_numpy().tolist() == [[2, 3, 0.7]]
    assert set(study.epochs["trial_id"]) == set(study.trials["trial_id"]) and len(study.trials) == 4
    message = "several rows are of epoch 1 of one run; a column `seed` or `trial_id` is to tell runs apart"
    with pytest.raises(AnalysisError, match=message):
        foreign.read(table(tmp_path / "r.csv", rows + rows), Asked(params=("depth",)))


def test_runs_without_seeds_are_not_paired(tmp_path: Path) -> None:
    rows = [{"kind": k, "val_acc": v} for k, values in (("a", (0.50, 0.52, 0.54)), ("b", (0.60, 0.62, 0.64))) for v in values]
    study = foreign.read(table(tmp_path / "r.csv", rows), Asked(compare=("kind",)))
    row = stats.paired(study.done(), "val_acc", variants=study.variants, reference=study.reference).iloc[0]
    # two means with sd 0.02 and n = 3: se = 0.02 sqrt(2/3), Welch's df = 4, t = 2.776445
    assert (row["pairs"], row["n"], row["n_reference"]) == (0, 3, 3)
    assert row["half_width"] == pytest.approx(2.776445 * 0.02 * (2 / 3) ** 0.5, abs=1e-7)
    text = stats.verdicts(study.done(), "val_acc", mode="max", variants=study.variants, reference=study.reference, ended={})[0]
    assert text == "kind=b beats kind=a by 10.0 points of validation accuracy (95 % CI 5.5 to 14.5; 3 and 3 seeds, not paired)"


@pytest.mark.parametrize(("content", "options", "said"), [
    ("lr,val_acc\n0.1,0.5\n", ["--params", "lrr"], "has no column `lrr`; did you mean `lr`? (there are: lr, val_acc)"),
    ("lr,val_acc\n0.1,0.5\n", ["--metric", "val_ac", "--params", "lr"], "has no metric `val_ac`; did you mean `val_acc`? (there are: "),
    ("lr,score\n0.1,0.5\n", ["--params", "lr"], "which column says how good a run is? `--metric NAME` names it (columns of numbers: lr, "),
    ("lr,val_acc\n0.1,0.5\n", [], "which columns are parameters? `--params A,B` names them (there are: lr)"),
    ("lr,val_acc\n0.1,good\n", ["--metric", "val_acc", "--params", "lr"], "the metric val_acc holds more than numbers, such as 'good'"),
    ("lr,val_acc\n0.1,0.5\n", ["--params", "lr,val_acc"], "val_acc is the metric, so it cannot be a parameter too"),
    ("lr,val_acc\ninf,0.5\n", ["--params", "lr"], "parameter lr is infinite in row 1"),
    ("lr,seed,val_acc\n0.1,x,0.5\n", ["--params", "lr"], "column seed is to hold whole numbers, not 'x' (row 1)"),
    ("lr,seed,val_acc\n0.1,1,0.5\n0.1,1,0.6\n", ["--params", "lr"], "several rows are of variant \"r\" and seed 1"),
    ("", ["--params", "lr"], "cannot be read as a table"), ("lr,val_acc\n", ["--params", "lr"], "has no rows"),
    ("a,b\n1,2,3\n4,5,6,7\n", ["--params", "a"], "cannot be read as a table"), ("\x00\xff\xfe", ["--params", "a"], "r.csv"),
    ("lr,val_acc\n0.1,\n", ["--params", "lr"], "0 of 1 trial finished; 1 failed")])
def test_what_is_wrong_with_a_table_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, options: list[str],
                                                    said: str) -> None:
    (tmp_path / "r.csv").write_text(content, encoding="latin-1")
    assert said in error(capsys, tmp_path / "r.csv", *options)


def test_json_that_is_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("{", "[1, 2]", "5", "[" * 100_000):
        (tmp_path / "r.jsonl").write_text(text)
        assert "cannot be read as a table" in error(capsys, tmp_path / "r.jsonl", "--params", "lr")


def test_options_of_tables_are_not_for_studies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_study(tmp_path / "s", {"a": 0.5}, seeds=1, epochs=2)
    assert "--params says what the columns of a table of another tool are" in error(capsys, folder, "--params", "lr")
    assert "is a file; give the study's name or its folder" in error(capsys, folder / "trials.parquet")
    assert error(capsys, tmp_path / "resuls.csv").endswith("resuls.csv: there is no such file\n")


# another metric of a study

def test_another_metric_of_a_study_keeps_the_epochs_that_were_selected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_study(tmp_path / "s", {"a": 0.8, "b": 0.9}, epochs=4)
    study = load(folder, metric="val_loss")
    assert (study.metric, study.mode, study.headline()) == ("val_loss", "min", ("val_loss", "min"))
    assert study.selection() == "a trial's values are those of its epoch with the highest val_acc"
    assert load(folder, metric="val_loss", mode="max").mode == "max"
    assert load(folder).headline() == ("test_acc", "max") and load(folder, metric="val_acc").headline() == ("val_acc", "max")
    assert run(folder, "--metric", "val_loss", "--only", "comparison") == 0
    capsys.readouterr()
    message = error(capsys, folder, "--metric", "val_los")
    assert "has no metric `val_los`; did you mean `val_loss`? (there are: train_loss, train_acc, val_loss, val_acc, lr, " in message


def test_the_test_split_chooses_no_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_search(tmp_path / "s", {"a": 0.9}, configs=2)
    assert "the test split chooses nothing" in error(capsys, folder, "--metric", "test_acc")


# several studies

def joined(*studies: Study) -> Study:
    return together.join(studies, "both", folder=Path("nowhere"))


def test_studies_together_are_paired_by_the_seeds_that_they_share(tmp_path: Path) -> None:
    one = load(write_study(tmp_path / "one", {"a": 0.5, "b": 0.6}, seeds=3, epochs=2, test_acc={("a", s): 0.5 + s / 100 for s in range(3)}))
    two = load(write_study(tmp_path / "two", {"c": 0.7}, seeds=4, epochs=2, test_acc={("c", s): 0.6 + s / 100 for s in range(4)}))
    both = joined(one, two)
    assert both.variants == ("a", "b", "c") and both.reference == "a" and both.compared == ("depth",)
    gap = comparison.table(both).query("kind == 'difference' and variant == 'c'").iloc[0]
    assert (gap["n"], gap["value"]) == (3, pytest.approx(0.1))
    assert len(both.trials) == 10 and both.trials["trial_id"].is_unique and set(both.epochs["trial_id"]) == set(both.trials["trial_id"])


def test_variants_of_one_name_are_told_apart_by_their_studies(tmp_path: Path) -> None:
    one = load(write_study(tmp_path / "one", {"a": 0.5, "b": 0.6}, epochs=2))
    two = load(write_study(tmp_path / "two", {"a": 0.7}, epochs=2))
    assert joined(one, two).variants == ("one: a", "one: b", "two")


def test_an_untested_study_is_compared_by_the_metric_and_an_unconfirmed_one_warns(tmp_path: Path) -> None:
    tested = load(write_study(tmp_path / "one", {"a": 0.5}, epochs=2))
    searched = load(write_search(tmp_path / "two", {"x": 0.9, "y": 0.8}, configs=3, confirm=0))
    both = joined(tested, searched)
    assert both.headline() == ("val_acc", "max") and both.search is None
    assert both.warning().startswith("Not confirmed: two. The best of many configs")


def test_what_cannot_be_put_together_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_study(tmp_path / "one", {"a": 0.5}, epochs=2)
    two = write_study(tmp_path / "two", {"a": 0.5}, epochs=2, metric="val_loss", mode="min")
    runs = ["--runs", tmp_path]
    assert "the studies have different metrics: one: val_acc (max), two: val_loss (min); --metric NAME" in error(
        capsys, "one", "two", "--together", "x", *runs)
    assert "one study (one) is nothing to put together" in error(capsys, "one", "--together", "x", *runs)
    assert "is a study; another name" in error(capsys, one, two, "--together", "one", *runs)
    assert "a plain name is meant" in error(capsys, one, two, "--together", "../x", *runs)
    assert run("one", "two", "--together", "x", "--metric", "val_acc", "--only", "comparison", *runs) == 0
    assert (tmp_path / "x" / "figures" / "comparison.png").exists()


# splits

def test_splits_beside_something_compared_are_repetitions(tmp_path: Path) -> None:
    names = [f"depth={d} split_seed={s}" for d in (1, 2) for s in range(3)]
    params = {name: {"depth": int(name[6]), "split_seed": int(name[-1])} for name in names}
    acc = {(name, seed): 0.8 + 0.05 * (params[name]["depth"] == 2) * (1 + params[name]["split_seed"]) + seed / 100 for name in names
           for seed in range(2)}
    study = load(write_study(tmp_path / "s", dict.fromkeys(names, 0.9), params=params, test_acc=acc, seeds=2, epochs=2))
    assert study.variants == ("depth=1", "depth=2") and study.compared == ("depth",) and study.pairs == ("seed", SPLIT)
    row = stats.paired(study.done(), "test_acc", variants=study.variants, reference="depth=1", by=study.pairs).iloc[0]
    # the differences are 5, 10 and 15 points, on both seeds of a split alike: three values and not six
    assert (row["n"], row["pairs"], row["unit"], row["difference"]) == (3, 6, "split", pytest.approx(0.10))
    assert row["half_width"] == pytest.approx(4.302653 * 0.05 / 3**0.5, abs=1e-6)
    assert stats.sample(row) == "3 splits with 6 pairs"


def test_splits_that_alone_are_compared_stay_variants(tmp_path: Path) -> None:
    names = ["split_seed=0", "split_seed=1"]
    params = {name: {"split_seed": i} for i, name in enumerate(names)}
    study = load(write_study(tmp_path / "s", dict.fromkeys(names, 0.9), params=params, epochs=2))
    assert study.variants == tuple(names) and study.pairs == ("seed",)


def test_what_differs_by_more_than_the_split_stays_apart(tmp_path: Path) -> None:
    same = {"depth": 1, "split_seed": 0}
    params = {"a split_seed=0": same, "b split_seed=0": same, "c": {"depth": 2, "split_seed": 1}}
    study = load(write_study(tmp_path / "s", dict.fromkeys(params, 0.9), params=params, epochs=2))
    assert study.variants == tuple(params)


def test_the_help_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        plots.main(["--help"])
    text = capsys.readouterr().out
    assert all(option in text for option in ("--metric", "--mode", "--together", "--params", "--compare"))


def test_a_json_value_that_is_a_list_is_text(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text("\n".join(json.dumps({"layers": v, "val_acc": 0.5}) for v in ([1, 2], [3], None)))
    study = foreign.read(tmp_path / "r.jsonl", Asked(params=("layers",)))
    assert study.all_trials["param_layers"].tolist()[:2] == ["[1, 2]", "[3]"]
