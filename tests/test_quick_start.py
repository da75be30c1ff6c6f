"""The README's ten lines for a cluster, word for word, as a new user with an empty home would give them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from slurm_fixture import Cluster, until
from studies import ROOT

pytestmark = pytest.mark.slurm


def quick_start() -> list[str]:
    """The commands, without their comments."""
    text = (ROOT / "README.md").read_text().partition("## On a Slurm cluster, in ten lines")[2]
    block = text.partition("```sh\n")[2].partition("```")[0]
    return [re.sub(r"\s+# .*", "", line) for line in block.splitlines()]


def copy_of_this_repository(folder: Path) -> None:
    """What is under version control here, or would be, as a repository of its own."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for command in ("init -q", "add -A", "-c user.name=n -c user.email=e commit -qm all"):
        subprocess.run(["git", *command.split()], cwd=folder, check=True)


@pytest.mark.timeout(900)
def test_quick_start(cluster: Cluster, tmp_path: Path) -> None:
    source, home, clone = tmp_path / "source", tmp_path / "home", tmp_path / "clone"
    copy_of_this_repository(source)
    home.mkdir()
    own = {name: value for name, value in cluster.environment().items() if not name.startswith(("HARNESS", "XDG", "PYTHON"))}

    def give(*lines: str, folder: Path) -> str:
        """What a shell prints for these commands, which must all succeed."""
        done = subprocess.run(["bash", "-e"], input="\n".join(lines) + "\n", cwd=folder, env={**own, "HOME": str(home)}, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=600)
        assert done.returncode == 0, done.stdout
        return done.stdout

    first, *lines = quick_start()
    assert first == "git clone <this repository> && cd <its folder> && make setup" and len(lines) == 9
    give(f"git clone -q {source} {clone}", f"ln -s {ROOT}/.venv {clone}/.venv", folder=tmp_path)  # the set-up is what these tests run in
    said = give(*lines[:6], folder=clone)
    results = clone / "runs" / "digits" / "trials.parquet"
    until("the detached study to be over", lambda: not cluster.run("squeue", "-h").stdout and results.exists(), timeout_s=300)
    said += give(lines[0], *lines[6:], "python -m harness.status digits --json > status.json", folder=clone)
    assert "done 9" in said and "submitted the launcher as job" in said, said
    assert json.loads((clone / "status.json").read_text())
    assert {path.suffix for path in (clone / "runs" / "digits" / "figures").iterdir()} >= {".png", ".pdf", ".md"}
