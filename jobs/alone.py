"""The command line of `python -m jobs.train`: one trial without a study, by itself or under torchrun."""

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from jobs.config import Config, ConfigError, Trial
from jobs.contract import Context
from jobs.registry import weights_path


def main(arguments: list[str] | None = None) -> int:
    """Trains the trial of a JSON file and writes metrics.jsonl and result.json into a folder; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m jobs.train", description="Train one config with one seed.")
    parser.add_argument("config", type=Path, help='JSON file: {"config": {parameters}, "seed": 0}')
    parser.add_argument("--out", type=Path, help="folder for checkpoints and results (default: the file's name without .json)")
    parser.add_argument("--budget", type=_epochs, metavar="N", help="epochs to train now (default: all of them)")
    parser.add_argument("--weights-file", type=Path, help='state dict to start from, for weights = "study:NAME"')
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    options = parser.parse_args(arguments)
    try:
        _train(options)
    except (ConfigError, OSError, RuntimeError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    if "RANK" in os.environ:
        sys.stdout.flush()
        os._exit(0)  # all is written; of the ranks that end as Python does, one in twelve is aborted by a thread of gloo's
    return 0


def _epochs(text: str) -> int:
    """A budget from the command line: a whole number from 1 on."""
    try:
        epochs = int(text)
    except ValueError:
        epochs = 0
    if epochs < 1:
        raise argparse.ArgumentTypeError(
            f"{text} is no number of epochs; write a whole number from 1 on, or leave --budget out to train all of them")
    return epochs


def _train(options: argparse.Namespace) -> None:
    import torch

    from jobs import data
    from jobs.ranks import joined
    from jobs.training import run

    trial = Trial.load(options.config)
    if options.budget is not None:
        trial = dataclasses.replace(trial, budget=options.budget)
    out = options.out or options.config.with_suffix("")
    out.mkdir(parents=True, exist_ok=True)
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available() and not options.cpu
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if cuda else "cpu"

    def report(row: dict[str, Any]) -> None:
        with (out / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        numbers = {name: value for name, value in row.items() if isinstance(value, float | int)}
        print("  ".join(f"{name} {value:.4g}" for name, value in numbers.items()), flush=True)

    config = Config.from_dict(trial.config)
    weights_file = options.weights_file or weights_path(config.model, config.weights, data.data_folder())
    with joined(rank, ranks, address="env://", device=device):
        outcome = run(trial, Context(folder=out, data=data.data_folder(), report=report, rank=rank, ranks=ranks, device=device,
                                     weights_file=weights_file))
    if rank == 0:
        (out / "result.json").write_text(json.dumps(dataclasses.asdict(outcome), indent=1) + "\n", encoding="utf-8")
        state = outcome.status if outcome.finished else f"paused after {len(outcome.rows)} of {config.epochs} epochs"
        print(f"{state}{': ' + outcome.reason if outcome.reason else ''}  epoch {outcome.epoch}  {outcome.test or ''}")
    sys.stdout.flush()
