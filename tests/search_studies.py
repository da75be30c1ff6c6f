"""Searches of a small job that answers at once, fails where it is told to and can take turns, and launchers that begin without loading
anything: real processes, forked from one that has loaded all that a launcher needs."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
from launching import Bench
from studies import ROOT

JOB = '''
import json, os, time, tomllib
from pathlib import Path
from jobs.contract import Interrupted, Outcome

HERE = Path(os.environ["TOY_FOLDER"])


def proposals(folder, variant):
    """The numbers of the configs that were proposed for a variant, and of each its first trials."""
    found = {}
    for path in sorted((folder / "waves").glob("v*.json")):
        wave = json.loads(path.read_text())
        for line in wave["trials"] if wave["kind"] == "propose" else []:
            if line["variant"] == variant:
                found.setdefault(line.get("number", 0), []).append(line["id"])
    return found


def wait_for_turn(trial, context):
    """Until the configs whose turn is before have ended, and all waves are written that can be asked for by then: what a launcher knows
    when it asks is then the same, however slow it is, and however often it dies. All but the first four wait for a test that holds them."""
    study = context.folder.parent.parent
    search = tomllib.loads((study / "grid.toml").read_text())["search"]
    waves = [json.loads(path.read_text()) for path in (study / "waves").glob("v*.json")]
    variant = {line["id"]: line["variant"] for wave in waves for line in wave["trials"]}[context.folder.name]
    number = {name: number for number, names in proposals(study, variant).items() for name in names}.get(context.folder.name)
    if number is None:
        return  # it is being confirmed
    asked = min(search["trials"], search["wave"] * ((search["running"] + number) // search["wave"]))
    while True:
        found = proposals(study, variant)
        before = [names for earlier, names in found.items() if earlier < number]
        ended = [all((study / "trials" / name / "result.json").exists() for name in names) for names in before]
        if len(found) >= asked and len(before) == number and all(ended) and not (number >= 4 and (HERE / "held").exists()):
            return
        if context.stop():
            raise Interrupted
        time.sleep(0.01)


def score(config, seed, epoch):
    """Best at x = 0.3 for the seeds of the search; on fresh seeds (10 and more) the more x, the better."""
    better = config.get("late", 0.0) if (HERE / "better").exists() else 0.0
    fresh = 2 * config["x"] if seed >= 10 else 0.0
    return 1 - (config["x"] - 0.3) ** 2 - 0.1 * (config["kind"] == "b") - 0.5 / epoch + 0.01 * seed ** 2 + fresh + better


def train(trial, context):
    """Counts epochs up to its budget and goes on from there."""
    kept, config = context.folder / "checkpoint-rows.pt", trial.config
    rows = json.loads(kept.read_text()) if kept.exists() else []
    while len(rows) < min(config["epochs"], trial.budget or config["epochs"]):
        time.sleep(config["pause"] * (1 + trial.seed % 3))
        row = {"epoch": len(rows) + 1, "score": score(config, trial.seed, len(rows) + 1)}
        if config["kind"] in ("raises", "diverges"):
            row["score"] = 99.0  # which must not count
        context.report(row)
        rows.append(row)
        with (context.folder / "trained").open("a") as file:
            file.write(f"{len(rows)}\\n")
        if config["kind"] == "raises":
            raise ValueError(f"told to raise at x = {config['x']}")
        if config["kind"] == "diverges":
            return Outcome(status="infeasible", reason="told to diverge", rows=rows)
        if context.stop():
            kept.write_text(json.dumps(rows))
            raise Interrupted
    if config["turns"]:
        wait_for_turn(trial, context)
    kept.write_text(json.dumps(rows))
    return Outcome(status="done", epoch=len(rows), rows=rows, finished=len(rows) >= config["epochs"])


def test(trial, context):
    """The better the validation, the worse this."""
    context.opening_test()
    return {"test_acc": 1 - score(trial.config, trial.seed, trial.config["epochs"]) / 10, "test_loss": 0.5}
'''

GRID = """
[study]
name = "{name}"
metric = "score"
seeds = {seeds}

[job]
run = "toy_search:train"
metrics = ["score"]

[fixed]
epochs = {epochs}
pause = {pause}
turns = {turns}
late = 5.0

[compare]
width = {widths}

[tune]
{tune}

[search]
trials = {trials}
wave = {wave}
{search}

{more}

[local]
running = 2
"""
SPACE = 'x = { low = 0.0, high = 1.0 }\nkind = ["a", "b"]'


class Ended(NamedTuple):
    """A launcher that has ended."""

    status: int
    """Its exit status, or minus the signal that ended it."""
    said: str


class Warm:
    """A process that has loaded what a launcher needs, and forks a launcher at every wish: a search is launched in a tenth of the time.
    What chance decides in a process of its own (hashes, generators without a seed) it decides anew in every `Warm`, or in every fork."""

    def __init__(self) -> None:
        self._server = subprocess.Popen([sys.executable, __file__], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
        self.pid = 0
        """Of the launcher that runs."""

    def start(self, arguments: list[str], environment: dict[str, str], out: Path) -> None:
        """Forks a launcher, which prints into `out`."""
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(json.dumps([arguments, environment, str(out)]) + "\n")
        self._server.stdin.flush()
        self.pid = int(self._server.stdout.readline())
        self._out = out

    def wait(self) -> Ended:
        """Waits for the end of the launcher."""
        assert self._server.stdout
        status = int(self._server.stdout.readline())
        return Ended(status, self._out.read_text())

    def kill(self) -> Ended:
        """`kill -9` of the launcher, which may have ended before."""
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def close(self) -> None:
        """Ends the process."""
        assert self._server.stdin and self._server.stdout
        self._server.stdin.close()
        self._server.wait(60)
        self._server.stdout.close()


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """One for all tests of a run."""
    made = Warm()
    yield made
    made.close()


class SearchBench(Bench):
    """A folder with the grid of a search, its job and its study."""

    def __init__(self, folder: Path, warm: Warm | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder, folder / "data")
        (folder / "toy_search.py").write_text(JOB)
        self.environment["TOY_FOLDER"] = str(folder)
        self.warm = warm

    def search(self, *, name: str = "toy", seeds: str = "[0]", epochs: int = 1, pause: float = 0.0, turns: bool = False,
               widths: str = "[1]", tune: str = SPACE, trials: int = 6, wave: int = 3, search: str = "", more: str = "") -> "SearchBench":
        """Writes the grid; `search` goes below the keys of [search], `more` behind it."""
        self.grid.write_text(GRID.format(name=name, seeds=seeds, epochs=epochs, pause=pause, widths=widths, tune=tune, trials=trials,
                                         wave=wave, search=search, more=more, turns=str(turns).lower()))
        return self

    def begin(self, *options: str, **environment: str) -> None:
        """Starts a launcher from the warm process."""
        assert self.warm
        command = self.command(*options)
        self.warm.start(command[command.index("harness.launch") + 1:], {**self.environment, **environment}, self.folder / "said")

    def launch(self, *options: str, **environment: str) -> Ended:
        """Launches to the end."""
        self.begin(*options, **environment)
        assert self.warm
        return self.warm.wait()

    # --- what came of it ------------------------------------------------------------------------------------------------------

    def waves(self, kind: str = "", variant: int | None = None) -> list[dict[str, Any]]:
        """The waves as they are written, variant by variant, with whole configs."""
        names = sorted((self.store.root / "waves").glob("*.json"), key=lambda path: (path.name[0] == "t", path.name))
        found = [json.loads(path.read_text()) for path in names]
        for wave in found:
            for line in wave["trials"]:
                line["config"] = {**wave["common"], **line["config"]}
        return [wave for wave in found if (not kind or wave["kind"] == kind) and variant in (None, wave["variant"])]

    def proposed(self, variant: int = 0) -> list[dict[str, Any]]:
        """The configs of a variant, one for each number."""
        found = {line.get("number", 0): line["config"] for wave in self.waves("propose", variant) for line in wave["trials"]}
        return [found[number] for number in range(len(found))]

    def decisions(self) -> list[Any]:
        """All that was decided, without the files' order of keys."""
        return [[wave["kind"], wave["variant"], wave["wave"], wave["told"], wave["trials"], wave["exhausted"]] for wave in self.waves()]

    def rows(self, table: str = "trials") -> list[dict[str, Any]]:
        """A table."""
        rows: list[dict[str, Any]] = pq.read_table(self.store.table_file(table)).to_pylist()
        return rows

    def value(self, trial: str, epochs: int | None = None) -> float:
        """The score of a trial in its files: that of its last epoch, or the best of the first so many."""
        result = self.store.result(trial, budget=epochs)
        assert result, trial
        return float(max(row["score"] for row in result["rows"][:epochs]))

    def results(self) -> int:
        """How many trials are over."""
        return len(list(self.store.root.glob("trials/*/result.json")))

    def everything(self) -> dict[str, bytes]:
        """All waves, results and tables, by name."""
        files = [path for pattern in ("waves/*.json", "trials/*/*", "*.parquet", "submit/*") for path in self.store.root.glob(pattern)]
        return {str(path.relative_to(self.store.root)): path.read_bytes() for path in files}


def serve() -> None:
    """What `Warm` runs: a launcher for each line."""
    import submitit  # noqa: F401

    import harness.local
    import harness.search.surrogate
    import harness.study  # noqa: F401

    uncollected: list[int] = []  # while it is not collected no other process can have its number, so that killing it late does no harm
    for line in sys.stdin:
        for pid in uncollected:
            os.waitpid(pid, 0)
        uncollected.clear()
        arguments, environment, out = json.loads(line)
        pid = os.fork()
        if not pid:
            launcher(arguments, environment, out)
        print(pid, flush=True)
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        print(ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status, flush=True)
        uncollected.append(pid)


def launcher(arguments: list[str], environment: dict[str, str], out: str) -> None:
    """A launcher, in the process that was forked for it."""
    import numpy as np

    from harness import launch
    from jobs import failpoint

    os.setsid()
    said = os.open(out, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for stream, handle in ((0, nothing), (1, said), (2, said)):
        os.dup2(handle, stream)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    failpoint._left = failpoint._wanted()
    random.seed()
    np.random.seed()
    status = 70
    try:
        status = launch.main(arguments)
    finally:
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    import nevergrad  # noqa: F401

    serve()
