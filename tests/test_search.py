"""Whole searches on this machine: what is proposed first and never twice, what is told, who wins, how often the test split is opened."""

import os
import re
import shutil
import signal
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from search_studies import SPACE, SearchBench, Warm, warm  # noqa: F401

from harness.store import Store

CONFIRM = "[confirm]\ntop = 2\nseeds = 2"
TRY = '[[search.try]]\nx = 0.1\nkind = "b"'


@pytest.fixture(scope="module")
def study(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> SearchBench:  # noqa: F811
    """Two variants with equal spaces, searched and confirmed; nobody changes it."""
    made = SearchBench(tmp_path_factory.mktemp("searches"), warm)
    made.search(seeds="[0, 9]", widths="[1, 2]", search=TRY, more=CONFIRM)
    ended = made.launch()
    assert ended.status == 0, ended.said
    return made


@pytest.fixture
def copy(study: SearchBench, tmp_path: Path) -> SearchBench:
    """The same, to be gone on with."""
    made = SearchBench(tmp_path, study.warm)
    made.grid.write_text(study.grid.read_text())
    shutil.copytree(study.store.root, made.store.root)
    return made


def launched(study: SearchBench, *options: str, status: int = 0) -> str:
    """Launches to the end; returns what was said."""
    ended = study.launch(*options)
    assert ended.status == status, ended.said
    return ended.said


def different(configs: list[dict[str, Any]]) -> bool:
    """Whether no two are equal."""
    return len({tuple(sorted(config.items())) for config in configs}) == len(configs)


def means(study: SearchBench, seeds: tuple[int, ...], phase: str, variant: str) -> dict[int, float]:
    """number -> the mean score over seeds, of those that have all of them."""
    found: dict[int, list[float]] = {}
    for trial in study.store.trials():
        result = study.store.result(trial.id)
        if trial.phase == phase and trial.variant == variant and trial.seed in seeds and result and result["status"] == "done":
            found.setdefault(trial.number, []).append(study.value(trial.id))
    return {number: fmean(values) for number, values in found.items() if len(values) == len(seeds)}


# --- proposing ---------------------------------------------------------------------------------------------------------------------


def test_every_variant_gets_as_many_configs_and_the_same_start(study: SearchBench) -> None:
    one, two = study.proposed(0), study.proposed(1)
    assert len(one) == len(two) == 6 and different(one) and different(two)
    assert [{**config, "width": 0} for config in one] == [{**config, "width": 0} for config in two]  # the width decides nothing here
    assert [config["width"] for config in one + two] == [1] * 6 + [2] * 6
    assert [wave["kind"] for wave in study.waves(variant=0)] == ["propose", "propose", "confirm"]
    assert [wave["known"] for wave in study.waves("propose")] == [1, 0, 1, 0]
    for proposed in (one, two):
        assert (proposed[0]["x"], proposed[0]["kind"]) == (0.1, "b")  # the known one first


def test_what_is_told_is_the_mean_over_the_seeds(study: SearchBench) -> None:
    for variant in (0, 1):
        first, second = study.waves("propose", variant)
        assert first["told"] == []
        values = means(study, (0, 9), "search", f"width={variant + 1}")
        assert second["told"] == [[number, pytest.approx(values[number], abs=1e-15), 1.0] for number in (0, 1, 2)]
    told = study.waves("propose", 0)[1]["told"]
    assert told[0][1] == pytest.approx(1 - 0.2 ** 2 - 0.1 - 0.5 + 0.81 / 2)  # x = 0.1, kind b, one epoch, seeds 0 and 9


# --- who wins ----------------------------------------------------------------------------------------------------------------------


def test_the_best_and_the_reference_are_confirmed_on_fresh_seeds(study: SearchBench) -> None:
    for variant in ("width=1", "width=2"):
        searched = means(study, (0, 9), "search", variant)
        best = sorted(searched, key=lambda number: -searched[number])[:2]
        confirmed = means(study, (10, 11), "confirm", variant)
        assert len(searched) == 6 and set(confirmed) == {*best, 0} and 0 not in best
        assert {trial.seed for trial in study.store.trials() if trial.phase == "confirm"} == {10, 11}
        winner = max(confirmed, key=lambda number: confirmed[number])
        assert winner == best[1]  # so it is not the search that chose it
        opened = Counter(row["config"] for row in study.rows() if row["test_opening"] and row["variant"] == variant)
        assert opened == {winner: 2, 0: 2}
        tests = {row["config"]: row["test_acc"] for row in study.rows() if row["test_opening"] and row["variant"] == variant}
        assert tests[0] > tests[winner]  # nor was it the test split


def test_the_test_split_is_opened_once(study: SearchBench) -> None:
    rows, attempts = study.rows(), study.rows("attempts")
    opened = {row["trial_id"] for row in rows if row["test_acc"] is not None}
    assert len(opened) == 8
    assert {row["trial_id"]: row["test_opening"] for row in rows if row["test_opening"] is not None} == dict.fromkeys(opened, 1)
    assert all(row["phase"] == "confirm" and row["seed"] in (10, 11) for row in rows if row["trial_id"] in opened)
    when = [row for row in attempts if row["test_opened"] is not None]
    assert Counter(row["trial_id"] for row in when) == dict.fromkeys(opened, 1)
    assert all(row["cause"] == "tested" and row["attempt"] == 1 and row["started"] <= row["test_opened"] <= row["ended"] for row in when)
    assert len({(row["commit"], row["code"]) for row in attempts}) == 1 and all(row["code"] for row in when)
    assert max(row["ended"] for row in attempts if row["cause"] == "done") <= min(row["test_opened"] for row in when)


def test_launching_again_changes_nothing(copy: SearchBench) -> None:
    before = copy.everything()
    launched(copy)
    assert copy.everything() == before


@pytest.mark.slow
def test_the_search_goes_on_and_another_winner_needs_again(copy: SearchBench) -> None:
    before, decisions = copy.rows(), copy.waves()
    copy.grid.write_text(copy.grid.read_text().replace("trials = 6", "trials = 8"))
    assert "--update-grid" in launched(copy, status=1) and copy.rows() == before
    (copy.folder / "better").touch()  # what is trained from now on is better than all before
    said = launched(copy, "--update-grid")
    assert "the test split was opened 1 times" in said and "--again" in said
    assert [wave for wave in copy.waves() if wave in decisions] == decisions
    assert len(copy.proposed(0)) == len(copy.proposed(1)) == 8 and different(copy.proposed(0))
    assert [row for row in copy.rows() if row["test_opening"] is not None] == [row for row in before if row["test_opening"] is not None]
    again = launched(copy)
    assert "the test split was opened 1 times" in again and max(row["test_opening"] or 0 for row in copy.rows()) == 1

    said = launched(copy, "--again")
    assert "for the 2. time" in said
    confirmed = means(copy, (10, 11), "confirm", "width=1")
    winner = max(confirmed, key=lambda number: confirmed[number])
    assert winner >= 6
    assert Counter(row["config"] for row in copy.rows() if row["test_opening"] == 2 and row["variant"] == "width=1") == {winner: 2, 0: 2}
    assert Counter(row["test_opening"] for row in copy.rows()) == {None: 40, 1: 4, 2: 8}  # 1: the winner that was, in both variants
    kept = copy.everything()
    launched(copy)
    assert copy.everything() == kept


def test_what_would_make_it_another_search_is_refused(copy: SearchBench) -> None:
    before, grid = copy.everything(), copy.grid.read_text()
    for old, new in (("high = 1.0", "high = 2.0"), ('"b"]', '"b", "c"]'), ("epochs = 1", "epochs = 2"), ("[0, 9]", "[0, 8]"),
                     ("trials = 6", 'trials = 6\nalgorithm = "RandomSearch"'), ("x = 0.1", "x = 0.2"), ("[1, 2]", "[2, 1]")):
        copy.grid.write_text(grid.replace(old, new))
        assert copy.grid.read_text() != grid
        assert "--study-dir" in launched(copy, "--update-grid", status=1)
        assert copy.everything() == before and copy.store.frozen_grid() == grid


def test_again_is_for_what_was_confirmed(tmp_path: Path, warm: Warm) -> None:  # noqa: F811
    study = SearchBench(tmp_path, warm).search()
    assert "[confirm]" in launched(study, "--again", status=2) and not study.store.root.exists()


def test_again_goes_on_with_an_opening_that_was_cut_short(copy: SearchBench) -> None:
    """The same command twice, because the first launcher was killed while the test split was evaluated, opens it once more, not twice."""
    token = copy.folder / "was-killed"
    copy.begin("--again", HARNESS_FAILPOINT=f"batch.linked@{token}")
    assert copy.warm and copy.warm.wait().status == -9 and token.exists()
    launched(copy, "--again")
    assert Counter(row["test_opening"] for row in copy.rows()) == {None: 28, 2: 8}


# --- what goes wrong, and ends -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_fails_or_cannot_be_trained_does_not_stop_it(tmp_path: Path, warm: Warm) -> None:  # noqa: F811
    tries = "\n".join(f'[[search.try]]\nkind = "{kind}"' for kind in ("raises", "diverges", "a"))
    tune = SPACE.replace('"b"', '"raises", "diverges"')
    study = SearchBench(tmp_path, warm).search(seeds="[0, 9]", tune=tune, trials=12, search=tries, more="[confirm]\ntop = 12\nseeds = 1")
    said = launched(study, status=1)  # as after every study in which trials failed
    configs = study.proposed()
    assert len(configs) == 12 and different(configs)
    bad = {number for number, config in enumerate(configs) if config["kind"] != "a"}
    assert {"raises", "diverges"} <= {configs[number]["kind"] for number in bad} and "told to raise" in said
    told = [entry for wave in study.waves("propose") for entry in wave["told"]]
    assert [number for number, *_ in told] == list(range(9))  # all but those of the last wave, each once, in their order
    assert {number for number, value, _ in told if value is None} == bad & set(range(9))
    good = set(range(12)) - bad
    assert {row["config"] for row in study.rows() if row["phase"] == "confirm"} == good | {0}  # and the first known one, to compare with
    assert {row["config"] for row in study.rows() if row["test_opening"]} <= good
    assert {row["status"] for row in study.rows() if row["config"] in bad} == {"failed", "infeasible"}
    assert all(row["score"] is None for row in study.rows() if row["status"] == "failed")


@pytest.mark.parametrize("wave", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_space_that_is_exhausted_ends_the_search_with_a_word(wave: int, tmp_path: Path, warm: Warm) -> None:  # noqa: F811
    study = SearchBench(tmp_path, warm).search(tune='x = { low = 0.25, high = 0.5, step = 0.25 }\nkind = ["a", "b"]', trials=10, wave=wave,
                                               more=CONFIRM)
    assert "all 4 configs that the search space has are tried; [search] trials = 10" in launched(study)
    assert len(study.proposed()) == 4 and different(study.proposed()) and [wave["exhausted"] for wave in study.waves("propose")][-1]
    assert {row["config"] for row in study.rows() if row["test_opening"] == 1} and "are tried" not in launched(study)


# --- halving -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_halving(tmp_path: Path, warm: Warm) -> None:  # noqa: F811
    """Nine configs, a third of which goes on each time: 1 epoch and one seed, 3 epochs and two seeds, all epochs and three."""
    study = SearchBench(tmp_path, warm).search(seeds="[0, 1, 9]", epochs=9, widths="[1, 2]", trials=9, wave=9, more=CONFIRM,
                                               search="[search.halving]\nfirst = 1\nfactor = 3")
    launched(study)
    for variant, name in enumerate(("width=1", "width=2")):
        rows = [row for row in study.rows() if row["variant"] == name and row["phase"] == "search"]
        seeds: dict[int, list[tuple[int, int | None, str]]] = {}
        for row in rows:
            seeds.setdefault(row["config"], []).append((row["seed"], row["budget"], row["status"]))
        ended = Counter(tuple(found) for found in seeds.values())
        assert ended[(0, None, "done"), (1, None, "done"), (9, None, "done")] >= 1
        assert ended[(0, 3, "pruned"), (1, 3, "pruned")] >= 2 and ended[((0, 1, "pruned"),)] >= 4 and sum(ended.values()) == len(ended) + 6
        assert all(row["epochs"] == (row["budget"] or 9) for row in rows)
        (first,) = study.waves("propose", variant)
        values = {line.get("number", 0): study.value(line["id"], 1) for line in first["trials"]}
        best = sorted(values, key=lambda number: -values[number])[:3]
        assert set(best) <= {row["config"] for row in rows if row["budget"] != 1}  # whoever was early may have gone on beside them
    for folder in (study.store.root / "trials").iterdir():
        epochs = (folder / "trained").read_text().split()
        assert epochs == [str(epoch + 1) for epoch in range(len(epochs))]  # nothing was trained twice: it went on from where it rested
        assert not list(folder.glob("checkpoint-*"))
    kept = study.everything()
    launched(study)
    assert study.everything() == kept


def test_what_rests_at_a_rung_is_counted_when_it_is_interrupted(tmp_path: Path, warm: Warm) -> None:  # noqa: F811
    study = SearchBench(tmp_path, warm).search(epochs=9, trials=9, wave=9, pause=0.3, search="[search.halving]\nfirst = 1\nfactor = 3")
    study.begin()
    study.wait_for("trials/*/rung-00001.json", count=4)
    os.kill(warm.pid, signal.SIGINT)
    ended = warm.wait()
    assert ended.status == 130 and "stopped; 0 of 9 trials have a result, " in ended.said, ended.said
    assert re.search("[3-6] rest at a rung, the others keep their progress\n", ended.said), ended.said  # four, but some go on or come


# --- starting from an earlier study ---------------------------------------------------------------------------------------------------


def test_the_best_of_an_earlier_study_is_proposed_after_what_the_grid_names(study: SearchBench) -> None:
    later = SearchBench(study.folder / "later", study.warm).search(name="later", trials=3, search=f'warm_start = "study:study"\n{TRY}')
    later.store = Store(study.folder / "later-study")  # beside the earlier one
    launched(later)
    best = means(study, (10, 11), "confirm", "width=1")
    winner = study.proposed(0)[max(best, key=lambda number: best[number])]
    first = later.proposed()[:2]
    assert [(config["x"], config["kind"]) for config in first] == [(0.1, "b"), (winner["x"], winner["kind"])]


def test_an_earlier_study_that_is_not_there(tmp_path: Path, warm: Warm) -> None:  # noqa: F811
    study = SearchBench(tmp_path, warm).search(search='warm_start = "study:nowhere"')
    said = launched(study, status=1)
    assert "warm_start" in said and "nowhere" in said and "Traceback" not in said
    study.search()  # nothing was tried yet, so anything may be changed
    launched(study, "--update-grid")
    assert len(study.proposed()) == 6
