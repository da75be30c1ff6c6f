"""What trials cost: hours of the GPUs (or, without one, of the slots) that they held, from the attempts. Pure: a study in, frames out.

An attempt costs the time from its start to its end, not only that of the epochs it reported: reading data, building the network, an epoch
that was cut off in the middle and writing checkpoints hold a GPU as well. Trials that were trained as one program share its time evenly.
`train_s` and `epoch_s` are each trial's own part of such a program already (`Member.took` in jobs/fused.py).
Where several are side by side on one GPU, each has its part of it, busy or not; studies of earlier versions do not say so, and a GPU for
each process is counted there.
"""

import numpy as np
import pandas as pd

from analysis.load import NotForThisStudy, Study


def unit(study: Study) -> str:
    """What the hours are of: "GPU-hours", or "slot-hours" where no attempt had a GPU (one process of a trial holds one slot)."""
    attempts = study.attempts
    on_gpu = "device" in attempts and attempts["device"].astype("string").str.startswith("cuda").fillna(False).any()
    return "GPU-hours" if on_gpu else "slot-hours"


def scale(study: Study, most_h: float) -> tuple[float, str]:
    """How axes show so many hours: the factor and the unit, "GPU-minutes" below two hours and "GPU-seconds" below two minutes."""
    name = unit(study)
    factor, word = (1.0, "hours") if most_h >= 2 else (60.0, "minutes") if most_h >= 1 / 30 else (3600.0, "seconds")
    return factor, name.replace("hours", word)


def per_trial(study: Study) -> pd.DataFrame:
    """What each trial cost, with all that was done twice because an attempt died.

    Returns:
        trial_id, attempts, hours (from start to end of its attempts times the GPUs or slots they held, divided by the trials of the same
        program; of an attempt whose end nobody noted the time in whole epochs only), train_s (time in whole epochs), peak_memory_gb
        (largest of the attempts; NaN when unknown), images_per_s (median of the attempts).

    Raises:
        NotForThisStudy: the study has no attempts, such as one that was read from a CSV file.
    """
    attempts = spans(study)
    grouped = attempts.groupby("trial_id", sort=False)
    out = grouped.agg(attempts=("attempt", "count"), hours=("hours", "sum"), train_s=("train_s", "sum")).reset_index()
    for name, how in (("peak_memory_gb", "max"), ("images_per_s", "median")):
        known = attempts[name].astype(float) if name in attempts else pd.Series(np.nan, index=attempts.index)
        out[name] = known.groupby(attempts["trial_id"], sort=False).agg(how).to_numpy()
    return out


def per_epoch(study: Study) -> pd.DataFrame:
    """What each trial had cost when an epoch of it was over: trial_id, epoch, hours.

    These are the hours of all earlier attempts, whole, and the time in epochs of this one. Of an epoch that was trained again the last
    time counts. Attempts that noted the time of some of their epochs only are left out, as it is not known of which.

    Raises:
        NotForThisStudy: the study has no attempts.
    """
    attempts = spans(study).sort_values(["trial_id", "attempt"], kind="stable")
    attempts["before"] = attempts.groupby("trial_id")["hours"].cumsum() - attempts["hours"]
    lengths = np.array([0 if seconds is None else len(seconds) for seconds in attempts["epoch_s"]], dtype=int)
    noted = attempts["last_epoch"].astype(float) - attempts["first_epoch"].astype(float) + 1
    whole = (lengths > 0) & (lengths == noted.to_numpy(dtype=float, na_value=np.nan))
    attempts, lengths = attempts[whole], lengths[whole]
    if attempts.empty:
        return pd.DataFrame({"trial_id": pd.Series(dtype=object), "epoch": pd.Series(dtype=int), "hours": pd.Series(dtype=float)})
    seconds, firsts = np.concatenate([np.asarray(s, dtype=float) for s in attempts["epoch_s"]]), np.cumsum(lengths) - lengths
    total = np.cumsum(seconds)
    within = total - np.repeat(total[firsts] - seconds[firsts], lengths)  # of the attempt up to the end of the epoch
    out = pd.DataFrame({
        "trial_id": np.repeat(attempts["trial_id"].to_numpy(), lengths),
        "epoch": np.repeat(attempts["first_epoch"].to_numpy(dtype=int), lengths) + np.arange(len(seconds)) - np.repeat(firsts, lengths),
        "hours": np.repeat(attempts["before"].to_numpy(), lengths) + within * np.repeat(attempts["held"].to_numpy(), lengths) / 3600})
    return out.drop_duplicates(["trial_id", "epoch"], keep="last").sort_values(["trial_id", "epoch"], ignore_index=True)


def spans(study: Study) -> pd.DataFrame:
    """The attempts, with `train_s` known, `held` (GPUs, or slots of a CPU that it held) and `hours`, what each cost.

    Raises:
        NotForThisStudy: the study has no attempts.
    """
    attempts = study.attempts
    if attempts.empty:
        raise NotForThisStudy(f"{study.name} has no attempts.parquet, which says what trials cost")
    fused = attempts["fused"].astype(float).fillna(1) if "fused" in attempts else 1.0
    ranks, train_s = attempts["ranks"].astype(float).fillna(1), attempts["train_s"].astype(float).fillna(0)
    gpus = attempts["gpus"].astype(float) if "gpus" in attempts else ranks
    wall_s = (attempts["ended"] - attempts["started"]).dt.total_seconds() / fused
    # a clock that was set back, or a program whose other trials left it early: never less than what was counted epoch by epoch
    held_s = wall_s.fillna(0).clip(lower=train_s)
    held = gpus.where(gpus > 0, ranks)
    return attempts.assign(train_s=train_s, held=held, hours=held_s * held / 3600)
