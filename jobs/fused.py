"""Several trials of one shape trained as one program, for small networks on a GPU, where launching kernels takes longer than running them.

The K trials keep all that makes a solo training (`jobs.training.Training`): model, optimizer, schedule, checkpoints, evaluation, patience,
reports, results. Only the steps are made together, by a `fused_program.Program` of which the models and optimizers become parts. So a
trial's numbers are those of the trial alone up to rounding, its checkpoints have the same form, and either goes on from the other's.

What was looked at. HFTA (arXiv 2102.02344) has every layer and optimizer anew for K models at once, with grouped convolutions, batched
matrix products and one learning rate for each; the user writes the model with its classes. torch.func's `vmap` over `stack_module_state`
takes the model as it is, but batch norm's statistics and dropout's masks must leave its modules, torch's optimizers cannot be used, and
on a CPU it was slower than grouped convolutions (K = 8, B = 128: 0.6 to 0.7 against 0.8 to 0.9 of the speed of one after the other). Here
HFTA's operators take the place of layers in a copy of the network, whose own `forward` is kept, so that no model is written for it; that
the copy computes the same is not assumed but tried on the first batch.

A trial that is over leaves the program, which is made anew for the others: their numbers go on up to rounding. One that has diverged stays
in it, unheeded, so that not a bit of theirs changes: nothing mixes the trials, whose losses are added and then differentiated. Trials that
come from different places (a kill between two of their checkpoints, another budget) are trained from the furthest behind on, until it meets
the next.
"""

import dataclasses
import functools
import gc
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from jobs import models
from jobs.config import Config, ConfigError, Trial
from jobs.contract import Context, Interrupted, Outcome
from jobs.fused_layers import FUSED, Unfusable
from jobs.fused_optim import FUSED_OPTIMIZERS
from jobs.fused_program import FusedBatcher, Program
from jobs.registry import is_function
from jobs.training import SAVE_SHARE, Training, check_batch, prepare, run, seed_of, seed_torch

MAY_DIFFER = ("lr", "momentum", "weight_decay", "dropout", "dropout_features", "schedule", "step_size", "gamma", "patience", "weights",
              "weights_digest")
"""Parameters in which trials of one program may differ, besides seed and budget."""
FASTER = 0.9
"""A fused step must take less than this share of the trials' own steps, or it is not worth that they share their fate."""
WARM_UPS, TIMED = 5, 10
"""Steps of the probe."""
Kind = TypeVar("Kind", bound=Training)


def fuse_key(trial: Trial) -> str | None:
    """Trials with equal keys can be trained as one program; None: this one cannot. No images are opened and nothing is computed."""
    try:
        config = Config.from_dict(trial.config)
    except ConfigError:
        return None
    if config.optimizer not in FUSED_OPTIMIZERS or config.freeze != "none" or config.precision == "fp16" or is_function(config.model):
        return None  # a function of the user's own may compute, and this is asked before the fork
    skipped = {*MAY_DIFFER, *config.inactive()}
    key = json.dumps({name: value for name, value in config.as_dict().items() if name not in skipped}, sort_keys=True)
    return key if _has_known_layers(key) else None


@functools.lru_cache(maxsize=256)
def _has_known_layers(shape: str) -> bool:
    known = {kind.__name__ for kind in FUSED}
    try:
        return {layer.kind for layer in models.describe(Config.from_dict(json.loads(shape)))} <= known
    except (models.Infeasible, ConfigError, NotImplementedError):
        return False


def run_fused(trials: Sequence[Trial], contexts: Sequence[Context], ended: Callable[[int, Outcome], None]) -> None:
    """Trains trials with equal keys as one program, each in its own folder as `jobs.training.run` would.

    Networks that turn out not to work together are trained one after the other, and so are trials that must accumulate gradients.

    Args:
        contexts: One for each trial, with one rank, all on one device.
        ended: Called with a trial's place and outcome as soon as it is over: done, paused at its budget, or infeasible.

    Raises:
        Interrupted: one of them was asked to stop; all have kept their progress.
        What `jobs.training.run` raises; it ends all, and each can go on alone from its last checkpoint.
    """
    together = [place for place, context in enumerate(contexts) if context.accumulate == 1]
    left = set(range(len(trials)))

    def over(place: int, outcome: Outcome) -> None:
        left.discard(place)
        ended(place, outcome)

    if len(together) > 1:
        group = _Group([trials[place] for place in together], [contexts[place] for place in together],
                       lambda number, outcome: over(together[number], outcome))
        try:
            group.run()
        except Unfusable as why:
            print(f"these trials cannot be trained as one program: {why}; they are trained one after the other", flush=True)
        del group
    for place in sorted(left):
        over(place, run(trials[place], contexts[place]))


class Member(Training):
    """A training whose steps are made by a program."""

    def __init__(self, trial: Trial, context: Context, **made: Any):
        super().__init__(trial, context, **made)
        # Parts of the program's memory are written and remembered as tensors of their own, or each would carry the whole of it along.
        self.model.register_state_dict_post_hook(_own_copies)
        self.optimizer.register_state_dict_post_hook(_own_state)
        self._images, self._trained_s = 0, 0.0

    def _fast(self, network: torch.nn.Module) -> torch.nn.Module:
        """Itself: the program is what makes it fast."""
        return network

    @property
    def place(self) -> tuple[int, int]:
        """How far it has come: whole epochs, and steps of the next."""
        return self.progress.epoch, self.progress.step

    def outcome(self) -> Outcome | None:
        """Its outcome if it is over or its budget is used up."""
        budget = self.config.epochs if self.trial.budget is None else min(self.config.epochs, self.trial.budget)
        if self.progress.epoch < budget and not self._is_over():
            return None
        return super().run()

    def took(self, *, images: int, trained_s: float, waited_s: float) -> None:
        """Told of steps of the epoch under way: the images of this trial, and its share of the program's time."""
        self._images, self._trained_s, self.waited_s = self._images + images, self._trained_s + trained_s, self.waited_s + waited_s

    def finish_epoch(self) -> Outcome | None:
        """Evaluates and reports the epoch whose steps are done; the outcome if that makes it infeasible."""
        outcome = self.end_epoch(images=self._images, trained_s=self._trained_s)
        self._images, self._trained_s, self.waited_s = 0, 0.0, 0.0
        return outcome

    def save(self) -> None:
        """Keeps its progress."""
        self._save()


def _own_copies(_model: torch.nn.Module, state: dict[str, Any], _prefix: str, _notes: Any) -> None:
    for name, value in state.items():
        state[name] = value.clone()


def _own_state(_optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    kept = {number: {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in values.items()}
            for number, values in state["state"].items()}
    return {**state, "state": kept}


class _Group:
    """The trials that are trained together, until all are over."""

    def __init__(self, trials: Sequence[Trial], contexts: Sequence[Context], ended: Callable[[int, Outcome], None]):
        self._ended = ended
        self._checkpoint_s = min(context.checkpoint_s for context in contexts)
        self._last_save, self._save_took = time.monotonic(), 0.0
        self._program: Program | None = None
        self._proven = False
        self._dead: list[Training] = []
        """Members that have diverged since the program was made."""
        self._members: dict[int, Member] = {}
        for number, member in enumerate(_prepared(trials, contexts, Member)):
            if isinstance(member, Outcome):
                ended(number, member)
            else:
                self._members[number] = member
        if self._members:
            self._batcher = _shared_batcher(list(self._members.values()))

    def run(self) -> None:
        """Trains until none is left."""
        while True:
            for number, member in list(self._members.items()):
                if outcome := member.outcome():
                    self._leaves(number, outcome)
            if not self._members:
                return
            places = sorted({member.place for member in self._members.values()})
            behind = {number: member for number, member in self._members.items() if member.place == places[0]}
            steps = next(iter(behind.values())).steps
            self._train(behind, places[1][1] if len(places) > 1 and places[1][0] == places[0][0] else steps)

    def _leaves(self, number: int, outcome: Outcome) -> None:
        del self._members[number]
        self._ended(number, outcome)

    def _train(self, members: dict[int, Member], until: int) -> None:
        """Trains these up to a step of the epoch under way, or until one of them has diverged; at the last step the epoch is finished."""
        program = self._program_of(list(members.values()))
        leader = members[min(members)]
        (epoch, first), steps, size = leader.place, leader.steps, leader.config.batch_size
        program.begin(epoch + 1)
        started, step, broken = time.monotonic(), first, list[int]()
        while step < until and not broken:
            program.step(step)
            step += 1
            for member in members.values():
                member.progress.step = step
            if step % program.look_every == 0 or step == steps:
                diverged = program.diverged()
                broken = [number for number, member in members.items() if member in diverged]
            if not broken:
                self._save_if(due=step < steps and self._is_due(), program=program)
        program.hand_out()
        for member in members.values():
            member.took(images=(step - first) * size, trained_s=(time.monotonic() - started) / len(members),
                        waited_s=program.waited_s / len(members))
        for number in broken:
            reason = f"training loss stopped being finite in epoch {epoch + 1}, by step {step} of {steps}"
            self._diverges(number, members[number].infeasible(reason))
        if step == steps and not broken:
            for number, member in members.items():
                if outcome := member.finish_epoch():
                    self._diverges(number, outcome)
        self._save_if(due=self._is_due())

    def _diverges(self, number: int, outcome: Outcome) -> None:
        self._dead.append(self._members[number])
        self._leaves(number, outcome)

    def _program_of(self, members: list[Member]) -> Program:
        """The program of these, which may still train some that have diverged: how wide a layer is decides how sums are rounded, and the
        others are to be what they would have been."""
        alive = [training for training in self._program.trainings if training not in self._dead] if self._program else []
        if self._program is None or alive != members:
            self._program = None  # its memory is free once the members are parts of the new one
            self._program = Program(members, self._batcher, proven=self._proven)
            self._proven, self._dead = True, []
        return self._program

    def _is_due(self) -> bool:
        return time.monotonic() - self._last_save >= max(self._checkpoint_s, SAVE_SHARE * self._save_took)

    def _save_if(self, *, due: bool, program: Program | None = None) -> None:
        """Keeps the progress of all when it is time or one is asked to stop, and then stops.

        Args:
            program: The one that is in the middle of an epoch.
        """
        stop = any(member.context.stop() for member in self._members.values())
        if not stop and not due:
            return
        if program:
            program.hand_out()
        started = time.monotonic()
        for member in self._members.values():
            member.save()
        self._last_save = time.monotonic()
        self._save_took = self._last_save - started
        if stop:
            raise Interrupted


def _prepared(trials: Sequence[Trial], contexts: Sequence[Context], kind: type[Kind]) -> Iterator[Kind | Outcome]:
    """A training of this kind for each trial, or its outcome where the network cannot be built; they share the data."""
    splits = None
    for trial, context in zip(trials, contexts, strict=True):
        config, splits = prepare(trial, context) if splits is None else (Config.from_dict(trial.config), splits)
        check_batch(config, ranks=1, train_images=len(splits.train))
        seed_torch(seed_of(trial.seed), context.device)
        sizes = {"classes": splits.classes, "channels": splits.channels, "size": splits.size}
        try:
            model = models.build(config, **sizes, weights_file=context.weights_file)
        except models.Infeasible as error:
            yield Outcome(status="infeasible", reason=str(error))
        else:
            yield kind(trial, context, config=config, splits=splits, model=model)


def _shared_batcher(trainings: Sequence[Training]) -> FusedBatcher:
    """One batcher for all: one copy of the images on the device is enough."""
    first = trainings[0]
    batcher = FusedBatcher(first.splits, first.config, first.device, next(first.model.parameters()).dtype)
    for training in trainings:
        training.batcher = training.batches = batcher
    return batcher


def fused_is_faster(trials: Sequence[Trial], contexts: Sequence[Context]) -> bool:
    """Whether a step of these trials as one program takes less than FASTER times as long as their own steps one after the other.

    Tries it for a few steps; writes nothing and leaves torch's generators as they were. False too where the program fails: out of memory,
    or networks that do not work together.
    """
    if len(trials) < 2 or any(context.accumulate > 1 for context in contexts):
        return False
    nowhere = [dataclasses.replace(context, folder=context.folder / "nothing") for context in contexts]  # no checkpoint is found there
    devices = [torch.device(contexts[0].device)] if contexts[0].device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        try:
            alone_s, fused_s = len(trials) * _alone_s(trials[:1], nowhere[:1]), _fused_s(trials, nowhere)
        except Exception as error:
            print(f"{len(trials)} trials as one program: {type(error).__name__}: {error}; they are trained one by one", flush=True)
            return False
        finally:
            gc.collect()
            if devices:
                torch.cuda.empty_cache()
    print(f"a step of {len(trials)} trials takes {1000 * fused_s:.3g} ms as one program and {1000 * alone_s:.3g} ms one by one", flush=True)
    return fused_s < FASTER * alone_s


def _alone_s(trials: Sequence[Trial], contexts: Sequence[Context]) -> float:
    """Seconds of a step of the first trial by itself."""
    training = next(_prepared(trials, contexts, Training))
    if isinstance(training, Outcome):
        raise Unfusable(str(training.reason))
    models.set_train(training.model, training.config.freeze)
    training.progress.sums = training.progress.sums.to(training.device)
    batch_KB = np.resize(training.splits.train, (WARM_UPS + TIMED, training.config.batch_size))

    def step(number: int) -> None:
        seed_torch(seed_of(training.trial.seed, 1, number, 0), training.context.device)
        training.step(batch_KB[number], epoch=1)

    return _seconds(step, training.device, range(WARM_UPS + TIMED))


def _fused_s(trials: Sequence[Trial], contexts: Sequence[Context]) -> float:
    """Seconds of a step of all as one program."""
    members = [member for member in _prepared(trials, contexts, Member) if isinstance(member, Member)]
    program = Program(members, _shared_batcher(members))
    return _seconds(program.step, program.device, [number % members[0].steps for number in range(WARM_UPS + TIMED)])


def _seconds(step: Callable[[int], None], device: torch.device, numbers: Iterable[int]) -> float:
    """Mean seconds of a step after WARM_UPS of them."""
    started = 0.0
    for count, number in enumerate(numbers):
        if count == WARM_UPS:
            _wait_for(device)
            started = time.perf_counter()
        step(number)
    _wait_for(device)
    return (time.perf_counter() - started) / TIMED


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
