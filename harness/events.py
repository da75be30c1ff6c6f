"""What the events of an attempt say: the lines of its file, a dictionary with an "event" each."""

from collections.abc import Sequence
from typing import Any

from harness.plan import Attempt

Events = Sequence[dict[str, Any]]


def summary(events: Events) -> Attempt:
    """An attempt as planning sees it."""
    start = next((e for e in events if e["event"] == "start"), {})
    end = next((e for e in events if e["event"] == "end"), None)
    return Attempt(worker=start.get("worker", ""), cause=end["cause"] if end else None, error=end.get("error") if end else None,
                   where=end.get("where") if end else None, progress=sum(e["event"] in ("epoch", "checkpoint") for e in events),
                   fused=members(events))


def members(events: Events) -> int:
    """How many trials were trained as one program, this one of them."""
    return next((int(e["members"]) for e in reversed(events) if e["event"] == "fused"), 1)


def began(events: Events) -> float | None:
    """When the work on it began. An attempt that was begun together with others, and then left for later because one program would not
    have been faster, has waited until then."""
    return next((float(e["time"]) for e in reversed(events)
                 if e["event"] == "start" or (e["event"] == "fused" and e["members"] == 1)), None)
