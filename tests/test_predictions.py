"""What a trial says of each test image: kept by the job, put into a table, drawn as a confusion matrix."""

import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from in_fork import train
from PIL import Image
from studies import Study as Launched
from test_fused import fused
from test_fused import trial as small

import jobs.train
from analysis import style
from analysis.figures import confusion
from analysis.load import NotForThisStudy, load
from harness import tables
from harness.grid import Grid, parse_grid
from harness.store import Store
from harness.trials import Planner
from harness.waves import Wave
from jobs import data as jobs_data
from jobs import datasets, models, predictions
from jobs.config import Config, Trial
from jobs.contract import Context, Superseded
from tests.made_up_study import write_study

SMALL = {"dataset": "digits", "train_images": 160, "batch_size": 32, "epochs": 2, "filters": 4, "hidden": 16, "precision": "fp64"}


# ------------------------------------------------------------------------------------------------------------------- the job


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[Path, float]:
    """The folder of a trial and its test accuracy."""
    folder = tmp_path_factory.mktemp("alone")
    outcome = jobs.train.run(Trial(config=SMALL), Context(folder=folder, data=data))
    return folder, outcome.test["test_acc"]


def test_predictions_are_those_of_the_selected_weights(alone: tuple[Path, float], data: Path) -> None:
    """Computed again without any of the training code."""
    folder, accuracy = alone
    said = predictions.load(folder)
    assert said is not None and said.class_names == () and said.accuracy == accuracy
    config = Config.from_dict(SMALL)
    splits = jobs_data.load(config, data)
    model = models.build(config, classes=10, channels=1, size=8).double()
    model.load_state_dict(torch.load(folder / "selected.pt", weights_only=True)["model"])
    x_BCHW = torch.from_numpy(splits.images[splits.test]).permute(0, 3, 1, 2).double() / 255
    with torch.no_grad():
        by_hand = model.eval()((x_BCHW - splits.spec.mean[0]) / splits.spec.std[0]).argmax(1)
    assert said.images.tolist() == splits.test.tolist() and said.labels.tolist() == splits.labels[splits.test].tolist()
    assert said.predicted.tolist() == by_hand.tolist()


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_keep_them_in_the_same_order(ranks: int, alone: tuple[Path, float], tmp_path: Path, data: Path) -> None:
    """The digits' 359 test images are no multiple of 2 or 3. Weights of another number of ranks differ by rounding, so it is the ones of
    one rank that all evaluate."""
    folder, accuracy = alone
    (tmp_path / "selected.pt").write_bytes((folder / "selected.pt").read_bytes())
    numbers = train(Trial(config=SMALL), tmp_path, data, ranks=ranks, every_step=False, job="test")
    assert numbers and numbers["test_acc"] == accuracy
    assert (tmp_path / "predictions.npz").read_bytes() == (folder / "predictions.npz").read_bytes()


def test_killed_and_gone_on_with_they_are_the_same_bytes(alone: tuple[Path, float], tmp_path: Path, data: Path) -> None:
    trial = Trial(config=SMALL)
    assert train(trial, tmp_path, data, kill=(0, 7)) is None and not (tmp_path / "predictions.npz").exists()
    assert train(trial, tmp_path, data) is not None
    assert (tmp_path / "predictions.npz").read_bytes() == (alone[0] / "predictions.npz").read_bytes()


def test_trained_as_one_program_each_has_its_own(tmp_path: Path, data: Path) -> None:
    trials = [small(seed, epochs=2) for seed in (0, 1)]
    for member, outcome in enumerate(fused(trials, tmp_path, data)):
        said = predictions.load(tmp_path / str(member))
        assert said is not None and said.accuracy == outcome.test["test_acc"]


def test_a_trial_whose_test_split_stays_shut_keeps_none(tmp_path: Path, data: Path) -> None:
    shut = Trial(config=SMALL, test=False)
    jobs.train.run(shut, Context(folder=tmp_path, data=data))
    assert not (tmp_path / "predictions.npz").exists()
    jobs.train.test(shut, Context(folder=tmp_path, data=data))
    assert (tmp_path / "predictions.npz").exists()


def test_one_that_another_attempt_has_overtaken_writes_none(alone: tuple[Path, float], tmp_path: Path, data: Path) -> None:
    (tmp_path / "selected.pt").write_bytes((alone[0] / "selected.pt").read_bytes())

    def fence() -> None:
        raise Superseded

    with pytest.raises(Superseded):
        jobs.train.test(Trial(config=SMALL), Context(folder=tmp_path, data=data, fence=fence))
    assert not (tmp_path / "predictions.npz").exists()


def test_class_names(tmp_path: Path) -> None:
    """As many as classes; of one's own images those of the folders, of which `classes` keeps some."""
    for name, spec in datasets.DATASETS.items():
        assert len(datasets.class_names(name)) in ((spec.classes,) if name != "digits" else (0,))
    assert datasets.class_names("cifar100")[47] == "maple_tree" and datasets.class_names("cifar10")[3] == "cat"
    for number, name in enumerate(("ant", "bee", "cat & dog")):
        (tmp_path / "zoo" / name).mkdir(parents=True)
        for image in range(6):
            Image.new("RGB", (20, 20), (40 * number, 10 * image, 0)).save(tmp_path / "zoo" / name / f"{image}.png")
    config = dataclasses.replace(Config(), dataset="folder:zoo", image_size=16, classes="0,2", batch_size=2)
    assert jobs_data.load(config, tmp_path).class_names == ("ant", "cat & dog")
    assert jobs_data.load(dataclasses.replace(config, classes="all"), tmp_path).class_names == ("ant", "bee", "cat & dog")


# ------------------------------------------------------------------------------------------------------------------ the file


def test_a_file_that_is_not_whole_is_none(alone: tuple[Path, float], tmp_path: Path) -> None:
    whole, path = (alone[0] / "predictions.npz").read_bytes(), tmp_path / "predictions.npz"
    assert predictions.load(tmp_path) is None
    right = predictions.load(alone[0])
    assert right is not None
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place])
        assert predictions.load(tmp_path) is None
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1:])
        if found := predictions.load(tmp_path):  # a bit that nothing reads, such as one of a date
            assert (found.images == right.images).all() and (found.labels == right.labels).all()
            assert (found.predicted == right.predicted).all() and found.class_names == right.class_names
    path.unlink()
    path.mkdir()
    assert predictions.load(tmp_path) is None


class Bomb:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("change", [
    {"labels": np.array([0, 1])}, {"labels": np.array([0, -1, 1], np.int32)}, {"predicted": np.zeros((3, 1), np.int32)},
    {"images": np.array([], np.int32)}, {"labels": np.array([0.5, 1, 2])}, {"class_names": np.array([1, 2])}, {"predicted": None},
    {"class_names": np.array([Bomb()], dtype=object)}])
def test_a_file_that_holds_something_else(change: dict[str, np.ndarray | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a job of the user's own, or somebody else, may have left there."""
    monkeypatch.chdir(tmp_path)
    fits = {name: np.array([0, 1, 2], np.int32) for name in ("images", "labels", "predicted")} | {"class_names": np.array(["a"])}
    np.savez(tmp_path / "predictions.npz", **fits)
    assert predictions.load(tmp_path) is not None
    np.savez(tmp_path / "predictions.npz", **{name: value for name, value in (fits | change).items() if value is not None})
    assert predictions.load(tmp_path) is None and not (tmp_path / "ran").exists()
    with zipfile.ZipFile(tmp_path / "predictions.npz", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    assert predictions.load(tmp_path) is None


# ----------------------------------------------------------------------------------------------------------------- the table


LABELS = np.array([0, 0, 1, 1, 2, 2, 2, 2])


@pytest.fixture
def made(tmp_path: Path) -> tuple[Store, Grid]:
    """Three variants on one seed, two of them with predictions: 7 and 5 of 8 are right; the third is tested without any."""
    grid = parse_grid('[study]\nname = "made"\nseeds = [0]\n[compare]\ndepth = [1, 2, 3]\n')
    store = Store(tmp_path / "made")
    store.create_folders()
    trials = Planner(grid).trials()
    store.write_wave(Wave(trials=tuple(trials)))
    for trial, wrong in zip(trials, (1, 3, None), strict=True):
        store.trial_folder(trial.id).mkdir()
        if wrong is not None:
            keep(store, trial.id, wrong)
        row = {"epoch": 1, "train_loss": 1.0, "train_acc": 0.5, "val_loss": 1.0, "val_acc": 0.5, "lr": 0.1}
        store.publish_result(trial.id, {"status": "done", "reason": None, "epoch": 1, "rows": [row],
                                        "test": {"test_loss": 1.0, "test_acc": 1 - (wrong or 0) / 8}})
    tables.compact(store, grid)
    return store, grid


def keep(store: Store, trial: str, wrong: int) -> None:
    """Predictions of which so many are wrong: what is class 2 is called 0."""
    predicted = LABELS.copy()
    predicted[len(LABELS) - wrong:] = 0
    predictions.save(store.trial_folder(trial), images=np.arange(100, 108), labels=LABELS, predicted=predicted, class_names=("a", "b", "c"))


def test_the_table_by_hand(made: tuple[Store, Grid]) -> None:
    store, _ = made
    ids = [trial.id for trial in store.trials()]
    table = pq.read_table(store.table_file("predictions"), page_checksum_verification=True)
    assert [(f.name, str(f.type)) for f in table.schema] == [
        ("trial_id", "string"), ("image", "int32"), ("label", "int32"), ("predicted", "int32")]
    frame = table.to_pandas()
    assert frame["trial_id"].tolist() == [ids[0]] * 8 + [ids[1]] * 8 and frame["image"].tolist() == [*range(100, 108)] * 2
    assert frame["label"].tolist() == LABELS.tolist() * 2
    assert frame["predicted"].tolist() == [0, 0, 1, 1, 2, 2, 2, 0, 0, 0, 1, 1, 2, 0, 0, 0]
    about = json.loads(table.schema.metadata[b"harness"])
    assert about["class_names"] == ["a", "b", "c"] and about["study"] == "made" and about["schema"] == 1


def test_made_anew_byte_for_byte_and_only_when_results_change(made: tuple[Store, Grid], monkeypatch: pytest.MonkeyPatch) -> None:
    store, grid = made
    ids, path = [trial.id for trial in store.trials()], store.table_file("predictions")
    before = path.read_bytes()
    path.unlink()
    tables.compact(store, grid)
    assert path.read_bytes() == before
    keep(store, ids[2], 0)  # it comes late, as NFS may have it
    tables.compact(store, grid)
    assert pd.read_parquet(path)["trial_id"].nunique() == 3
    with monkeypatch.context() as patch:
        patch.setattr(tables, "load", lambda folder: pytest.fail(f"{folder} was read again"))
        patch.setattr(tables, "_predictions", lambda found: pytest.fail("made again"))
        stamp = path.stat().st_mtime_ns
        tables.compact(store, grid)
    assert path.stat().st_mtime_ns == stamp
    path.write_bytes(path.read_bytes()[:-7])  # cut short
    tables.compact(store, grid)
    assert pd.read_parquet(path)["trial_id"].nunique() == 3


def test_what_is_not_of_the_evaluation_that_counts_is_left_out(made: tuple[Store, Grid]) -> None:
    """Another evaluation's, a damaged file; and without any there is no table."""
    store, grid = made
    ids, path = [trial.id for trial in store.trials()], store.table_file("predictions")
    path.unlink()
    keep(store, ids[0], 2)
    tables.compact(store, grid)
    assert set(pd.read_parquet(path)["trial_id"]) == {ids[1]}
    path.unlink()
    (store.trial_folder(ids[1]) / "predictions.npz").write_bytes(b"PK")
    tables.compact(store, grid)
    assert not path.exists()
    path.write_bytes(b"of another plan")
    tables.compact(store, grid)
    assert not path.exists()


def test_the_newest_opening_counts(made: tuple[Store, Grid]) -> None:
    store, grid = made
    trials = store.trials()
    keep(store, trials[0].id, 3)
    again = dataclasses.replace(trials[0], opening=2)
    (store.trial_folder(trials[0].id) / "result.json").unlink()
    row = {"epoch": 1, "train_loss": 1.0, "train_acc": 0.5, "val_loss": 1.0, "val_acc": 0.5, "lr": 0.1}
    store.publish_result(trials[0].id, {"status": "done", "reason": None, "epoch": 1, "rows": [row], "test": {}})
    store.publish_test(trials[0].id, 1, {"test_loss": 1.0, "test_acc": 7 / 8})
    store.publish_test(trials[0].id, 2, {"test_loss": 1.0, "test_acc": 5 / 8})
    store.write_wave(Wave(trials=(again,), kind="test", number=2))
    tables.compact(store, grid)
    frame = pd.read_parquet(store.table_file("predictions")).query("trial_id == @trials[0].id")
    assert frame["predicted"].tolist() == [0, 0, 1, 1, 2, 0, 0, 0]


@pytest.mark.slow
def test_a_launch_writes_them_and_says_when_attempts_were_queued(tmp_path: Path, data: Path) -> None:
    study = Launched(tmp_path, data)
    study.finish()
    trials, said, attempts = (pd.read_parquet(study.store.table_file(name)) for name in ("trials", "predictions", "attempts"))
    right = said.assign(right=said["label"] == said["predicted"]).groupby("trial_id")["right"].mean()
    assert right.to_dict() == trials.set_index("trial_id")["test_acc"].to_dict() and len(right) == 4
    assert (attempts["queued"] <= attempts["started"]).all() and attempts["queued"].nunique() == 1
    stamp = study.store.table_file("predictions").stat().st_mtime_ns
    study.finish()
    assert study.store.table_file("predictions").stat().st_mtime_ns == stamp


# ---------------------------------------------------------------------------------------------------------------- the figure


def with_predictions(folder: Path, said: dict[tuple[str, int], list[int]], labels: list[int], *, names: list[str] | None = None,
                     test_acc: dict[tuple[str, int], float] | None = None) -> Path:
    """A made-up study with the predictions of some of its trials (variant, seed)."""
    variants = list(dict.fromkeys(variant for variant, _ in said))
    exact = {of: float(np.mean(np.array(one) == np.array(labels[:len(one)]))) for of, one in said.items() if one}
    write_study(folder, dict.fromkeys(variants, 0.9), seeds=1 + max(seed for _, seed in said), epochs=1, test_acc=exact | (test_acc or {}))
    trials = pq.read_table(folder / "trials.parquet")
    about = json.loads(trials.schema.metadata[b"harness"]) | {"class_names": names or []}
    rows = [{"trial_id": row["trial_id"], "image": image, "label": label, "predicted": predicted} for row in trials.to_pylist()
            for image, (label, predicted) in enumerate(zip(labels, said.get((row["variant"], row["seed"]), []), strict=False))]
    schema = pa.schema([("trial_id", pa.string()), ("image", pa.int32()), ("label", pa.int32()), ("predicted", pa.int32())])
    pq.write_table(pa.Table.from_pylist(rows, schema.with_metadata({"harness": json.dumps(about)})), folder / "predictions.parquet")
    return folder


def drawn(folder: Path, size: str = "paper") -> str:
    """The texts under and in the figure of a study."""
    study = load(folder)
    with style.context(size):
        figure = style.new_figure()
        confusion.draw(figure, confusion.table(study), study)
        figure.draw_without_rendering()
        return " ".join(" ".join(text.get_text() for text in figure.texts).split())


def test_cells_by_hand(tmp_path: Path) -> None:
    """Two seeds of "a" are summed; "b" is behind, and the reference is "a"."""
    said = {("a", 0): [0, 0, 1, 1], ("a", 1): [0, 1, 1, 1], ("b", 0): [1, 1, 1, 1], ("b", 1): [1, 1, 0, 1]}
    folder = with_predictions(tmp_path / "s", said, [0, 0, 0, 1], names=["cat", "dog"])
    cells = confusion.table(load(folder)).set_index(["arm", "label_name", "predicted_name"])[["trials", "images", "n", "share"]]
    assert {of: tuple(row) for of, row in zip(cells.index, cells.to_numpy().tolist(), strict=True)} == {
        ("best", "cat", "cat"): (2, 6, 3, 0.5), ("best", "cat", "dog"): (2, 6, 3, 0.5), ("best", "dog", "dog"): (2, 2, 2, 1),
        ("other", "cat", "cat"): (2, 6, 1, 1 / 6), ("other", "cat", "dog"): (2, 6, 5, 5 / 6), ("other", "dog", "dog"): (2, 2, 2, 1)}
    text = drawn(folder)
    assert "4 images in 2 classes, summed over 2 trials" in text and 'the best of 2 variants, "a"' in text and "Dots:" in text


def test_trials_without_predictions_are_counted_and_names_that_do_not_fit_are_numbers(tmp_path: Path) -> None:
    folder = with_predictions(tmp_path / "s", {("a", 0): [0, 2, 2], ("a", 1): []}, [0, 1, 2], names=["only one"])
    table = confusion.table(load(folder))
    assert table[["label_name", "predicted_name", "n"]].to_numpy().tolist() == [["0", "0", 1], ["1", "1", 0], ["1", "2", 1], ["2", "2", 1]]
    assert "1 finished trial without predictions" in drawn(folder)


def test_variants_tested_on_other_images_are_not_compared(tmp_path: Path) -> None:
    folder = with_predictions(tmp_path / "s", {("a", 0): [0, 0, 1, 1], ("b", 0): [0, 1, 1]}, [0, 0, 1, 1])
    assert "Dots:" not in drawn(folder)


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(NotForThisStudy, match="no predictions.parquet of finished trials"):
        confusion.table(load(write_study(tmp_path / "s", {"a": 0.9})))
    with pytest.raises(NotForThisStudy):
        confusion.table(load(with_predictions(tmp_path / "t", {("a", 0): []}, [0, 1])))


@pytest.mark.parametrize("size", ["paper", "slide"])
@pytest.mark.parametrize(("classes", "variants"), [(2, 1), (10, 2), (20, 2), (21, 1), (101, 2)])
def test_any_number_of_classes_and_any_names(classes: int, variants: int, size: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 10 * classes)
    names = [["$x_1$", "<b>&\"%</b>", "new\nline", "x" * 200, "{#}~^\\"][i % 5] + str(i) for i in range(classes)]
    said = {(f"v{variant}", 0): np.where(rng.random(len(labels)) < 0.7, labels, rng.integers(0, classes, len(labels))).tolist()
            for variant in range(variants)}
    folder = with_predictions(tmp_path / "s", said, labels.tolist(), names=names)
    table = confusion.table(load(folder))
    best = table[table["arm"] == "best"].drop_duplicates("label")
    assert sorted(best["place"]) == sorted(best["label"]) and (best["place"].tolist() == best["label"].tolist()) == (classes <= 20)
    text = drawn(folder, size)
    assert ("pairs with the most mistakes" in text) == (classes > 20 or variants == 1) and ("Dots:" in text) == (variants == 2)
