"""The same grid of trainings as a user of each tool writes it: by hand, Optuna, Ray Tune, Hydra with its submitit launcher.

    python -m benchmarks.trial_scripts hand|optuna|ray space.json results.json
    python -m benchmarks.trial_scripts hydra --multirun hydra/launcher=submitit_local ... +filters=16,32

`space.json` holds {"fixed": {...}, "compare": {"filters": [16, 32], ...}, "seed": 0, "at_once": 2}; `results.json` gets a list of
{"values": [one of each compared parameter], "val_acc": 0.9}. Every side calls `by_hand.train`, so they differ in how trials are started,
spread over the cores and reported. Each uses what makes it fast on a few cores: as many trials at once as there are cores, one thread
each, processes that are kept for the next trial where the tool can keep them.
"""

import itertools
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.by_hand import train

Space = dict[str, Any]
Result = dict[str, Any]
RESULTS = "BENCH_RESULTS"
"""Environment variable with the folder into which each of Hydra's jobs writes its result."""


def _one(space: Space, values: tuple[Any, ...]) -> Result:
    return {"values": values, **train(space["fixed"] | dict(zip(space["compare"], values, strict=True)), space["seed"])}


def by_hand(space: Space) -> list[Result]:
    """The script without a tool: the product of all values in a pool of processes."""
    with ProcessPoolExecutor(max_workers=space["at_once"]) as pool:
        return list(pool.map(_one, itertools.repeat(space), itertools.product(*space["compare"].values())))


def with_optuna(space: Space, folder: Path) -> list[Result]:
    """The grid enqueued in a journal file; several processes take their next trial from it, as Optuna's documentation distributes."""
    study = _study(folder, create=True)
    for values in itertools.product(*space["compare"].values()):
        study.enqueue_trial(dict(zip(space["compare"], values, strict=True)))
    with ProcessPoolExecutor(max_workers=space["at_once"]) as pool:
        for worker in [pool.submit(_optuna_process, space, folder) for _ in range(space["at_once"])]:
            worker.result()
    return [{"values": [trial.params[name] for name in space["compare"]], "val_acc": trial.value} for trial in study.get_trials()]


def _study(folder: Path, *, create: bool = False) -> Any:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    if create:
        return optuna.create_study(study_name="bench", storage=storage, direction="maximize")
    return optuna.load_study(study_name="bench", storage=storage)


def _optuna_process(space: Space, folder: Path) -> None:
    from optuna.trial import TrialState

    def objective(trial: Any) -> float:
        values = {name: trial.suggest_categorical(name, choices) for name, choices in space["compare"].items()}
        epochs = itertools.count()
        return train(space["fixed"] | values, space["seed"], lambda row: trial.report(row["val_acc"], next(epochs)))["val_acc"]

    def stop_at_the_end(study: Any, trial: Any) -> None:
        if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            study.stop()

    _study(folder).optimize(objective, callbacks=[stop_at_the_end])


def with_ray(space: Space, folder: Path) -> list[Result]:
    """`Tuner.fit` over a grid_search, one CPU a trial, actors reused."""
    import ray
    from ray import tune

    def trainable(config: dict[str, Any]) -> None:
        train(config, space["seed"], tune.report)

    ray.init(num_cpus=space["at_once"], include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    grid = {name: tune.grid_search(choices) for name, choices in space["compare"].items()}
    tuner = tune.Tuner(tune.with_resources(trainable, {"cpu": 1}), param_space=space["fixed"] | grid,
                       tune_config=tune.TuneConfig(metric="val_acc", mode="max", reuse_actors=True),
                       run_config=tune.RunConfig(storage_path=str(folder), verbose=0))
    found = tuner.fit()
    if found.errors:
        raise RuntimeError(f"Ray Tune: {found.errors[0]}")
    results = [{"values": [result.config[name] for name in space["compare"]], "val_acc": float(result.metrics_dataframe["val_acc"].max())}
               for result in found]
    ray.shutdown()
    return results


def hydra_job(config: Any) -> None:
    """What Hydra calls for every trial; `swept` names the compared parameters."""
    values = {str(name): value for name, value in config.items()}
    seed, swept = values.pop("seed"), values.pop("swept").split("/")
    result = {"values": [values[name] for name in swept], **train(values, seed)}
    (Path(os.environ[RESULTS]) / f"{os.getpid()}.json").write_text(json.dumps(result))


def main(how: str, space_file: Path, results_file: Path) -> None:
    """Trains all trials and writes their results."""
    space, folder = json.loads(space_file.read_text()), results_file.with_suffix("")
    folder.mkdir()
    results = by_hand(space) if how == "hand" else {"optuna": with_optuna, "ray": with_ray}[how](space, folder)
    results_file.write_text(json.dumps(results))


if __name__ == "__main__":
    from benchmarks import trial_scripts  # so that other processes find the functions by the module's name

    if sys.argv[1] == "hydra":
        import hydra

        del sys.argv[1]
        hydra.main(version_base=None, config_path=None)(trial_scripts.hydra_job)()
    else:
        trial_scripts.main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
