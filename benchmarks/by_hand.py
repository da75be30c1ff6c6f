"""The training scripts that people write by hand, for the throughput benchmark: one loop over everything, or one submitit job per trial.

    python -m benchmarks.by_hand loop trials.json results.json
    python -m benchmarks.by_hand submitit trials.json results.json

`trials.json` holds [{"config": {...}, "seed": 0}, ...]. Network, optimizer, schedule, epochs, batch size, splits and seeds are those of
our own job, so that only the input path, the loop and the launcher differ; the images even come from our cache, which spares these
scripts an import of scikit-learn.
"""

import copy
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def train(values: Mapping[str, Any], seed: int, report: Callable[[dict[str, float]], None] = lambda row: None) -> dict[str, float]:
    """Trains one config on grey images with DataLoader and PIL transforms, keeps the best epoch by validation accuracy, and tests it once;
    `report` gets the validation accuracy of every epoch."""
    import numpy as np
    import torch
    from PIL import Image
    from torch.nn import functional as F
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    from jobs import data, models, optim
    from jobs.config import Config

    torch.manual_seed(seed)
    config = Config.from_dict(values)
    splits = data.load(config, data.data_folder())
    normalise = [transforms.ToTensor(), transforms.Normalize(splits.spec.mean, splits.spec.std)]
    changes = {"none": [], "crop_flip": [transforms.RandomCrop(splits.size, splits.size // 8), transforms.RandomHorizontalFlip()]}

    class Pictures(Dataset[tuple[Any, int]]):
        def __init__(self, samples: np.ndarray, augment: str):
            self.images, self.labels = splits.images[samples][..., 0], splits.labels[samples]
            self.transform = transforms.Compose([*changes[augment], *normalise])

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])

    model = models.build(config, classes=splits.classes, channels=splits.channels, size=splits.size)
    optimizer = optim.build_optimizer(config, model.parameters())
    schedule = optim.build_schedule(config, optimizer)
    train_loader = DataLoader(Pictures(splits.train, config.augment), batch_size=config.batch_size, shuffle=True, drop_last=True)
    val_loader, test_loader = (DataLoader(Pictures(samples, "none"), batch_size=512) for samples in (splits.val, splits.test))

    def evaluate(loader: Any) -> float:
        model.eval()
        correct = 0
        with torch.no_grad():
            for x_BCHW, y_B in loader:
                correct += (model(x_BCHW).argmax(1) == y_B).sum().item()
        return correct / len(loader.dataset)

    best_acc, best_model = -1.0, copy.deepcopy(model.state_dict())
    for _ in range(config.epochs):
        model.train()
        total_loss, correct = 0.0, 0
        for x_BCHW, y_B in train_loader:
            logits = model(x_BCHW)
            loss = F.cross_entropy(logits, y_B)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total_loss += loss.item()
            correct += (logits.argmax(1) == y_B).sum().item()
        if schedule is not None:
            schedule.step()
        val_acc = evaluate(val_loader)
        report({"val_acc": val_acc})
        if val_acc > best_acc:
            best_acc, best_model = val_acc, copy.deepcopy(model.state_dict())
    model.load_state_dict(best_model)
    return {"val_acc": best_acc, "test_acc": evaluate(test_loader)}


def loop(trials: list[dict[str, Any]]) -> list[dict[str, float]]:
    """One trial after the other in this process."""
    return [train(trial["config"], trial["seed"]) for trial in trials]


def submitit_jobs(trials: list[dict[str, Any]], folder: Path) -> list[dict[str, float]]:
    """One job per trial on submitit's local executor, as its documentation shows: `map_array`, then wait for every result."""
    import submitit

    executor = submitit.AutoExecutor(folder=folder, cluster="local")
    executor.update_parameters(timeout_min=60)
    jobs = executor.map_array(train, [trial["config"] for trial in trials], [trial["seed"] for trial in trials])
    return [job.result() for job in jobs]


def main(how: str, trials_file: Path, results_file: Path) -> None:
    """Trains all trials and writes their results."""
    trials = json.loads(trials_file.read_text())
    results = submitit_jobs(trials, results_file.with_suffix("")) if how == "submitit" else loop(trials)
    results_file.write_text(json.dumps(results))


if __name__ == "__main__":
    from benchmarks.by_hand import main as main_of_module  # so that a submitit job finds `train` by its module's name

    main_of_module(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
