"""Kills this process at a named step, so that a test can try every place where a power cut or a `kill -9` may come.

`HARNESS_FAILPOINT=result.linked` kills at the first time that step is reached, `result.linked:3` at the third. Without the
variable a call costs a dictionary look-up in an empty dictionary.
"""

import os
import signal


def _wanted() -> dict[str, int]:
    name, _, count = os.environ.get("HARNESS_FAILPOINT", "").partition(":")
    return {name: int(count or 1)} if name else {}


_left = _wanted()


def failpoint(name: str) -> None:
    """Dies here of SIGKILL if `HARNESS_FAILPOINT` says so."""
    if name in _left:
        _left[name] -= 1
        if _left[name] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
