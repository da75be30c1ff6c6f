"""When each attempt ran, on which slot, what it waited for and what it was good for. Pure: a study in, frames out.

A slot is a place where one program runs: a GPU, part of one, or a process. Which slot an attempt had is not written down, only its host;
attempts are laid into as few lanes of their host as they need, a worker staying in its lane where it can.
"""

import heapq
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.load import NotForThisStudy, Study

ENDS = {"done": "finished", "tested": "finished", "pruned": "stopped at its rung", "infeasible": "infeasible",
        **dict.fromkeys(("preempted", "time_limit", "node_failure", "interrupted", "superseded"), "taken away"),
        **dict.fromkeys(("exception", "out_of_memory", "disk_full", "killed", "lost"), "failed"),
        "cancelled": "cancelled", "running": "still running"}
"""How an attempt ended, by its cause: in the order in which they are told."""
OVER = ("finished", "stopped at its rung", "infeasible")
"""Ends after which all that was done counts."""
MAX_LANES = 48
"""With more lanes than that they are not kept apart by host."""
GAP_SHARE = 0.2
"""An idle time is cut out when it is longer than this share of the time in which something ran or waited."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What is said above the timeline."""

    slots: int
    """Most that were in use at once; a trial of several ranks uses as many."""
    hours: float
    """From the first start to the last end, without the idle times that are cut out."""
    busy: float
    """The share of slots times hours in which they were in use."""
    median_wait_h: float
    """Over the attempts; NaN when no study noted when they were queued."""
    lost_h: dict[str, float]
    """Slot-hours that nothing came of, by how the attempts ended; at most, see `attempts`."""


def attempts(study: Study) -> pd.DataFrame:
    """All attempts that began, in the order of their starts. Hours are counted from the first sign of the study.

    Returns:
        trial_id, attempt, variant, wave and phase (empty where the trials table does not tell), host, worker, cause, ended (one of the
        values of `ENDS`), lane (from 0; -1 never), slots, program (attempts of one number were trained together), member (from 0),
        members, queued_h, begin_h, end_h (of one that is running: the last sign of the study; of one that is lost: its last epoch),
        wait_h (from when it was queued, its trial's attempt before ended, or its worker was free, whichever is last; empty in studies
        that do not say when attempts were queued), free_h (since when its slot stood free for it; begin_h where it did not),
        lost_h (slot-hours of which nothing was kept: of an attempt that did not get through, all but the epochs that no later attempt
        did again. What a checkpoint kept of the epoch under way is counted as lost too, so it is an upper bound).

    Raises:
        NotForThisStudy: the study has no attempts, or none has begun.
    """
    if study.attempts.empty or study.attempts["started"].isna().all():
        raise NotForThisStudy(f"{study.name} has no attempts.parquet with attempts that have begun, so there is no timeline")
    frame = _times(study.attempts[study.attempts["started"].notna()])
    columns = [name for name in ("trial_id", "variant", "wave", "phase") if name in study.all_trials]
    frame = frame.merge(study.all_trials[columns].drop_duplicates("trial_id"), on="trial_id", how="left")
    for name in ("variant", "wave", "phase"):
        frame[name] = frame[name] if name in columns else None
    frame = frame.sort_values(["begin_h", "trial_id", "attempt"], ignore_index=True)
    frame["program"] = _programs(frame)
    frame["member"] = frame.groupby("program").cumcount()
    frame["members"] = frame.groupby("program")["member"].transform("size")
    frame["lane"] = _lanes(frame)
    wait_from = _wait_from(frame)
    frame["wait_h"] = (frame["begin_h"] - wait_from).clip(lower=0)
    lane_end = frame.groupby("program").agg(lane=("lane", "first"), begin=("begin_h", "min"), end=("end_h", "max"))
    before = lane_end.sort_values("begin").groupby("lane")["end"].shift().reindex(frame["program"]).to_numpy()
    free = np.fmin(np.fmax(wait_from, before), frame["begin_h"])
    frame["free_h"] = np.where(np.isnan(wait_from), frame["begin_h"], free)
    frame["lost_h"] = _lost(frame)
    return frame[["trial_id", "attempt", "variant", "wave", "phase", "host", "worker", "cause", "ended", "lane", "slots", "program",
                  "member", "members", "queued_h", "begin_h", "end_h", "wait_h", "free_h", "lost_h"]]


def _times(given: pd.DataFrame) -> pd.DataFrame:
    """The attempts with their hours, and without what is not known of them."""
    queued = given["queued"] if "queued" in given else pd.Series(pd.NaT, index=given.index, dtype="datetime64[us, UTC]")
    origin = min(moment for moment in (queued.min(), given["started"].min()) if not pd.isna(moment))
    out = given[["trial_id", "attempt", "cause", "first_epoch", "epoch_s"]].copy()
    for name in ("host", "worker", "pid"):
        out[name] = given[name].astype("string").fillna("") if name in given else ""
    out["fused"] = given["fused"].astype(float).fillna(1) if "fused" in given else 1.0
    out["slots"] = given["ranks"].astype(float).fillna(1)
    out["ended"] = given["cause"].map(ENDS).fillna("failed")
    hours = {name: (values - origin).dt.total_seconds() / 3600
             for name, values in (("queued_h", queued), ("begin_h", given["started"]), ("end_h", given["ended"]))}
    out = out.assign(**hours)
    known = out["begin_h"] + given["train_s"].astype(float).fillna(0) / 3600
    last = max(out["end_h"].max(skipna=True), known.max())
    out["end_h"] = out["end_h"].fillna(known.where(out["ended"] != "still running", last))
    out["end_h"] = np.fmax(out["end_h"], out["begin_h"])  # another machine's clock may have said when it ended
    return out


def _programs(frame: pd.DataFrame) -> np.ndarray:
    """For each attempt the number of the program that made it: those of one worker that were fused and run at the same time share one."""
    fused = frame["fused"].to_numpy(dtype=float)
    numbers, following = np.zeros(len(frame), dtype=int), 0
    open_programs: dict[Hashable, tuple[int, int, float]] = {}  # (worker, members) -> (number, how many so far, first end)
    for i, (worker, begin, end) in enumerate(zip(frame["worker"], frame["begin_h"], frame["end_h"], strict=True)):
        number, count, first_end = following, 0, end
        if fused[i] > 1:
            found = open_programs.get((worker, fused[i]))
            if found and found[1] < fused[i] and begin < found[2]:
                number, count, first_end = found[0], found[1], min(found[2], end)
            open_programs[worker, fused[i]] = (number, count + 1, first_end)
        numbers[i] = number
        following += number == following
    return numbers


def _lanes(frame: pd.DataFrame) -> pd.Series:
    """The lane of each attempt: by host, those of a host one above the other; without regard to hosts where that takes too many."""
    programs = frame.groupby("program").agg(host=("host", "first"), worker=("worker", "first"), pid=("pid", "first"),
                                            begin=("begin_h", "min"), end=("end_h", "max")).sort_values("begin", kind="stable")
    lane, first = pd.Series(-1, index=programs.index), 0
    for _, of_host in sorted(programs.groupby("host"), key=lambda pair: _natural(str(pair[0]))):
        packed = _packed(of_host)
        lane[of_host.index] = packed + first
        first += int(packed.max()) + 1
    if first > MAX_LANES:
        lane[programs.index] = _packed(programs)
    return lane.reindex(frame["program"]).reset_index(drop=True)


def _packed(programs: pd.DataFrame) -> np.ndarray:
    """The lowest free lane for each program, in the order of their beginnings; the one its process had before where that is free."""
    lanes, busy, free, is_free = np.zeros(len(programs), dtype=int), list[tuple[float, int]](), list[int](), set[int]()
    last_of: dict[Hashable, int] = {}
    count = 0
    rows = zip(programs["host"], programs["pid"], programs["begin"], programs["end"], strict=True)
    for i, (host, pid, begin, end) in enumerate(rows):
        while busy and busy[0][0] <= begin:
            lane = heapq.heappop(busy)[1]
            heapq.heappush(free, lane)
            is_free.add(lane)
        lane = last_of.get((host, pid), -1)
        if lane not in is_free:
            while free and free[0] not in is_free:
                heapq.heappop(free)
            lane = heapq.heappop(free) if free else count
            count = max(count, lane + 1)
        is_free.discard(lane)
        heapq.heappush(busy, (end, lane))
        lanes[i] = last_of[host, pid] = lane
    return lanes


def _natural(text: str) -> list[str | int]:
    """Sorts node2 before node10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]


def _wait_from(frame: pd.DataFrame) -> np.ndarray:
    """The hour from which each attempt could have begun; NaN where nobody wrote down when it was queued."""
    before = frame.sort_values("attempt").groupby("trial_id")["end_h"].shift().reindex(frame.index).to_numpy()
    worker = frame["host"].astype(str) + " " + frame["pid"].astype(str)
    ends = pd.DataFrame({"worker": worker, "at": frame["end_h"], "end": frame["end_h"]}).sort_values("at")
    starts = pd.DataFrame({"worker": worker, "at": frame["begin_h"]})
    freed = pd.merge_asof(starts, ends, on="at", by="worker", allow_exact_matches=True)["end"].to_numpy()
    queued = frame["queued_h"].to_numpy(dtype=float)
    latest = np.fmax(np.fmax(queued, before), freed)
    return np.where(np.isnan(queued), np.nan, np.fmin(latest, frame["begin_h"].to_numpy()))


def _lost(frame: pd.DataFrame) -> np.ndarray:
    """See `attempts`."""
    order = frame.sort_values(["trial_id", "attempt"])
    of_trial = order.groupby("trial_id", sort=False)
    # the first epoch that any later attempt did, from the last attempt backwards
    backwards = order["first_epoch"].astype(float)[::-1].fillna(np.inf)
    later = backwards.groupby(order["trial_id"][::-1], sort=False).cummin()
    later = later.groupby(order["trial_id"][::-1], sort=False).shift().fillna(np.inf)[::-1]
    came_to_nothing = of_trial["ended"].transform("last").isin(["failed", "cancelled"])
    seconds = ((order["end_h"] - order["begin_h"]) * 3600).to_numpy()
    through = order["ended"].isin([*OVER, "still running"]).to_numpy()
    kept = [0.0 if nothing else _sum_before(epochs, first, until) for epochs, first, until, nothing in zip(
        order["epoch_s"], order["first_epoch"].astype(float), later, came_to_nothing, strict=True)]
    lost = np.where(through, 0.0, np.clip(seconds - np.asarray(kept), 0, None))
    per_slot = (order["slots"] / order["members"]).to_numpy()
    return pd.Series(lost * per_slot / 3600, index=order.index).reindex(frame.index).to_numpy()


def _sum_before(epoch_s: Sequence[float] | None, first: float, until: float) -> float:
    """Seconds of the epochs before epoch `until`, the first of them being `first`."""
    if epoch_s is None or np.isnan(first):
        return 0.0
    return float(sum(epoch_s[:max(0, int(min(until - first, len(epoch_s))))]))


def gaps(data: pd.DataFrame) -> list[tuple[float, float]]:
    """The idle times that are cut out of a timeline: (from, until) in hours, nothing having run or stood waiting between."""
    order = data.sort_values("free_h")
    begins, reached = order["free_h"].to_numpy(dtype=float)[1:], order["end_h"].cummax().to_numpy(dtype=float)[:-1]
    idle = np.clip(begins - reached, 0, None)
    active = float(order["end_h"].max() - order["free_h"].min()) - idle.sum()
    return [(float(a), float(b)) for a, b, gap in zip(reached, begins, idle, strict=True) if gap > max(GAP_SHARE * active, 1e-9)]


def summary(data: pd.DataFrame) -> Summary:
    """What `attempts` says as a whole."""
    programs = data.groupby("program").agg(begin=("begin_h", "min"), end=("end_h", "max"), slots=("slots", "first"))
    times = np.concatenate([programs["begin"], programs["end"]])
    steps = np.concatenate([programs["slots"], -programs["slots"]])
    in_use = np.cumsum(steps[np.lexsort((steps, times))])  # what ends makes room for what begins at the same moment
    cut = sum(until - since for since, until in gaps(data))
    hours, slots = float(times.max() - times.min()) - cut, float(in_use.max(initial=1.0))
    used = float(((programs["end"] - programs["begin"]) * programs["slots"]).sum())
    lost = data.groupby("ended")["lost_h"].sum()
    return Summary(slots=round(slots), hours=hours, busy=used / (slots * hours) if hours > 0 else 1.0,
                   median_wait_h=float(data["wait_h"].median()), lost_h={str(name): float(h) for name, h in lost.items() if h > 0})
