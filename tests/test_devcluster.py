"""The development cluster: that it is a Slurm which behaves as the harness's tests expect, and that nothing of it stays."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_fixture import (
    DAEMONS,
    FOLDER,
    NODES,
    Cluster,
    ClusterError,
    environment_of,
    job,
    restore,
    sacct,
    sbatch,
    temporary_cluster,
    until,
    wait_for_saved_jobs,
    wait_for_state,
)

pytestmark = pytest.mark.slurm

RANK = """
import os, socket
from datetime import timedelta
import torch
import torch.distributed as dist

rank = int(os.environ["SLURM_PROCID"])
dist.init_process_group("gloo", rank=rank, world_size=2, timeout=timedelta(seconds=180))
total = torch.tensor([rank + 1.0])
dist.all_reduce(total)
print(f"rank {rank} on {socket.gethostname()}: {total.item():g}", flush=True)
dist.destroy_process_group()
"""


def call(cluster: Cluster, command: str, *options: str) -> subprocess.CompletedProcess[str]:
    """`slurm/devcluster/<command>`, with the cluster's folder in the environment."""
    return subprocess.run([str(FOLDER / command), *options], env={**os.environ, "HARNESS_DEVCLUSTER": str(cluster.folder)},
                          capture_output=True, text=True, timeout=200, check=False)


def traces(folder: Path) -> list[str]:
    """Living processes whose environment or command line names this folder, and lines of /etc/hosts that do."""
    found = [line for line in Path("/etc/hosts").read_text().splitlines() if str(folder) in line]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in text:
            found.append(text.decode(errors="replace"))
    return found


# ------------------------------------------------------------------------------------------------------------ up, status, down


def test_status_after_up(cluster: Cluster) -> None:
    done = call(cluster, "status")
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("munged", "mariadbd", "slurmdbd", "slurmctld", "n1", "n2", "idle", "main*", "low", "cancel", "high", "It is up."):
        assert word in done.stdout


def test_up_twice_says_so(cluster: Cluster) -> None:
    pids = {daemon: cluster.pid(daemon) for daemon in DAEMONS}
    done = call(cluster, "up")
    assert done.returncode == 0 and "already" in done.stdout, done.stderr
    assert f"export SLURM_CONF={cluster.slurm_conf}\n" in done.stdout
    assert {daemon: cluster.pid(daemon) for daemon in DAEMONS} == pids
    other = call(cluster, "up", "--max-array-size", "7")
    assert other.returncode == 1 and "other options ({'max_array_size': 51})" in other.stderr


def test_listens_at_the_loopback_address_only(cluster: Cluster) -> None:
    sockets = {os.readlink(entry)[8:-1] for pid in cluster.processes(*DAEMONS) for entry in Path(f"/proc/{pid}/fd").iterdir()
               if os.readlink(entry).startswith("socket:[")}
    listening = []
    for table, loopback in (("tcp", "0100007F"), ("tcp6", "0" * 24 + "01000000")):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                listening.append(fields[1])
                assert fields[1].startswith(loopback), f"a daemon listens at {fields[1]}"
    assert len(listening) == 5  # mariadbd, slurmdbd, slurmctld and two slurmd


def test_down_leaves_nothing(tmp_path: Path) -> None:
    with temporary_cluster(accounting=False) as cluster:
        assert traces(cluster.folder)
        started = tmp_path / "started"
        sbatch(cluster, "--nodes=2", script=f"srun bash -c 'setsid sleep 300 & touch {started}; wait'")
        until("the job to start", started.exists)
        done = call(cluster, "down")
        assert done.returncode == 0 and "is gone" in done.stdout, done.stderr
        assert not cluster.folder.exists()
        assert traces(cluster.folder) == []
        again = call(cluster, "down")
        assert again.returncode == 0 and "no cluster" in again.stdout
        status = call(cluster, "status")
        assert status.returncode == 1 and "slurm/devcluster/up makes one" in status.stderr


def test_down_after_half_an_up_and_with_stale_pids() -> None:
    """`up` is killed while it works; a pid file of its slurmd then holds the number of a process that is not ours."""
    with temporary_cluster(accounting=False) as cluster:
        cluster.down()
        half = subprocess.Popen([str(FOLDER / "up"), "--no-accounting", "--folder", str(cluster.folder)], stdout=subprocess.DEVNULL)
        until("munged to be up", lambda: cluster.record.exists() and cluster.pid("munged"))
        half.send_signal(signal.SIGKILL)
        half.wait()
        bystander = subprocess.Popen(["sleep", "300"])
        try:
            (cluster.folder / "run").mkdir(exist_ok=True)
            (cluster.folder / "run" / "n1.pid").write_text(f"{bystander.pid}\n")
            assert cluster.pid("n1") is None
            assert call(cluster, "status").returncode == 1
            assert call(cluster, "down").returncode == 0
            assert bystander.poll() is None
        finally:
            bystander.kill()
            bystander.wait()
        assert not cluster.folder.exists() and traces(cluster.folder) == []


def test_up_goes_on_after_a_reboot(cluster: Cluster) -> None:
    """Everything died at once and the pid files are still there: `up` starts all of it, and a job that ran is there again."""
    job_id = sbatch(cluster, "--requeue", script="sleep 300")
    wait_for_state(cluster, job_id, "RUNNING")
    wait_for_saved_jobs(cluster)
    cluster.crash(*DAEMONS)
    assert call(cluster, "status").returncode == 1
    done = call(cluster, "up")
    assert done.returncode == 0 and "already" not in done.stdout, done.stderr
    assert wait_for_state(cluster, job_id, "PENDING", "RUNNING")["JobState"]


@pytest.mark.parametrize("folder", ["relative", "/var/tmp/a b", "/var/tmp/a\nb", "/var/tmp/a\n", "/var/tmp/$(touch x)", "/var/tmp/%n", "/",
                                    "/tmp", "/var/tmp/../x", "/tmp/" + 60 * "x"])
def test_folders_that_slurm_cannot_use(folder: str) -> None:
    with pytest.raises(ClusterError, match="Choose another"):
        Cluster(folder)


def test_a_folder_of_someone_else_is_left_alone() -> None:
    folder = Path("/var/tmp") / f"not-a-cluster-{os.getpid()}"
    folder.mkdir()
    (folder / "thesis.tex").write_text("x")
    try:
        for change in (Cluster(folder).up, Cluster(folder).down):
            with pytest.raises(ClusterError, match="not a development cluster"):
                change()
        assert [path.name for path in folder.iterdir()] == ["thesis.tex"]
    finally:
        (folder / "thesis.tex").unlink()
        folder.rmdir()


@pytest.mark.parametrize("daemon", DAEMONS)
def test_each_daemon_comes_back_after_a_kill(cluster: Cluster, daemon: str) -> None:
    before = cluster.pid(daemon)
    cluster.send(daemon, "kill")
    assert cluster.pid(daemon) is None
    done = call(cluster, "cluster.py", "start", daemon)
    assert done.returncode == 0, done.stderr
    assert cluster.pid(daemon) not in (None, before)
    assert cluster.run("srun", "-N2", "true").returncode == 0


def test_a_frozen_daemon_stops(cluster: Cluster) -> None:
    pid = cluster.pid("n1")
    cluster.send("n1", "freeze")
    until("slurmd to stand still", lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    cluster.send("n1", "thaw")
    assert cluster.run("srun", "--nodelist=n1", "true").returncode == 0
    cluster.send("n1", "freeze")
    cluster.send("n1", "stop")
    assert cluster.pid("n1") is None


def test_jobs_outlive_slurmd_but_not_their_node(cluster: Cluster, tmp_path: Path) -> None:
    job_id = sbatch(cluster, "--requeue", script=f"touch {tmp_path / 'started'}; exec sleep 300")
    until("the job to start", (tmp_path / "started").exists)
    assert job(cluster, job_id)["NodeList"] == "n1"
    cluster.send("n1", "kill")
    assert cluster.processes("n1")
    cluster.crash("n1")
    assert not cluster.processes("n1")
    until("the controller to start it on the other node", lambda: job(cluster, job_id).get("NodeList") == "n2")
    assert job(cluster, job_id)["Restarts"] == "1"


# ------------------------------------------------------------------------------------------------------------------------ jobs


@pytest.mark.parametrize("node", NODES)
def test_a_batch_job_runs_on_each_node(cluster: Cluster, tmp_path: Path, node: str) -> None:
    job_id = sbatch(cluster, f"--nodelist={node}", output=tmp_path / "out", script="hostname; echo $SLURMD_NODENAME")
    wait_for_state(cluster, job_id, "COMPLETED")
    assert (tmp_path / "out").read_text().split() == [node, node]


def test_srun_over_two_nodes(cluster: Cluster) -> None:
    done = cluster.run("srun", "--nodes=2", "hostname")
    assert sorted(done.stdout.split()) == ["n1", "n2"], done.stderr


def test_two_ranks_on_two_nodes_reduce(cluster: Cluster, tmp_path: Path) -> None:
    """Rank 0's host name, as Slurm gives it, is an address that the other rank reaches."""
    (tmp_path / "rank.py").write_text(RANK)
    job_id = sbatch(cluster, "--nodes=2", "--ntasks-per-node=1", output=tmp_path / "out", script=f"""
        export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
        export MASTER_PORT=$((16000 + SLURM_JOB_ID)) OMP_NUM_THREADS=1
        srun --kill-on-bad-exit=1 {sys.executable} {tmp_path / "rank.py"}""")
    wait_for_state(cluster, job_id, "COMPLETED", "FAILED", timeout_s=240)
    lines = [line for line in (tmp_path / "out").read_text().splitlines() if line.startswith("rank")]
    assert sorted(lines) == ["rank 0 on n1: 3", "rank 1 on n2: 3"], (tmp_path / "out").read_text()


@pytest.mark.parametrize(("gpus", "visible"), [(0, ""), (1, "0"), (2, "0,1")])
def test_jobs_see_their_gpus(cluster: Cluster, gpus: int, visible: str) -> None:
    options = ["--gpus-per-node", str(gpus)] if gpus else []
    done = cluster.run("srun", "--nodes=2", *options, "sh", "-c", 'echo "gpus=$SLURM_GPUS_ON_NODE visible=$CUDA_VISIBLE_DEVICES"')
    assert done.stdout.splitlines() == 2 * [f"gpus={gpus or ''} visible={visible}"], done.stderr


def test_jobs_share_the_gpus_of_a_node(cluster: Cluster, tmp_path: Path) -> None:
    waits = f"echo $CUDA_VISIBLE_DEVICES; until [ -s {tmp_path}/a ] && [ -s {tmp_path}/b ]; do sleep 0.1; done"
    ids = [sbatch(cluster, "--nodelist=n1", "--gpus-per-node=1", output=tmp_path / name, script=waits) for name in "ab"]
    for job_id in ids:
        wait_for_state(cluster, job_id, "COMPLETED")
    assert sorted((tmp_path / name).read_text().strip() for name in "ab") == ["0", "1"]
    done = cluster.run("sbatch", "--gpus-per-node=3", "--wrap=true")
    assert done.returncode == 1 and "Requested node configuration is not available" in done.stderr


def test_arrays_are_limited(cluster: Cluster) -> None:
    refused = cluster.run("sbatch", "--array=0-59", "--output=/dev/null", "--wrap=true")
    assert refused.returncode == 1 and "Invalid job array specification" in refused.stderr
    assert cluster.run("sbatch", "--array=0-51", "--output=/dev/null", "--wrap=true").returncode == 1  # the highest index is 50
    assert sbatch(cluster, "--array=0-50", "--hold", script="true")


def test_accounting_knows_a_job(cluster: Cluster) -> None:
    job_id = sbatch(cluster, script="exit 3")
    wait_for_state(cluster, job_id, "FAILED")
    until("the row, which is seconds late", lambda: sacct(cluster, job_id, "State,ExitCode") == "FAILED|3:0")


# ------------------------------------------------------------------------------------------------------------------ preemption


def fill(cluster: Cluster, partition: str, *options: str, script: str = "sleep 300", output: Path | None = None) -> str:
    """A job that takes both nodes, once it has begun."""
    job_id = sbatch(cluster, f"--partition={partition}", "--nodes=2", "--exclusive", *options, script=script, output=output)
    wait_for_state(cluster, job_id, "RUNNING", "COMPLETING", "COMPLETED")  # it may be a short one
    return job_id


def test_low_is_requeued_by_high_and_runs_again(cluster: Cluster) -> None:
    low = fill(cluster, "low", "--requeue")
    high = fill(cluster, "high", script="sleep 1")
    assert wait_for_state(cluster, low, "PENDING", "RUNNING")["Restarts"] == "1"
    wait_for_state(cluster, high, "COMPLETED")
    assert wait_for_state(cluster, low, "RUNNING")["Restarts"] == "1"


def test_cancel_ends_preempted(cluster: Cluster) -> None:
    victim = fill(cluster, "cancel", "--requeue")
    fill(cluster, "high", script="sleep 1")
    assert job(cluster, victim)["JobState"] == "PREEMPTED"
    until("the row", lambda: sacct(cluster, victim, "State") == "PREEMPTED")


def test_main_is_never_preempted(cluster: Cluster, tmp_path: Path) -> None:
    main = fill(cluster, "main", script=f"until [ -e {tmp_path}/go ]; do sleep 0.1; done")
    high = sbatch(cluster, "--partition=high", "--nodes=2", "--exclusive", script="true")
    time.sleep(3)
    assert (job(cluster, main)["JobState"], job(cluster, high)["JobState"]) == ("RUNNING", "PENDING")
    (tmp_path / "go").touch()
    wait_for_state(cluster, high, "COMPLETED")
    assert job(cluster, main)["JobState"] == "COMPLETED"


# -------------------------------------------------------------------------------------------------------------------- variants


@pytest.fixture(scope="module")
def shared_variant() -> Iterator[Cluster]:
    with temporary_cluster(accounting=False, preempt_signal=True, max_array_size=61) as made:
        yield made


@pytest.fixture
def variant(shared_variant: Cluster) -> Cluster:
    restore(shared_variant)
    return shared_variant


def test_without_accounting_sacct_fails(variant: Cluster) -> None:
    done = variant.run("sacct")
    assert done.returncode == 1 and "accounting storage is disabled" in done.stderr
    assert variant.run("srun", "-N2", "true").returncode == 0
    assert "mariadbd" not in call(variant, "status").stdout
    wrong = call(variant, "cluster.py", "kill", "slurmdbd")
    assert wrong.returncode == 1 and "made with --no-accounting" in wrong.stderr


def test_two_clusters_side_by_side(cluster: Cluster, variant: Cluster) -> None:
    for each in (cluster, variant):
        assert each.run("srun", "-N2", "true").returncode == 0
    ports = [set(json.loads(each.record.read_text())["ports"].values()) for each in (cluster, variant)]
    assert not ports[0] & ports[1]
    database = cluster.pid("mariadbd")
    assert database and f"TMPDIR={cluster.folder}/run" in environment_of(database), "two that start at once remove each other's tables"


def test_a_longer_array(variant: Cluster) -> None:
    assert sbatch(variant, "--array=0-60", "--hold", script="true")
    assert variant.run("sbatch", "--array=0-61", "--output=/dev/null", "--wrap=true").returncode == 1


@pytest.mark.parametrize(("which", "expected"), [("cluster", []), ("variant", ["USR2"])])
def test_whether_preempted_jobs_get_their_signal(request: pytest.FixtureRequest, tmp_path: Path, which: str, expected: list[str]) -> None:
    """`--signal=B:USR2@...` reaches a preempted job only where the administrator asked for it."""
    chosen: Cluster = request.getfixturevalue(which)
    fill(chosen, "low", "--signal=B:USR2@60", output=tmp_path / "out",
         script="trap 'echo USR2' USR2; trap '' TERM; echo ready; while :; do sleep 0.1; done")
    until("its shell to listen", lambda: (tmp_path / "out").exists() and (tmp_path / "out").read_text())
    fill(chosen, "high")  # while it runs the other does not begin again
    lines = (tmp_path / "out").read_text().splitlines()
    assert [line for line in lines if not line.startswith("slurmstepd")] == ["ready", *expected]
