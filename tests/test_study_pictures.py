"""The pictures of the five hand-made studies, each by the command of docs/figures.md, from a small run of its grid."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from studies import ROOT
from test_study_grids import STAND_INS, launch, source_with_weights

SMALL = {"small_cnn": ("search.trials=5", "search.wave=5"), "cifar100_bayes": ("search.trials=3", "search.wave=3"), "fashion_cnn": (),
         "cifar100_resnet34": (), "caltech_transfer": ()}
"""What makes the run just large enough for its picture."""


def commands() -> dict[str, list[str]]:
    """Study -> the words of its command in the table of docs/figures.md."""
    text = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .* \| `(python -m analysis\.plots [^`]*)`", text, re.MULTILINE)
    return {study: shlex.split(command) for study, command in rows}


def test_every_picture_has_a_command() -> None:
    assert set(commands()) == set(SMALL) and all(words[3] == study for study, words in commands().items())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SMALL)
def test_the_command_draws_the_picture(name: str, tmp_path: Path) -> None:
    stand_in = STAND_INS[name]
    assert stand_in.write is not None
    stand_in.write(tmp_path / "data")
    if stand_in.published:
        source_with_weights(tmp_path / "source", tmp_path / "data", stand_in.published)
    study = launch(name, stand_in, tmp_path, epochs=1 if name == "small_cnn" else 2, more=("local.ranks=1", *SMALL[name]))
    words = commands()[name]
    done = subprocess.run([sys.executable, *words[1:], "--runs", str(study.parent)], cwd=ROOT, capture_output=True, text=True, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0 and "left out" not in done.stderr, done.stdout + done.stderr
    figures = words[words.index("--only") + 1].split(",") if "--only" in words else ["comparison", "curves"]
    for figure in figures:
        assert {path.suffix for path in (study / "figures").glob(f"{figure}.*")} == {".png", ".pdf", ".svg", ".csv"}
        assert len(pd.read_csv(study / "figures" / f"{figure}.csv"))
    if "--only" not in words:
        table = (study / "figures" / "results.tex").read_text()
        assert table.count(r"\\") > STAND_INS[name].variants and r"\toprule" in table
