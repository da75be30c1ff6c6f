"""What the command lines of this floor share."""

import argparse
import difflib
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """argparse that names the option an unknown one was meant to be (Python's own does so from 3.14 on, for choices)."""

    def error(self, message: str) -> NoReturn:
        known = [o for action in self._actions for o in action.option_strings]
        wrong = [w for w in message.split() if w.startswith("-")] if message.startswith("unrecognized") else []
        close = [c for w in wrong for c in difflib.get_close_matches(w.split("=")[0], known, n=1, cutoff=0.5)]
        hint = f"; did you mean {' '.join(close)}?" if close else f" (options: {', '.join(known)})" if wrong else ""
        self.exit(2, f"{self.prog}: error: {message}{hint}\n")
