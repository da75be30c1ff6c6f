"""Makes the README's gallery from real studies: trains the digits studies, draws their figures and keeps small copies of some.

    make gallery        # two minutes on two cores; writes docs/gallery/*.png
"""

import subprocess
import sys
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
GALLERY = {"digits": ("comparison", "curves", "confusion"),
           "digits_search": ("parallel", "slices", "interactions", "importance", "association", "search", "rungs", "progress", "timeline")}
"""Study -> the figures of it that are kept."""
WIDTH_PX, COLOURS = 1000, 128


def main() -> None:
    """Launches each study (one that is there already is only looked at), draws it, and keeps the small copies."""
    root, out = HERE.parent, HERE / "gallery"
    out.mkdir(exist_ok=True)
    for study, figures in GALLERY.items():
        subprocess.run([sys.executable, "-m", "harness.launch", f"grids/{study}.toml", "--local"], cwd=root, check=True)
        subprocess.run([sys.executable, "-m", "analysis.plots", f"runs/{study}"], cwd=root, check=True)
        for figure in figures:
            with Image.open(root / "runs" / study / "figures" / f"{figure}.png") as image:
                small = image.convert("RGB").resize((WIDTH_PX, round(image.height * WIDTH_PX / image.width)), Image.Resampling.LANCZOS)
                few = small.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
                few.save(out / f"{study}-{figure}.png", optimize=True)


if __name__ == "__main__":
    main()
