"""Draws several figures at once, as many as there are CPUs: each in a process of its own, which has the study without copying it."""

import contextlib
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from analysis.load import AnalysisError, Study

MOST = 4
"""Processes at most: a login node is not ours alone, and each holds a figure's tables."""
_Use = Callable[[Study, str], Any]
_inherited: tuple[Study, _Use] | None = None
"""What a process that draws was started with."""


def drawn(study: Study, names: Sequence[str], use: _Use) -> Iterator[tuple[str, Any]]:
    """(name, what `use(study, name)` returned, or the exception that it raised) for each figure, in this order.

    What is returned goes from one process to another, so it is small: paths, or a picture. Where processes cannot be forked safely (macOS),
    or there is one CPU, the figures are drawn here, one after the other.

    Raises:
        AnalysisError: a process that draws was killed.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    workers = min(len(names), cpus, MOST)
    if workers < 2 or not sys.platform.startswith("linux"):
        for name in names:
            yield name, _caught(study, name, use)
        return
    from analysis.stats.importance import by_importance

    with contextlib.suppress(Exception):  # each figure that needs it says itself what is wrong
        by_importance(study)  # several figures ask for it: it is fitted once, before the processes part
    fork = multiprocessing.get_context("fork")
    try:
        with ProcessPoolExecutor(workers, mp_context=fork, initializer=_begin, initargs=(study, use)) as pool:
            yield from zip(names, pool.map(_one, names), strict=True)
    except BrokenProcessPool as error:
        raise AnalysisError(f"{study.name}: a process that draws was killed, most likely for lack of memory; `python -m analysis.plots "
                            "STUDY --only NAME` draws one figure at a time") from error


def _begin(study: Study, use: _Use) -> None:
    global _inherited
    _inherited = study, use


def _one(name: str) -> Any:
    assert _inherited is not None
    study, use = _inherited
    return _caught(study, name, use)


def _caught(study: Study, name: str, use: _Use) -> Any:
    try:
        return use(study, name)
    except AnalysisError as error:
        return error
    except Exception as error:
        error.add_note(f"in the figure {name}:\n{traceback.format_exc()}")  # the frames themselves stay in their process
        return error
