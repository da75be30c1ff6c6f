"""A Hyperopt search as people write it, for the tests of harness.convert, which reads it and never runs it."""
# ruff: noqa
import os

import numpy as np
from hyperopt import fmin, hp, tpe
from hyperopt.pyll import scope

os.mkdir("this-file-was-run")
LOWEST = 1e-4

space = {
    "learning_rate": hp.loguniform("learning_rate", np.log(LOWEST), np.log(1e-1)),
    "wd": 10 ** hp.uniform("wd", -6, -2),
    "bs": 2 ** scope.int(hp.quniform("bs", 4, 7, 1)),
    "dropout_rate": hp.quniform("dropout_rate", 0.05, 0.55, 0.1),
    "max_epochs": scope.int(hp.quniform("max_epochs", 5, 20, 5)),
    "opt": hp.choice("opt", [
        {
            "type": "SGD",
            "momentum": hp.uniform("momentum", 0.8, 0.99),
            "lr_scheduler": hp.choice("lr_scheduler", [{"name": "StepLR", "step_size": hp.choice("step_size", [5, 10])}, "cosine", None]),
        },
        {"type": "Adam", "beta1": hp.uniform("beta1", 0.8, 0.95)},
        {"type": "RMSprop", "alpha": hp.uniform("alpha", 0.9, 0.99)},
    ]),
    "seed": 3,
}

best = fmin(train, space, algo=tpe.suggest, max_evals=100)
