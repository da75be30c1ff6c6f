"""Kills this process at a named step, so that a test can try every place where a power cut or a `kill -9` may come.

`HARNESS_FAILPOINT=result.linked` kills every process the first time it reaches that step, `result.linked:3` the third time;
`result.linked@FILE` kills only the first process of all to get there, which leaves FILE behind. Without the variable a call costs a
look-up in an empty dictionary.
"""

import os
import signal


def _wanted() -> dict[str, int]:
    name, _, count = os.environ.get("HARNESS_FAILPOINT", "").partition("@")[0].partition(":")
    return {name: int(count or 1)} if name else {}


_left = _wanted()


def failpoint(name: str) -> None:
    """Dies here of SIGKILL if `HARNESS_FAILPOINT` says so."""
    if name in _left:
        _left[name] -= 1
        if _left[name] == 0 and _is_first():
            os.kill(os.getpid(), signal.SIGKILL)


def _is_first() -> bool:
    """Whether no process was killed before this one; without a file, every one is."""
    once = os.environ["HARNESS_FAILPOINT"].partition("@")[2]
    if once:
        try:
            os.close(os.open(once, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
    return True
