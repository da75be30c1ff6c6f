"""Hostile names and values on a real Slurm: in every path and string a user can give, none is ever run."""

import json
import os
from pathlib import Path

import pytest
from slurm_fixture import Cluster, until
from slurm_studies import SlurmBench
from studies import ROOT

from harness import launch

pytestmark = pytest.mark.slurm

SHELL = "it's \"a\" $(touch pwned); `touch pwned` & ${HOME} * | touch pwned > pwned"
NAMES = [SHELL, "%j %A_%a %t %% %", "-rf", "größe-数-🙂", "#SBATCH --wrap='touch pwned'", "~root"]


class Hostile(SlurmBench):
    """Grid, profile, data, code and study folder all have a hostile name, and so has the folder in which they are."""

    def __init__(self, folder: Path, cluster: Cluster, name: str):
        place = folder / name
        super().__init__(place, cluster)
        self.name = name
        self.grid, self.profile = place / f"{name}.toml", place / f"{name} site.toml"
        self.store = type(self.store)(place / name)
        self.environment["HARNESS_DATA"] = str(place / f"data {name}")
        self.site()


@pytest.fixture(autouse=True)
def nothing_was_run(tmp_path: Path):  # type: ignore[no-untyped-def]
    """No file "pwned" anywhere that a job or the launcher could have made it."""
    yield
    places = [ROOT, Path("/"), Path("/tmp"), Path.home()]
    assert not list(tmp_path.rglob("*pwned")) or all("touch" in path.name for path in tmp_path.rglob("*pwned"))
    assert not [place for place in places if (place / "pwned").exists()]


@pytest.mark.parametrize("name", NAMES)
def test_hostile_folders(name: str, tmp_path: Path, cluster: Cluster) -> None:
    study = Hostile(tmp_path, cluster, name)
    said = study.toy(seeds="[0, 1]").finish()
    assert study.attempts() == 2 and "[2/2] done" in said
    assert {path.name for path in study.store.submitit_folder.iterdir()} >= {"000-0.log", "000-1.log"}
    assert {path.name for path in study.folder.iterdir()} >= {name, study.grid.name} and len(list(tmp_path.iterdir())) == 1
    assert "attempt 0" in study.store.worker_log("000-0").read_text()


def test_a_hostile_folder_with_ranks_over_nodes(tmp_path: Path, cluster: Cluster) -> None:
    study = Hostile(tmp_path, cluster, SHELL + " %j")
    study.toy().add("[slurm]\nnodes = 2").finish()
    assert study.attempts() == 1


def test_a_hostile_folder_without_a_launcher(tmp_path: Path, cluster: Cluster) -> None:
    study = Hostile(tmp_path, cluster, SHELL + " %j")
    status, said = study.toy(seeds="[0, 1]").run("--detach")
    assert status == 0, said
    study.wait_for("trials.parquet")
    study.wait_for_queue()
    assert study.attempts() == 2 and list(study.store.submitit_folder.glob("launcher-*.log"))


def test_names_that_slurm_cannot_take_are_refused(tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    study = SlurmBench(tmp_path, cluster).toy()
    for name, value in study.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("new\nline", "carriage\rreturn", "tab\there", "a:b", "back\\slash", "right\u202eleft", os.fsdecode(b"latin-\xe9")):
        study.store = type(study.store)(tmp_path / name)
        assert launch.main(study.command()[3:]) == 1, name
        said = capsys.readouterr().err
        assert "study folder" in said and "--study-dir" in said and said.count("\n") == 1 and said[:-1].isprintable(), said
        assert not study.store.root.exists()


def test_a_relative_study_folder_that_looks_like_an_option(tmp_path: Path, cluster: Cluster) -> None:
    study = SlurmBench(tmp_path, cluster).toy()
    study.store = type(study.store)(tmp_path / "-rf")
    study.before = ["-c", f"import os, sys; sys.path[:0] = [{str(ROOT)!r}]; os.chdir({str(tmp_path)!r}); from harness.launch import main; "
                          f"sys.exit(main(['--study-dir=-rf', '--profile', 'site.toml', 'grid.toml']))"]
    said = study.finish()
    assert study.attempts() == 1 and f"results: {study.store.root.relative_to(tmp_path)}/trials.parquet" in said


def test_hostile_values(tmp_path: Path, cluster: Cluster) -> None:
    """In a grid of a job of one's own, where every string is free, and in the environment; all arrive as they are."""
    study = SlurmBench(tmp_path, cluster).toy()
    seen = tmp_path / "seen.json"
    (tmp_path / "toy_job.py").write_text(f"""
import json, os
from jobs.contract import Outcome

def train(trial, context):
    with open({str(seen)!r}, "a") as file:
        file.write(json.dumps([trial.config["text"], os.environ["EVIL"]]) + "\\n")
    return Outcome(status="done", epoch=1, rows=[{{"epoch": 1, "score": 1.0}}])
""")
    texts = [SHELL, "#SBATCH --wrap=touch\\ pwned", "'", '"', "\\", "%j", "-rf", "数🙂", "{}", "$'\\n'", "x" * 1000]
    grid = f"""
[study]
name = "hostile"
metric = "score"
seeds = [0]
[job]
run = "toy_job:train"
metrics = ["score"]
[compare]
text = {json.dumps(texts, ensure_ascii=False)}
[slurm]
trials_per_job = 20
[retry]
canary = 0
"""
    study.grid.write_text(grid.replace('"%j"', '"line\\nbreak"'))
    status, said = study.run()
    assert status == 2 and "control characters or line breaks" in said and not study.store.root.exists()
    study.grid.write_text(grid)
    evil = "; touch pwned\n$(touch pwned)\n#SBATCH --wrap='touch pwned'\n'\"\\"
    study.finish(EVIL=evil)
    assert sorted(json.loads(line) for line in seen.read_text().splitlines()) == sorted([text, evil] for text in texts)
    script = next(study.store.submitit_folder.glob("*.sh")).read_text()
    assert not [text for text in [*texts[:2], evil] if text in script]
    assert until("its end", lambda: not study.queue())
