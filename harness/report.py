"""The page of a study, which `analysis` writes in a process of its own: this floor imports nothing of that one, nor what it loads.

    python -m harness.report STUDY          the same as python -m analysis.report STUDY
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

NAME = "report.html"
SWITCH = "HARNESS_REPORT"
"""Set to 0, a launch writes no page."""
LIMIT_S = 600.0
MODULE = "analysis.report"


def write(root: Path, shown: str) -> None:
    """Writes the page of a study that is over and prints where it is, or in one line why it is not there. Whatever goes wrong, the study
    has ended as it has.

    Args:
        shown: the study's folder as it is to be printed.
    """
    if os.environ.get(SWITCH) == "0":
        return
    print("report:", end=" ", flush=True)
    try:
        done = subprocess.run([sys.executable, "-m", MODULE, str(root), "--quiet"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, timeout=LIMIT_S, check=False)
        said = done.stderr.decode(errors="replace").strip().splitlines()
        why = "" if done.returncode == 0 else said[-1][:300] if said else f"it ended with status {done.returncode}"
    except subprocess.TimeoutExpired:
        why = f"it took more than {LIMIT_S:g} s"
    except OSError as error:
        why = f"{error.strerror or error}"
    except KeyboardInterrupt:
        why = "interrupted"
    print(f"not written ({why}); python -m {MODULE} {shlex.quote(shown)} tries again" if why else f"{shown}/{NAME}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m analysis.report` with these arguments; returns its exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    return subprocess.run([sys.executable, "-m", MODULE, *words], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
