"""Makes the README's gallery from real studies: trains the digits studies, draws their figures and keeps small copies of some.

    make gallery        # a minute on two cores; writes docs/gallery/*.png. The report's picture needs Chromium
"""

import io
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
GALLERY = {"digits": ("comparison", "curves", "confusion"),
           "digits_search": ("slices", "parallel", "rungs", "timeline")}
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
                keep(image, out / f"{study}-{figure}.png")
    if chromium := shutil.which("chromium"):
        with Image.open(io.BytesIO(screenshot(root / "runs" / "digits" / "report.html", chromium))) as image:
            keep(image, out / "report.png")


def keep(image: Image.Image, path: Path) -> None:
    """Writes a small copy of a picture."""
    small = image.convert("RGB").resize((WIDTH_PX, round(image.height * WIDTH_PX / image.width)), Image.Resampling.LANCZOS)
    few = small.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


def screenshot(page: Path, chromium: str) -> bytes:
    """The top of the report as a browser shows it, PNG."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        window = browser.new_page(viewport={"width": 1000, "height": 980}, color_scheme="light")
        window.goto(page.as_uri())
        picture = window.screenshot()
        browser.close()
    return picture


if __name__ == "__main__":
    main()
