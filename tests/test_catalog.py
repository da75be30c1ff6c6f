"""The catalogue of torchvision's models, which grids are checked against without importing torch."""

from jobs import catalog
from jobs.registry import torchvision_models
from jobs.weights import published_digest


def test_catalogue_agrees_with_the_installed_torchvision() -> None:
    assert torchvision_models() == catalog.read_installed()
    assert catalog.CATALOG_FILE.read_text() == catalog.render(catalog.read_installed())


def test_catalogue_has_one_model_per_line_sorted() -> None:
    lines = catalog.CATALOG_FILE.read_text().splitlines()[1:-1]
    names = [line.split('"')[1] for line in lines]
    assert names == sorted(torchvision_models())


def test_known_models() -> None:
    models = torchvision_models()
    url = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
    assert models["alexnet"] == {"weights": {"IMAGENET1K_V1": url}, "dropout": True, "parameters": 61100840}
    assert not models["resnet18"]["dropout"]
    assert list(models["resnet50"]["weights"]) == ["IMAGENET1K_V1", "IMAGENET1K_V2"]  # type: ignore[call-overload]


def test_every_weights_file_carries_its_digest() -> None:
    for entry in torchvision_models().values():
        for url in entry["weights"].values():  # type: ignore[attr-defined]
            assert len(published_digest(url.rsplit("/", 1)[-1])) >= 8, url
