"""What Slurm's commands print, and what we make of it. The texts are those of Slurm 22.05.8 as recorded on the development cluster."""

import os
from pathlib import Path

import pytest
from made_up_slurm import MadeUpSlurm

from harness import slurm
from harness.slurm import Element, QueueFull, Refused, Unanswered

ARRAY = "h-0123456789ab-000"
QUEUE = "\n".join([
    "35|0|CANCELLED|n1|0:01|None|sbatch",
    "45|3|PENDING||0:00|JobArrayTaskLimit|h-0123456789ab-000",
    "44|N/A|PENDING||0:00|JobHeldUser|\x1b[31mred",
    "43|N/A|PENDING||0:00|JobHeldUser|größe 数",
    "42|N/A|PENDING||0:00|JobHeldUser|%j; touch pwned; $(touch pwned)",
    "41|N/A|PENDING||0:00|JobHeldUser| blank ",
    "40|N/A|PENDING||0:00|JobHeldUser|two",
    "lines|x|RUNNING|n1|0:00|None|h-evil-000",  # the second line of that name
    "39|N/A|PENDING||0:00|JobHeldUser|a|b|c",
    "45|0|RUNNING|n1|0:02|None|h-0123456789ab-000",
    "45|1|SUSPENDED|n1|0:02|None|h-0123456789ab-000",
    "45|2|PENDING||0:00|job requeued in held state|h-0123456789ab-000", ""])


def test_a_queue_with_hostile_names() -> None:
    queue = slurm.parse_queue(QUEUE)
    assert {place: (element.job_id, element.state) for place, element in queue.jobs[ARRAY].items()} == {
        0: ("45_0", "RUNNING"), 1: ("45_1", "SUSPENDED"), 2: ("45_2", "PENDING"), 3: ("45_3", "PENDING")}
    assert queue.find(ARRAY, 0) == Element(job_id="45_0", name=ARRAY, place=0, state="RUNNING", reason="None", nodes="n1", used="0:02")
    assert queue.find(ARRAY, 2) == Element(job_id="45_2", name=ARRAY, place=2, state="PENDING", reason="job requeued in held state",
                                           used="0:00")
    assert queue.find(ARRAY, 4) is None and queue.find("h-0123456789ab-001", 0) is None
    assert {name for name in queue.jobs if not name.startswith("h-")} == {
        "sbatch", "\x1b[31mred", "größe 数", "%j; touch pwned; $(touch pwned)", "blank", "two", "a|b|c"}
    assert "h-evil-000" not in queue.jobs, "part of a job's name is no job"
    assert queue.jobs["a|b|c"][0].job_id == "39"  # no array: the number alone
    assert queue.count() == 10  # all but the cancelled one


@pytest.mark.parametrize("line", ["", "\n\n", "nonsense", "|||||", "1|2|RUNNING|n1|0:00|None", "slurm_load_jobs error: bad|a|b|c|d|e|f",
                                  "1|0||n1|0:00|None|x", "🙂|0|RUNNING|n1|0:00|None|x"])
def test_a_line_that_cannot_be_read_is_passed_over(line: str) -> None:
    queue = slurm.parse_queue(f"{line}\n7|0|RUNNING|n1|0:00|None|mine\n{line}\n")
    assert queue.count() == 1 and [e.job_id for places in queue.jobs.values() for e in places.values()] == ["7_0"]


@pytest.mark.parametrize("past, present", [("CANCELLED", "PENDING"), ("NODE_FAIL", "RUNNING"), ("PREEMPTED", "COMPLETING")])
def test_an_element_that_was_requeued_and_is_listed_twice_is_alive(past: str, present: str) -> None:
    lines = [f"45|0|{past}|n1|0:09|None|{ARRAY}", f"45|0|{present}|n2|0:01|None|{ARRAY}"]
    for order in (lines, lines[::-1]):
        element = slurm.parse_queue("\n".join(order)).find(ARRAY, 0)
        assert element and element.state == present and not element.ended


def test_a_batch_that_was_submitted_twice_does_not_hide_the_living_one() -> None:
    text = f"46|0|PENDING||0:00|Priority|{ARRAY}\n45|0|CANCELLED|n1|0:01|None|{ARRAY}\n"
    element = slurm.parse_queue(text).find(ARRAY, 0)
    assert element and element.job_id == "46_0"


@pytest.mark.parametrize("state, ended", [
    ("RUNNING", False), ("PENDING", False), ("SUSPENDED", False), ("COMPLETING", False), ("CONFIGURING", False), ("REQUEUED", False),
    ("REQUEUE_HOLD", False), ("SPECIAL_EXIT", False), ("SIGNALING", False), ("STOPPED", False), ("STAGE_OUT", False), ("RESIZING", False),
    ("BRAND_NEW_STATE", False), ("COMPLETED", True), ("FAILED", True), ("TIMEOUT", True), ("CANCELLED", True), ("CANCELLED by 1000", True),
    ("NODE_FAIL", True), ("PREEMPTED", True), ("OUT_OF_MEMORY", True), ("BOOT_FAIL", True), ("DEADLINE", True), ("REVOKED", True)])
def test_only_what_is_known_to_be_the_end_is_the_end(state: str, ended: bool) -> None:
    queue = slurm.parse_queue(f"7|0|{state}|n1|0:00|None|{ARRAY}\n")
    element = queue.find(ARRAY, 0)
    assert element and element.ended is ended and queue.count() == (not ended)


def test_every_end_but_a_good_one_has_a_cause() -> None:
    assert set(slurm.CAUSES) == slurm.FINAL - {"COMPLETED"}


def test_what_is_shown_cannot_drive_a_terminal() -> None:
    element = slurm.parse_queue("7|0|PENDING|n\x1b[2J|0:00|held by \x07 admin|x\n").jobs["x"][0]
    assert element.reason.isprintable() and element.nodes.isprintable()


# ------------------------------------------------------------------------------------------------- programs in place of Slurm's commands

@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MadeUpSlurm:
    return MadeUpSlurm(tmp_path, monkeypatch)


def test_states_of_the_accounting(made_up: MadeUpSlurm) -> None:
    made_up.says("sacct", "45_2|RUNNING\n45_3|CANCELLED by 0\n45_0|TIMEOUT\n45_1|PENDING\n45_[4-7%2]|CANCELLED by 0\n"
                          "46|NODE_FAIL\n45_8|REQUEUED\n45_9|NEW_STATE\nnonsense\n|\n")
    assert slurm.accounting(["45_0", "45_1", "45_2", "46"]) == {"45_0": "TIMEOUT", "46": "NODE_FAIL"}
    assert slurm.accounting(["45_3"]) == {"45_3": "CANCELLED"}
    assert "--jobs=45,46" in made_up.calls("sacct")[0]


def test_many_jobs_are_asked_for_in_pieces_and_nobody_is_asked_for_none(made_up: MadeUpSlurm) -> None:
    made_up.says("sacct")
    assert slurm.accounting([]) == {} and not made_up.calls("sacct")
    assert slurm.accounting(f"7_{n}" for n in range(1200)) == {} and len(made_up.calls("sacct")) == 1  # one question for an array
    assert slurm.accounting(f"{n}_0" for n in range(1200)) == {} and len(made_up.calls("sacct")) == 4


def test_runs_of_a_job_that_was_requeued(made_up: MadeUpSlurm) -> None:
    made_up.says("sacct", "REQUEUED\nNODE_FAIL\nCANCELLED by 0\nRUNNING\n")
    assert slurm.history("45_0") == ["REQUEUED", "NODE_FAIL", "CANCELLED", "RUNNING"]


@pytest.mark.parametrize("name, complaint, status, why", [
    ("squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n", 1,
     "Unable to contact slurm controller (connect failure)"),
    ("squeue", "slurm_load_jobs error: Socket timed out on send/recv operation\n", 1, "Socket timed out on send/recv operation"),
    ("squeue", "", 1, "squeue ended with 1"), ("squeue", "", 137, "squeue ended with 137"),
    ("sacct", "sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection to host:127.0.0.1:17051: "
              "Connection refused\nsacct: error: Sending PersistInit msg: Connection refused\n", 1,
     "slurm_persist_conn_open_without_init: failed to open persistent connection to host:127.0.0.1:17051: Connection refused"),
])
def test_no_answer_is_not_an_empty_answer(name: str, complaint: str, status: int, why: str, made_up: MadeUpSlurm) -> None:
    made_up.says(name, complaint=complaint, status=status)
    with pytest.raises(Unanswered) as caught:
        slurm.queue() if name == "squeue" else slurm.accounting(["7_0"])
    assert str(caught.value) == why


def test_commands_that_are_not_there(made_up: MadeUpSlurm) -> None:
    assert not slurm.available() and not slurm.has_accounting({})
    with pytest.raises(Unanswered, match="squeue: .*No such file"):
        slurm.queue()
    assert slurm.requeue("7") is False and slurm.most_jobs() == 0


def test_one_that_never_answers(made_up: MadeUpSlurm) -> None:
    made_up.runs("squeue", "exec /bin/sleep 600")
    with pytest.raises(Unanswered, match="timed out"):
        slurm.ask("squeue", timeout_s=0.2)


def test_bytes_that_are_no_text(made_up: MadeUpSlurm) -> None:
    made_up.says("squeue", b"7|0|RUNNING|n1|0:00|None|gr\xf6\xdfe\n")
    assert slurm.queue().count() == 1


def test_settings_of_the_controller(made_up: MadeUpSlurm) -> None:
    made_up.says("scontrol", "Configuration data as of 2026-11-21T09:20:58\nAccountingStorageType   = accounting_storage/slurmdbd\n"
                             "MaxArraySize            = 51\nSlurmctldParameters     = a=b,c\nHealthCheckProgram      = (null)\n\n"
                             "Slurmctld(primary) at localhost is UP\n")
    found = slurm.configuration()
    assert found["MaxArraySize"] == "51" and found["SlurmctldParameters"] == "a=b,c"


@pytest.mark.parametrize("storage, accounted", [("accounting_storage/slurmdbd", True), ("accounting_storage/none", False), (None, True)])
def test_whether_there_is_an_accounting(storage: str | None, accounted: bool, made_up: MadeUpSlurm) -> None:
    config = {"AccountingStorageType": storage} if storage else {}
    assert not slurm.has_accounting(config)
    made_up.says("sacct")
    assert slurm.has_accounting(config) is accounted


@pytest.mark.parametrize("says, most", [("\n", 0), ("3\n", 3), ("\n3\n10\n", 10), ("unlimited\n", 0)])
def test_how_many_jobs_a_user_may_have(says: str, most: int, made_up: MadeUpSlurm) -> None:
    made_up.says("sacctmgr", says)
    assert slurm.most_jobs() == most


def test_many_jobs_are_cancelled_at_once(made_up: MadeUpSlurm) -> None:
    made_up.says("scancel")
    slurm.cancel([])
    assert not made_up.calls("scancel")
    slurm.cancel([f"7_{n}" for n in range(700)], "--signal=TERM", "--batch")
    first, second = made_up.calls("scancel")
    assert first.startswith("--signal=TERM --batch 7_0 7_1 ") and second.endswith(" 7_699") and len(second.split()) == 202


def test_hosts_of_a_list(made_up: MadeUpSlurm) -> None:
    made_up.says("scontrol", "n1\nn2\n")
    assert slurm.hosts("n[1-2]") == ["n1", "n2"] and made_up.calls("scontrol") == ["show hostnames n[1-2]"]


# ----------------------------------------------------------------------------------------------------------------- what sbatch refused

FAILED = "sbatch: error: Batch job submission failed: "
POLICY = f"{FAILED}Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)\n"


@pytest.mark.parametrize("said, kind, text", [
    # it may have been submitted all the same, or the controller is not there
    (f"{FAILED}Socket timed out on send/recv operation\n", Unanswered, "Socket timed out"),
    (f"{FAILED}Unable to contact slurm controller (connect failure)\n", Unanswered, "Unable to contact"),
    (f"sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n{FAILED}Resource temporarily unavailable\n",
     Unanswered, "temporarily"),
    (f"{FAILED}Zero Bytes were transmitted or received\n", Unanswered, "Zero Bytes"),
    (f"{FAILED}Slurm backup controller in standby mode\n", Unanswered, "standby"),
    ("", Unanswered, "sbatch was killed"), ("\n \n", Unanswered, "sbatch was killed"),
    ("Job got killed for an unknown reason.", Unanswered, "unknown reason"),  # submitit's
    ('Could not make sense of sbatch output "Welcome"\nJob instance will not be able to fetch status', Unanswered, "Could not make sense"),
    # the user may not have more jobs just now
    (f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{POLICY}", QueueFull, "QOSMaxSubmitJobPerUserLimit"),
    (f"sbatch: error: AssocMaxSubmitJobLimit\n{POLICY}", QueueFull, "AssocMaxSubmitJobLimit"),
    (f"sbatch: error: MaxSubmitJobsPerAccount\n{POLICY}", QueueFull, "MaxSubmitJobsPerAccount"),
    (f"sbatch: error: QOSGrpSubmitJobsLimit\n{POLICY}", QueueFull, "QOSGrpSubmitJobsLimit"),
    (f"sbatch: error: AssocGrpSubmitJobsLimit\n{POLICY}", QueueFull, "AssocGrpSubmitJobsLimit"),
    # never; the last line of the first two is that of a full queue
    (f"sbatch: error: QOSMaxWallDurationPerJobLimit\n{POLICY}", Refused, "QOSMaxWallDurationPerJobLimit"),
    (f"sbatch: error: QOSMaxCpuPerUserLimit\n{POLICY}", Refused, "QOSMaxCpuPerUserLimit"),
    (POLICY, Refused, "Job violates accounting/QOS policy"),
    (f"sbatch: error: invalid partition specified: nowhere\n{FAILED}Invalid partition name specified\n",
     Refused, "invalid partition specified: nowhere"),
    (f"{FAILED}Invalid job array specification\n", Refused, "Invalid job array specification"),
    (f"{FAILED}Requested node configuration is not available\n", Refused, "node configuration"),
    (f"{FAILED}Invalid feature specification\n", Refused, "Invalid feature"),
    (f"{FAILED}Requested reservation is invalid\n", Refused, "reservation"),
    (f"{FAILED}Invalid account or account/partition combination specified\n", Refused, "account"),
    (f"{FAILED}Invalid qos specification\n", Refused, "qos"),
    (f"sbatch: error: Memory specification can not be satisfied\n{FAILED}Requested node configuration is not available\n", Refused,
     "Memory specification"),
    (f"{FAILED}Invalid generic resource (gres) specification\n", Refused, "gres"),
    ("Unmatched `'`\n", Refused, "Unmatched"),
])
def test_what_a_failed_submission_means(said: str, kind: type[Exception], text: str) -> None:
    error = slurm.submission_error(said)
    assert type(error) is kind and text in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("text, first", [
    (f"{FAILED}no\n", "Batch job submission failed: no"), ("sbatch: error: x", "x"),
    ("\n \n  squeue: error: x\n y", "x"), ("slurm_load_ctl_conf error: x", "x"), ("slurm_load_jobs error: x", "x"), ("error: x", "x"),
    ("sacctmgr: error: x", "x"), ("scancel: error: Kill job error on job id 45: x", "Kill job error on job id 45: x"),
    ("Unexpected message received for job 45_0", "Unexpected message received for job 45_0"), ("sbatch: fatal: x", "fatal: x"),
    ("", ""), ("\n\n", ""), ("\x1b[31mred\x07", "\ufffd[31mred\ufffd"), ("x" * 999, "x" * 300)])
def test_the_line_that_is_shown(text: str, first: str) -> None:
    assert slurm.first_line(text) == first


# --------------------------------------------------------------------------------------------------------------- what a job inherits

def test_a_job_inherits_neither_an_outer_job_nor_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        monkeypatch.delenv(name)
    kept = {"HOME": "/home/me", "PATH": "/bin", "SLURM_CONF": "/etc/slurm/slurm.conf", "HARNESS_DATA": "/data", "OMP_NUM_THREADS": "2",
            "MODULEPATH": "/modules", "RANKING": "1", "LC_ALL": "C.UTF-8"}
    left_out = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1", "SLURMD_NODENAME": "n1", "SBATCH_PARTITION": "p", "SRUN_DEBUG": "1",
                "SQUEUE_FORMAT": "%i", "SACCT_FORMAT": "JobID", "SUBMITIT_EXECUTOR": "slurm", "MASTER_ADDR": "n1", "RANK": "0",
                "WORLD_SIZE": "2", "LOCAL_RANK": "0", "WANDB_API_KEY": "x", "GITHUB_TOKEN": "x", "AWS_SECRET_ACCESS_KEY": "x",
                "MY_PASSWORD": "x", "my_credentials": "x", "SSH_AUTH_SOCK": "/tmp/agent"}
    for name, value in {**kept, **left_out}.items():
        monkeypatch.setenv(name, value)
    assert slurm.environment() == kept


def test_a_command_does_not_obey_the_users_formats(made_up: MadeUpSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up.runs("squeue", 'echo "7|0|RUNNING|n1|0:00|None|x${SQUEUE_FORMAT}${SQUEUE_STATES}"')
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    monkeypatch.setenv("SQUEUE_STATES", "running")
    assert list(slurm.queue().jobs) == ["x"]


@pytest.mark.parametrize("environment, job", [
    ({}, ""), ({"SLURM_JOB_ID": "9"}, "9"), ({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "4"}, "7_4")])
def test_the_job_we_run_in(environment: dict[str, str], job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert slurm.this_job() == job
