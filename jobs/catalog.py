"""The catalogue of torchvision's classification models, kept as a JSON file.

Grids are checked on machines where importing torch would be slow, so the names that a grid may use
stand in `torchvision_models.json` beside this module. `python -m jobs.catalog` writes that file again
from the installed torchvision; a test compares the two.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

CATALOG_FILE = Path(__file__).with_name("torchvision_models.json")


def read_installed() -> dict[str, dict[str, Any]]:
    """Return `{model: {"weights": {name: URL}, "dropout": bool, "parameters": int}}` of the installed torchvision, sorted by name.

    `dropout` says whether the class that the model's builder makes takes a `dropout` number; `parameters` counts
    the weights with the ImageNet head.
    """
    import torchvision

    return {
        name: {
            "weights": {weights.name: weights.url for weights in torchvision.models.get_model_weights(name)},
            "dropout": _accepts_dropout(torchvision.models.get_model_builder(name)),
            "parameters": next(iter(torchvision.models.get_model_weights(name))).meta["num_params"],
        }
        for name in sorted(torchvision.models.list_models(module=torchvision.models))
    }


def _accepts_dropout(builder: Any) -> bool:
    """Whether the class named as `builder`'s return type has a `dropout` parameter in its constructor."""
    model_class = inspect.get_annotations(builder, eval_str=True)["return"]
    return "dropout" in inspect.signature(model_class.__init__).parameters


def render(catalog: dict[str, dict[str, Any]]) -> str:
    """Return the catalogue as JSON text with one model per line."""
    lines = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in catalog.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    """Write the catalogue file."""
    catalog = read_installed()
    CATALOG_FILE.write_text(render(catalog), encoding="utf-8")
    print(f"{CATALOG_FILE}: {len(catalog)} models")


if __name__ == "__main__":
    main()
