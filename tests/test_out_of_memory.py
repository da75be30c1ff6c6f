"""A trial that the kernel ends for want of memory, in a control group of its own: told from a mere kill, and tried again in pieces."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from launching import Bench
from studies import ROOT

pytestmark = pytest.mark.slow

HUNGRY = """
from jobs.contract import Outcome


def train(trial, context):
    '''Needs a gigabyte, unless it may take its batches in pieces.'''
    held = bytearray(1_000_000_000 // (1 if context.accumulate == 1 else 1000))
    held[::4096] = b"x" * len(held[::4096])
    row = {"epoch": 1, "score": float(len(held) > 0)}
    context.report(row)
    return Outcome(status="done", epoch=1, rows=[row])
"""
GRID = """
[study]
name = "hungry"
metric = "score"
[job]
run = "hungry_job:train"
metrics = ["score"]
[fixed]
width = 1
[retry]
out_of_memory = 1
"""


@contextlib.contextmanager
def control_group(limit: int) -> Iterator[Path]:
    """A group whose processes together may use `limit` bytes."""
    root = Path("/sys/fs/cgroup/memory")
    own = next((line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line), None)
    root, own, key = (root, own, "memory.limit_in_bytes") if own else (Path("/sys/fs/cgroup"), "/", "memory.max")
    group = root / own.lstrip("/") / f"harness-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / key).write_text(str(limit))
    except OSError as error:
        pytest.skip(f"no memory control group can be made here: {error}")
    try:
        yield group
    finally:
        with contextlib.suppress(OSError):
            group.rmdir()


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_killed_for_want_of_memory(tmp_path: Path) -> None:
    bench = Bench(tmp_path, tmp_path / "data")
    (tmp_path / "hungry_job.py").write_text(HUNGRY)
    bench.grid.write_text(GRID)
    with control_group(400_000_000) as group:
        launcher = subprocess.run(["sh", "-c", f'echo $$ > "{group}/cgroup.procs"; exec "$@"', "sh", *bench.command()], cwd=ROOT,
                                  env=bench.environment, capture_output=True, text=True, timeout=120, check=False)
    assert launcher.returncode == 0, launcher.stdout + launcher.stderr
    attempts = pd.read_parquet(bench.store.table_file("attempts"))
    assert list(attempts.cause) == ["out_of_memory", "done"]
    assert "memory" in attempts.error[0]
