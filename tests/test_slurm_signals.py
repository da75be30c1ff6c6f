"""Signals, requeue and deaths on a real Slurm: a trial goes on where it was, and nobody can tell from the tables.

Waiting is most of what these tests do: Slurm looks at time limits and at times of grace every half minute. So each part of the module has
a fixture in which several studies meet their fate at once, and its tests look at what came of them.
"""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from held_studies import HeldStudy, Tables, check_no_step_was_lost, check_went_on, children, environment, write_study
from launching import Bench
from slurm_fixture import Cluster, job, restore, sbatch, temporary_cluster, until, wait_for_state
from slurm_studies import SlurmBench

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Tables:
    """(trials, ranks) -> the tables of a study that nothing happened to, run without Slurm."""
    studies = {}
    for seeds, ranks in ((1, 1), (1, 2), (4, 1)):
        bench = Bench(tmp_path_factory.mktemp("undisturbed"), data)
        write_study(bench, seeds=seeds, sections=f"[local]\nranks = {ranks}\nrunning = 2\n")
        (bench.folder / "go").touch()
        studies[seeds, ranks] = bench, bench.start()
    for _, launcher in studies.values():
        said, _ = launcher.communicate(timeout=240)
        assert launcher.returncode == 0, said
    return {which: bench.tables() for which, (bench, _) in studies.items()}


# ------------------------------------------------------------------------------------------- faults, and the limit of time meanwhile


class Faults:
    """Two studies whose trial is longer than its job may be, and one whose trial does not listen; four trials in one study, to each of
    which something else happens; a trial on two nodes that loses a rank."""

    def __init__(self, cluster: Cluster, folder: Path, data: Path):
        self.limited = HeldStudy(folder / "limited", cluster, data, slurm="time_min = 1")
        self.limited_two = HeldStudy(folder / "limited_two", cluster, data, slurm="time_min = 1\nnodes = 2")
        self.deaf = SlurmBench(folder / "deaf", cluster).toy(epochs=1, pause=600).add("[slurm]\ntime_min = 1\n[retry]\ntime_limit = 0")
        deaf = self.deaf.start()
        self.four = HeldStudy(folder / "four", cluster, data, seeds=4)
        self.harm_four(cluster)
        self.two = HeldStudy(folder / "two", cluster, data, slurm="nodes = 2")
        self.four.end()
        self.start_again(cluster)
        self.two.wait_for_progress()
        os.kill(next(pid for pid in self.two.processes() if environment(pid).get("SLURM_PROCID") == "1"), signal.SIGKILL)
        for study in (self.two, self.limited, self.limited_two):
            study.end()
        self.said_of_deaf, _ = deaf.communicate(timeout=240)
        self.status_of_deaf = deaf.returncode

    def harm_four(self, cluster: Cluster) -> None:
        """An administrator's requeue, a worker killed, a rank killed, a storm of signals to all processes."""
        four = self.four
        four.wait_for_progress()
        workers = {claim["job_id"]: claim["pid"] for claim in four.claims()}
        cluster.run("scontrol", "requeue", four.job(0))
        os.kill(workers[four.job(1)], signal.SIGKILL)
        os.kill(children(workers[four.job(2)])[0], signal.SIGKILL)
        self.signalled_at = time.time()
        storm = ["scancel", "--signal=USR2", "--full", four.job(3)]
        for each in [subprocess.Popen(storm, env=cluster.environment()) for _ in range(5)]:  # at once: none is to meet the second attempt
            each.wait()
        four.wait_until("a second attempt at every trial", "trials/*/a001.jsonl")

    def start_again(self, cluster: Cluster) -> None:
        """Slurm starts a job once more whose trial is finished."""
        self.finished_job = str(self.four.events(1)[1][0]["job_id"])
        self.before = self.files()
        cluster.run("scontrol", "requeue", self.finished_job)
        until("the finished job to run again", lambda: job(cluster, self.finished_job)["Restarts"] == "1")
        self.again = wait_for_state(cluster, self.finished_job, "COMPLETED", "FAILED")

    def files(self) -> dict[str, tuple[float, bytes]]:
        """All that there is of the trial whose job is started again."""
        folder = self.four.store.trial_folder(self.four.trial(1))
        return {path.name: (path.stat().st_mtime, path.read_bytes()) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def faults(shared_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, data: Path) -> Faults:
    """What is under way while Slurm looks for jobs that have come to their limit."""
    restore(shared_cluster)
    return Faults(shared_cluster, tmp_path_factory.mktemp("faults"), data)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_trial_longer_than_its_job_goes_on(faults: Faults, undisturbed: Tables, ranks: int) -> None:
    """The worker puts its own job back into the queue, once for each limit."""
    study = faults.limited if ranks == 1 else faults.limited_two
    *before, last = study.causes()
    assert before and set(before) == {"time_limit"} and last == "done"
    assert study.restarts == [len(before)]
    assert len({row["worker"] for row in study.attempts()}) == 1
    check_no_step_was_lost(study)
    assert study.tables() == undisturbed[1, ranks]


def test_a_trial_that_does_not_listen_is_given_up_at_the_limit(faults: Faults) -> None:
    """Slurm kills it without a word of its worker, and says why. It has got nowhere, so it is not tried again."""
    assert faults.status_of_deaf == 1, faults.said_of_deaf
    (row,) = pq.read_table(faults.deaf.store.table_file("attempts")).to_pylist()
    (trial,) = pq.read_table(faults.deaf.store.table_file("trials")).to_pylist()
    assert (row["cause"], trial["status"]) == ("time_limit", "failed")


def test_faults_do_not_show_in_the_tables(faults: Faults, undisturbed: Tables) -> None:
    assert faults.four.tables() == undisturbed[4, 1]
    assert faults.two.tables() == undisturbed[1, 2]


def test_an_administrator_requeues_a_running_job(faults: Faults) -> None:
    study = faults.four
    assert study.causes(0) == ["interrupted", "done"]
    assert study.restarts[0] == 1
    check_no_step_was_lost(study, 0)


def test_a_killed_worker_takes_its_trial_along_and_is_replaced(faults: Faults) -> None:
    study = faults.four
    assert study.causes(1) == ["killed", "done"]
    check_went_on(study, 1)
    first, second = (row["worker"] for row in study.attempts(1))
    assert first == "000-1" and second.startswith("001-")


def test_a_killed_rank_is_told_of_by_its_worker(faults: Faults) -> None:
    study = faults.four
    assert study.causes(2) == ["killed", "done"]
    assert "rank 0: signal SIGKILL" in study.attempts(2)[0]["error"]
    check_went_on(study, 2)


def test_a_killed_rank_on_another_node_ends_the_step(faults: Faults) -> None:
    """Without srun --kill-on-bad-exit the other rank would wait for half an hour."""
    study = faults.two
    assert study.causes() == ["killed", "done"]
    check_went_on(study)


def test_signals_to_all_processes_make_one_checkpoint(faults: Faults) -> None:
    """Five signals to the worker, the rank and the rank's child: one checkpoint, one end, one requeue."""
    study = faults.four
    assert study.causes(3) == ["preempted", "done"]
    assert study.restarts[3] == 1
    written = [event for event in study.events(3)[0] if event["event"] == "checkpoint" and event["time"] > faults.signalled_at]
    assert 1 <= len(written) <= 2  # the second: one that was due when the signals came
    check_no_step_was_lost(study, 3)


def test_a_finished_job_that_is_started_again_changes_nothing(faults: Faults) -> None:
    assert faults.again["JobState"] == "COMPLETED"
    assert faults.files() == faults.before


def test_nothing_is_left_on_the_nodes(faults: Faults) -> None:
    """Neither by jobs that ended by themselves nor by those that were killed."""
    for study in (faults.limited, faults.limited_two, faults.four, faults.two):
        until(f"the end of all processes of {study.store.root}", lambda study=study: not study.processes(), timeout_s=60)


# ---------------------------------------------------------------------------------------------------------------------- preemption


class Preempted:
    """Trials in preemptible partitions, one of them on two nodes, all taken away at once by a job of higher rank."""

    def __init__(self, cluster: Cluster, folder: Path, data: Path):
        self.cluster = cluster
        self.low = HeldStudy(folder / "low", cluster, data, partition="low")
        self.low_two = HeldStudy(folder / "low_two", cluster, data, partition="low", slurm="nodes = 2")
        self.cancel = HeldStudy(folder / "cancel", cluster, data, partition="cancel")
        self.studies = (self.low, self.low_two, self.cancel)

    def preempt(self) -> None:
        """Takes both nodes away, for a second."""
        for study in self.studies:
            study.wait_for_progress()
        sbatch(self.cluster, "--partition=high", "--nodes=2", "--exclusive", script="sleep 1")

    def end(self) -> None:
        """Waits until the trials have come to their end all the same."""
        for study in self.studies:
            study.end()


@pytest.fixture(scope="module")
def preemptions(shared_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, Preempted]:
    """"default": as most sites have it, the batch shell hears SIGTERM when the time of grace is over, the tasks of a step when it begins.
    "signalled": with SlurmctldParameters=preempt_send_user_signal, the worker hears the signal it has asked for when it begins."""
    restore(shared_cluster)
    with temporary_cluster(preempt_signal=True) as other:
        scenes = {name: Preempted(cluster, tmp_path_factory.mktemp(name), data)
                  for name, cluster in (("default", shared_cluster), ("signalled", other))}
        for scene in scenes.values():
            scene.preempt()
        for scene in scenes.values():
            scene.end()
    return scenes


@pytest.mark.parametrize("which", ["default", "signalled"])
def test_a_preempted_trial_is_requeued_once_and_goes_on(preemptions: dict[str, Preempted], undisturbed: Tables, which: str) -> None:
    scene = preemptions[which]
    for study, ranks in ((scene.low, 1), (scene.low_two, 2)):
        assert study.causes() == ["preempted", "done"]
        assert study.restarts == [1]
        assert len({row["job_id"] for row in study.attempts()}) == 1
        check_no_step_was_lost(study)
        assert study.tables() == undisturbed[1, ranks]


def test_a_trial_whose_job_slurm_cancels_for_another_is_submitted_anew(preemptions: dict[str, Preempted], undisturbed: Tables) -> None:
    study = preemptions["default"].cancel
    assert study.causes() == ["preempted", "done"]
    assert [row["worker"] for row in study.attempts()] == ["000-0", "001-0"]
    check_no_step_was_lost(study)
    assert study.tables() == undisturbed[1, 1]


def test_a_trial_told_in_time_puts_itself_back_where_slurm_would_cancel(preemptions: dict[str, Preempted], undisturbed: Tables) -> None:
    study = preemptions["signalled"].cancel
    assert study.causes() == ["preempted", "done"]
    assert study.restarts == [1]
    check_no_step_was_lost(study)
    assert study.tables() == undisturbed[1, 1]


# -------------------------------------------------------------------------------------------------------------------- dead nodes


class DeadNodes:
    """A node that loses its power, and one that cannot be reached any more while its job trains on. The job of the second is started
    again on the first, so that for a while two copies of a trial run."""

    def __init__(self, cluster: Cluster, folder: Path, data: Path):
        self.cut_off = HeldStudy(folder / "cut_off", cluster, data)
        self.cut_off.wait_until("its start", "trials/*/a000.log")
        node = job(cluster, self.cut_off.job())["NodeList"]
        other = "n2" if node == "n1" else "n1"
        self.crashed = HeldStudy(folder / "crashed", cluster, data, site=f'exclude = "{node}"')
        for study in (self.cut_off, self.crashed):
            study.wait_for_progress()
        cluster.send(node, "kill")
        cluster.crash(other)
        until("both nodes to be given up", lambda: all("down" in state for state in cluster.node_states().values()))
        cluster.start(other)
        self.cut_off.wait_until("a second attempt", "trials/*/a001.jsonl")
        self.nodes = {environment(pid).get("SLURMD_NODENAME") for pid in self.cut_off.processes()}
        self.cut_off.let_go()
        for study in (self.crashed, self.cut_off):
            study.end()
        until("the end of the copy that was cut off", lambda: not self.cut_off.processes())


@pytest.fixture(scope="module")
def dead_nodes(shared_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, data: Path) -> DeadNodes:
    """Slurm gives a node up after 20 s here."""
    restore(shared_cluster)
    return DeadNodes(shared_cluster, tmp_path_factory.mktemp("dead_nodes"), data)


def test_a_trial_goes_on_after_its_node_has_failed(dead_nodes: DeadNodes, undisturbed: Tables) -> None:
    study = dead_nodes.crashed
    assert study.causes() == ["node_failure", "done"]
    check_went_on(study)
    assert study.tables() == undisturbed[1, 1]


def test_a_copy_that_was_cut_off_writes_nothing_more(dead_nodes: DeadNodes, undisturbed: Tables) -> None:
    study = dead_nodes.cut_off
    assert dead_nodes.nodes >= {"n1", "n2"}  # both copies were there at the same time
    assert study.causes() == ["superseded", "done"]
    first, second = study.events()
    begun = second[0]["time"]
    *written, end = [event["event"] for event in first if event["time"] > begun and event["event"] != "epoch"]
    assert end == "end" and len(written) <= 1  # a checkpoint that was being written at that moment
    assert study.tables() == undisturbed[1, 1]


# --------------------------------------------------------------------------------------------------------------- the first moment


def test_a_warning_before_python_listens_is_not_its_end(cluster: Cluster, tmp_path: Path) -> None:
    """It comes while the profile's setup runs; SIGUSR1 and SIGUSR2 would end a shell."""
    setup = [f"touch {tmp_path}/setup", f"until [ -e {tmp_path}/told ]; do sleep 0.1; done", "sleep 2"]  # so long may signals take
    study = SlurmBench(tmp_path, cluster).toy().site(f"setup = {setup}")
    launcher = study.hand_in()
    until("the setup", (tmp_path / "setup").exists)
    for name in ("USR1", "USR2"):
        assert cluster.run("scancel", "--batch", f"--signal={name}", str(study.store.batches()[0].job_id)).returncode == 0
    (tmp_path / "told").touch()
    said, _ = launcher.communicate(timeout=240)
    assert (launcher.returncode, study.attempts(), len(study.store.batches())) == (0, 1, 1), said


def test_warnings_from_the_first_moment_on(cluster: Cluster, tmp_path: Path) -> None:
    """Wherever in its start the worker is when one comes, the trial is trained once."""
    study = SlurmBench(tmp_path, cluster).toy(epochs=20, pause=0.1)
    launcher = study.hand_in()
    shell = until("the job's shell", lambda: [int(process.name) for process in Path("/proc").glob("[0-9]*")
                                              if environment(int(process.name)).get("SLURM_JOB_NAME") == f"{study.prefix}000"])[0]
    with contextlib.suppress(ProcessLookupError):
        while not list(study.store.root.glob("trials/*/a000.jsonl")):
            os.kill(shell, signal.SIGUSR2)  # scancel would wait for seconds while the job is in transition
            time.sleep(0.02)
        os.kill(shell, signal.SIGUSR2)
    said, _ = launcher.communicate(timeout=240)
    assert launcher.returncode == 0, said
    assert job(cluster, str(study.store.batches()[0].job_id))["Restarts"] == "1"
    assert study.epochs() == 20


def test_a_job_that_is_ended_while_it_sets_up_is_no_launch_failure(cluster: Cluster, tmp_path: Path) -> None:
    study = SlurmBench(tmp_path, cluster).toy().site(f'setup = ["[ -e $TOY_MENDED ] || {{ touch {tmp_path}/$SLURM_JOB_ID; sleep 600; }}"]')
    study.add("[retry]\nlaunch_failure = 0")
    launcher = study.hand_in()
    number = study.store.batches()[0].job_id
    until("the setup", (tmp_path / f"{number}").exists)
    study.mended.touch()
    cluster.run("scancel", f"{number}")
    said, _ = launcher.communicate(timeout=240)
    assert (launcher.returncode, study.attempts(), len(study.store.batches())) == (0, 1, 2), said
