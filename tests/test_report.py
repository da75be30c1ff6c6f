"""The report: what stands on the page, that nothing in it breaks or reaches out, and poor studies. In browsers: test_report_browser.py."""

import base64
import datetime
import hashlib
import json
import math
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.load import load
from analysis.report import failures, page, rows
from analysis.report.__main__ import main
from analysis.report.facts import best_config, verdict, what_ran
from benchmarks.made_up_space import write_space
from harness import report as from_launch
from harness.grid import parse_grid
from harness.tables import _ATTEMPTS
from tests.made_up_study import write_search, write_study, write_table

ROOT = Path(__file__).resolve().parents[1]
THREE = {"depth=1": 0.93, "depth=2": 0.96, "depth=3": 0.97}
HOSTILE = ('</script><script>alert(1)</script>', '"><img src=x onerror=alert(2)> & \'q\'',
           "{{ 7*7 }} <!-- <script </script \n \\$x_1$", "\u202eturned\u2028")


@pytest.fixture(autouse=True)
def one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take seconds; the slow tests have all of them."""
    monkeypatch.setattr(page, "FIGURES", ("comparison",))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Test accuracies of depth=1: 90, 91, 92; of depth=3: 93.1, 93.5, 95.4, which is 3.1, 2.5 and 3.4 points more."""
    base = {("depth=1", s): v for s, v in enumerate((0.90, 0.91, 0.92))}
    top = {("depth=3", s): v for s, v in enumerate((0.931, 0.935, 0.954))}
    rest = {("depth=2", s): v for s, v in enumerate((0.915, 0.90, 0.925))}
    return write_study(tmp_path_factory.mktemp("runs") / "digits", THREE, test_acc=base | top | rest, epochs=12)


def attempt(trial: str, number: int = 0, **more: Any) -> dict[str, Any]:
    start = datetime.datetime(2026, 3, 2, 9, number, tzinfo=datetime.UTC)
    return {"trial_id": trial, "attempt": number, "cause": "done", "started": start, "ended": start + datetime.timedelta(seconds=36),
            "host": "n1", "device": "cuda:0", "gpu": "made-up", "ranks": 1, "first_epoch": 1, "last_epoch": 1, "train_s": 36.0,
            "epoch_s": [36.0], "commit": "abcdef0123456789", "dirty": True, "python": "3.11.9", "torch": "2.10.0", **more}


def write_attempts(folder: Path, attempts: list[dict[str, Any]]) -> None:
    write_table(folder / "attempts.parquet", attempts, _ATTEMPTS, {"schema": 1})


class Seen(HTMLParser):
    """The elements of a page with their attributes, and its text outside of scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text, self.raw, self.inside = "", dict[str, list[str]](), ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in ("script", "style"):
            self.raw.setdefault(self.inside, []).append(data)
        else:
            self.text += data


def written(folder: Path) -> tuple[str, Seen, dict[str, Any]]:
    """The page of a study: its text, what a browser sees in it, and its data."""
    text = page.page(load(folder))
    seen = Seen(text)
    return text, seen, json.loads(seen.raw["script"][0])


def column(data: dict[str, Any], name: str) -> dict[str, Any]:
    return next(c for c in data["columns"] if c["name"] == name)


# ---------------------------------------------------------------------------------------------------------------- the command


def test_the_command_writes_one_file_and_the_same_bytes_again(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["digits", "--runs", str(digits.parent), "--out", str(tmp_path / "a.html")]) == 0
    assert re.fullmatch(r"wrote .*a\.html \(\d+ kB\)\n", capsys.readouterr().out)
    assert main([str(digits), "--out", str(tmp_path / "b.html"), "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_what_is_wrong_is_one_sentence(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["digist", "--runs", str(digits.parent)]) == 2
    assert "did you mean `digits`" in capsys.readouterr().err
    assert main([str(digits), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: is a folder; --out names a file, such as {tmp_path / 'report.html'}\n"


def test_help_is_quick() -> None:
    code = ("import runpy, sys\nsys.argv = ['x', '--help']\ntry:\n    runpy.run_module('analysis.report', run_name='__main__')\n"
            "except SystemExit:\n    pass\nprint(sorted({'pandas', 'numpy', 'matplotlib', 'jinja2', 'PIL', 'scipy'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "usage: python -m analysis.report" in done.stdout and done.stdout.endswith("[]\n")


# ------------------------------------------------------------------------------------------------------------- what it says


def test_the_verdict_by_hand(digits: Path) -> None:
    told = verdict(load(digits))
    assert (told.variant, told.lead.replace("\u00a0", " ")) == ("depth=3", "has the highest test accuracy: 94.0 %")
    # mean 0.94, sd 0.0123, t(2) = 4.303: 4.303 * 0.0123 / sqrt(3) = 0.03053
    assert told.detail == "The mean of 3 seeds, 95 % interval 90.9 to 97.1."
    assert any("depth=3 beats depth=1 by 3.0 points of test accuracy (95 % CI 1.9 to 4.1" in s for s in told.sentences)
    assert [s.variant for s in told.standings] == ["depth=3", "depth=2", "depth=1"]
    assert [s.gap.replace("\u00a0", " ") for s in told.standings][0::2] == ["+3.0 (+1.9 to +4.1)", "reference"]
    assert told.standings[0].mean > told.standings[1].mean > told.standings[2].mean  # type: ignore[operator]
    assert all(0 <= at <= 100 for s in told.standings for at in (s.low, s.mean, s.high) if at is not None)


def test_the_best_standing_variants_are_shown_and_the_reference(tmp_path: Path) -> None:
    study = load(write_study(tmp_path / "many", {f"v{i:02d}": 0.3 + i / 100 for i in range(40)}, seeds=1, epochs=2, spread=0.0))
    told = verdict(study)
    assert [s.variant for s in told.standings] == [f"v{i:02d}" for i in range(39, 28, -1)] + ["v00"]
    assert told.left_out == 28


def test_what_ran(digits: Path, tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", {"a": 0.5, "b": 0.6}, seeds=1, epochs=2)
    first, second = load(folder).trials["trial_id"]
    write_attempts(folder, [attempt(first, cause="preempted"), attempt(first, 1), attempt(second, 2)])
    facts = dict(what_ran(load(folder), "runs/s"))
    assert facts["Compute"] == "108 GPU-seconds in 3 attempts; 1 ended with: preempted"
    assert facts["Wall time"] == "156 s, from 2026-03-02 09:00 to 09:02 UTC".replace("156 s", "3 min")
    assert facts["Machines"] == "1 host, made-up" and facts["Commit"] == "abcdef0123 with uncommitted changes"
    assert facts["Versions"] == "Python 3.11.9, PyTorch 2.10.0" and facts["Variants"] == "2, which differ in depth"
    assert "Compute" not in dict(what_ran(load(digits), "runs/digits"))


def test_the_best_config_is_a_table_that_a_grid_can_have(tmp_path: Path) -> None:
    params = {"a": {"lr": 0.1, "depth": 2, "batch_norm": True, "optimizer": "adamw", "momentum": None},
              "b": {"lr": 1e-7, "depth": 3, "batch_norm": False, "optimizer": "sgd", "momentum": 0.9}}
    best = best_config(load(write_study(tmp_path / "s", {"a": 0.5, "b": 0.7}, params=params, epochs=3)))
    assert best is not None and best.title.startswith("b: validation accuracy ") and best.title.endswith("% (3 seeds)")
    assert tomllib.loads(best.toml) == {"fixed": params["b"]}
    grid = parse_grid(f'[study]\nname = "again"\n{best.toml}')
    assert grid.config_values(grid.variants[0]) | params["b"] == grid.config_values(grid.variants[0])
    best = best_config(load(write_study(tmp_path / "t", {"a": 0.9, "b": 0.7}, params=params, epochs=3)))
    assert best is not None and "momentum" not in tomllib.loads(best.toml)["fixed"]  # it does not read it


def test_the_test_split_does_not_choose_the_best_config(tmp_path: Path) -> None:
    swapped = {(v, s): test for v, test in (("a", 0.9), ("b", 0.1)) for s in range(3)}
    study = load(write_study(tmp_path / "s", {"a": 0.5, "b": 0.7}, test_acc=swapped, epochs=3))
    best = best_config(study)
    assert best is not None and best.title.startswith("b: ") and verdict(study).variant == "a"


def test_strings_of_the_best_config_read_back(tmp_path: Path) -> None:
    nasty = 'a"b\\c\n\x7f\x01ü\u2028😀</script>'
    study = write_study(tmp_path / "s", {"a": 0.5, "b": 0.4}, params={"a": {"na me.\"": nasty}, "b": {"na me.\"": "x"}}, epochs=2)
    best = best_config(load(study))
    assert best is not None and tomllib.loads(best.toml) == {"fixed": {"na me.\"": nasty}}


# --------------------------------------------------------------------------------------------------------- nothing gets out


def test_the_policy_names_the_style_and_the_script_and_nothing_from_outside(digits: Path) -> None:
    text, seen, _ = written(digits)
    policy = next(a["content"] for tag, a in seen.elements if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for rule, source in (("style-src", seen.raw["style"][0]), ("script-src", seen.raw["script"][-1])):
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert len(seen.raw["style"]) == 1 and len(seen.raw["script"]) == 2
    for tag, attributes in seen.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcset")], attributes
        assert attributes.get("href", "#").startswith("#") and attributes.get("src", "data:").startswith("data:")
    assert "http://" not in text and "https://" not in text and "@import" not in text and "url(" not in seen.raw["style"][0]


def test_names_logs_and_errors_stay_texts(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", dict(zip(HOSTILE, (0.5, 0.6, 0.7, 0.8), strict=True)), epochs=3, study=HOSTILE[1],
                         params={v: {HOSTILE[0]: v} for v in HOSTILE}, status={(HOSTILE[0], 0): "failed"})
    (folder / "grid.toml").write_text(f"# {HOSTILE[0]}\n")
    trial = load(folder).all_trials["trial_id"].iloc[0]
    write_attempts(folder, [attempt(trial, cause="exception", error=HOSTILE[0], host=HOSTILE[1])])
    (folder / "trials" / trial).mkdir(parents=True)
    (folder / "trials" / trial / "a000.log").write_text(f"{HOSTILE[1]}\n{HOSTILE[0]}\n")
    text, seen, data = written(folder)
    assert [tag for tag, _ in seen.elements].count("script") == 2
    pictures = [a for tag, a in seen.elements if tag == "img"]
    assert len(pictures) == 1 and pictures[0]["src"].startswith("data:image/webp;base64,")
    assert column(data, "variant")["choices"] == list(HOSTILE)
    for name in HOSTILE[:2]:
        assert name in seen.text
    assert "{{ 7*7 }}" in seen.text
    assert "\u202e" not in seen.text  # it would turn the rest of the sentence around
    assert "</script><script>alert(1)" not in text and "<" not in seen.raw["script"][0]


# ------------------------------------------------------------------------------------------------------- the trials' data


def test_columns_hold_what_the_table_holds(digits: Path) -> None:
    study = load(digits)
    _, _, data = written(digits)
    assert data["size"] == data["total"] == 9 and data["axes"] == ["param_depth", "val_acc"]
    metric = column(data, "val_acc")
    assert metric["values"] == sorted(metric["values"], reverse=True) and metric["label"] == "validation accuracy (%)"
    best = study.trials.sort_values("val_acc", ascending=False).iloc[0]
    assert column(data, "trial_id")["values"][0] == best["trial_id"]
    assert metric["values"][0] == pytest.approx(100 * best["val_acc"], abs=0.006)
    depth = column(data, "param_depth")
    assert depth["choices"] == ["1", "2", "3"] and depth["choices"][depth["values"][0]] == str(best["param_depth"])


def test_missing_values_and_what_was_stopped_come_last(tmp_path: Path) -> None:
    def search(**more: Any) -> Path:
        ended = {("a", 3): "infeasible", ("b", 1): "failed"}
        return write_search(tmp_path / "s", {"a": 0.8, "b": 0.7}, configs=9, rungs=(2,), status=ended, **more)
    stopped = load(search()).all_trials.query("status == 'pruned'").iloc[0]
    folder = search(value={(stopped["variant"], stopped["config"], 0): 0.999})  # good for two epochs, and no better than what went on
    _, _, data = written(folder)
    names, values = column(data, "status"), column(data, "val_acc")["values"]
    status = [names["choices"][v] for v in names["values"]]
    known = [v is not None for v in values]
    assert known == sorted(known, reverse=True) and not all(known)
    assert {s for s, k in zip(status, known, strict=True) if not k} == {"infeasible", "failed"}
    assert status.index("pruned") > max(i for i, s in enumerate(status) if s == "done")
    momentum = column(data, "param_momentum")["values"]
    optimizer = column(data, "param_optimizer")
    assert [m is None for m in momentum] == [optimizer["choices"][o] == "adamw" for o in optimizer["values"]]
    assert column(data, "param_lr")["log"] is True


def test_a_page_holds_the_best_of_many_trials_and_some_of_all_others(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_TRIALS", 4)
    _, seen, data = written(digits)
    ordered = load(digits).trials.sort_values("val_acc", ascending=False)["trial_id"].tolist()
    assert column(data, "trial_id")["values"] == [ordered[0], ordered[1], ordered[2], ordered[8]]
    assert (data["size"], data["total"]) == (4, 9) and "This page holds 4 of 9 trials" in seen.text.replace("\n", " ")


def decoded(curve: str) -> list[int]:
    return [64 * rows.DIGITS.index(a) + rows.DIGITS.index(b) for a, b in zip(curve[::2], curve[1::2], strict=True)]


def test_curves_read_back(digits: Path) -> None:
    study = load(digits)
    _, _, data = written(digits)
    curves, epochs = data["curves"], study.epochs.set_index(["trial_id", "epoch"])["val_acc"]
    for trial, points, last in zip(column(data, "trial_id")["values"], curves["points"], curves["epochs"], strict=True):
        truth = 100 * epochs[trial].to_numpy()
        assert last == len(truth) == 12
        for point, value in zip(decoded(points), truth, strict=True):
            height = (value - curves["low"]) / (curves["high"] - curves["low"])
            assert point == rows.BELOW if height < 0 else point == pytest.approx(rows.TOP * height, abs=1)


def test_long_curves_keep_their_ends_and_gaps() -> None:
    assert rows.sampled(3) == [0, 1, 2] and rows.sampled(40) == list(range(40))
    for n in (41, 100, 1000):
        chosen = rows.sampled(n)
        assert len(chosen) == 40 and chosen[0] == 0 and chosen[-1] == n - 1
        assert chosen == [math.floor(k * (n - 1) / 39 + 0.5) for k in range(40)]
    coded = rows._code(np.array([0.0, 1.0, 0.5, -1.0, 2.0, math.nan]), 0.0, 1.0)
    assert [decoded(c)[0] for c in coded] == [0, 4000, 2000, rows.BELOW, rows.ABOVE, rows.MISSING]


def test_static_table_is_the_same_as_the_data(digits: Path) -> None:
    study = load(digits)
    trials = rows.order(study)
    table = rows.columns(study, trials)
    _, seen, _ = written(digits)
    for c in table:
        for i in range(len(trials)):
            assert rows.shown(c, i) in seen.text
    assert rows.shown(table[0], 0) == trials["trial_id"].iloc[0]


@pytest.mark.parametrize(("n", "most"), [(240, 200_000), pytest.param(5000, 2_000_000, marks=pytest.mark.slow)])
def test_a_page_is_small(n: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "FIGURES", ())
    text = page.page(load(write_space(tmp_path / "space", trials=n)))
    assert len(text.encode()) < most


# -------------------------------------------------------------------------------------------------------------- failures


def test_failures_are_grouped_with_the_log_of_the_last_attempt(tmp_path: Path) -> None:
    status = {("a", 0): "failed", ("a", 1): "failed", ("b", 0): "infeasible", ("b", 1): "failed"}
    folder = write_study(tmp_path / "s", {"a": 0.5, "b": 0.6}, status=status)
    ids = {(r.variant, r.seed): r.trial_id for r in load(folder).trials.itertuples()}
    write_attempts(folder, [
        attempt(ids["a", 0], cause="preempted"), attempt(ids["a", 0], 1, cause="out_of_memory", error="no room for 1.53 GiB"),
        attempt(ids["a", 1], cause="out_of_memory", error="no room for 2.01 GiB"), attempt(ids["b", 1], cause="exception", error="odd")])
    place = folder / "trials" / ids["a", 0]
    place.mkdir(parents=True)
    (place / "a000.log").write_text("the first attempt\n")
    (place / "a001.log").write_bytes(b"\x1b[31mred\x1b[0m\n 5 %\r50 %\r100 %\n" + b"x" * 1000 + b"\n\xff\x07 last\n   ^^^^\n\n")
    groups, more = failures.failures(load(folder), "runs/s")
    assert more == 0 and [(g.title, g.error, g.count) for g in groups] == [
        ("failed: out of memory", "no room for 1.53 GiB", 2), ("failed: exception", "odd", 1),
        ("infeasible", "the loss is not finite in epoch 7", 1)]
    assert groups[0].tail.split("\n") == ["red", "100 %", "x" * 300 + "…", "\N{REPLACEMENT CHARACTER}" * 2 + " last"]
    assert groups[0].log == f"runs/s/trials/{ids['a', 0]}/a001.log" and groups[1].tail == ""
    assert groups[0].command == f"python -m jobs.train runs/s/trials/{ids['a', 0]}/config.json --out again/{ids['a', 0]}"


def test_a_table_cannot_name_a_file_outside_of_the_study(tmp_path: Path) -> None:
    (tmp_path / "a000.log").write_text("secret")
    folder = write_study(tmp_path / "s", {"a": 0.5}, seeds=1, status={("a", 0): "failed"})
    (folder / "trials" / "x").mkdir(parents=True)
    study = load(folder)
    for name in ("../..", "x/../../..", "/etc", "", "; rm -rf ~"):
        study.trials["trial_id"] = name
        groups, _ = failures.failures(study, "runs/s")
        assert groups[0].tail == groups[0].command == "" and groups[0].count == 1


def test_commands_name_weights_and_leave_out_jobs_of_ones_own(digits: Path, tmp_path: Path) -> None:
    trials = pd.DataFrame({"param_weights_digest": ["", "ab12", None, "ab12"]})
    said = failures.commands(load(digits), "runs/a b", trials)
    assert said["command"] == [0, 1, 0, 1]
    assert said["commands"][0] == "python -m jobs.train 'runs/a b/trials/TRIAL/config.json' --out again/TRIAL"
    assert said["commands"][1] == f"{said['commands'][0]} --weights-file 'runs/a b/weights/ab12.pt'"
    folder = write_study(tmp_path / "own", {"a": 0.5}, seeds=1)
    (folder / "grid.toml").write_text('[study]\nname = "own"\n[job]\nrun = "mine:train"\n')
    _, seen, data = written(folder)
    assert data["commands"] == [""] and "jobs.train" not in seen.text


# ---------------------------------------------------------------------------------------------------------- poor studies


def poor_studies(folder: Path) -> dict[str, tuple[Path, str]]:
    """name -> (study, what its page must say)."""
    two = {"a": 0.5, "b": 0.6}
    unfinished = {(v, s): "unfinished" for v in two for s in (1, 2)}
    no_epochs = write_study(folder / "no_epochs", two)
    (no_epochs / "epochs.parquet").unlink()
    return {"running": (write_study(folder / "running", two, status=unfinished), "The study is not over: 2 of 6 trials finished"),
            "one": (write_study(folder / "one", {"a": 0.5}, seeds=1, epochs=1), "has a test accuracy of"),
            "failed": (write_study(folder / "failed", two, status={(v, s): "failed" for v in two for s in range(3)}),
                       "No trial is finished (0 of 6 trials finished; 6 failed)"),
            "no_epochs": (no_epochs, "has the highest test accuracy"),
            "not_confirmed": (write_search(folder / "not_confirmed", two, confirm=0, openings=0), "Not confirmed: each variant is the"),
            "hopeless": (write_search(folder / "hopeless", two, configs=2, confirm=0, openings=0,
                                      status={(v, k): "infeasible" for v in two for k in (0, 1)}), "No config has a value"),
            "loss": (write_study(folder / "loss", two, metric="val_loss", mode="min", with_test=False), "has the lowest validation loss")}


@pytest.mark.parametrize("name", ["running", "one", "failed", "no_epochs", "not_confirmed", "hopeless", "loss"])
def test_poor_studies_have_a_page(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "FIGURES", ())
    folder, says = poor_studies(tmp_path)[name]
    _, seen, data = written(folder)
    assert says in " ".join(seen.text.split())
    assert len(column(data, "trial_id")["values"]) == data["size"] > 0
    assert (data["curves"] is None) == (name in ("no_epochs", "failed"))


def test_a_figure_that_breaks_is_said_and_takes_nothing_with_it(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise ZeroDivisionError("<b>")

    monkeypatch.setattr(page, "figure_module", broken)
    _, seen, _ = written(digits)
    assert "Not drawn: comparison: ZeroDivisionError: <b>" in seen.text and "depth=3" in seen.text


@pytest.mark.slow
def test_all_figures_are_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from analysis.plots import FIGURES

    monkeypatch.setattr(page, "FIGURES", FIGURES)
    _, seen, _ = written(write_search(tmp_path / "s", {"a": 0.8, "b": 0.7}, configs=12, rungs=(2, 4)))
    pictures = [a for tag, a in seen.elements if tag == "img"]
    assert len(pictures) >= 5 and all(len(a["alt"]) > 20 and int(a["width"]) > 0 for a in pictures)
    assert "ZeroDivisionError" not in seen.text and "Error:" not in seen.text


# ------------------------------------------------------------------------------------------------------ after a launch


def test_a_report_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    from_launch.write(tmp_path, "runs/x")
    assert capfd.readouterr().out == ""  # the tests' own setting
    monkeypatch.setenv(from_launch.SWITCH, "1")
    monkeypatch.chdir(ROOT)
    from_launch.write(tmp_path, "runs/x")
    said = capfd.readouterr()
    assert re.fullmatch(r"report: not written \(error: .* has no trials\.parquet yet.*\); python -m analysis\.report runs/x tries again\n",
                        said.out) and said.err == ""
    monkeypatch.setattr(from_launch, "LIMIT_S", 0.01)
    from_launch.write(tmp_path, "runs/x")
    assert "report: not written (it took more than 0.01 s)" in capfd.readouterr().out
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    from_launch.write(tmp_path, "runs/x")
    assert "report: not written (No such file or directory)" in capfd.readouterr().out


def test_harness_report_is_the_same_command() -> None:
    shown = [subprocess.run([sys.executable, "-m", *words, "--help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
             for words in (("harness", "report"), ("harness.report",), ("analysis.report",))]
    assert shown[0] == shown[1] == shown[2] and "usage: python -m analysis.report" in shown[0]


@pytest.mark.slow
def test_a_launch_ends_with_the_page(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(from_launch.SWITCH, "1")
    monkeypatch.setenv("HARNESS_DATA", str(data))
    command = [sys.executable, "-m", "harness.launch", "grids/digits.toml", "--local", "--set", "epochs=1", "--set", "study.seeds=[0]",
               "--study-dir", str(tmp_path / "digits")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"report: {tmp_path}/digits/report.html\n")
    text = (tmp_path / "digits" / "report.html").read_text()
    best = tomllib.loads(re.search(r'id="toml"[^>]*>(.*?)</pre>', text, re.DOTALL)[1].replace("&#34;", '"'))  # type: ignore[index]
    grid = parse_grid('[study]\nname = "again"\n[fixed]\n' + "".join(f"{k} = {json.dumps(v)}\n" for k, v in best["fixed"].items()))
    assert grid.config_values(grid.variants[0])["epochs"] == 1
    trial = load(tmp_path / "digits").trials["trial_id"].iloc[0]
    again = failures.command(str(tmp_path / "digits"), trial).split()
    done = subprocess.run([sys.executable, *again[1:-1], str(tmp_path / "again")], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "again" / "result.json").read_text())
    first = json.loads((tmp_path / "digits" / "trials" / trial / "result.json").read_text())
    assert result["rows"] == first["rows"] and result["test"] == first["test"]
