"""The command `harness`: all verbs behind one name. `harness VERB ...` is `python -m harness.VERB ...`."""

import difflib
import importlib
import sys

VERBS = {
    "launch": "launch a study, or go on with it",
    "stage": "fetch the data sets and weights that grids need",
    "status": "where a study stands, what runs where",
    "why": "why trials failed, or jobs wait, and what mends it",
    "logs": "what a trial, a worker or the launcher printed",
    "report": "write a study's page again, one HTML file",
    "cancel": "take back trials, jobs or the launcher",
    "convert": "make a grid of a W&B sweep, a Hyperopt or a Ray Tune space",
}
ELSEWHERE = {
    "plots": "figures and tables are drawn by python -m analysis.plots",
    "export": "studies are handed to other tools by python -m analysis.export",
    "train": "one trial alone is trained by python -m jobs.train",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a verb; returns its exit status, and 2 when there is no such verb."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help", "help"):
        print("usage: harness VERB [...]\n\n" + "\n".join(f"  {verb:<8}{text}" for verb, text in VERBS.items())
              + "\n\nharness VERB --help says more; python -m harness.VERB is the same\n" + "\n".join(ELSEWHERE.values()))
        return 0 if words else 2
    verb, *rest = words
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        hint = ELSEWHERE.get(verb) or (f"did you mean {close[0]}? " if close else "") + f"(valid: {', '.join(VERBS)})"
        print(f"error: harness has no verb {verb!r}; {hint}", file=sys.stderr)
        return 2
    status: int = importlib.import_module(f"harness.{verb}").main(rest)
    return status
