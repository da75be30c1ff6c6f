"""`python -m harness.stage`: downloads from a server of the test's own, checks what came, builds caches, and names every failure."""

import dataclasses
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import image_fixtures
import numpy as np
import pytest
from earlier_study import write_earlier_study

from harness import stage
from harness.errors import MissingData
from jobs import datasets, registry
from jobs.contract import DataError

WEIGHTS = b"not really weights, but staging cannot know" * 50_000
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()
LOG_IN = b"<html>please log in</html>"
FILE = f"alexnet-test-{DIGEST[:8]}.pth"


class Server(ThreadingHTTPServer):
    """Serves WEIGHTS at any path, except that /wrong sends other bytes, /short stops halfway and /gone is not there."""

    daemon_threads = True
    asked: int = 0


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        self.server.asked += 1
        if "/gone/" in self.path:
            self.send_error(404)
            return
        body = LOG_IN if "/wrong/" in self.path else WEIGHTS
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:len(body) // 2] if "/short/" in self.path else body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with Server(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch, server: Server) -> "Publish":
    return Publish(monkeypatch, server)


class Publish:
    """Makes the catalogue say that AlexNet's weights lie on the test's server, in the folder of that name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, server: Server):
        self.monkeypatch, self.port = monkeypatch, server.server_address[1]

    def __call__(self, folder: str = "whole", *, port: int = 0) -> str:
        url = f"http://127.0.0.1:{port or self.port}/{folder}/{FILE}"
        catalogue = {**registry.torchvision_models()}
        catalogue["alexnet"] = {**catalogue["alexnet"], "weights": {"IMAGENET1K_V1": url}}
        self.monkeypatch.setattr(registry, "torchvision_models", lambda: catalogue)
        return url


def grid(folder: Path, *, fixed: str = "", rest: str = "", name: str = "try") -> str:
    path = folder / f"{name}.toml"
    path.write_text(f'[study]\nname = "{name}"\n[fixed]\n{fixed}\n{rest}', encoding="utf-8")
    return str(path)


def leftovers(data: Path) -> list[str]:
    """Files that a download or a build should have removed."""
    return [str(p.relative_to(data)) for p in data.rglob(".*") if not p.name.endswith(".lock")]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = stage.main(list(arguments))
    out, err = capsys.readouterr()
    return status, out, err


PRETRAINED = 'model = "alexnet"\nweights = "imagenet"\nimage_size = 64'


def test_weights_are_fetched_once(tmp_path: Path, publish: Publish, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    publish()
    path = grid(tmp_path, fixed=PRETRAINED)
    data = tmp_path / "data"
    status, out, err = run(capsys, path, "--data", str(data))
    assert (status, err) == (0, "")
    assert (data / "weights" / FILE).read_bytes() == WEIGHTS
    assert f"fetching {FILE}, 2.1 MB" in out and "everything is staged" in out
    assert (data / "cache" / "digits-v1" / "images.npy").exists()
    assert leftovers(data) == []

    status, out, _ = run(capsys, path, path, "--data", str(data))
    assert status == 0 and "already there" in out
    assert server.asked == 1


def test_data_folder_is_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "it's here; really"))
    assert run(capsys, grid(tmp_path))[0] == 0
    assert (tmp_path / "it's here; really" / "cache" / "digits-v1" / "meta.json").exists()


def test_damaged_weights_are_fetched_again(tmp_path: Path, publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    publish()
    file = tmp_path / "data" / "weights" / FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(WEIGHTS[:1000])
    status, out, _ = run(capsys, grid(tmp_path, fixed=PRETRAINED), "--data", str(tmp_path / "data"))
    assert status == 0 and "is damaged" in out
    assert file.read_bytes() == WEIGHTS


@pytest.mark.parametrize(("folder", "reason"), [
    ("wrong", "what 127.0.0.1 sent is another file: its SHA-256 starts with "
              f"{hashlib.sha256(LOG_IN).hexdigest()[:8]}, expected {DIGEST[:8]}"),
    ("short", f"ended early: {len(WEIGHTS) // 2} of {len(WEIGHTS)} bytes"),
    ("gone", "can be reached, but answered 404 Not Found"),
])
def test_bad_answers(tmp_path: Path, publish: Publish, folder: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    url = publish(folder)
    data = tmp_path / "data"
    status, out, err = run(capsys, grid(tmp_path, fixed=PRETRAINED), "--data", str(data))
    assert status == 1
    assert err.startswith("FAILED  weights imagenet of alexnet: ") and reason in err
    assert f"download {url}" in err and str(data / "weights" / FILE) in err, "what to do by hand"
    assert err.count("FAILED") == 1 and "1 of 2 could not be staged" in out
    assert (data / "cache" / "digits-v1").is_dir(), "the rest is still staged"
    assert list((data / "weights").iterdir()) == [], "nothing that looks like weights is left"


def test_refused_connection(tmp_path: Path, publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        publish(port=closed.getsockname()[1])
        status, _, err = run(capsys, grid(tmp_path, fixed=PRETRAINED), "--data", str(tmp_path / "data"))
    assert status == 1 and "127.0.0.1 cannot be reached from here" in err and "refused" in err


def test_a_failed_download_keeps_what_was_there(tmp_path: Path, publish: Publish) -> None:
    target = tmp_path / "kept.pth"
    target.write_bytes(b"before")
    for folder in ("wrong", "short", "gone"):
        with pytest.raises(MissingData):
            stage.download(publish(folder), target, sha256=DIGEST[:8])
    assert target.read_bytes() == b"before" and list(tmp_path.iterdir()) == [target]


def test_only_web_addresses_are_fetched(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    with pytest.raises(MissingData, match="no http or https address"):
        stage.download(f"file://{tmp_path}/secret", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_no_room_for_a_download(tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch,
                                capsys: pytest.CaptureFixture[str]) -> None:
    publish()
    monkeypatch.setattr(stage.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1_000_000})())
    status, _, err = run(capsys, grid(tmp_path, fixed=PRETRAINED), "--data", str(tmp_path / "data"))
    assert status == 1 and "it needs 2.1 MB, and 1.0 MB are free" in err


@pytest.mark.parametrize(("name", "write", "cache", "shape"), [
    ("caltech101", image_fixtures.write_caltech101, "caltech101-73-v1", (18, 73, 73, 3)),  # 64 px seen: squares of 64 * 256 / 224
    ("cifar10", image_fixtures.write_cifar10, "cifar10-v1", (140, 32, 32, 3)),
    ("cifar100", image_fixtures.write_cifar100, "cifar100-v1", (600, 32, 32, 3)),
    ("fashion_mnist", image_fixtures.write_fashion_mnist, "fashion_mnist-v1", (140, 28, 28, 1)),
])
def test_caches_are_built_from_files_that_are_there(tmp_path: Path, name: str, write: Callable[[Path], Path], cache: str,
                                                    shape: tuple[int, ...], capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    write(data)
    path = grid(tmp_path, fixed=f'dataset = "{name}"\nimage_size = 64')
    status, out, err = run(capsys, path, "--data", str(data))
    assert (status, err) == (0, "") and "already there" in out and "built" in out
    assert np.load(data / "cache" / cache / "images.npy").shape == shape
    assert "checked" in run(capsys, path, "--data", str(data))[1]


def test_data_set_is_fetched_then_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fetched: list[Path] = []

    def fetch(root: Path) -> None:
        fetched.append(root)
        image_fixtures.write_fashion_mnist(root)

    monkeypatch.setitem(datasets.DATASETS, "fashion_mnist", dataclasses.replace(datasets.DATASETS["fashion_mnist"], fetch=fetch))
    path = grid(tmp_path, fixed='dataset = "fashion_mnist"')
    status, out, _ = run(capsys, path, "--data", str(tmp_path / "data"))
    assert status == 0 and "fetching fashion_mnist, about 0.03 GB" in out and "fetched" in out
    run(capsys, path, "--data", str(tmp_path / "data"))
    assert fetched == [tmp_path / "data"], "once"


def test_one_failure_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fetch(root: Path) -> None:
        raise DataError("cs.example.org cannot be reached; by hand: ...")

    monkeypatch.setitem(datasets.DATASETS, "cifar10", dataclasses.replace(datasets.DATASETS["cifar10"], fetch=fetch))
    data = tmp_path / "data"
    image_fixtures.write_fashion_mnist(data)
    first = grid(tmp_path, fixed='dataset = "cifar10"', name="first")
    second = grid(tmp_path, fixed='dataset = "fashion_mnist"', name="second")
    status, out, err = run(capsys, first, second, "--data", str(data))
    assert status == 1 and err == "FAILED  data set cifar10: cs.example.org cannot be reached; by hand: ...\n"
    assert "fashion_mnist cache" in out and "1 of 2 could not be staged" in out


def test_a_broken_image_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    broken = image_fixtures.write_caltech101(data) / "Faces" / "image_0002.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    status, _, err = run(capsys, grid(tmp_path, fixed='dataset = "caltech101"\nimage_size = 64'), "--data", str(data))
    assert status == 1 and str(broken) in err
    assert not (data / "cache" / "caltech101-73-v1").exists()


def test_earlier_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    path = grid(tmp_path, fixed='weights = "study:pretrained"')
    status, out, err = run(capsys, path, "--data", "data")
    assert (status, err) == (0, "")
    assert f"python -m harness.launch {tmp_path / 'pretrained.toml'}   #" in out

    write_earlier_study(tmp_path / "runs" / "pretrained", {(1, 0): 0.9, (1, 1): None})
    status, out, _ = run(capsys, path, "--data", "data")
    assert status == 0 and "study pretrained has 1 of 2 trials finished" in out
    assert "python -m harness.launch runs/pretrained/grid.toml --study-dir runs/pretrained" in out

    write_earlier_study(tmp_path / "runs" / "other", {(1, 0): 0.9, (1, 1): 0.8})
    assert "already there: runs/other" in run(capsys, grid(tmp_path, fixed='weights = "study:other"'), "--data", "data")[1]


def test_overrides_are_staged(tmp_path: Path, publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    """What a launch with the same --set needs, in every grid that is named."""
    publish()
    sets = ("--set", 'model="alexnet"', "--set", 'weights="imagenet"', "--set", "image_size=64")
    data = tmp_path / "data"
    status, _, err = run(capsys, grid(tmp_path), grid(tmp_path, name="other"), "--data", str(data), *sets)
    assert (status, err) == (0, "") and (data / "weights" / FILE).exists()
    status, _, err = run(capsys, grid(tmp_path), "--data", str(data), "--set", "modle=1")
    assert status == 2 and "model" in err


def test_every_choice_of_a_search_is_staged(tmp_path: Path, publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights that only [tune] names are fetched; simple_cnn, which has none published, takes "none" alone."""
    publish()
    rest = '[tune]\nmodel = ["alexnet", "simple_cnn"]\nlr = { low = 0.01, high = 0.1 }\n' \
           '[tune.when.model.alexnet]\nweights = ["none", "imagenet"]\n[search]\ntrials = 2\n'
    status, _, err = run(capsys, grid(tmp_path, fixed="image_size = 64", rest=rest), "--data", str(tmp_path / "data"))
    assert (status, err) == (0, "")
    assert (tmp_path / "data" / "weights" / FILE).exists()


def test_own_job_stages_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "own.toml"
    path.write_text('[study]\nname = "own"\nmetric = "score"\n[job]\nrun = "mine:train"\nmetrics = ["score"]\n[fixed]\nx = 1\n')
    status, out, _ = run(capsys, str(path), "--data", str(tmp_path / "data"))
    assert status == 0 and "nothing to stage: mine:train" in out


def test_bad_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, str(tmp_path / "no.toml"))[0] == 2
    bad = grid(tmp_path, fixed='dataset = "cifar11"')
    status, _, err = run(capsys, bad)
    assert status == 2 and "cifar10" in err and "^^^" in err
    (tmp_path / "file").write_text("")
    status, _, err = run(capsys, grid(tmp_path, name="good"), "--data", str(tmp_path / "file"))
    assert status == 2 and "choose another with --data DIR or HARNESS_DATA" in err
