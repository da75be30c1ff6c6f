"""A job of one's own that is no image classification: a language model that guesses the next character from those before it.

A grid calls `train` by `[job] run = "char_model:train"`. What it is given and gives back is told in docs/own.md and in
jobs/contract.py; this file is an example of all of it. It can be killed at any time, and when it is called again in the same folder it
goes on and ends with the same numbers: every random number follows from (seed, epoch, step), and a checkpoint holds all the rest.

The text comes with Python: the topics of its help(), about half a million characters. Nothing is downloaded.
The network is that of Bengio et al., "A neural probabilistic language model" (JMLR 2003), on characters: the embeddings of the last
`context` characters, one hidden layer, and a softmax.
"""

import copy
import functools
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from jobs import checkpoint, durable
from jobs.config import Trial
from jobs.contract import Context, Interrupted, Outcome

LETTERS = "\n" + "".join(map(chr, range(32, 127)))
"""What a text is made of; anything else is read as a question mark."""
SELECTED = "selected.pt"
"""File of a trial that is over: the network of its selected epoch. It is not called checkpoint-*, so it stays."""


def train(trial: Trial, context: Context) -> Outcome:
    """Trains to the budget; when the trial is over, keeps the selected epoch's network and evaluates the test text if asked.

    The grid's parameters stand in `trial.config`: context, embedding, hidden (units), lr, batch_size, steps (of an epoch), epochs.

    Raises:
        Interrupted: `context.stop` said so; the progress is kept.
    """
    if context.ranks > 1:
        raise ValueError("this example trains on one process: leave [local] ranks and [slurm] tasks_per_node at 1")
    config, texts = trial.config, read_texts()
    torch.manual_seed(trial.seed)
    model = CharModel(context=config["context"], embedding=config["embedding"], hidden=config["hidden"])
    optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"])
    progress: dict[str, Any] = {"epoch": 0, "step": 0, "loss": 0.0, "rows": [], "best": None, "best_model": None}

    state, notes = checkpoint.load(context.folder, "cpu")
    for note in notes:
        print(note)  # into the attempt's log
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        progress = state["progress"]

    def save() -> None:
        context.fence()  # before anything is written: raises when a newer attempt at this trial has begun
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": progress}
        checkpoint.save(context.folder, state, epoch=progress["epoch"], step=progress["step"])

    budget = min(trial.budget or config["epochs"], config["epochs"])
    saved = time.monotonic()
    while progress["epoch"] < budget:
        began = time.monotonic()
        while progress["step"] < config["steps"]:
            numbers = torch.Generator().manual_seed(seed_of(trial.seed, progress["epoch"], progress["step"]))
            before, following = draw(texts["train"], config["context"], config["batch_size"], numbers)
            optimizer.zero_grad()
            loss = cross_entropy(model(before), following)
            loss.backward()
            optimizer.step()
            progress["loss"] += loss.item()
            progress["step"] += 1
            if not math.isfinite(progress["loss"]):
                return Outcome(status="infeasible", reason=f"the loss stopped being finite in epoch {progress['epoch'] + 1}")
            if context.stop():
                save()
                raise Interrupted
        row = finish_epoch(model, texts["val"], progress, context_length=config["context"], steps=config["steps"])
        if trial.better(row[trial.metric], progress["rows"][progress["best"] - 1][trial.metric] if progress["best"] else None):
            progress["best"], progress["best_model"] = row["epoch"], copy.deepcopy(model.state_dict())
        progress["rows"].append(row)
        context.report({**row, "seconds": time.monotonic() - began})
        if time.monotonic() - saved > context.checkpoint_s or progress["epoch"] == budget:
            save()
            saved = time.monotonic()

    selected = progress["epoch"] if trial.select == "last" else progress["best"]
    if progress["epoch"] < config["epochs"]:
        return Outcome(status="done", epoch=selected, rows=progress["rows"], finished=False)  # a larger budget goes on from here
    if trial.select == "best_val":
        model.load_state_dict(progress["best_model"])
    context.fence()
    durable.replace(context.folder / SELECTED, checkpoint.to_bytes({"model": model.state_dict()}), step="selected")
    return Outcome(status="done", epoch=selected, rows=progress["rows"], test=test(trial, context) if trial.test else {})


def test(trial: Trial, context: Context) -> dict[str, float]:
    """Evaluates the test text with the network that training kept. A study with [confirm] calls it, once, for what it chose."""
    model = CharModel(context=trial.config["context"], embedding=trial.config["embedding"], hidden=trial.config["hidden"])
    model.load_state_dict(torch.load(context.folder / SELECTED, weights_only=True)["model"])
    context.opening_test()  # the study notes when the test split was opened
    return {"test_loss": evaluate(model, read_texts()["test"], trial.config["context"])}


def finish_epoch(model: nn.Module, text: Tensor, progress: dict[str, Any], *, context_length: int, steps: int) -> dict[str, Any]:
    """The row of the epoch whose steps are done; begins the next one."""
    val_loss = evaluate(model, text, context_length)
    row = {"epoch": progress["epoch"] + 1, "train_loss": progress["loss"] / steps, "val_loss": val_loss, "val_bits": val_loss / math.log(2)}
    progress |= {"epoch": row["epoch"], "step": 0, "loss": 0.0}
    return row


@torch.inference_mode()
def evaluate(model: nn.Module, text: Tensor, context_length: int) -> float:
    """Mean loss of all characters of a text that have `context_length` before them, in nats."""
    windows = text.unfold(0, context_length + 1, 1)
    losses = [cross_entropy(model(part[:, :-1]), part[:, -1], reduction="sum") for part in windows.split(8192)]
    return float(torch.stack(losses).double().sum()) / len(windows)


def draw(text: Tensor, context_length: int, count: int, numbers: torch.Generator) -> tuple[Tensor, Tensor]:
    """Places of a text at random: int64 (count, context_length) of the characters before, and (count,) of those that follow."""
    starts = torch.randint(len(text) - context_length, (count,), generator=numbers)
    windows = text[starts[:, None] + torch.arange(context_length + 1)]
    return windows[:, :-1], windows[:, -1]


def seed_of(*parts: int) -> int:
    """One seed from several whole numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


@functools.cache
def read_texts() -> dict[str, Tensor]:
    """Python's help topics as numbers of letters, int64; of ten topics eight train, one validates and one tests."""
    from pydoc_data.topics import topics

    numbers = {letter: number for number, letter in enumerate(LETTERS)}
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for n, name in enumerate(sorted(topics)):
        parts[{8: "val", 9: "test"}.get(n % 10, "train")].append(topics[name])
    return {part: torch.tensor([numbers.get(letter, numbers["?"]) for letter in "\n".join(texts)]) for part, texts in parts.items()}


class CharModel(nn.Module):
    """(B, context) numbers of characters -> (B, letters) logits of the next."""

    def __init__(self, *, context: int, embedding: int, hidden: int):
        super().__init__()
        self.embed = nn.Embedding(len(LETTERS), embedding)
        self.layers = nn.Sequential(nn.Linear(context * embedding, hidden), nn.Tanh(), nn.Linear(hidden, len(LETTERS)))

    def forward(self, before: Tensor) -> Tensor:
        """See the class."""
        return self.layers(self.embed(before).flatten(1))


if __name__ == "__main__":  # a try without a grid: python examples/own_job/char_model.py
    import tempfile

    values = {"context": 4, "embedding": 8, "hidden": 64, "lr": 3e-3, "batch_size": 128, "steps": 300, "epochs": 3}
    with tempfile.TemporaryDirectory() as place:
        asked, where = Trial(config=values, metric="val_loss", mode="min"), Context(folder=Path(place), data=Path("data"), report=print)
        print(train(asked, where).test)
