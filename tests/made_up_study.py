"""Writes a study folder with made-up numbers in the tables' real schema, for tests of the analysis and for looking at its figures."""

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_METRICS = ("train_loss", "train_acc", "val_loss", "val_acc", "lr")
EPOCHS = pa.schema([("trial_id", pa.string()), ("epoch", pa.int64()), *((m, pa.float64()) for m in _METRICS)])


def trial_schema(params: Mapping[str, pa.DataType]) -> pa.Schema:
    """The schema of trials.parquet with these parameters."""
    return pa.schema([
        ("study", pa.string()), ("trial_id", pa.string()), ("variant", pa.string()), ("seed", pa.int64()), ("wave", pa.int64()),
        ("status", pa.string()), ("reason", pa.string()), *((f"param_{n}", t) for n, t in params.items()), ("epoch", pa.int64()),
        ("epochs", pa.int64()), *((m, pa.float64()) for m in (*_METRICS, "last_train_loss", "test_loss", "test_acc"))])


SEARCH_COLUMNS = (("phase", pa.string()), ("config", pa.int64()), ("budget", pa.int64()), ("test_opening", pa.int64()))
"""What a table has of a search."""


def write_table(path: Path, rows: Sequence[Mapping[str, object]], schema: pa.Schema, about: Mapping[str, object]) -> None:
    """One Parquet file with our metadata, missing columns null."""
    columns = {f.name: [row.get(f.name) for row in rows] for f in schema}
    table = pa.table(columns, schema=schema.with_metadata({"harness": json.dumps(about)}))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, write_page_checksum=True)


def write_study(folder: Path, variants: Mapping[str, float], *, seeds: int = 3, epochs: int = 20, spread: float = 0.01,
                with_test: bool = True, status: Mapping[tuple[str, int], str] | None = None,
                test_acc: Mapping[tuple[str, int], float] | None = None, params: Mapping[str, Mapping[str, object]] | None = None,
                early: bool = False, **about: Any) -> Path:
    """A study in which every variant approaches the accuracy it is given.

    Args:
        variants: name -> accuracy that its curve approaches.
        status: how the trials (variant, seed) ended that are not done.
        test_acc: exact test accuracies of trials (variant, seed), for expectations computed by hand.
        params: variant -> values of the compared parameters.
        early: every seed stops at another epoch.
        about: entries of the metadata that are to differ.
    """
    names = list(variants)
    params = params or {v: {"depth": i + 1} for i, v in enumerate(names)}
    compared = list(dict.fromkeys(p for values in params.values() for p in values))
    kinds = {p: pa.array([v[p] for v in params.values() if v.get(p) is not None]).type for p in compared}
    meta = {"schema": 1, "grid": "0" * 64, "study": folder.name, "metric": "val_acc", "mode": "max", "select": "best_val",
            "seeds": list(range(seeds)), "variants": names, "reference": names[0], "compared": compared, "chance": 0.1, **about}
    trial_rows, epoch_rows = [], []
    for i, (variant, best) in enumerate(variants.items()):
        for seed in range(seeds):
            ended = (status or {}).get((variant, seed), "done")
            rows = _epochs(best, i, seed, epochs - (3 * seed if early else 0), spread)
            rows = rows if ended == "done" else rows[:max(1, len(rows) // 3)] if ended != "failed" else []
            row: dict[str, Any] = {"study": folder.name, "trial_id": f"{i:016x}-s{seed}", "variant": variant, "seed": seed, "wave": 0,
                                   "status": ended, **{f"param_{p}": params[variant].get(p) for p in compared}}
            if ended == "done":
                chosen = max(rows, key=lambda r: r["val_acc"])
                row |= chosen | {"epochs": len(rows), "last_train_loss": rows[-1]["train_loss"]}
                if with_test:
                    row |= {"test_loss": chosen["val_loss"], "test_acc": (test_acc or {}).get((variant, seed), chosen["val_acc"] - 0.01)}
            elif ended == "infeasible":
                row["reason"] = "the loss is not finite in epoch 7"
                rows[-1]["train_loss"] = math.nan
            trial_rows.append(row)
            epoch_rows += [{"trial_id": row["trial_id"], **r} for r in rows]
    write_table(folder / "trials.parquet", trial_rows, trial_schema(kinds), meta)
    write_table(folder / "epochs.parquet", epoch_rows, EPOCHS, meta)
    return folder


def _epochs(best: float, variant: int, seed: int, epochs: int, spread: float) -> list[dict[str, float]]:
    """Curves that rise from chance; the seed shifts all variants alike (that is what pairing removes), the rest is noise."""
    rng = random.Random(1000 * variant + seed)
    shift = random.Random(seed).gauss(0, spread) + rng.gauss(0, spread / 2)
    rows = []
    for e in range(1, epochs + 1):
        acc = min(0.999, max(0.0, 0.1 + (best + shift - 0.1) * (1 - math.exp(-4 * e / 20)) + rng.gauss(0, spread / 3)))
        loss = 2.3 * math.exp(-3 * e / 20 * best) + 0.3 * (1 - best)
        rows.append({"epoch": e, "train_loss": loss * (0.8 + rng.gauss(0, 0.02)), "train_acc": min(1.0, acc + 0.02),
                     "val_loss": loss + 0.01 * e * (1 - best) + rng.gauss(0, 0.01), "val_acc": acc, "lr": 0.05 * 0.5 ** (e // 8)})
    return rows


TUNED = ({"name": "lr", "log": True, "choices": []}, {"name": "depth", "log": False, "choices": [1, 2, 3]},
         {"name": "optimizer", "log": False, "choices": ["sgd", "adamw"]}, {"name": "dropout", "log": False, "choices": []},
         {"name": "momentum", "log": False, "choices": []})
_PARAMETERS = {"batch_norm": pa.bool_(), "lr": pa.float64(), "depth": pa.int64(), "optimizer": pa.string(), "dropout": pa.float64(),
               "momentum": pa.float64()}


def write_search(folder: Path, variants: Mapping[str, float], *, configs: int = 8, seeds: int = 2, epochs: int = 9,
                 rungs: Sequence[int] = (), confirm: int = 2, fresh: int = 3, openings: int = 1, spread: float = 0.01,
                 status: Mapping[tuple[str, int], str] | None = None, value: Mapping[tuple[str, int, int], float] | None = None,
                 drop: Sequence[str] = (), **about: Any) -> Path:
    """A searched study. A config is worse the further its lr is from 0.05, and a bit worse with sgd.

    Args:
        variants: name -> accuracy that the best tuning of it approaches.
        rungs: epochs at which halving stops configs; each stops two thirds of what reached it. What it stops has one seed.
        confirm: how many of the best are trained again on `fresh` seeds; 0: the search alone.
        openings: how often the test split was opened for the winners; 0: never.
        status: how the search trials of the config (variant, config) ended that are not done.
        value: exact metric of the trial (variant, config, seed), whatever its phase.
        drop: columns that are left out.
        about: entries of the metadata that are to differ.
    """
    names, rng = list(variants), random.Random(len(variants))
    meta = {"schema": 1, "grid": "0" * 64, "study": folder.name, "metric": "val_acc", "mode": "max", "select": "best_val",
            "seeds": list(range(seeds)), "variants": names, "reference": names[0], "compared": ["batch_norm"], "chance": 0.1,
            "tuned": TUNED, **about}
    metric, sign = str(meta["metric"]), -1 if meta["mode"] == "min" else 1
    trial_rows: list[dict[str, Any]] = []
    epoch_rows: list[dict[str, Any]] = []
    for i, (variant, best) in enumerate(variants.items()):
        settings = [_setting(rng, batch_norm=i % 2 == 0) for _ in range(configs)]
        gets = [best - 0.12 * abs(math.log10(one["lr"]) + 1.3) ** 1.5 - 0.01 * (one["optimizer"] == "sgd") for one in settings]
        ended = [(status or {}).get((variant, k), "done") for k in range(configs)]
        order = sorted((k for k in range(configs) if ended[k] == "done"), key=lambda k: -gets[k])
        kept = {k: r + 1 for r in range(len(rungs)) for k in order[:max(1, configs // 3 ** (r + 1))]}
        top = order[:confirm]
        plan = [(k, s, "search", rungs[kept.get(k, 0)] if kept.get(k, 0) < len(rungs) else None) for k in range(configs)
                for s in range(seeds if kept.get(k, 0) == len(rungs) else 1)]
        plan += [(k, s, "confirm", None) for k in sorted(top) for s in range(seeds, seeds + fresh)]
        rows = []
        for k, seed, phase, budget in plan:
            end = "done" if phase == "confirm" else ended[k] if ended[k] != "done" or budget is None else "pruned"
            row: dict[str, Any] = {"study": folder.name, "trial_id": f"{10_000 * i + k:016x}-s{seed}", "variant": variant, "seed": seed,
                                   "wave": 0, "phase": phase, "config": k, "budget": budget, "status": end,
                                   **{f"param_{p}": v for p, v in settings[k].items()}}
            curve = _epochs(gets[k], 10_000 * i + k, seed, epochs, spread)[:2 if end == "infeasible" else budget]
            if end in ("done", "pruned"):
                chosen = max(curve, key=lambda r: sign * r[metric])
                row |= chosen | {"epochs": len(curve), "last_train_loss": curve[-1]["train_loss"]}
                row[metric] = (value or {}).get((variant, k, seed), row[metric])
            rows.append(row)
            epoch_rows += [{"trial_id": row["trial_id"], **r} for r in curve if end not in ("failed", "lost", "unfinished")]
        means = {k: sum(row[metric] for row in rows if row["config"] == k and row["phase"] == "confirm") for k in top}
        for row in rows:
            if openings and row["phase"] == "confirm" and row["config"] == max(means, key=lambda k: sign * means[k]):
                row |= {"test_opening": openings, "test_loss": row["val_loss"], "test_acc": row["val_acc"] - 0.01}
        trial_rows += rows
    schema = trial_schema(_PARAMETERS)
    for field in SEARCH_COLUMNS:
        schema = schema if field[0] in drop else schema.append(pa.field(*field))
    write_table(folder / "trials.parquet", trial_rows, schema, meta)
    write_table(folder / "epochs.parquet", epoch_rows, EPOCHS, meta)
    return folder


def _setting(rng: random.Random, *, batch_norm: bool) -> dict[str, Any]:
    optimizer = rng.choice(["sgd", "adamw"])
    return {"batch_norm": batch_norm, "lr": 10 ** rng.uniform(-4, 0), "depth": rng.choice([1, 2, 3]), "optimizer": optimizer,
            "dropout": rng.choice([0.0, 0.125, 0.25]), "momentum": rng.uniform(0.8, 0.99) if optimizer == "sgd" else None}
