"""`dataset = "folder:NAME"`: a user's own images, in both layouts, of every mode that files come in, and everything that can be wrong."""

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from image_fixtures import write_own_images
from PIL import Image

from harness import stage
from harness.errors import MissingData
from harness.grid import parse_grid
from harness.needs import check_own_images, needed_configs
from harness.needs import missing as missing_of
from jobs import data, image_folder, training
from jobs.augment import Batcher
from jobs.config import Config, ConfigError, Trial
from jobs.contract import Context, DataError
from jobs.datasets import spec
from jobs.image_folder import SUFFIXES, square

NAME = "folder:pets"


def config(**values: object) -> Config:
    return Config.from_dict({"dataset": NAME, "image_size": 28, **values})


def flat(root: Path, **options: object) -> Path:
    return write_own_images(root / "pets", **options)


def split_up(root: Path, *parts: str, **options: object) -> Path:
    for n, part in enumerate(parts):
        write_own_images(root / "pets" / part, seed=n, **options)
    return root / "pets"


# ------------------------------------------------------------------------------------------------------------------- the name


@pytest.mark.parametrize("name", ["folder:", "folder:..", "folder:../pets", "folder:a/b", "folder:/etc", "folder:.hidden", "folder:-rf",
                                  "folder:a b", "folder:größe", "folder:a\n", "folder:" + "a" * 65, "folder:a\0", "folder:cache",
                                  "folder:weights", "folder:folder:a", "Folder:a"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="names no data set|the harness's own|folder:NAME"):
        Config.from_dict({"dataset": name})


def test_a_name_is_all_that_a_grid_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grids are checked where the data folder is not."""
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "nowhere"))
    grid = parse_grid(f'[study]\nname = "g"\n[fixed]\ndataset = "{NAME}"\nclasses = "0-700"\ntest_fraction = 0.1\n', name="g.toml")
    assert [c.dataset for c in needed_configs(grid)] == [NAME]
    assert "test_fraction" not in config().inactive()  # whether there is a test/ is not known yet
    assert data.model_size(Config(dataset=NAME)) == 224
    assert data.cache_folder(config(), tmp_path).name == "folder-pets-32-v1"


# ---------------------------------------------------------------------------------------------------------------- the layouts


def test_class_folders_alone(tmp_path: Path) -> None:
    folder = flat(tmp_path, classes=("b", "a", "C"), per_class=10)
    for litter in (folder / "README.txt", folder / "a" / "Thumbs.db", folder / "a" / ".DS_Store"):
        litter.write_text("x")
    splits = data.load(config(), tmp_path)
    assert splits.images.shape == (30, 32, 32, 3) and (splits.classes, splits.size, splits.channels) == (3, 28, 3)
    # sorted as torchvision's ImageFolder sorts, capitals first; 20 % of 10 are tested, 20 % of the other 8 (1.6, so 2) validate
    assert spec(NAME).classes == 0 and splits.spec.classes == 3
    assert json.loads((tmp_path / "cache/folder-pets-32-v1/meta.json").read_text())["class_names"] == ["C", "a", "b"]
    assert [len(part) for part in (splits.test, splits.val, splits.train)] == [6, 6, 18]
    assert splits.labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert np.array_equal(splits.images[0], square(folder / "C" / "0000.png", 32))


def test_classes_and_few_images_of_them(tmp_path: Path) -> None:
    flat(tmp_path, classes=("a", "b", "c", "d"), per_class=10)
    splits = data.load(config(classes="1-2", train_images=4, batch_size=2), tmp_path)
    assert splits.classes == 2 and splits.labels[splits.train].tolist() == [0, 0, 1, 1]
    assert set(splits.train) <= set(range(10, 30))


def test_a_test_split_that_is_given(tmp_path: Path) -> None:
    split_up(tmp_path, "train", "test", classes=("x", "y"), per_class=5)
    splits = data.load(config(), tmp_path)
    assert splits.test.tolist() == list(range(10, 20)) and splits.labels[splits.test].tolist() == [0] * 5 + [1] * 5
    assert len(splits.val) == 2 and len(splits.train) == 8  # a fifth of 5 for each class
    assert np.array_equal(splits.images[10], square(tmp_path / "pets/test/x/0000.png", 32))


def test_a_validation_split_that_is_given(tmp_path: Path) -> None:
    split_up(tmp_path, "train", "val", "test", classes=("x", "y"), per_class=3)
    splits = data.load(config(), tmp_path)
    assert [part.tolist() for part in (splits.train, splits.val, splits.test)] == [
        list(range(6)), list(range(6, 12)), list(range(12, 18))]
    assert np.array_equal(splits.images[6], square(tmp_path / "pets/val/x/0000.png", 32))
    # none of these splits is drawn: another seed changes nothing
    assert np.array_equal(data.load(config(split_seed=5), tmp_path).val, splits.val)


def test_images_are_never_all_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks go to the disk one by one: the cache of 100,000 images needs the memory of one block."""
    folder = split_up(tmp_path, "train", "test", classes=("x", "y"), per_class=5)
    monkeypatch.setattr(image_folder, "BLOCK", 4)
    blocks, labels = spec(NAME).read(tmp_path, "train", 32)
    files = sorted((folder / "train").glob("*/*"))
    first = next(iter(blocks))
    files[-1].write_text("no image")
    assert first.shape == (4, 32, 32, 3) and len(labels) == 10
    with pytest.raises(DataError, match="1 of 10 images"):
        list(blocks)
    files[-1].unlink()
    files[0].rename(files[-1])
    images = data.load(config(), tmp_path).images[:9]
    assert all(np.array_equal(image, square(path, 32)) for image, path in zip(images, sorted((folder / "train").glob("*/*")), strict=True))


def test_a_class_that_is_called_train(tmp_path: Path) -> None:
    flat(tmp_path, classes=("boat", "train"), per_class=5)
    assert data.load(config(), tmp_path).classes == 2


@pytest.mark.parametrize("parts, why", [
    (("train", "val"), r"has train/ and val/ and no test/: rename val/ to test/ if results are reported on it"),
    (("train",), r"has train/ and no test/: move the class folders up"),
    (("train", "validation", "test"), r"only val/ and test/ can be meant, not validation"),
    (("train", "test", "Test"), r"not Test")])
def test_layouts_that_can_be_read_in_two_ways(parts: tuple[str, ...], why: str, tmp_path: Path) -> None:
    split_up(tmp_path, *parts, per_class=2)
    for look in (lambda: data.check_own(config(), tmp_path), lambda: data.load(config(), tmp_path)):
        with pytest.raises(DataError, match=why):
            look()


def test_splits_with_other_classes(tmp_path: Path) -> None:
    """torchvision numbers the classes of each folder by itself: with one lacking, all labels after it would be wrong."""
    folder = split_up(tmp_path, "train", "test", classes=("a", "b", "c"), per_class=2)
    (folder / "test" / "b").rename(folder / "test" / "bb")
    with pytest.raises(DataError, match=r"pets/test lacks b\. Every split needs every class"):
        data.load(config(), tmp_path)
    (folder / "train" / "b").rename(folder / "train" / "bb")
    (folder / "test" / "d").mkdir()
    with pytest.raises(DataError, match=r"pets/train lacks d"):
        data.load(config(), tmp_path)


def test_no_class_folder(tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    with pytest.raises(DataError, match=r"holds 0 class folder\(s\); at least 2"):
        data.load(config(), tmp_path)
    flat(tmp_path, classes=("one",), per_class=2)
    with pytest.raises(DataError, match=r"holds 1 class folder\(s\)"):
        data.load(config(), tmp_path)


def test_a_fraction_of_a_split_that_is_given_has_no_effect(tmp_path: Path) -> None:
    split_up(tmp_path, "train", "val", "test", per_class=3)
    with pytest.raises(ConfigError, match=r"val_fraction has no effect: folder:pets comes with a folder val/") as caught:
        data.load(config(val_fraction=0.3, test_fraction=0.1), tmp_path)
    assert [name for name, _ in caught.value.problems] == ["val_fraction", "test_fraction"]


# -------------------------------------------------------------------------------------------------------------- normalisation


def test_images_are_normalised_by_their_own_statistics(tmp_path: Path) -> None:
    folder = split_up(tmp_path, "train", "test", classes=("a", "b"), per_class=10)
    cached = np.stack([square(path, 32) for path in sorted((folder / "train").glob("*/*.png"))]).astype(np.float64) / 255
    splits = data.load(config(), tmp_path)
    assert splits.spec.mean == pytest.approx(cached.mean((0, 1, 2)), rel=1e-12)
    assert splits.spec.std == pytest.approx(cached.std((0, 1, 2)), rel=1e-12)
    x_BCHW, _ = Batcher(splits, config(image_size=32), torch.device("cpu"), torch.float64).plain(np.arange(20))
    assert x_BCHW.shape == (20, 3, 28, 28)  # what is cut away at the edges counts in the statistics


def test_a_channel_that_never_changes_is_not_divided_by_zero(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (32, 32), (10 * i, 7, 0)).save(tmp_path / "pets" / name / f"{i}.png")
    splits = data.load(config(), tmp_path)
    assert splits.spec.std[1:] == (1.0, 1.0) and splits.spec.mean[1] == pytest.approx(7 / 255)
    # red is 0, 10, 20 and 30, equally often: mean 15, variance (225 + 25 + 25 + 225) / 4 = 125
    assert splits.spec.mean[0] == pytest.approx(15 / 255) and splits.spec.std[0] == pytest.approx(125 ** 0.5 / 255)
    x_BCHW, _ = Batcher(splits, config(), torch.device("cpu")).plain(np.arange(8))
    assert torch.isfinite(x_BCHW).all() and float(x_BCHW[:, 1:].abs().max()) < 1e-6


# --------------------------------------------------------------------------------------------------------------- right pixels


def pixel_of(image: Image.Image, path: Path, **options: object) -> list[int]:
    """The centre of the image as the harness reads it from a file."""
    image.save(path, **options)
    return square(path, 16)[8, 8].tolist()


def test_pixels_of_every_mode(tmp_path: Path) -> None:
    size = (16, 16)
    assert pixel_of(Image.new("RGB", size, (1, 2, 3)), tmp_path / "rgb.png") == [1, 2, 3]
    assert pixel_of(Image.new("L", size, 77), tmp_path / "grey.png") == [77] * 3
    assert pixel_of(Image.new("1", size, 1), tmp_path / "bit.png") == [255] * 3
    palette = Image.new("P", size, 1)
    palette.putpalette([9, 9, 9, 40, 50, 60])
    assert pixel_of(palette, tmp_path / "palette.png") == [40, 50, 60]
    assert pixel_of(palette, tmp_path / "palette.gif") == [40, 50, 60]
    # ink in every channel but magenta's, yellow's and black's takes all red away: cyan. As JPEG it comes back to within its rounding
    cyan = pixel_of(Image.new("CMYK", size, (255, 0, 0, 0)), tmp_path / "cmyk.jpg", quality=100)
    assert np.abs(np.array(cyan) - (0, 255, 255)).max() <= 2
    assert pixel_of(Image.new("CMYK", size, (0, 255, 255, 0)), tmp_path / "cmyk.tif") == [255, 0, 0]


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    for value, expected in ((0, 0), (128, 0), (129, 1), (257, 1), (30000, 117), (65535, 255)):  # value / 257, rounded
        image = Image.fromarray(np.full((16, 16), value, np.uint16))
        for name in ("deep.png", "deep.tif"):
            assert pixel_of(image, tmp_path / name) == [expected] * 3, (value, name)
    clipped = Image.fromarray(np.full((16, 16), 30000, np.uint16)).convert("L").getpixel((8, 8))
    assert clipped == 255, "what Pillow itself makes of it"


def test_what_is_transparent_shows_the_page_below(tmp_path: Path) -> None:
    size = (16, 16)
    # a fifth of (10, 20, 30) over four fifths of white: 2 + 204, 4 + 204, 6 + 204
    assert pixel_of(Image.new("RGBA", size, (10, 20, 30, 51)), tmp_path / "rgba.png") == [206, 208, 210]
    assert pixel_of(Image.new("RGBA", size, (10, 20, 30, 255)), tmp_path / "opaque.png") == [10, 20, 30]
    assert pixel_of(Image.new("LA", size, (100, 0)), tmp_path / "la.png") == [255] * 3
    palette = Image.new("P", size, 1)
    palette.putpalette([9, 9, 9, 0, 0, 0])
    assert pixel_of(palette, tmp_path / "palette.png", transparency=1) == [255] * 3, "the hidden colour is black"
    assert pixel_of(palette, tmp_path / "other.png", transparency=0) == [0] * 3
    assert pixel_of(Image.new("RGB", size, (5, 6, 7)), tmp_path / "key.png", transparency=(5, 6, 7)) == [255] * 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_exif_says(orientation: int, tmp_path: Path) -> None:
    """The upper left quarter of what is seen is white; by the EXIF standard, table of Orientation, row 0 and column 0 of what is stored
    are these sides of what is seen."""
    row_0, column_0 = [("top", "left"), ("top", "right"), ("bottom", "right"), ("bottom", "left"), ("left", "top"), ("right", "top"),
                       ("right", "bottom"), ("left", "bottom")][orientation - 1]
    stored = np.zeros((32, 32), np.uint8)
    rows = slice(0, 16) if row_0 in ("top", "left") else slice(16, 32)
    columns = slice(0, 16) if column_0 in ("top", "left") else slice(16, 32)
    stored[rows, columns] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    seen = square(tmp_path / "turned.png", 32)[..., 0]
    assert seen[:16, :16].min() == 255 and seen[16:].max() == 0 and seen[:, 16:].max() == 0


def test_strips_of_one_pixel(tmp_path: Path) -> None:
    """A strip would be a huge image once its short side is scaled; only the middle of it is."""
    line = np.zeros((1, 1000, 3), np.uint8)
    line[:, 500:] = 255
    Image.fromarray(line).save(tmp_path / "wide.png")
    Image.fromarray(line.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    wide, tall = square(tmp_path / "wide.png", 64), square(tmp_path / "tall.png", 64)
    assert np.array_equal(tall, wide.transpose(1, 0, 2))
    assert wide[:, :30].max() < 128 < wide[:, 34:].min() and (wide[0] == wide[63]).all()
    Image.fromarray(np.full((1, 60_000, 3), 9, np.uint8)).save(tmp_path / "longer.png")
    assert (square(tmp_path / "longer.png", 256) == 9).all()


@pytest.mark.parametrize("size", [(600, 37), (37, 601), (17, 299)])
def test_the_two_ways_to_scale_give_the_same_pixels(size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    whole, part = [], []
    for long, found in ((1000, whole), (0, part)):
        monkeypatch.setattr(image_folder, "_LONG", long)
        found.append(square(tmp_path / "x.png", 32).astype(int))
    assert np.abs(whole[0] - part[0]).max() <= 1


# --------------------------------------------------------------------------------------------------------------- wrong files


def bomb() -> bytes:
    """A PNG of 68 kB whose header promises 60,000 x 60,000 pixels."""
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"\0" * 70_000_000, 1)[:68_000]) + chunk(b"IEND", b""))


def png() -> bytes:
    import io

    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


WRONG: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "truncated": ("cut.png", lambda: png()[:2000], "truncated|broken|OSError"),
    "text": ("notes.jpg", lambda: b"these are my notes", "UnidentifiedImageError"),
    "nothing": ("empty.jpg", lambda: b"", "UnidentifiedImageError"),
    "bomb": ("bomb.png", bomb, "DecompressionBombError"),
    "a flipped bit": ("bad.png", lambda: png()[:300] + bytes([png()[300] ^ 255]) + png()[301:], "bad.png"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_broken_image_is_named(kind: str, tmp_path: Path) -> None:
    name, content, why = WRONG[kind]
    path = flat(tmp_path, per_class=3) / "a" / name
    path.write_bytes(content())
    with pytest.raises(DataError, match=why) as caught:
        data.load(config(), tmp_path)
    assert str(path) in str(caught.value) and "1 of 7 images" in str(caught.value) and "Mend" in str(caught.value)
    assert not (tmp_path / "cache" / "folder-pets-32-v1").exists()


def test_numbers_without_a_range_are_refused(tmp_path: Path) -> None:
    path = flat(tmp_path, per_class=3) / "b" / "float.tif"
    Image.fromarray(np.ones((20, 20), np.float32)).save(path)
    with pytest.raises(DataError, match=r"float\.tif.*32-bit numbers"):
        data.load(config(), tmp_path)


def test_everything_that_is_no_image_is_named_at_once(tmp_path: Path) -> None:
    folder = flat(tmp_path, classes=("a", "b", "c"), per_class=3)
    for path in (folder / "c").iterdir():
        path.unlink()
    (folder / "a" / "photo.heic").write_bytes(b"x")
    (folder / "b" / "more").mkdir()
    with pytest.raises(DataError) as caught:
        data.load(config(), tmp_path)
    text = str(caught.value)
    assert f"{folder / 'c'}: it holds no image" in text and f"{folder / 'a' / 'photo.heic'}: no image by its name" in text
    assert f"{folder / 'b' / 'more'}: a folder inside a class folder" in text and all(suffix in text for suffix in SUFFIXES)


def test_labels_out_of_range_are_refused(tmp_path: Path) -> None:
    from image_fixtures import write_fashion_mnist

    path = write_fashion_mnist(tmp_path, zipped=False) / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x0a")  # the tenth class is 9
    with pytest.raises(DataError, match="labels from 0 to 10, where classes 0 to 9 are meant"):
        data.load(Config(dataset="fashion_mnist"), tmp_path)


# ---------------------------------------------------------------------------------------------------- what the launcher says


def grid_of(folder: Path, fixed: str = "") -> Path:
    path = folder / "own.toml"
    path.write_text(f'[study]\nname = "own"\n[fixed]\ndataset = "{NAME}"\nimage_size = 28\n{fixed}\n')
    return path


def test_staging(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = grid_of(tmp_path)
    command = [str(grid), "--data", str(tmp_path)]
    assert stage.main(command) == 1
    assert f"{tmp_path / 'pets'} is not there: put your images there, one folder for each class" in capsys.readouterr().err
    folder = flat(tmp_path, per_class=5)
    assert stage.main(command) == 0
    assert "built" in capsys.readouterr().out
    assert stage.main(command) == 0
    assert "checked" in capsys.readouterr().out

    os.utime(folder / "a" / "0001.png", (1, 1))  # as an editor that saves it again
    assert stage.main(command) == 1
    said = capsys.readouterr().err
    assert "have changed since the cache" in said and "other names, sizes or times" in said and "folder-pets-32-v1" in said
    (folder / "b" / "0002.png").unlink()
    assert stage.main(command) == 1
    assert "10 files then, 9 now" in capsys.readouterr().err


def test_a_changed_folder_stops_a_launch(tmp_path: Path) -> None:
    folder = flat(tmp_path, per_class=5)
    data.prepare(config(), tmp_path)
    check_own_images([config()], tmp_path)
    (folder / "a" / "new.png").write_bytes(png())
    with pytest.raises(MissingData, match="10 files then, 11 now"):
        check_own_images([config()], tmp_path)
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    folder.rmdir()
    check_own_images([config()], tmp_path)  # a cache that was copied without its images is used as it is
    assert data.load(config(), tmp_path).classes == 2


def test_what_is_wrong_with_a_config_is_told_before_anything_is_decoded(tmp_path: Path) -> None:
    flat(tmp_path, per_class=2)
    grid = tmp_path / "g.toml"
    with pytest.raises(MissingData, match="has classes 0 to 1, not 4"):
        missing_of([config(classes="0-4").as_dict()], data=tmp_path, runs=tmp_path, grid=grid)
    assert not (tmp_path / "cache").exists()
    (gone,) = missing_of([config().as_dict()], data=tmp_path / "other", runs=tmp_path, grid=grid)
    assert gone.what == f"data set {NAME}" and "put your images at" in gone.command and "HARNESS_DATA" in gone.command


def test_batches_that_cannot_be_filled(tmp_path: Path) -> None:
    flat(tmp_path, per_class=4)  # of 4 one is tested and one validates: 4 train
    trial = Trial(config=config(batch_size=5, filters=2, epochs=1).as_dict())
    with pytest.raises(ConfigError, match="batch_size 5 is larger than the training split of 4 images"):
        training.run(trial, Context(folder=tmp_path, data=tmp_path))
    with pytest.raises(ConfigError, match="cannot be shared evenly by 8 ranks"):
        training.check_batch(config(batch_size=4), ranks=8, train_images=40)
    with pytest.raises(ConfigError, match="8 ranks have only 4 training images between them"):
        training.check_batch(config(batch_size=8), ranks=8, train_images=4)


def test_a_part_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match=r"unknown freeze \"head\".*none, backbone, classifier"):
        config(freeze="head")
