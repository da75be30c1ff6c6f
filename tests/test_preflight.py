"""What the cluster is asked before a launch, and what comes of each answer: on a real Slurm, with real mistakes."""

import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_fixture import Cluster, temporary_cluster, until
from studies import ROOT

from harness.grid import parse_grid
from harness.preflight import gpus_of, minutes, preflight
from harness.profile import Profile

GRID = '[study]\nname = "mine"\nseeds = [0, 1, 2]\n[compare]\ndepth = [1, 2]\n[slurm]\n'
SITE = Profile(name="site", partition="main", poll_s=1)
Ask = Callable[..., tuple[int, dict[str, str]]]


@pytest.fixture
def ask(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Makes a preflight; (exit status, what each check says, with its mark). Fails when anything of it stays on the disk."""
    monkeypatch.setenv("HARNESS_DATA", os.path.relpath(data))  # as ./data is when nothing is set; a node starts elsewhere

    def made(cluster: Cluster | None, resources: str = "", profile: Profile = SITE, *, study: str = "runs/mine", start_s: float = 180,
             ) -> tuple[int, dict[str, str]]:
        if cluster:
            monkeypatch.setenv("SLURM_CONF", str(cluster.slurm_conf))
        before = sorted(tmp_path.rglob("*"))
        status = preflight(parse_grid(GRID + resources), tmp_path / study, profile, grid_path=Path("grids/mine.toml"),
                           overrides=["epochs=1"], start_s=start_s)
        assert sorted(tmp_path.rglob("*")) == before
        said: dict[str, str] = {}
        for line in capsys.readouterr().out.splitlines():
            if line[:6].strip() in ("ok", "note", "WRONG"):
                said[line[7:21].strip()] = said.get(line[7:21].strip(), "") + f"{line[:6].strip()}: {line[21:]}"
        return status, said

    return made


def left(cluster: Cluster) -> str:
    """Jobs that wait or run."""
    return cluster.run("squeue", "--noheader", "--states=PENDING,RUNNING").stdout


# ---------------------------------------------------------------------------------------------------------------- without Slurm


@pytest.mark.parametrize("text, found", [
    ("gpu:2", {"": 2}), ("gpu:a100:4(S:0-1),nvme:1", {"a100": 4}), ("gpu:a100_1g.5gb:7,gpu:a100:1(S:0)", {"a100_1g.5gb": 7, "a100": 1}),
    ("(null)", {}), ("", {}), ("nvme:1,gpu:h100:8(S:0-7)", {"h100": 8}), ("tmpgpu:3", {}),
])
def test_gpus_of_a_node(text: str, found: dict[str, int]) -> None:
    assert gpus_of(text) == found


@pytest.mark.parametrize("text, found", [("01:00:00", 60), ("1-00:00:00", 1440), ("7-12:30:30", 7 * 1440 + 750.5), ("UNLIMITED", math.inf),
                                         ("INFINITE", math.inf), ("", math.inf)])
def test_time_limits(text: str, found: float) -> None:
    assert minutes(text) == found


def test_where_there_is_no_slurm(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    status, said = ask(None)
    assert status == 1 and list(said) == ["Slurm"] and "--local" in said["Slurm"]


# ------------------------------------------------------------------------------------------------------------------ all is well


@pytest.mark.slurm
def test_nothing_speaks_against_a_launch(cluster: Cluster, ask: Ask, tmp_path: Path) -> None:
    """In a folder whose name is as hostile as one can be."""
    status, said = ask(cluster, "time_min = 30", study="it's \"a\" $(touch pwned); `touch pwned` %j \\x \n é/mine")
    assert status == 0 and {text.partition(":")[0] for text in said.values()} == {"ok"}, said
    assert list(said) == ["controller", "partition", "preemption", "accounting", "submission", "arrays", "data", "space", "node", "python",
                          "commands", "signal"]
    assert "2 nodes, 2 of them up and large enough" in said["partition"] and "not preempted" in said["preemption"]
    assert "6 trials make 6 jobs in 1 array of 51" in said["arrays"] and "imports torch" in said["python"]
    assert "USR2 comes 120 s before its time limit" in said["submission"] and "USR2 reaches the batch shell" in said["signal"]
    assert not left(cluster) and not list(Path("/").glob("pwned")) and not Path("pwned").exists()


# -------------------------------------------------------------------------------------------------------- what the cluster has not


@pytest.mark.slurm
def test_what_the_partition_cannot_give(cluster: Cluster, ask: Ask, tmp_path: Path) -> None:
    def wrong(resources: str, profile: Profile = SITE) -> dict[str, str]:
        status, said = ask(cluster, resources, profile)
        assert status == 1 and "node" not in said, "nothing is submitted that cannot run"
        return said

    assert "time_min = 90 is above its limit of 60 minutes" in wrong("time_min = 90\nnodes = 4", Profile(partition="high"))["partition"]
    said = wrong("gpus_per_node = 3\nmem_gb = 100\ncpus_per_task = 5")
    assert "2 of them have 4 of 5 cores and have 62 of 100 GB and have 2 of 3 GPUs" in said["partition"]
    assert said["partition"].startswith("WRONG") and "WRONG: sbatch refuses such a job" in said["submission"]
    said = wrong("gpus_per_node = 1", Profile(gpu_type="a100", account="nobodys", qos="fast"))
    assert "2 of them have no GPUs of type a100 (but some without a type)" in said["partition"]
    assert "`account` = nobodys (yours: root)" in said["accounting"] and "`qos` = fast (yours: normal)" in said["accounting"]
    assert "--gpus-per-node=a100:1" in said["submission"]
    assert "it has 2 nodes for such a trial, which needs 4" in wrong("nodes = 4")["partition"]
    said = wrong("", Profile(partition="gone"))
    assert "there is no partition gone; set `partition` in the profile to one of main, low, cancel, high" in said["partition"]


@pytest.mark.slurm
def test_what_is_here(cluster: Cluster, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data is missing, and everybody may write where the study is to lie."""
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab").chmod(0o775)
    (tmp_path / "nowhere").write_text("")
    monkeypatch.setattr("harness.preflight.data_folder", lambda: tmp_path)
    broken = Profile(partition="gone")  # which saves the job
    status, said = ask(cluster, "[fixed]\ndataset = \"cifar10\"", broken, study="open/mine")
    assert status == 1
    assert f"data set cifar10: not found at {tmp_path}" in said["data"] and "harness.stage grids/mine.toml --set epochs=1" in said["data"]
    assert f"WRONG: {tmp_path}/open can be written by its group and everybody; forbid it: chmod go-w {tmp_path}/open" \
        in said["study folder"]
    assert f"note: {tmp_path}/lab can be written by its group" in ask(cluster, "", broken, study="lab/mine")[1]["study folder"]
    assert "WRONG" in ask(cluster, "", broken, study="nowhere/mine")[1]["study folder"]


@pytest.mark.slurm
@pytest.mark.parametrize("partition, fate", [("low", "may be requeued"), ("cancel", "may be cancelled, and submitted again")])
def test_what_preemption_does(cluster: Cluster, ask: Ask, partition: str, fate: str) -> None:
    said = ask(cluster, "nodes = 4", Profile(partition=partition))[1]["preemption"]
    assert said.startswith("note: ") and fate in said and "no signal arrives before" in said and "preempt_send_user_signal" in said


@pytest.mark.slurm
def test_a_cluster_without_accounting_that_warns(ask: Ask) -> None:
    with temporary_cluster(accounting=False, preempt_signal=True) as cluster:
        said = ask(cluster, "nodes = 4", Profile(partition="low"))[1]
        assert said["accounting"].startswith("note: this cluster keeps none")
        assert said["preemption"].startswith("ok: ") and "USR2 arrives 6 s before" in said["preemption"]


@pytest.mark.slurm
def test_a_controller_that_does_not_answer(cluster: Cluster, ask: Ask) -> None:
    cluster.send("slurmctld", "kill")
    status, said = ask(cluster)
    assert status == 1 and list(said) == ["controller"] and "Slurm does not answer (" in said["controller"]


# ------------------------------------------------------------------------------------------------------------ what a node says


@pytest.mark.slurm
def test_setup_lines_that_fail_and_no_gpu(cluster: Cluster, ask: Ask) -> None:
    status, said = ask(cluster, "", Profile(setup=("echo one", "echo two >&2; false", "echo three")))
    assert status == 1 and "Python does not start on n" in said["python"] and "one / two. Change `setup`" in said["python"]
    assert said["signal"].startswith("ok") or said["signal"].startswith("note")
    import torch

    if not torch.cuda.is_available():  # the development cluster's GPUs are pretended
        status, said = ask(cluster, "gpus_per_node = 2")
        assert status == 1 and "torch sees no GPU on n" in said["gpu"] and said["python"].startswith("ok")


@pytest.mark.slurm
def test_a_folder_that_nodes_do_not_see(cluster: Cluster, tmp_path: Path, data: Path) -> None:
    """The preflight runs where something else is mounted at the study's place."""
    grid, runs = tmp_path / "mine.toml", tmp_path / "runs"
    grid.write_text(GRID)
    runs.mkdir()
    code = ("import sys; from pathlib import Path; from harness.grid import read_grid; from harness.preflight import preflight; "
            "from harness.profile import Profile; grid = Path(sys.argv[1]); "
            "sys.exit(preflight(read_grid(grid), Path(sys.argv[2]), Profile(), grid_path=grid))")
    done = subprocess.run(["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$1" && shift && exec "$@"', "sh", str(runs),
                           sys.executable, "-c", code, str(grid), str(runs / "mine")], cwd=ROOT, capture_output=True, text=True,
                          env={**cluster.environment(), "HARNESS_DATA": str(data)}, timeout=240, check=False)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no mounts of one's own here: {done.stderr}")
    assert done.returncode == 1, done.stderr
    assert f"cannot see or write {runs}/mine; choose a study folder that all nodes share with --study-dir DIR" in done.stdout
    assert not list(runs.iterdir())


@pytest.mark.slurm
def test_a_queue_that_does_not_move(cluster: Cluster, ask: Ask, tmp_path: Path, data: Path) -> None:
    """It gives up with Slurm's reason and takes its job back; so it does on Ctrl-C."""
    cluster.run("scontrol", "update", "nodename=n1,n2", "state=drain", "reason=test")
    try:
        status, said = ask(cluster, start_s=3)
        assert status == 0 and said["partition"].startswith("note: main: 2 nodes, 0 of them up"), said
        assert said["node"].startswith("note: a job of two minutes is still pending after 3 s because ")
        assert not left(cluster)
        code = ("from pathlib import Path; from harness.grid import parse_grid; from harness.preflight import preflight; "
                f"from harness.profile import Profile; preflight(parse_grid({GRID!r}), Path({str(tmp_path / 'runs')!r}), Profile(), "
                "grid_path=Path('x'))")
        sbatch = tmp_path / "sbatch"  # as where everything is slow: the job is there, and its number is not known yet
        sbatch.write_text(f'#!/bin/bash\n{shutil.which("sbatch")} "$@" || exit\nsleep 2\n')
        sbatch.chmod(0o755)
        slow = {**cluster.environment(), "HARNESS_DATA": str(data), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        asking = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=slow, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until("its job", lambda: left(cluster))
        os.kill(asking.pid, signal.SIGINT)
        assert asking.wait(timeout=180) != 0
        assert not left(cluster) and not (tmp_path / "runs").exists()
    finally:
        cluster.run("scontrol", "update", "nodename=n1,n2", "state=resume")
