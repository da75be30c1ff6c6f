"""The analysis floor through its command line and its tables: good studies, poor ones, and files that are broken."""

import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.lines import Line2D

from analysis import drawing, plots, results_table, style
from analysis.figures import comparison, curves
from analysis.load import AnalysisError, Study, find_study, load
from tests.made_up_study import write_study, write_table

ROOT = Path(__file__).resolve().parents[1]
THREE = {"depth=1": 0.93, "depth=2": 0.96, "depth=3": 0.97}
KINDS = ("png", "pdf", "svg", "csv")
FILES = {f"{name}.{kind}" for name in ("curves", "comparison") for kind in KINDS} | {"results.md", "results.csv", "results.tex"}


@pytest.fixture(autouse=True)
def two_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only these are drawn here; tests/test_bad_tables.py draws all there are."""
    monkeypatch.setattr(plots, "FIGURES", ("curves", "comparison"))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three variants, three seeds, the test accuracies of depth=3 above those of depth=1 by 3.1, 2.5 and 3.4 points."""
    base = {("depth=1", s): v for s, v in enumerate((0.90, 0.91, 0.92))}
    top = {("depth=3", s): v for s, v in enumerate((0.931, 0.935, 0.954))}
    return write_study(tmp_path_factory.mktemp("runs") / "digits", THREE, test_acc=base | top, epochs=12)


def run(*arguments: object) -> int:
    return plots.main([str(a) for a in arguments])


def test_the_command_writes_everything_and_says_what_it_shows(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("digits", "--runs", digits.parent, "--out", "figures") == 0
    assert {p.name for p in Path("figures").iterdir()} == FILES
    printed = capsys.readouterr().out
    assert "wrote figures/curves.png" in printed.replace("\\", "/")
    assert "depth=3 beats depth=1 by 3.0 points of test accuracy (95 % CI 1.9 to 4.1, 1.4 to 4.6 over 2 comparisons together; 3 " in printed
    assert Path("figures/curves.png").read_bytes().startswith(b"\x89PNG")
    assert Path("figures/curves.pdf").read_bytes().startswith(b"%PDF")


def test_the_same_study_gives_the_same_bytes(digits: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert run(digits, "--out", tmp_path / name) == 0
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_the_newest_study_is_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, stamp in (("old", 1_000_001), ("new", 1_000_002), ("older", 1_000_000)):
        write_study(tmp_path / name, {"a": 0.5}, seeds=1, epochs=2)
        os.utime(tmp_path / name / "trials.parquet", (stamp, stamp))
    assert find_study(None, tmp_path) == tmp_path / "new"
    assert run("--runs", tmp_path) == 0
    assert (tmp_path / "new" / "figures" / "curves.png").exists()
    assert "new: 1 of 1 trial finished" in capsys.readouterr().out


def test_several_studies_and_one_of_them_missing(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_study(tmp_path / "one", {"a": 0.5}, seeds=1, epochs=2)
    assert run(one, "digist", digits, "--runs", digits.parent, "--out", tmp_path / "out") == 2
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"one", "digits"}
    assert re.search(r'error: no study "digist" in .*did you mean `digits`\? \(there are: digits\)', capsys.readouterr().err)


def test_unknown_options_name_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        plots.main(["--otu", "x"])
    assert stop.value.code == 2
    assert "did you mean --out?" in capsys.readouterr().err


def test_help_loads_nothing_heavy() -> None:
    code = ("import sys\nfrom analysis import plots\ntry:\n    plots.main(['--help'])\nexcept SystemExit:\n    pass\n"
            "print(sorted({'pandas', 'numpy', 'matplotlib', 'pyarrow', 'scipy', 'torch', 'nevergrad'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_drawing_changes_no_setting_of_matplotlib(digits: Path, tmp_path: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    assert run(digits, "--out", tmp_path) == 0
    assert dict(mpl.rcParams) == before


def test_results_table_by_hand(digits: Path) -> None:
    study = load(digits)
    table = results_table.table(study).set_index("variant")
    assert list(table.index) == list(THREE)
    assert table["param_depth"].tolist() == [1, 2, 3]
    assert table.loc["depth=1", "test_acc"] == pytest.approx(0.91)
    assert table.loc["depth=1", "test_acc_half_width"] == pytest.approx(4.302653 * 0.01 / math.sqrt(3), abs=1e-6)
    text = results_table.markdown(results_table.table(study), study)
    row = next(line for line in text.splitlines() if line.startswith("| depth=1 |"))
    assert row.split(" | ")[-2:] == ["91.0 ± 2.5", "3 |"]
    assert "± is the half-width of the Student t 95 % interval of the mean over n seeds" in text
    assert "highest val_acc" in text


def test_markdown_cells_cannot_break_the_table(tmp_path: Path) -> None:
    study = load(write_study(tmp_path / "odd", {"a|b": 0.5, "<b>$x$</b>\nnew": 0.6}, epochs=2, seeds=1))
    rows = [line for line in results_table.markdown(results_table.table(study), study).splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert "a\\|b" in rows[2]
    assert "\\<b\\>\\$x\\$\\</b\\> new" in rows[3]


def test_inactive_parameters_are_a_dash_and_whole_numbers_stay_whole(tmp_path: Path) -> None:
    params = {"sgd": {"momentum": 0.9, "depth": 2, "batch_norm": True}, "adam": {"momentum": None, "depth": None, "batch_norm": False}}
    study = load(write_study(tmp_path / "s", {"sgd": 0.5, "adam": 0.6}, params=params, epochs=2))
    rows = [line for line in results_table.markdown(results_table.table(study), study).splitlines() if line.startswith("|")]
    assert rows[2].startswith("| sgd | 0.9 | 2 | true |")
    assert rows[3].startswith("| adam | – | – | false |")


def test_comparison_table(digits: Path) -> None:
    table = comparison.table(load(digits))
    assert set(table["metric"]) == {"test_acc"}
    assert table["kind"].value_counts().to_dict() == {"seed": 9, "mean": 3, "difference": 2}
    gap = table[(table["kind"] == "difference") & (table["variant"] == "depth=3")].iloc[0]
    assert gap["value"] == pytest.approx(0.03)
    assert gap["reference"] == "depth=1"
    seeds = table[(table["kind"] == "seed") & (table["variant"] == "depth=1")]
    assert seeds["value"].tolist() == pytest.approx([0.90, 0.91, 0.92])


def test_the_metric_is_compared_where_the_test_split_was_not_opened(tmp_path: Path) -> None:
    study = load(write_study(tmp_path / "s", THREE, with_test=False, epochs=3))
    assert set(comparison.table(study)["metric"]) == {"val_acc"}
    assert "test_acc" not in results_table.table(study)


def test_curves_table_holds_means_and_seeds(digits: Path) -> None:
    table = curves.table(load(digits))
    assert list(table["metric"].unique()) == ["val_acc", "train_loss", "val_loss"]
    at = table[(table["variant"] == "depth=2") & (table["metric"] == "val_acc") & (table["epoch"] == 7)]
    seeds, mean = at[at["trial_id"].notna()], at[at["trial_id"].isna()].iloc[0]
    assert len(seeds) == mean["n"] == 3
    assert mean["value"] == pytest.approx(seeds["value"].mean())
    assert mean["half_width"] == pytest.approx(4.302653 * seeds["value"].std() / math.sqrt(3), rel=1e-5)


def test_a_mean_ends_where_its_first_seed_stopped(tmp_path: Path) -> None:
    table = curves.table(load(write_study(tmp_path / "s", {"a": 0.9}, epochs=20, early=True)))  # seeds stop after 20, 17 and 14
    assert table[table["trial_id"].isna()]["epoch"].max() == 14
    assert table[table["trial_id"].notna()]["epoch"].max() == 20


def test_trials_that_did_not_finish_are_counted_and_left_out_of_means(tmp_path: Path) -> None:
    status = {("depth=1", 0): "infeasible", ("depth=2", 1): "failed", ("depth=3", 2): "unfinished"}
    study = load(write_study(tmp_path / "s", THREE, seeds=4, status=status, epochs=9))
    assert study.counts() == "9 of 12 trials finished; 1 infeasible, 1 failed, 1 unfinished"
    table = curves.table(study)
    assert set(table[table["trial_id"].isna()]["n"]) == {3}
    assert set(table["status"].dropna()) == {"done", "infeasible", "unfinished"}
    results = results_table.table(study)
    assert results["done"].tolist() == [3, 3, 3]
    assert results["infeasible"].tolist() == [1, 0, 0]
    gaps = comparison.table(study).query("kind == 'difference'")
    assert gaps["n"].tolist() == [2, 2]  # seeds 2 and 3, seeds 1 and 3
    assert run(study.folder) == 0


def test_a_variant_most_of_whose_seeds_diverged_beats_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # three of eight seeds are left, 3.1, 2.5 and 3.4 points ahead: an interval of 1.9 to 4.1, and no victory
    acc = {("base", s): v for s, v in enumerate((0.90, 0.91, 0.92, 0.91, 0.90, 0.92, 0.91, 0.90))}
    acc |= {("bold", s): v for s, v in enumerate((0.931, 0.935, 0.954))}
    folder = write_study(tmp_path / "s", {"base": 0.9, "bold": 0.9}, seeds=8, epochs=4, test_acc=acc,
                         status={("bold", s): "infeasible" for s in range(3, 8)})
    assert run(folder) == 0
    told = ("bold is ahead of base by 3.0 points of test accuracy among the seeds that did not diverge (95 % CI 1.9 to 4.1; "
            "3 paired seeds); 5 of its 8 seeds diverged and are left out")
    printed = capsys.readouterr().out
    assert f"  {told}\n" in printed and " beats " not in printed
    assert f"- {told}." in (folder / "figures" / "results.md").read_text(encoding="utf-8")


def texts(study_folder: Path, module: plots.FigureModule) -> str:
    study = load(study_folder)
    with style.context():
        figure = style.new_figure()
        module.draw(figure, module.table(study), study)
        return " ".join(t.get_text() for t in figure.texts).replace("\n", " ").replace("\u00a0", " ")


def test_captions_say_what_is_drawn(tmp_path: Path) -> None:
    three = write_study(tmp_path / "three", THREE, epochs=6, status={("depth=1", 0): "failed"}, seeds=4)
    text = texts(three, curves)
    assert "three: 11 of 12 trials finished; 1 failed" in text
    assert "mean over 3 to 4 seeds" in text
    assert "Student t 95 % interval" in text
    assert "highest val_acc" in text
    one = write_study(tmp_path / "one", THREE, epochs=6, seeds=1, select="last")
    assert "no interval below 3 seeds" in texts(one, curves)
    assert "no interval below 3 seeds" in texts(one, comparison)
    assert "its last epoch" in texts(one, comparison)


@pytest.mark.parametrize("kwargs", [
    {"variants": {"only": 0.9}, "seeds": 1, "epochs": 1},
    {"variants": {"a": 0.9, "b": 0.8}, "seeds": 2, "metric": "val_loss", "mode": "min", "with_test": False},
    {"variants": {f"variant {i} with $\\alpha_{i}$, a long name and {'x' * 50}": 0.5 + i / 50 for i in range(9)}, "epochs": 5},
    {"variants": {"a": 0.9, "b": 0.8}, "chance": None, "status": {("a", s): "infeasible" for s in range(3)}},
    {"variants": {"a": 0.5, "b": 0.5}, "spread": 0.0, "test_acc": {(v, s): 1.0 for v in "ab" for s in range(3)}},
    {"variants": {"a": 0.9}, "reference": "gone", "compared": ["gone"], "chance": 0.99},
    {"variants": {"数字": 0.9, "": 0.8}, "seeds": 3, "epochs": 2},
], ids=["one trial of one epoch", "loss", "many long names", "reference all infeasible", "no spread", "odd metadata", "other scripts"])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_poor_studies_still_give_pictures(tmp_path: Path, kwargs: dict, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_study(tmp_path / "s", **kwargs)
    assert run(folder) == 0
    assert {p.name for p in (folder / "figures").iterdir()} == FILES
    assert "$\\mathdefault" not in capsys.readouterr().out


def test_more_variants_than_fit_are_said_to_be_left_out(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", {f"v{i}": 0.3 + i / 200 for i in range(70)}, seeds=1, epochs=3)
    assert "12 of 70 variants" in texts(folder, curves)
    assert "60 of 70 variants" in texts(folder, comparison)
    assert comparison.table(load(folder))["variant"].nunique() == 70


def error(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert run(folder) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1, "one clear sentence, no traceback"
    return text


def test_no_studies_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--runs", tmp_path / "nowhere") == 2
    assert "`python -m harness.launch --local` makes a first one" in capsys.readouterr().err


def test_a_study_without_tables_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "grid.toml").write_text("")
    assert "has no trials.parquet yet; `python -m harness.launch GRID`" in error(tmp_path / "s", capsys)
    assert run("--runs", tmp_path) == 2
    assert "have no trials.parquet yet" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["trials.parquet", "epochs.parquet"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped", "folder"])
def test_a_broken_file_is_named_with_the_command_that_mends_it(tmp_path: Path, name: str, damage: str,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_study(tmp_path / "s", THREE, epochs=5)
    path = folder / name
    data = bytearray(path.read_bytes())
    if damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage == "flipped":
        chunk = pq.read_metadata(path).row_group(0).column(1)  # the last byte of its last page: only the checksum can tell
        data[(chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size - 1] ^= 0x01
        path.write_bytes(data)
    else:
        path.write_bytes({"cut": bytes(data[:len(data) // 2]), "empty": b"", "text": b"study,trial_id\n"}[damage])
    message = error(folder, capsys)
    assert str(path) in message
    assert "python -m harness.launch GRID" in message


def rewrite(path: Path, *, metadata: dict[bytes, bytes] | None = None, drop: str | None = None) -> None:
    table = pq.read_table(path)
    if drop:
        table = table.drop_columns([drop])
    pq.write_table(table.replace_schema_metadata(metadata) if metadata is not None else table, path)


def test_files_that_are_not_ours_or_of_another_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_study(tmp_path / "s", THREE, epochs=3)
    rewrite(folder / "trials.parquet", metadata={b"harness": b'{"schema": 2}'})
    assert "schema version 2; this code reads version 1" in error(folder, capsys)
    for metadata in ({}, {b"harness": b"{"}, {b"harness": b"[]"}):
        rewrite(folder / "trials.parquet", metadata=metadata)
        assert "not written by this harness" in error(folder, capsys)


def test_missing_columns_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_study(tmp_path / "s", THREE, epochs=3)
    rewrite(folder / "trials.parquet", drop="val_acc")
    assert "lacks the column val_acc (it has: study, trial_id" in error(folder, capsys)


def test_no_finished_trial_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_study(tmp_path / "s", {"a": 0.5}, status={("a", 0): "failed", ("a", 1): "infeasible", ("a", 2): "unfinished"}, epochs=3)
    message = error(folder, capsys)
    assert "0 of 3 trials finished; 1 infeasible, 1 failed, 1 unfinished" in message
    assert not (folder / "figures").exists()


def test_without_epochs_the_rest_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_study(tmp_path / "s", THREE, epochs=3)
    (folder / "epochs.parquet").unlink()
    assert run(folder) == 0
    assert "left out curves" in capsys.readouterr().err
    assert {p.name for p in (folder / "figures").iterdir()} == {f for f in FILES if "curves" not in f}


def own_job(folder: Path, values: list[float]) -> Path:
    """A study of a job of the user's own that reports `dice` only, one value for each seed."""
    about = {"schema": 1, "study": "own", "metric": "dice", "mode": "max", "select": "last", "variants": ["a"], "reference": "a"}
    schema = pa.schema([("study", pa.string()), ("trial_id", pa.string()), ("variant", pa.string()), ("seed", pa.int64()),
                        ("status", pa.string()), ("epoch", pa.int64()), ("dice", pa.float64())])
    rows = [{"study": "own", "trial_id": f"t-s{s}", "variant": "a", "seed": s, "status": "done", "epoch": 1, "dice": v}
            for s, v in enumerate(values)]
    write_table(folder / "trials.parquet", rows, schema, about)
    epochs = pa.schema([("trial_id", pa.string()), ("epoch", pa.int64()), ("dice", pa.float64())])
    write_table(folder / "epochs.parquet", rows, epochs, about)
    return folder


def test_a_metric_of_the_users_own_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(own_job(tmp_path / "own", [0.1, 0.2, 0.3])) == 0
    assert "a: dice 0.2 (95 % CI −0.0484 to 0.448; 3 seeds)" in capsys.readouterr().out
    assert "| a | 0.200 ± 0.248 | 3 |" in (tmp_path / "own" / "figures" / "results.md").read_text(encoding="utf-8")


def test_a_metric_without_a_finite_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(own_job(tmp_path / "own", [math.nan, math.inf, -math.inf])) == 0
    assert "no finished trial has a finite dice" in capsys.readouterr().err


def test_trials_of_different_tuned_values_are_no_replicates(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", {"a": 0.5}, seeds=2, epochs=3)
    table = pq.read_table(folder / "trials.parquet")
    pq.write_table(pa.concat_tables([table, table]), folder / "trials.parquet")
    with pytest.raises(AnalysisError, match="several finished trials of seed 0"):
        load(folder).done()


def test_a_folder_that_cannot_be_written(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run(digits, "--out", tmp_path / "file" / "figures") == 2
    assert "--out DIR writes elsewhere" in capsys.readouterr().err


def test_labels_keep_apart_and_inside() -> None:
    placed = style.spread([0.5, 0.5, 0.52, 0.99], [0.1, 0.1, 0.1, 0.1])
    assert [round(b - a, 9) >= 0.1 for a, b in zip(sorted(placed), sorted(placed)[1:], strict=False)] == [True] * 3
    assert placed == sorted(placed)
    assert max(placed) == pytest.approx(0.95)
    assert style.spread([0.2, 0.8], [0.1, 0.1]) == pytest.approx([0.2, 0.8])
    assert style.spread([], []) == []


@pytest.mark.parametrize("size", plots.SIZES)
def test_a_key_and_a_caption_of_any_length_have_room(size: str) -> None:
    """The key is never wider than the figure, and the panel keeps its height whatever is said below it."""
    heights = []
    for words in (1, 90):
        with style.context(size):
            figure = style.new_figure()
            axis = figure.subplots()
            style.key(figure, [Line2D([], [], marker="o", label="a long name of something") for _ in range(7)])
            style.caption(figure, "words " * words)
            figure.draw_without_rendering()
            assert figure.legends[0].get_window_extent().width <= figure.bbox.width and len(figure.legends) == 1
            heights.append(axis.get_window_extent().height / figure.dpi)
    assert heights[1] > heights[0] - 0.142 * (style.CAPTION_LINES - 0.5)


def test_names_are_wrapped_and_none_of_it_is_lost() -> None:
    name = "ImageNet weights/frozen: only the convolutional part trained"
    wrapped = style.wrap(name, 18, lines=6)
    assert max(map(len, wrapped.split("\n"))) <= 18
    assert re.sub(r"\s", "", wrapped) == re.sub(r"\s", "", name)
    assert style.wrap("x" * 50, 20) == "\n".join(["x" * 20, "x" * 20, "x" * 10])
    assert style.wrap("", 10) == ""


def test_csv_of_the_table_holds_fractions(digits: Path, tmp_path: Path) -> None:
    assert run(digits, "--out", tmp_path) == 0
    frame = pd.read_csv(tmp_path / "results.csv")
    assert frame["test_acc"].between(0, 1).all()
    assert frame["test_acc_n"].tolist() == [3, 3, 3]


@pytest.mark.skipif(not sys.platform.startswith("linux") or len(os.sched_getaffinity(0)) < 2, reason="drawn in one process here")
def test_a_process_that_is_killed_while_it_draws_is_one_sentence(digits: Path) -> None:
    def use(study: Study, name: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(AnalysisError, match="a process that draws was killed, most likely for lack of memory; .* --only NAME"):
        list(drawing.drawn(load(digits), ["curves", "comparison"], use))
