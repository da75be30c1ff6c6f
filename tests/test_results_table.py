"""The results table by hand: marks, hours, the winner's curse, and what no name can break in Markdown, LaTeX and CSV."""

import math
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from analysis import latex, plots, results_table, winners
from analysis.load import Study, load
from analysis.report import facts
from tests.made_up_study import write_search, write_study, write_table

HOSTILE = ("<b>$x_1$</b> & 100% #1 {a} ~^ \\ \"q\" [x] --lr `id` *y* |",
           "[2pt] \\\\ \\end{tabular}", "a\nb\tc", "über ± − – …", "_it_ &lt;")


def marked(tmp_path: Path) -> Study:
    """b is best; c is level with it and a behind (the numbers of tests/test_stats.py)."""
    acc = {"a": (0.50, 0.60, 0.70), "b": (0.531, 0.625, 0.734), "c": (0.52, 0.61, 0.74)}
    return load(write_study(tmp_path / "s", dict.fromkeys(acc, 0.9), epochs=2,
                            test_acc={(v, s): value for v, values in acc.items() for s, value in enumerate(values)}))


def rows(text: str) -> list[list[str]]:
    return [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("|")]


def test_the_best_and_what_is_level_with_it_are_marked(tmp_path: Path) -> None:
    study = marked(tmp_path)
    table = results_table.table(study)
    assert table["place"].tolist() == ["behind", "best", "level"]
    text = results_table.markdown(table, study)
    at = rows(text)[0].index("test accuracy (%)")
    assert [row[at] for row in rows(text)[2:]] == ["60.0 ± 24.8", "**63.0 ± 25.2**", "62.3 ± 27.5 †"]
    assert ("Bold: the best test accuracy; †: not distinguishable from it (paired t intervals, 95 % over all comparisons)." in text)
    tex = latex.latex(table, study)
    assert r"\textbf{\boldmath 63.0 $\pm$ 25.2}" in tex and r"62.3 $\pm$ 27.5$^\dagger$" in tex


def test_nothing_is_marked_below_three_seeds_or_without_confirmation(tmp_path: Path) -> None:
    for folder in (write_study(tmp_path / "two", {"a": 0.5, "b": 0.9}, seeds=2, epochs=2),
                   write_search(tmp_path / "search", {"a": 0.5, "b": 0.9}, configs=3, seeds=3, confirm=0)):
        study = load(folder)
        table = results_table.table(study)
        assert set(table["place"]) == {""}
        assert "Bold" not in results_table.markdown(table, study) and "boldmath" not in latex.latex(table, study)


def test_what_is_left_of_a_variant_whose_seeds_diverged_is_never_the_best(tmp_path: Path) -> None:
    acc = {"a": 0.7, "b": 0.65, "diverged": 0.9, "too few": 0.8, "none": 0.6}
    ended = {("diverged", 2): "infeasible", ("too few", 1): "failed", ("none", 0): "failed", ("none", 1): "lost", ("none", 2): "failed"}
    study = load(write_study(tmp_path / "s", acc, epochs=3, status=ended))
    assert dict(zip(study.variants, results_table.table(study)["place"], strict=True))["diverged"] == ""
    told, config = facts.verdict(study), facts.best_config(study)  # the report's first line says the same
    assert told.variant == "a" and told.detail.endswith("Not judged, as seeds diverged or are fewer than 3: too few, diverged, none.")
    assert [(s.variant, s.n) for s in told.standings] == [("a", "3"), ("b", "3"), ("too few", "2 of 3"), ("diverged", "2 of 3"),
                                                          ("none", "0 of 3")]
    assert config is not None and config.title.startswith("too few: ")  # the config of two seeds may be the best
    study = load(write_study(tmp_path / "t", {"a": 0.7, "b": 0.9}, epochs=3, status={("a", 0): "infeasible", ("b", 0): "infeasible"}))
    assert facts.verdict(study).variant == "b" and "Not judged" not in facts.verdict(study).detail


def test_hours_are_those_of_a_finished_trial(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", {"a": 0.5, "b": 0.6}, seeds=2, epochs=2)
    ids = load(folder).trials["trial_id"].tolist()
    attempts = [{"trial_id": t, "attempt": 0, "train_s": 3600.0 * (i + 1), "ranks": 2, "cause": "done", "epoch_s": []}
                for i, t in enumerate(ids)]
    schema = pa.schema([("trial_id", pa.string()), ("attempt", pa.int64()), ("cause", pa.string()),
                        ("started", pa.timestamp("us", tz="UTC")), ("ended", pa.timestamp("us", tz="UTC")), ("train_s", pa.float64()),
                        ("ranks", pa.int64()),
                        ("first_epoch", pa.int64()), ("last_epoch", pa.int64()), ("epoch_s", pa.list_(pa.float64()))])
    write_table(folder / "attempts.parquet", attempts, schema, {"schema": 1})
    study = load(folder)
    table = results_table.table(study)
    assert table["hours"].tolist() == [3.0, 7.0]  # 1 and 2 hours, 3 and 4, on two processes each
    text = results_table.markdown(table, study)
    assert "slot-hours: of one trial, the mean" in text and [row[-2] for row in rows(text)[2:]] == ["3", "7"]
    assert "the last training loss is" in text
    short = results_table.markdown(table.assign(hours=[0.001, 0.002]).drop(columns=[c for c in table if "last_train" in c]), study)
    assert [row[-2] for row in rows(short)[2:]] == ["3.6", "7.2"] and "slot-seconds: of one trial" in short and "loss" not in short


def curse(tmp_path: Path) -> Study:
    """The search likes config 0 (92 %), fresh seeds say 84, 85 and 86; config 1 wins with 89."""
    value = {("a", 0, 0): 0.91, ("a", 0, 1): 0.93, ("a", 1, 0): 0.90, ("a", 1, 1): 0.90}
    value |= {("a", 0, 2 + s): v for s, v in enumerate((0.84, 0.85, 0.86))} | {("a", 1, 2 + s): v for s, v in enumerate((0.88, 0.89, 0.90))}
    return load(write_search(tmp_path / "s", {"a": 0.9}, configs=3, value=value, status={("a", 2): "infeasible"}))


def test_the_winners_curse_by_hand(tmp_path: Path) -> None:
    study = curse(tmp_path)
    assert study.search is not None
    row = winners.curse(study.search, "val_acc", mode="max", variants=study.variants).iloc[0]
    half = 4.302653 * 0.01 / math.sqrt(3)
    assert (row["search_best"], row["search_best_value"], row["search_best_confirmed"]) == (0, pytest.approx(0.92), pytest.approx(0.85))
    assert (row["overstated"], row["overstated_low"], row["overstated_high"]) == (
        pytest.approx(0.07), pytest.approx(0.07 - half, abs=1e-6), pytest.approx(0.07 + half, abs=1e-6))
    assert (row["winner"], row["confirmed"], row["left_out"]) == (1, pytest.approx(0.89), pytest.approx(0.89))
    assert (row["infeasible"], row["judged"]) == (1, 3)
    table = results_table.table(study)
    text = results_table.markdown(table, study)
    assert rows(text)[-1] == [" a", "92.0", "85.0", "7.0 (4.5 to 9.5)", "89.0 ± 2.5", "89.0", "88.0 ± 2.5", "1 of 3 (6 to 79 %) "]
    assert "what the search said of its best config of a is 7.0 points better than what fresh seeds say of it (95 % CI 4.5 to 9.5)" in text
    assert "1 of 3 configs infeasible (33.3 %, 95 % CI 6.1 to 79.2)" in text
    assert r"\label{tab:s-search}" in latex.latex(table, study)


def test_a_search_that_said_too_little_is_worse_with_the_interval_turned(tmp_path: Path) -> None:
    value = {("a", 0, s): v for s, v in enumerate((0.80, 0.80, 0.84, 0.85, 0.86))}
    study = load(write_search(tmp_path / "s", {"a": 0.9}, configs=1, value=value, confirm=1))
    assert study.search is not None
    assert winners.sentences(study.search, "val_acc", mode="max", variants=["a"])[-1] == (
        "what the search said of its best config of a is 5.0 points worse than what fresh seeds say of it (95 % CI 2.5 to 7.5)")


def hostile(tmp_path: Path) -> Study:
    return load(write_study(tmp_path / "a_b$%", {name: 0.8 + i / 100 for i, name in enumerate(HOSTILE)}, epochs=2,
                            params={name: {"note": name, "depth": i} for i, name in enumerate(HOSTILE)}))


def test_every_special_character_is_escaped_in_latex(tmp_path: Path) -> None:
    study = hostile(tmp_path)
    text = latex.latex(results_table.table(study), study)
    body = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == len(HOSTILE)
    for line in body:
        assert line.endswith(r" \\") and not re.match(r"[\[*]", line)
        cells = re.split(r"(?<!\\)&", line.removesuffix(r" \\"))
        assert len(cells) == 7  # variant, note, depth, three metrics, n
        bare = re.sub(r"\\(?:[{}$&#_%]|textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar|ldots|boldmath|textbf"
                      r"|char\d\d|pm|dagger)(?:\{\})?|\$-\$|\$(?:\^?)\$|~(?=%)", "", line.removesuffix(r" \\"))
        assert not re.search(r"[\\#%_~<>|\"`]", bare), bare
        assert "--" not in cells[0].replace(" -- ", "")
    assert r"tab:a-b--" in text and text.isprintable() is False and "\t" not in text


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here; the test of the escapes stands in for it")
def test_pdflatex_takes_it(tmp_path: Path) -> None:
    for name, study in (("hostile", hostile(tmp_path)), ("marks", marked(tmp_path)), ("curse", curse(tmp_path / "curse"))):
        whole = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}" + latex.latex(results_table.table(study), study)
        (tmp_path / f"{name}.tex").write_text(whole + "\\end{document}", encoding="utf-8")
        done = subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", f"{name}.tex"], cwd=tmp_path,
                              capture_output=True, text=True, errors="replace", check=False)
        assert done.returncode == 0, done.stdout[-2000:]


def test_names_that_the_parameters_say_are_left_out_in_latex(tmp_path: Path) -> None:
    study = load(write_study(tmp_path / "s", {"depth=1": 0.5, "depth=2": 0.6}, epochs=2))
    text = latex.latex(results_table.table(study), study)
    assert "variant" not in text.partition(r"\midrule")[0].partition(r"\toprule")[2]
    assert "\n1 & " in text and "\\begin{tabular}{rrrrr}" in text


def test_letters_of_other_scripts_are_announced(tmp_path: Path) -> None:
    study = load(write_study(tmp_path / "s", {"数字": 0.5, "b": 0.6}, epochs=2))
    assert "XeLaTeX or LuaLaTeX" in latex.latex(results_table.table(study), study)


def test_markdown_keeps_names_as_they_are(tmp_path: Path) -> None:
    study = hostile(tmp_path)
    text = results_table.markdown(results_table.table(study), study)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(HOSTILE) and {len(re.split(r"(?<!\\)\|", line)) for line in lines} == {9}
    assert r"\_it\_ \&lt;" in text and "<script" not in text and r"\<b\>\$x_1\$" in text


def test_the_three_files_are_written_and_the_csv_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "FIGURES", ())
    study = hostile(tmp_path)
    assert plots.main([str(study.folder)]) == 0
    frame = pd.read_csv(study.folder / "figures" / "results.csv", keep_default_na=False)
    assert frame["variant"].tolist() == list(HOSTILE)
    assert {p.suffix for p in (study.folder / "figures").glob("results.*")} == {".md", ".csv", ".tex"}
