"""What all command lines share: suggestions for mistyped options, and errors printed as sentences."""

import argparse
import difflib
import sys
from collections.abc import Callable
from typing import NoReturn

from harness.errors import HarnessError


class Parser(argparse.ArgumentParser):
    """argparse with the nearest option named in the error, which Python has only from 3.14 on."""

    def error(self, message: str) -> NoReturn:
        """Prints the usage, the message and the nearest option, and exits with 2."""
        hint = ""
        if message.startswith("unrecognized arguments:"):
            word = message.split(": ", 1)[1].split()[0].split("=")[0]
            valid = [option for action in self._actions for option in action.option_strings]
            close = difflib.get_close_matches(word, valid, n=1)
            hint = f"; did you mean {close[0]}?" if close else f" (valid: {', '.join(valid)})"
        super().error(message + hint)


def run(main: Callable[[], int]) -> int:
    """Calls `main`, prints what it raises on purpose, and returns the exit status."""
    try:
        return main()
    except HarnessError as error:
        print(f"error: {error}" if not str(error).startswith("error:") else error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
