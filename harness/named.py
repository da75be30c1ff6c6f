"""Which study and which trial a word means, and how both are shown."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path

from harness.errors import StudyError, UsageError, printable
from harness.plan import PlannedTrial
from harness.store import Store

RUNS = Path("runs")
_SHORT = re.compile(r"([0-9a-f]+)(-s\d+)")


def is_study(folder: Path) -> bool:
    """Whether a folder is a study, however little of it there is yet."""
    return any((folder / name).exists() for name in ("grid.toml", "env.json", "launcher"))


def find_study(word: str | None, *, runs: Path = RUNS) -> Path:
    """The folder of a study from its name or path; of the one that was launched last when none is named.

    Raises:
        UsageError: there is none such; the text names the nearest.
    """
    names = sorted(path.name for path in runs.iterdir() if is_study(path)) if runs.is_dir() else []
    if word is None:
        if not names:
            raise UsageError(f"there is no study in {runs}/; name a study folder, or launch one: python -m harness.launch GRID")
        return max((runs / name for name in names), key=_launched)
    try:
        for folder in (Path(word), runs / word):
            if word and is_study(folder):
                return folder
        exists = Path(word).is_dir() and bool(word)
    except OSError as error:
        raise UsageError(f"there is no study {printable(word)[:100]}: {error.strerror}") from error
    if exists:
        raise UsageError(f"{printable(word)} is no study: it has neither a grid.toml nor a launcher")
    close = difflib.get_close_matches(Path(word).name, names, n=1)
    known = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(names[:20])}" if names else f"; {runs}/ holds none"
    raise UsageError(f"there is no study {printable(word) or repr(word)}{known}")


def _launched(folder: Path) -> float:
    """When a study was last launched, to compare; as its files tell, where its own word cannot be read."""
    try:
        return float(Store(folder).launchers()[-1]["since"])
    except (StudyError, OSError, LookupError, TypeError, ValueError):
        return max((path.stat().st_mtime for path in folder.glob("launcher/*.json")), default=0.0)


def shown(path: Path) -> str:
    """A path fit for the terminal: from here where it lies below."""
    here = Path.cwd()
    return printable(str(path.relative_to(here) if path.is_relative_to(here) else path))


def short(trial_id: str) -> str:
    """A trial's name as tables have it, "0a1b2c3d-s0"; `find_trial` takes it too."""
    config, dash, seed = trial_id.rpartition("-")
    return f"{config[:8]}{dash}{seed}"


def count(number: int, word: str) -> str:
    """`number` of something, with the plural."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def find_trial(trials: Mapping[str, PlannedTrial], word: str) -> str:
    """A trial from the beginning of its name, or its short name.

    Raises:
        UsageError: none has such a name, or several; the text says which.
    """
    found = [trial for trial in trials if trial.startswith(word)] if word else []
    if word in found:
        return word
    if not found and (parts := _SHORT.fullmatch(word)):
        found = [trial for trial in trials if trial.startswith(parts[1]) and trial.endswith(parts[2])]
    return one_of(trials, found, f"trial {printable(word)}", word)


def one_of(trials: Mapping[str, PlannedTrial], found: list[str], what: str, word: str = "") -> str:
    """The one trial that was found.

    Raises:
        UsageError: it is none, or several; the text says which there are, or which is the nearest to `word`.
    """
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{what} could be {count(len(found), 'trial')}: {_listed(trials, found)}")
    close = difflib.get_close_matches(word, list(trials)[:5000], n=1, cutoff=0.4) if word else []
    others = f"; there are {_listed(trials, list(trials))}" if trials else ": nothing is planned yet"
    near = f"; did you mean {close[0]}?" if close else others
    raise UsageError(f"this study has no {what}{near}")


def _listed(trials: Mapping[str, PlannedTrial], names: list[str]) -> str:
    lines = [f"{name} ({trials[name].variant}, seed {trials[name].seed})" for name in names[:5]]
    return ", ".join(lines) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
