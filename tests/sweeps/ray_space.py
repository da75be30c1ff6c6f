"""A Ray Tune search as people write it, for the tests of harness.convert, which reads it and never runs it."""
# ruff: noqa
import os

from ray import tune
from ray.tune.schedulers import ASHAScheduler

os.mkdir("this-file-was-run")


def main():
    param_space = {
        "model": "dynamic_cnn",
        "lr": tune.loguniform(1e-4, 1e-1),
        "optimizer": tune.grid_search(["sgd", "adam"]),
        "depth": tune.randint(1, 4),
        "filters": tune.qrandint(10, 64, 8),
        "hidden": tune.lograndint(16, 257),
        "batch_size": tune.choice([2 ** i for i in range(4, 8)]),
        "l2": tune.sample_from(lambda _: 2 ** np.random.randint(2, 9)),
        "weight_decay": tune.randn(0.01, 0.002),
    }
    tuner = tune.Tuner(
        train,
        param_space=param_space,
        tune_config=tune.TuneConfig(
            metric="val/loss", mode="min", num_samples=40, search_alg=OptunaSearch(),
            scheduler=ASHAScheduler(max_t=27, grace_period=3, reduction_factor=3),
        ),
    )
