"""`kill -9` of a search's launcher, at random moments and at each step of writing a decision down: it proposes what it would have."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from search_studies import SearchBench, Warm, warm  # noqa: F401

from harness.search.algorithms import ALGORITHMS

pytestmark = pytest.mark.slow
KILLS = 30
NAMED = next(name for name in ("TwoPointsDE", "NGOpt") if name in ALGORITHMS)
"""An algorithm whose next proposals depend on what was told, and in which order."""
CONFIRM = "[confirm]\ntop = 2\nseeds = 1"
GRIDS: dict[str, dict[str, Any]] = {
    "barrier": {"seeds": "[0, 9]", "widths": "[1, 2]", "trials": 32, "wave": 4, "pause": 0.15, "more": CONFIRM},
    # Without a barrier it is a matter of time what has been told when. So the trials take turns, see `wait_for_turn`: only then is there
    # one right sequence of proposals.
    "no barrier": {"trials": 64, "wave": 2, "pause": 0.3, "turns": True, "more": CONFIRM,
                   "search": f'running = 5\nalgorithm = "{NAMED}"'},
}


def until(ready: Callable[[], bool]) -> None:
    """Waits for what a launcher gets done, or has done before."""
    deadline = time.monotonic() + 300
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", GRIDS)
def test_launcher_killed_at_30_random_moments(name: str, tmp_path: Path) -> None:
    plain = SearchBench(tmp_path / "undisturbed", Warm()).search(**GRIDS[name])
    ended = plain.launch()
    assert plain.warm and ended.status == 0, ended.said
    plain.warm.close()

    chance, hit = random.Random(name), Counter[int]()
    study = SearchBench(tmp_path / "killed").search(**GRIDS[name])
    results = plain.results()
    for attempt in range(3 * KILLS):
        if attempt % KILLS == 0:
            study.warm = Warm()  # with other hashes of strings
        assert study.warm
        study.begin()
        if chance.random() < 0.5:  # some die while they begin and repeat what was asked, the others when it has got on
            until(lambda: study.results() >= results * sum(hit.values()) / KILLS)
        time.sleep(chance.uniform(0.0, 0.7))
        waves = len(study.waves())
        if study.warm.kill().status == -signal.SIGKILL:
            hit[waves] += 1
        if sum(hit.values()) == KILLS:
            break
    ended = study.launch()
    study.warm.close()
    print(f"{name}: {sum(hit.values())} kills, with so many waves on disk: {sorted(hit.items())}")
    assert ended.status == 0, ended.said
    assert sum(hit.values()) == KILLS and len(hit) >= KILLS / 3, f"{hit}: the search is too short"
    assert study.decisions() == plain.decisions()
    assert study.tables() == plain.tables()
    assert all(len(list(folder.glob("a*.jsonl"))) <= 2 for folder in study.store.root.glob("trials/*"))  # trained once, tested once
    told = [wave["told"] for wave in plain.waves("propose")]
    assert all(told[1:8]) if name == "barrier" else Counter(map(len, told))[2] > 15


# --- at each step -----------------------------------------------------------------------------------------------------------------------


SHORT: dict[str, Any] = {"seeds": "[0, 9]", "epochs": 16, "trials": 4, "wave": 4, "more": CONFIRM,
                         "search": "[search.halving]\nfirst = 1\nfactor = 4"}
"""Four configs, the best of which goes on when all have rested: no matter who is early."""
KINDS = ["propose", "promote", "promote", "confirm", "test"]


@pytest.fixture(scope="module")
def short(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> SearchBench:  # noqa: F811
    """A search that nothing happened to."""
    made = SearchBench(tmp_path_factory.mktemp("short"), warm).search(**SHORT)
    ended = made.launch()
    assert ended.status == 0, ended.said
    return made


def test_the_kinds_of_decisions(short: SearchBench) -> None:
    assert [wave["kind"] for wave in short.waves()] == KINDS
    assert sorted(int(path.stem[5:]) for path in short.store.root.glob("trials/*/rung-*.json")) == [1, 1, 1, 1, 4]


@pytest.mark.parametrize("step", [f"{step}.{when}{count}" for when in ("written", "linked")
                                  for step, counts in (("wave", range(1, len(KINDS) + 1)), ("rung", (1,)), ("test", (1,)))
                                  for count in (f":{count}" if count > 1 else "" for count in counts)])
def test_killed_once_at_each_step(step: str, short: SearchBench, tmp_path: Path) -> None:
    """The launcher while it writes each of its decisions, a worker while it publishes what came of a rung or of the test split."""
    study, token = SearchBench(tmp_path, short.warm).search(**SHORT), tmp_path / "was-killed"
    ended = study.launch(HARNESS_FAILPOINT=f"{step}@{token}")
    assert token.exists(), f"nothing was killed at {step}:\n{ended.said}"
    assert ended.status == (-signal.SIGKILL if step.startswith("wave") else 0), ended.said
    if ended.status:
        ended = study.launch()
        assert ended.status == 0, ended.said
    assert study.decisions() == short.decisions()
    assert study.tables() == short.tables()
    assert study.attempts() <= short.attempts() + 1
