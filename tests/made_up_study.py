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
