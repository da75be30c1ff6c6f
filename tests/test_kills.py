"""`kill -9` at random moments: of the launcher, and of training processes. The tables come out as if nothing had happened."""

import random
import signal
import time
from pathlib import Path

import pytest
from studies import Study, kill

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # minutes on two cores, and these may be shared

OFTEN = "killed = 40\nlost = 40"
"""These kills are dense: on a busy machine a trial may be hit again and again before it gets anywhere."""


def test_launcher_killed_at_20_random_moments(tmp_path: Path, data: Path) -> None:
    undisturbed = Study(tmp_path / "undisturbed", data, epochs=500)
    undisturbed.finish()
    study = Study(tmp_path / "killed", data, epochs=500)
    chance, seen, kills, unfinished = random.Random(20), dict[str, list[str]](), 0, 0
    for _ in range(60):
        before = len(study.store.launchers())
        launcher = study.start()
        if chance.random() < 0.5:  # some die while they begin, the others when they have got on, however long they take to
            while launcher.poll() is None and len(study.store.launchers()) == before:
                time.sleep(0.02)
        time.sleep(chance.uniform(0.05, 1.0))
        unfinished += len(study.finished()) < 4
        kills += launcher.poll() is None
        launcher.kill()
        launcher.communicate()
        seen.update({trial: seen.get(trial, files) for trial, files in study.finished().items()})
        if kills == 20:
            break
    said = study.finish()
    assert kills == 20 and unfinished >= 10, f"{kills} kills, {unfinished} of them with trials still to come: the study is too short"
    assert study.tables() == undisturbed.tables(), said
    assert {trial: study.attempts()[trial] for trial in seen} == seen  # what was finished was not begun again
    assert all(len(files) == 1 for files in study.attempts().values())  # its workers lived on: nothing was begun twice at all


@pytest.mark.parametrize("ranks", [1, 2])
def test_training_processes_killed_at_random_moments(ranks: int, tmp_path: Path, data: Path) -> None:
    epochs = 100 if ranks == 1 else 40  # each step of two waits for the other
    undisturbed = Study(tmp_path / "undisturbed", data, epochs=epochs, ranks=ranks)
    undisturbed.finish()
    study = Study(tmp_path / "killed", data, epochs=epochs, ranks=ranks, retry=OFTEN)
    chance, kills = random.Random(ranks), 0
    launcher = study.start()
    while launcher.poll() is None:
        time.sleep(chance.uniform(0.2, 1.0))
        if kills < 12 and (running := study.training()):
            kills += kill(chance.choice(running))
    said, _ = launcher.communicate()
    assert launcher.returncode == 0, said
    assert kills >= 5
    assert sum(map(len, study.attempts().values())) > 4
    assert study.tables() == undisturbed.tables()


def test_workers_and_launcher_killed(tmp_path: Path, data: Path) -> None:
    undisturbed = Study(tmp_path / "undisturbed", data, epochs=200)
    undisturbed.finish()
    study = Study(tmp_path / "killed", data, epochs=200, retry=OFTEN)
    chance, kills = random.Random(5), 0
    for _ in range(4):
        launcher = study.start()
        until = time.monotonic() + 240
        while not study.training() and launcher.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(chance.uniform(0.0, 1.5))
        kills += sum(kill(pid) for pid in study.workers())
        if chance.random() < 0.5:
            launcher.kill()
        else:
            launcher.send_signal(signal.SIGTERM)
        launcher.communicate(timeout=240)
    study.finish()
    assert kills >= 3
    assert study.tables() == undisturbed.tables()
