"""Writes large made-up searches in the tables' real schema: twelve parameters of every kind, seeds, attempts with waits and preemptions.

    python -m benchmarks.made_up_space DIR --trials 1000 --epochs 30

The truth is known, so that figures can be judged: `lr` matters most (best near 0.01, and lower for deeper networks), then `optimizer`,
`depth` and `dropout`; `batch_size` and `augment` matter a little; `momentum` (read with sgd only), `beta2` (with adamw only), `width`,
`kernel`, `weight_decay` and `label_smoothing` do not matter at all.
"""

import argparse
import datetime
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CHOICES: dict[str, tuple[object, ...]] = {
    "optimizer": ("sgd", "adamw"), "augment": ("none", "crop_flip", "imagenet"), "depth": (1, 2, 3, 4), "kernel": (3, 5, 7),
    "batch_size": (32, 64, 128, 256, 512)}
LOGARITHMIC = {"lr": (1e-4, 1.0), "weight_decay": (1e-6, 1e-2)}
LINEAR = {"dropout": (0.0, 0.5), "momentum": (0.8, 0.99), "beta2": (0.9, 0.999), "label_smoothing": (0.0, 0.2)}
WHOLE = {"width": (16, 128)}
METRICS = ("train_loss", "train_acc", "val_loss", "val_acc", "lr")


def write_space(folder: Path, *, trials: int = 1000, epochs: int = 30, variants: int = 2, seed: int = 0, noise: float = 0.006,
                hosts: int = 4, slots: int = 16) -> Path:
    """A search over twelve parameters, every config with one seed, a wave after the other; 3 % infeasible, 2 % failed, 1 % unfinished.

    Args:
        trials: of the whole study, shared by the variants (`init`: "scratch", "pretrained", ...).
        noise: standard deviation of the accuracy that is nobody's doing.
        slots: trials that run side by side.
    """
    rng = np.random.default_rng(seed)
    columns: dict[str, np.ndarray] = {name: np.array(values, dtype=object)[rng.integers(0, len(values), trials)]
                                      for name, values in CHOICES.items()}
    columns |= {name: 10 ** rng.uniform(np.log10(low), np.log10(high), trials) for name, (low, high) in LOGARITHMIC.items()}
    columns |= {name: np.round(rng.uniform(low, high, trials), 4) for name, (low, high) in LINEAR.items()}
    columns |= {name: rng.integers(low, high + 1, trials) for name, (low, high) in WHOLE.items()}
    names = ["scratch", "pretrained", *(f"other{i}" for i in range(2, variants))][:variants]
    variant = np.array(names, dtype=object)[np.arange(trials) % variants]
    depth, sgd = columns["depth"].astype(float), columns["optimizer"] == "sgd"
    best_lr = -1.6 - 0.35 * (depth - 1)
    accuracy = 0.70 + 0.08 * (variant == "pretrained") - 0.06 * np.abs(np.log10(columns["lr"]) - best_lr) ** 1.6
    accuracy += 0.03 * ~sgd + 0.015 * np.minimum(depth, 3) - 0.10 * (columns["dropout"] - 0.2) ** 2
    accuracy += 0.004 * (columns["augment"] != "none") - 0.002 * np.log2(columns["batch_size"].astype(float) / 32)
    accuracy = np.clip(accuracy + rng.normal(0, noise, trials), 0.02, 0.99)
    status = np.array(["done"] * trials, dtype=object)
    fate = rng.random(trials)
    status[(columns["lr"] > 0.3) & (fate < 0.35)] = "infeasible"
    status[(fate > 0.95) & (fate < 0.97)] = "failed"
    status[fate > 0.99] = "unfinished"
    ids = [f"{i:016x}-s0" for i in range(trials)]
    curves = _curves(rng, accuracy, epochs, columns["lr"])
    read = {"momentum": sgd, "beta2": ~sgd}
    last = np.where(status == "done", epochs, np.where(status == "infeasible", np.maximum(1, epochs // 6), 0))
    chosen = curves["val_acc"].argmax(axis=1)
    known = status == "done"
    table = pa.table({
        "study": [folder.name] * trials, "trial_id": ids, "variant": variant, "seed": pa.array(np.zeros(trials, dtype=np.int64)),
        "wave": pa.array(np.arange(trials) // (slots * variants)), "phase": ["search"] * trials,
        "config": pa.array(np.arange(trials) // variants), "budget": pa.array([None] * trials, pa.int64()), "status": status,
        "reason": [{"infeasible": "the loss is not finite in epoch 3"}.get(s) for s in status], "param_init": variant,
        **{f"param_{name}": pa.array([v if read.get(name, np.ones(trials, bool))[i] else None for i, v in enumerate(values)])
           for name, values in columns.items()},
        "epoch": pa.array([int(e) + 1 if k else None for e, k in zip(chosen, known, strict=True)], pa.int64()),
        "epochs": pa.array(last),
        **{m: pa.array([float(curves[m][i, chosen[i]]) if known[i] else None for i in range(trials)], pa.float64()) for m in METRICS},
        "last_train_loss": pa.array([float(curves["train_loss"][i, -1]) if known[i] else None for i in range(trials)], pa.float64()),
        "test_loss": pa.array([None] * trials, pa.float64()), "test_acc": pa.array([None] * trials, pa.float64()),
        "test_opening": pa.array([None] * trials, pa.int64())})
    tuned = [{"name": n, "log": n in LOGARITHMIC, "choices": list(CHOICES.get(n, ()))} for n in columns]
    about = {"schema": 1, "grid": "0" * 64, "study": folder.name, "metric": "val_acc", "mode": "max", "select": "best_val", "seeds": [0],
             "variants": names, "reference": names[0], "compared": ["init"], "chance": 0.01, "tuned": tuned}
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "trials.parquet", table, about)
    rows = np.concatenate([np.arange(n) for n in last]) if last.sum() else np.zeros(0, dtype=int)
    of = np.repeat(np.arange(trials), last)
    _write(folder / "epochs.parquet", pa.table({"trial_id": pa.array(np.array(ids, dtype=object)[of]), "epoch": pa.array(rows + 1),
                                                **{m: curves[m][of, rows] for m in METRICS}}), about)
    _write(folder / "attempts.parquet", _attempts(rng, ids, status, last, columns, hosts, slots), about)
    return folder


def _curves(rng: np.random.Generator, accuracy: np.ndarray, epochs: int, lr: np.ndarray) -> dict[str, np.ndarray]:
    """(trials, epochs) of each metric; float32, since there may be millions."""
    at = np.arange(1, epochs + 1, dtype=np.float32)[None]
    rise = 1 - np.exp(-4 * at / epochs)
    val = np.clip(0.01 + (accuracy[:, None] - 0.01) * rise + rng.normal(0, 0.004, (len(accuracy), epochs)), 0, 1).astype(np.float32)
    loss = (4.6 * np.exp(-3 * at / epochs * accuracy[:, None]) + 0.2).astype(np.float32)
    schedule = (lr[:, None] * (0.5 + 0.5 * np.cos(np.pi * (at - 1) / epochs))).astype(np.float32)
    return {"train_loss": loss * 0.9, "train_acc": np.clip(val + 0.03, 0, 1), "val_loss": loss, "val_acc": val, "lr": schedule}


def _attempts(rng: np.random.Generator, ids: list[str], status: np.ndarray, last: np.ndarray, columns: dict[str, np.ndarray], hosts: int,
              slots: int) -> pa.Table:
    """One attempt for each trial, two for the 4 % that were preempted, one after the other in each of the slots."""
    free = np.zeros(slots)
    rows = []
    begin = datetime.datetime(2026, 3, 2, 9, tzinfo=datetime.UTC).timestamp()
    for i, trial in enumerate(ids):
        if status[i] == "unfinished":
            continue
        epoch_s = 20.0 + 6.0 * float(columns["depth"][i]) + 0.2 * float(columns["width"][i])
        final, half = int(last[i]), int(last[i]) // 2
        parts = [(1, final)] if rng.random() > 0.04 or final < 4 else [(1, half), (half + 1, final)]
        causes = ["preempted"] * (len(parts) - 1) + ["exception" if status[i] == "failed" else str(status[i])]
        for number, (first, final) in enumerate(parts):
            slot = int(free.argmin())
            queued = float(free[slot])
            started = queued + float(rng.exponential(90))
            each = [epoch_s * float(f) for f in rng.uniform(0.9, 1.1, max(0, final - first + 1))]
            ended = started + 15 + sum(each)
            free[slot] = ended
            rows.append({"trial_id": trial, "attempt": number, "cause": causes[number],
                         "error": "RuntimeError: made up" if causes[number] == "exception" else None,
                         "queued": _moment(begin + queued), "started": _moment(begin + started), "ended": _moment(begin + ended),
                         "host": f"node{slot * hosts // slots}", "pid": 1000 + slot, "worker": f"0.{slot}", "job_id": str(5000 + slot),
                         "device": "cuda:0", "gpu": "made-up", "ranks": 1, "accumulate": 1, "fused": 1,
                         "first_epoch": first if each else None, "last_epoch": final if each else None, "train_s": sum(each),
                         "images_per_s": 50_000 / epoch_s, "data_wait": 0.02, "epoch_s": each, "test_opened": None,
                         "peak_memory_gb": 2 + 0.01 * float(columns["batch_size"][i]), "commit": "0" * 40, "dirty": False,
                         "code": "0" * 12, "python": "3.11.9", "torch": "2.10.0"})
    return pa.Table.from_pylist(rows)


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(round(seconds, 3), datetime.UTC)


def _write(path: Path, table: pa.Table, about: dict[str, object]) -> None:
    pq.write_table(table.replace_schema_metadata({"harness": json.dumps(about)}), path, compression="zstd", write_page_checksum=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a large made-up search.")
    parser.add_argument("folder", type=Path)
    for name, value in (("trials", 1000), ("epochs", 30), ("variants", 2), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    print(write_space(**vars(parser.parse_args())))
