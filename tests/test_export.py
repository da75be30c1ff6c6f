"""`--export`: a planned study as config files, which train to the same numbers without the harness."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from launching import DIGITS_GRID, Bench
from studies import ROOT

from harness.launch import main


def test_every_trial_gets_a_file_and_nothing_is_launched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(tmp_path, tmp_path / "data").digits(DIGITS_GRID.replace('name = "small"', 'name = "small"\nseeds = [3, 4]'))
    out = tmp_path / "my configs"
    assert main([str(bench.grid), "--study-dir", str(bench.store.root), "--export", str(out), "--local"]) == 0
    described = [json.loads(path.read_text()) for path in out.glob("*/config.json")]
    assert sorted((d["config"]["depth"], d["seed"]) for d in described) == [(1, 3), (1, 4), (2, 3), (2, 4)]
    assert "sbatch --array=0-3 slurm/array.sbatch" in capsys.readouterr().out
    assert not bench.store.root.exists()


def test_not_for_a_job_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(tmp_path, tmp_path / "data").toy()
    assert main([str(bench.grid), "--export", str(tmp_path / "out"), "--local"]) == 2
    assert "toy_job:train" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_same_numbers_as_in_the_study(tmp_path: Path) -> None:
    bench = Bench(tmp_path, tmp_path / "data").digits()
    assert bench.run()[0] == 0
    assert main([str(bench.grid), "--export", str(tmp_path / "out"), "--local"]) == 0
    trials = pd.read_parquet(bench.store.table_file("trials")).set_index("trial_id")
    for name, row in trials.iterrows():
        subprocess.run([sys.executable, "-m", "jobs.train", str(tmp_path / "out" / str(name) / "config.json"), "--cpu"], cwd=ROOT,
                       env=bench.environment, check=True, capture_output=True)
        result = json.loads((tmp_path / "out" / str(name) / "config" / "result.json").read_text())
        assert result["rows"][result["epoch"] - 1]["val_loss"] == row["val_loss"]
