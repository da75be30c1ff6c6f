"""What trials cost: hours of the GPUs (or, without one, of the slots) that they held, from the attempts. Pure: a study in, frames out."""

import numpy as np
import pandas as pd

from analysis.load import NotForThisStudy, Study


def unit(study: Study) -> str:
    """What the hours are of: "GPU-hours", or "slot-hours" where no attempt had a GPU (one process of a trial holds one slot)."""
    attempts = study.attempts
    on_gpu = "device" in attempts and attempts["device"].astype("string").str.startswith("cuda").fillna(False).any()
    return "GPU-hours" if on_gpu else "slot-hours"


def per_trial(study: Study) -> pd.DataFrame:
    """What each trial cost, with all that was done twice because an attempt died.

    Returns:
        trial_id, attempts, hours (time in epochs times the processes of the trial, its share of a program that trained several),
        train_s (time in epochs), peak_memory_gb (largest of the attempts; NaN when unknown), images_per_s (median of the attempts).

    Raises:
        NotForThisStudy: the study has no attempts, such as one that was read from a CSV file.
    """
    attempts = _attempts(study)
    grouped = attempts.groupby("trial_id", sort=False)
    out = grouped.agg(attempts=("attempt", "count"), hours=("hours", "sum"), train_s=("train_s", "sum")).reset_index()
    for name, how in (("peak_memory_gb", "max"), ("images_per_s", "median")):
        known = attempts[name].astype(float) if name in attempts else pd.Series(np.nan, index=attempts.index)
        out[name] = known.groupby(attempts["trial_id"], sort=False).agg(how).to_numpy()
    return out


def per_epoch(study: Study) -> pd.DataFrame:
    """What each trial had cost when an epoch of it was over: trial_id, epoch, hours. Epochs whose time nobody noted are not there.

    Raises:
        NotForThisStudy: the study has no attempts.
    """
    attempts = _attempts(study)
    attempts = attempts[attempts["first_epoch"].notna()]
    lengths = attempts["epoch_s"].map(len).to_numpy(dtype=int) if len(attempts) else np.zeros(0, dtype=int)
    each = attempts.loc[attempts.index.repeat(lengths), ["trial_id", "attempt", "first_epoch", "share"]]
    within = np.concatenate([np.arange(n) for n in lengths]) if len(lengths) else np.zeros(0)
    seconds = np.concatenate([np.asarray(s, dtype=float) for s in attempts["epoch_s"]]) if len(lengths) else np.zeros(0)
    each = each.assign(epoch=each["first_epoch"].to_numpy(dtype=int) + within.astype(int),
                       hours=seconds * each["share"].to_numpy(dtype=float) / 3600).sort_values(["trial_id", "attempt", "epoch"])
    each["hours"] = each.groupby("trial_id")["hours"].cumsum()
    return each.drop_duplicates(["trial_id", "epoch"], keep="last")[["trial_id", "epoch", "hours"]].reset_index(drop=True)


def _attempts(study: Study) -> pd.DataFrame:
    """The attempts with `share`, the slots that each held, and `hours`."""
    if study.attempts.empty:
        raise NotForThisStudy(f"{study.name} has no attempts.parquet, which says what trials cost")
    attempts = study.attempts
    fused = attempts["fused"].astype(float).fillna(1) if "fused" in attempts else 1.0
    share = attempts["ranks"].astype(float).fillna(1) / fused
    return attempts.assign(share=share, train_s=attempts["train_s"].astype(float).fillna(0),
                           hours=attempts["train_s"].astype(float).fillna(0) * share / 3600)
