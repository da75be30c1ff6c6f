"""What the processes of an attempt say of how it ended."""

from pathlib import Path

from launching import TOY, Bench


def line_of(text: str) -> int:
    """The line of the toy job that holds `text`, counted from 1."""
    return next(number for number, line in enumerate(TOY.splitlines(), start=1) if text in line)


def test_the_same_mistake_has_the_same_place(tmp_path: Path, data: Path) -> None:
    """Of trials in processes of their own; the place is the line that raised and its callers, and says nothing of folders."""
    bench = Bench(tmp_path, data).toy(seeds="[0, 1]", modes='["raise", "no epoch"]')
    status, said = bench.run()
    assert status == 1, said
    found: dict[str, list[str]] = {"raise": [], "no epoch": []}
    for trial in bench.store.trials():
        (attempt,) = bench.store.attempts(trial.id)
        assert attempt[-1]["cause"] == "exception"
        found[trial.config["mode"]].append(attempt[-1]["where"])
    (raised, again), (refused, refused_again) = found.values()
    assert raised == again and refused == refused_again
    callers = raised.split(" < ")
    assert callers[0] == f"toy_job.py:{line_of('raise ValueError')} in train" and callers[1].startswith("harness/rank.py:")
    assert refused.split(" < ")[1] == f"toy_job.py:{line_of('context.report(row)')} in train"
    assert str(tmp_path) not in raised + refused and len(callers) <= 4
