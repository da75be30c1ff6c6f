"""Draws a small data set of one's own: twelve shapes in any colour, place, size and direction, on noisy ground with a few lines in the way.

    python examples/own_images/make_images.py                 into $HARNESS_DATA/shapes, or data/shapes
    python examples/own_images/make_images.py DIR --images 50

The folders are what `dataset = "folder:shapes"` reads: one for each class, with its images.
"""

import argparse
import math
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 40
"""Side of the images in pixels."""
FINE = 4
"""Shapes are drawn so many times larger and then scaled down, for smooth edges."""

Points = list[tuple[float, float]]


def polygon(corners: int, *, inner: float = 1.0) -> Points:
    """A regular polygon of radius 1; with `inner` below 1 a star, whose every second corner lies there."""
    steps = corners if inner == 1.0 else 2 * corners
    return [((inner if i % 2 else 1.0) * math.sin(2 * math.pi * i / steps), -(inner if i % 2 else 1.0) * math.cos(2 * math.pi * i / steps))
            for i in range(steps)]


def arc(start: float, end: float, radius: float, steps: int = 40) -> Points:
    """Points on a circle about (0, 0), from one angle to another in degrees."""
    angles = [math.radians(start + (end - start) * i / (steps - 1)) for i in range(steps)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in angles]


SHAPES: dict[str, Points] = {
    "arrow": [(-1, -0.3), (0.1, -0.3), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, 0.3), (-1, 0.3)],
    "circle": arc(0, 360, 1.0),
    "cross": [(-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3), (0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3), (-1, -0.3),
              (-0.3, -0.3)],
    "half": arc(0, 180, 1.0),
    "hexagon": polygon(6),
    "moon": arc(-110, 110, 1.0) + [(x - 0.45, y) for x, y in arc(110, -110, 0.9)],
    "pie": [(0.0, 0.0), *arc(40, 320, 1.0)],
    "ring": arc(0, 355, 1.0) + arc(355, 0, 0.6),
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "star": polygon(5, inner=0.45),
    "tee": [(-0.9, -0.9), (0.9, -0.9), (0.9, -0.3), (0.3, -0.3), (0.3, 0.9), (-0.3, 0.9), (-0.3, -0.3), (-0.9, -0.3)],
    "triangle": polygon(3),
}


def draw(name: str, rng: np.random.Generator) -> Image.Image:
    """One image of a shape; everything but the shape is left to chance."""
    ground, ink = rng.integers(0, 256, 3), rng.integers(0, 256, 3)
    while np.abs(ground - ink).sum() < 150:  # else it might be there and not be seen
        ink = rng.integers(0, 256, 3)
    image = Image.new("RGB", (SIDE * FINE, SIDE * FINE), tuple(int(v) for v in ground))
    pen = ImageDraw.Draw(image)
    size, turn = rng.uniform(0.25, 0.4) * SIDE * FINE, rng.uniform(0, 2 * math.pi)
    x, y = rng.uniform(0.4, 0.6, 2) * SIDE * FINE
    pen.polygon([(x + size * (u * math.cos(turn) - v * math.sin(turn)), y + size * (u * math.sin(turn) + v * math.cos(turn)))
                 for u, v in SHAPES[name]], fill=tuple(int(v) for v in ink))
    for _ in range(2):
        ends = [float(v) for v in rng.uniform(0, SIDE * FINE, 4)]
        pen.line(ends, fill=tuple(int(v) for v in rng.integers(0, 256, 3)), width=FINE)
    pixels = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64)
    return Image.fromarray(np.clip(pixels + rng.normal(0, 15, pixels.shape), 0, 255).astype(np.uint8))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Draws a data set of shapes, one folder for each class.")
    default = Path(os.environ.get("HARNESS_DATA") or "data") / "shapes"
    parser.add_argument("folder", nargs="?", type=Path, default=default, help="where to (default: $HARNESS_DATA/shapes, or data/shapes)")
    parser.add_argument("--images", type=int, default=300, help="images of each class (default: 300)")
    options = parser.parse_args()
    for label, name in enumerate(sorted(SHAPES)):
        (options.folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(options.images):
            draw(name, np.random.default_rng((label, i))).save(options.folder / name / f"{i:04d}.png")
    print(f"{len(SHAPES) * options.images} images of {len(SHAPES)} classes are in {options.folder}")


if __name__ == "__main__":
    main()
