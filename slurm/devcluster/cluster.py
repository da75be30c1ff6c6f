#!/usr/bin/env python3
"""A real Slurm on one machine: a controller, two nodes of four CPUs and two pretended GPUs each, and accounting.

    slurm/devcluster/up                        half a minute the first time (it installs packages), then three seconds
    export SLURM_CONF=/var/tmp/harness-devcluster/etc/slurm.conf
    slurm/devcluster/status
    slurm/devcluster/down                      every process and file is gone; the packages stay

Everything lies in one folder (`--folder`, $HARNESS_DEVCLUSTER or /var/tmp/harness-devcluster) with a munge key, a database and ports of its
own, so that several clusters can live side by side, and next to a Slurm that the machine belongs to. The only thing outside is a line in
/etc/hosts that gives the nodes' names an address. `up` goes on where an earlier one was stopped, and after a reboot.

For tests: `cluster.py kill|stop|start|restart|freeze|thaw DAEMON`, and `cluster.py crash n1`: the daemon and all that runs on its node.
Needs root and nothing beyond the standard library. Exit status: 0 done (`status`: all is well), 1 not, 2 bad usage.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from machine import ADMIN_PATH, ClusterError, environment_of, free_ports, install_packages, resolve, set_hosts_line, wait_for, write

TEMPLATES = Path(__file__).resolve().parent / "templates"
DEFAULT_FOLDER = "/var/tmp/harness-devcluster"
NODES = ("n1", "n2")
DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld", *NODES)  # in the order in which they start
SECRET = ("slurmdbd.conf", "grant.sql")  # with the database's password; slurmdbd insists on it
ACCOUNTING = ("mariadbd", "slurmdbd")
PROGRAMS = {name: "slurmd" if name in NODES else name for name in DAEMONS}
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGTERM, "freeze": signal.SIGSTOP, "thaw": signal.SIGCONT}
PACKAGES = {"slurmctld": "slurm-wlm", "munged": "munge", "mariadbd": "mariadb-server", "slurmdbd": "slurmdbd"}  # a program of each
DEFAULTS: dict[str, bool | int] = {"accounting": True, "preempt_signal": False, "max_array_size": 51}


class Cluster:
    """The cluster in `folder`, running or not. Every method may be called again, and after any other was killed half-way."""

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = Path(folder or os.environ.get("HARNESS_DEVCLUSTER") or DEFAULT_FOLDER)
        if not re.fullmatch(r"/[A-Za-z0-9_./-]{1,60}", str(self.folder)) or ".." in self.folder.parts or len(self.folder.parts) < 3:
            raise ClusterError(f"The folder {str(self.folder)!r} cannot be used: Slurm's files and sockets need an absolute path of at "
                               "most 60 letters, digits, `_`, `.` and `-`. Choose another with --folder or $HARNESS_DEVCLUSTER.")
        self.slurm_conf = self.folder / "etc" / "slurm.conf"
        self.record = self.folder / "cluster.json"
        self.hosts_line = f"127.0.0.1 {' '.join(NODES)} # {self.folder} (slurm/devcluster)\n"

    # --------------------------------------------------------------------------------------------------- what is recorded

    def settings(self) -> dict[str, Any]:
        """Options and ports, as `up` chose them. Raises ClusterError when there is no cluster."""
        try:
            settings: dict[str, Any] = json.loads(self.record.read_text())
        except FileNotFoundError:
            raise ClusterError(f"There is no cluster in {self.folder}. slurm/devcluster/up makes one.") from None
        except ValueError:
            raise ClusterError(f"{self.record} cannot be read. slurm/devcluster/down removes what is there.") from None
        return settings

    def daemons(self) -> tuple[str, ...]:
        """Names of the daemons that this cluster has, in the order in which they start."""
        return DAEMONS if self.settings()["accounting"] else tuple(name for name in DAEMONS if name not in ACCOUNTING)

    def environment(self) -> dict[str, str]:
        """The environment of a user of this cluster: the caller's, without what an outer Slurm job left there."""
        return {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))} | {"SLURM_CONF": str(self.slurm_conf)}

    def run(self, *command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Runs one of Slurm's commands on this cluster. Its exit status is the caller's to judge."""
        return subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=timeout_s, check=False)

    # ----------------------------------------------------------------------------------------------------------- processes

    def mark(self, daemon: str) -> str:
        """What stands in the environment of a daemon and of nothing else on the machine."""
        return f"HARNESS_DEVCLUSTER_DAEMON={self.folder}:{daemon}"

    def pid(self, daemon: str) -> int | None:
        """The process of a daemon by its pid file; None when it is not there, dead, or by now another program's (after a reboot)."""
        try:
            pid = int((self.folder / "run" / f"{daemon}.pid").read_text())
            stat = Path(f"/proc/{pid}/stat").read_text()
            program, state = stat[stat.index("(") + 1 : stat.rindex(")")], stat[stat.rindex(")") + 2]
        except (OSError, ValueError):
            return None
        if program != PROGRAMS[daemon] or state in "ZX":
            return None
        try:
            return pid if self.mark(daemon) in environment_of(pid) else None
        except PermissionError:
            return pid  # someone other than root asks for the status
        except OSError:
            return None  # it has ended since

    def processes(self, *daemons: str) -> set[int]:
        """Process ids of these daemons; a node's are slurmd, the keepers of its steps (slurmstepd) and all that jobs started there."""
        files = {f"SLURM_CONF={self.folder}/etc/{name}" for name in ("slurm.conf", "daemons.conf")}
        places = {f"SLURMD_NODENAME={node}" for node in daemons}
        marks = {self.mark(daemon) for daemon in daemons}
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    environment = environment_of(int(entry.name))
                    if environment & marks or (environment & places and environment & files):
                        found.add(int(entry.name))
        return found

    def command(self, daemon: str) -> list[str]:
        """How a daemon is started, so that it goes into the background and writes its pid file."""
        run, log, settings = self.folder / "run", self.folder / "log", self.settings()
        conf = str(self.folder / "etc" / "daemons.conf" if settings["isolated"] else self.slurm_conf)
        if daemon == "munged":
            return ["munged", f"--key-file={self.folder}/munge.key", f"--socket={run}/munge.socket", f"--pid-file={run}/munged.pid",
                    f"--log-file={log}/munged.log", f"--seed-file={self.folder}/munge.seed", "--num-threads=4"]
        if daemon == "mariadbd":
            return ["setsid", "--fork", "mariadbd", "--no-defaults", "--user=root", f"--datadir={self.folder}/database",
                    f"--socket={run}/mariadbd.socket", f"--pid-file={run}/mariadbd.pid", f"--log-error={log}/mariadbd.log",
                    "--bind-address=127.0.0.1", f"--port={settings['ports']['mariadbd']}", "--skip-name-resolve",
                    f"--init-file={self.folder}/etc/grant.sql", "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0"]
        program = {"slurmdbd": ["slurmdbd"], "slurmctld": ["slurmctld", "-f", conf]}.get(daemon, ["slurmd", "-N", daemon, "-f", conf])
        if not settings["isolated"]:
            return program
        name = daemon if daemon in NODES else "localhost"  # a host name of its own: gethostname() on n1 says n1
        return ["unshare", "--uts", "sh", "-c", 'hostname "$1" && shift && exec "$@"', "sh", name, *program]

    def start(self, daemon: str) -> None:
        """Starts a daemon unless it runs, and waits until it answers."""
        if self.pid(daemon):
            return
        (self.folder / "run" / f"{daemon}.pid").unlink(missing_ok=True)
        if daemon == "mariadbd" and not (self.folder / "database" / "ready").exists():
            folder = self.folder / "database"
            shutil.rmtree(folder, ignore_errors=True)
            self.launch(daemon, ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={folder}", "--skip-test-db"])
            (folder / "ready").touch()
        self.launch(daemon, self.command(daemon))
        wait_for(f"The start of {PROGRAMS[daemon]} ({daemon})", lambda: self.pid(daemon) is not None and self.answers(daemon),
                 look=f"{self.folder}/log/{daemon}.log and {daemon}.start")
        (self.folder / "run" / f"{daemon}.pid").chmod(0o644)  # mariadbd's is for root only, and anyone may ask for the status

    def launch(self, daemon: str, command: list[str]) -> None:
        """Runs what starts a daemon, marked and with nothing of the caller's environment. Raises ClusterError when it fails."""
        name, _, value = self.mark(daemon).partition("=")
        environment = {"PATH": ADMIN_PATH, "HOME": "/root", "LANG": "C.UTF-8", "SLURM_CONF": str(self.slurm_conf), name: value,
                       "TMPDIR": str(self.folder / "run")}  # a database that starts removes from there what another is just using
        with (self.folder / "log" / f"{daemon}.start").open("ab") as output:
            done = subprocess.run(command, env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output, umask=0o022,
                                  timeout=120, check=False)
        if done.returncode:
            raise ClusterError(f"{PROGRAMS[daemon]} ({daemon}) could not be started. Look into {output.name} and {daemon}.log beside it.")

    def answers(self, daemon: str) -> bool:
        """Whether a daemon that lives also does its work."""
        if daemon == "munged":
            return (self.folder / "run" / "munge.socket").exists()
        if daemon == "mariadbd":
            return self.run("mariadb-admin", f"--socket={self.folder}/run/mariadbd.socket", "ping").returncode == 0
        if daemon == "slurmdbd":
            return self.run("sacctmgr", "-n", "list", "cluster").returncode == 0
        if daemon == "slurmctld":
            return self.run("scontrol", "ping").returncode == 0
        return True

    def send(self, daemon: str, how: str) -> None:
        """`kill`, `stop`, `freeze` or `thaw` a daemon; the first two wait until it is gone. Nothing happens to one that is not there."""
        pid = self.pid(daemon)
        if pid is None:
            return
        os.kill(pid, SIGNALS[how])
        if how == "stop":
            os.kill(pid, signal.SIGCONT)  # a frozen one does not notice that it should end
            with contextlib.suppress(ClusterError):
                wait_for("the end", lambda: self.pid(daemon) is None, timeout_s=30)
                return
            os.kill(pid, signal.SIGKILL)
        if how in ("kill", "stop"):
            wait_for(f"The end of {daemon}", lambda: self.pid(daemon) is None)

    def crash(self, *daemons: str) -> None:
        """What a power cut does: everything on these nodes is killed at once, the jobs too. Takes other daemons as well."""
        deadline = time.monotonic() + 10
        while (found := self.processes(*daemons)) and time.monotonic() < deadline:
            for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first: none of them sees another die, and tells the controller
                for pid in found:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
            time.sleep(0.05)

    # ------------------------------------------------------------------------------------------------------------- up, down

    def up(self, **options: bool | int | None) -> bool:
        """Makes the cluster, or starts what is missing of it. `options` are those of DEFAULTS; None or absent: as it is, or the default.

        False when it was up already. Raises ClusterError when it cannot be made, or is there with other options.
        """
        wanted = {name: value for name, value in options.items() if value is not None}
        if os.geteuid() != 0:
            raise ClusterError(f"Slurm's daemons run jobs as any user, so this needs root: sudo slurm/devcluster/up --folder {self.folder}")
        wanted_programs = [name for name in PACKAGES if name not in ACCOUNTING or wanted.get("accounting", True)]
        install_packages({name: PACKAGES[name] for name in wanted_programs})
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.locked():
            if any(self.folder.iterdir()) and not self.record.exists():
                raise ClusterError(f"{self.folder} holds something that is not a development cluster. Choose another with --folder.")
            if not self.record.exists():
                self.folder.chmod(0o755)  # other users read slurm.conf and talk to munge
                self.choose({**DEFAULTS, **wanted})
            settings = self.settings()
            if other := {name: settings[name] for name, value in wanted.items() if settings[name] != value}:
                raise ClusterError(f"The cluster in {self.folder} has other options ({other}). Run slurm/devcluster/down first.")
            missing = [daemon for daemon in self.daemons() if self.pid(daemon) is None]
            if missing:
                self.write_configuration()
            set_hosts_line(self.hosts_line, present=True)
            for node in NODES:
                resolve(node, "127.0.0.1")
            for daemon in self.daemons():
                if daemon == "slurmctld" and settings["accounting"] and not self.run("sacctmgr", "-n", "list", "cluster").stdout.strip():
                    self.run("sacctmgr", "-i", "add", "cluster", "devcluster")  # before the controller, which wants to know its resources
                self.start(daemon)
            self.resume_nodes()
            wait_for("That both nodes are ready", self.nodes_ready, look=f"{self.folder}/log")
            return bool(missing)

    def choose(self, options: dict[str, bool | int]) -> None:
        """Settles ports and whether the daemons can have host names of their own, and records them."""
        names = [daemon for daemon in DAEMONS if daemon != "munged"]
        isolated = subprocess.run(["unshare", "--uts", "hostname", "n1"], capture_output=True, check=False).returncode == 0
        settings = {**options, "isolated": isolated, "ports": free_ports(names)}
        aside = self.folder / "cluster.json.tmp"
        write(aside, json.dumps(settings, indent=1).encode(), mode=0o644)
        aside.replace(self.record)

    def write_configuration(self) -> None:
        """Folders, keys and Slurm's files, from the templates beside this module and the record."""
        for name in ("etc", "run", "log", "controller", "spool-n1", "spool-n2"):
            (self.folder / name).mkdir(exist_ok=True)
            (self.folder / name).chmod(0o755)
        settings = self.settings()
        key = self.folder / "munge.key"
        if not key.exists() or key.stat().st_size < 64:  # an `up` may have been killed here
            write(key, secrets.token_bytes(64), mode=0o600)
        password = hashlib.sha256(b"database" + key.read_bytes()).hexdigest()
        variants = ["AccountingStorageType=accounting_storage/none"]
        if settings["accounting"]:
            variants = ["AccountingStorageType=accounting_storage/slurmdbd", "AccountingStorageHost=127.0.0.1",
                        f"AccountingStoragePort={settings['ports']['slurmdbd']}", "AccountingStorageTRES=gres/gpu",
                        f"AccountingStoragePass={self.folder}/run/munge.socket"]  # for slurmdbd, AuthInfo does not name the munge to ask
        if settings["preempt_signal"]:
            variants.append("SlurmctldParameters=preempt_send_user_signal")
        here = socket.gethostname().partition(".")[0]
        apart = settings["isolated"]
        values = {f"{name}_port": str(port) for name, port in settings["ports"].items()} | {
            "folder": str(self.folder), "password": password, "max_array_size": str(settings["max_array_size"]),
            "controller": "localhost" if apart else here, "n1": "n1" if apart else here, "n2": "n2" if apart else here,
            "variants": "\n".join(variants), "listen": "CommunicationParameters=NoInAddrAny" if apart else ""}
        for template in TEMPLATES.iterdir():
            text = string.Template(template.read_text()).substitute(values)
            write(self.folder / "etc" / template.name, text.encode(), mode=0o600 if template.name in SECRET else 0o644)

    def node_states(self) -> dict[str, str]:
        """`{"n1": "idle"}`, as sinfo says; `idle*` when the node does not answer. Empty when the controller does not."""
        return dict(line.split() for line in self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T").stdout.splitlines())

    def resume_nodes(self) -> None:
        """Resumes nodes that Slurm drained, as it does when a step will not die, or holds to be down."""
        for node, state in self.node_states().items():
            if state.startswith(("drain", "down")):
                self.run("scontrol", "update", f"nodename={node}", "state=resume")

    def nodes_ready(self) -> bool:
        """Whether both nodes answer and take jobs, now or when those that they have are done."""
        states = self.node_states()
        return set(states) == set(NODES) and all(state in ("idle", "mixed", "allocated", "completing") for state in states.values())

    def down(self) -> bool:
        """Ends every process of the cluster and removes its folder and its line in /etc/hosts. False when there was nothing."""
        if os.geteuid() != 0:
            raise ClusterError(f"The cluster belongs to root: sudo slurm/devcluster/down --folder {self.folder}")
        if not self.folder.is_dir():
            return set_hosts_line(self.hosts_line, present=False)
        with self.locked():
            if any(self.folder.iterdir()) and not self.record.exists() and not (self.folder / "cluster.json.tmp").exists():
                raise ClusterError(f"{self.folder} holds something that is not a development cluster: nothing was removed.")
            for daemon in ("slurmctld", *NODES):  # the controller first, so that it does not see nodes and jobs go and start them again
                self.send(daemon, "stop")
            self.crash(*NODES)  # steps outlive the daemon
            for daemon in ("slurmdbd", "mariadbd", "munged"):
                self.send(daemon, "stop")
            self.crash(*DAEMONS)  # an `up` that was killed leaves daemons without a pid file
            set_hosts_line(self.hosts_line, present=False)
            for path in self.folder.iterdir():
                if path != self.record:
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            self.record.unlink(missing_ok=True)  # last: while it is there, this folder is known to be ours
            self.folder.rmdir()
        return True

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One `up` or `down` at a time. The lock is on the folder itself, so that nothing is left behind."""
        handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if not self.folder.is_dir() or not os.path.samestat(os.fstat(handle), self.folder.stat()):
                raise ClusterError(f"{self.folder} was removed meanwhile. Run the command again.")
            yield
        finally:
            os.close(handle)

    # --------------------------------------------------------------------------------------------------------------- status

    def status(self) -> tuple[str, bool]:
        """What to print, and whether every daemon lives and both nodes can run jobs."""
        settings = self.settings()
        pids = {daemon: self.pid(daemon) for daemon in self.daemons()}
        lines = [f"{self.folder}: accounting {'on' if settings['accounting'] else 'off'}, preempt_send_user_signal "
                 f"{'on' if settings['preempt_signal'] else 'off'}, MaxArraySize {settings['max_array_size']}"]
        for daemon, pid in pids.items():
            lines.append(f"  {PROGRAMS[daemon]:<10}{daemon if daemon in NODES else '':<4}{f'pid {pid}' if pid else 'not running'}")
        well = all(pids.values())
        if pids["munged"] and pids["slurmctld"]:
            well = well and self.nodes_ready()
            for command in ("sinfo -N -p main -o %10N%12T%6c%G", "sinfo -o %12P%14l%12p%D", "squeue"):
                done = self.run(*command.split())
                lines += ["", (done.stdout or done.stderr).rstrip()]
        lines += ["", "It is up." if well else "It is not up: slurm/devcluster/up starts what is missing."]
        return "\n".join(lines), well


NEXT = """The cluster is up{already}. To use it:

    export SLURM_CONF={conf}
    sinfo
    srun --partition main --nodes 2 hostname

Partitions: main; low (preempted by high: requeued), cancel (preempted by high: cancelled), high.
{here}/down ends it and removes {folder}."""


def arguments() -> argparse.ArgumentParser:
    """The options of up, down, status and the rest."""
    parser = argparse.ArgumentParser(prog="cluster.py", allow_abbrev=False,
                                     description="A real Slurm with two nodes on this machine (Debian or Ubuntu, as root).")
    commands = parser.add_subparsers(dest="command", required=True)
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument("--folder", help=f"where everything lies (default $HARNESS_DEVCLUSTER or {DEFAULT_FOLDER})")
    up = commands.add_parser("up", parents=[folder], help="make it, or start what is missing")
    up.add_argument("--no-accounting", dest="accounting", action="store_false", default=None,
                    help="neither slurmdbd nor a database: sacct fails")
    up.add_argument("--preempt-signal", action="store_true", default=None,
                    help="preempted jobs get the signal that they asked for with --signal (preempt_send_user_signal)")
    up.add_argument("--max-array-size", type=int, metavar="N", help=f"MaxArraySize (default {DEFAULTS['max_array_size']})")
    commands.add_parser("down", parents=[folder], help="end it and remove everything")
    commands.add_parser("status", parents=[folder], help="daemons, nodes, partitions, jobs; status 0 when all is well")
    for name in ("start", "restart", *SIGNALS):
        commands.add_parser(name, parents=[folder], help=f"{name} one daemon").add_argument("daemon", choices=DAEMONS)
    commands.add_parser("crash", parents=[folder], help="kill a node's daemon and all its jobs").add_argument("daemon", choices=NODES)
    return parser


def main() -> int:
    """Runs the command line; returns the exit status."""
    options = arguments().parse_args()
    try:
        cluster = Cluster(options.folder)
        if options.command == "up":
            fresh = cluster.up(accounting=options.accounting, preempt_signal=options.preempt_signal, max_array_size=options.max_array_size)
            print(NEXT.format(already="" if fresh else " already", conf=cluster.slurm_conf, folder=cluster.folder, here=TEMPLATES.parent))
        elif options.command == "down":
            print(f"{cluster.folder} is gone." if cluster.down() else f"There was no cluster in {cluster.folder}.")
        elif options.command == "status":
            text, well = cluster.status()
            print(text)
            return 0 if well else 1
        elif options.daemon not in cluster.daemons():
            raise ClusterError(f"The cluster in {cluster.folder} has no {options.daemon}: it was made with --no-accounting.")
        elif options.command == "crash":
            cluster.crash(options.daemon)
        else:
            if options.command != "start":
                cluster.send(options.daemon, "stop" if options.command == "restart" else options.command)
            if options.command in ("start", "restart"):
                cluster.start(options.daemon)
    except (ClusterError, OSError, subprocess.TimeoutExpired) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
