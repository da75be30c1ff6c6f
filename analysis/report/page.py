"""The page: pictures, data, style and script put into one template, under a policy that lets nothing in from outside.

Every text goes through Jinja2's escaping; JSON is written so that no text in it can end the element it stands in; style and script are
named in the policy by their hashes, so that nothing that slipped through could run.
"""

import base64
import hashlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image, ImageChops

from analysis import drawing, style
from analysis.load import AnalysisError, NotForThisStudy, Study
from analysis.plots import FIGURES, figure_module
from analysis.report import facts, failures, rows

_TURNING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
HERE = Path(__file__).parent
SCRIPTS = ("values", "selection", "drawing", "coordinates", "curves", "table", "begin")
"""The files of script/ in their order."""
STATIC_ROWS = 60
"""Trials in the table without a script, the best ones."""
DPI, SHADES, MARGIN = 160, 64, 10
"""Pictures are WebP of so many colours, without further loss: a fifth of the bytes of PNG in true colours, and of those of SVG a half where
there are few marks, a tenth where there are many. Chosen by maximum coverage, the colours are nowhere further than 32 of 255 from the true
ones; median cut would turn single coloured marks grey."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A figure of the page."""

    name: str
    title: str
    caption: str
    address: str
    """The picture itself, as a data: address."""
    width: int
    height: int


def pictures(study: Study) -> tuple[list[Picture], list[str]]:
    """All figures that the study has data for, and a sentence for each that should be there and could not be drawn."""
    found, missing = [], []
    for name, made in drawing.drawn(study, FIGURES, picture):
        if isinstance(made, Picture):
            found.append(made)
        elif isinstance(made, AnalysisError):
            missing += [] if isinstance(made, NotForThisStudy) else [f"{name}: {made}"]
        else:  # an exception of a figure's own making must not take the page with it
            missing.append(f"{name}: {type(made).__name__}: {made}")
    return found, missing


def picture(study: Study, name: str) -> Picture:
    """One figure, its caption taken out: on the page that is text, which wraps, and is read aloud.

    Raises:
        AnalysisError: the study has nothing of the kind, or something is missing.
    """
    module = figure_module(name)
    data = module.table(study)
    with style.context():
        figure = style.new_figure()
        module.draw(figure, data, study)
        notes = [text for text in figure.texts if not text.get_in_layout()]  # see style.caption
        caption = " ".join(" ".join(note.get_text().split("\n")) for note in notes)
        for note in notes:
            note.remove()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="rgba", dpi=DPI)
        size = int(figure.bbox.width * DPI / figure.dpi), int(figure.bbox.height * DPI / figure.dpi)
    image = _cropped(Image.frombytes("RGBA", size, buffer.getvalue()).convert("RGB"))
    small = io.BytesIO()
    few = image.quantize(SHADES, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).convert("RGB")
    few.save(small, "webp", lossless=True, method=4)
    return Picture(name=name, title=module.TITLE, caption=caption, width=image.width, height=image.height,
                   address=f"data:image/webp;base64,{base64.b64encode(small.getvalue()).decode()}")


def _cropped(image: Image.Image) -> Image.Image:
    """The picture without the white above it, and without that below it, where its caption was."""
    white = Image.new("RGB", image.size, "white")
    box = ImageChops.difference(image, white).getbbox() or (0, 0, *image.size)
    return image.crop((0, max(0, box[1] - MARGIN), image.width, min(image.height, box[3] + MARGIN)))


def harmless(text: object) -> object:
    """A text without what would turn the letters around it: controls, and the marks of right-to-left."""
    if not isinstance(text, str) or isinstance(text, Markup):
        return text
    return _TURNING.sub("\N{REPLACEMENT CHARACTER}", text)


def coded(text: str) -> Markup:
    """A sentence with what stands in backticks set as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(harmless(text)))))


def as_json(value: object) -> Markup:
    """JSON that can stand in a script element: no text in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":  # they stand in strings only
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def the_script() -> str:
    """The page's script, in one function, so that it adds no name to the page."""
    parts = [(HERE / "script" / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    return "\n".join(["", "(() => {", '"use strict";', *parts, "})();", ""])


def source(text: str) -> str:
    """What the policy calls a style or a script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def page(study: Study) -> str:
    """The whole page. The same study gives the same bytes.

    Raises:
        AnalysisError: the study's tables are no study's.
    """
    folder = facts.where(study.folder)
    css, script = f"\n{(HERE / 'report.css').read_text(encoding='utf-8')}", the_script()
    trials = rows.order(study)
    table = rows.columns(study, trials)
    groups, more_groups = failures.failures(study, folder)
    drawn, missing = pictures(study)
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                              lstrip_blocks=True, keep_trailing_newline=True, finalize=harmless)
    environment.filters["coded"] = coded
    return environment.get_template("report.html.j2").render(
        study=study, folder=folder, policy=f"default-src 'none'; img-src data:; style-src {source(css)}; script-src {source(script)}; "
        "base-uri 'none'; form-action 'none'", css=Markup(css), script=Markup(script), verdict=facts.verdict(study),
        facts=facts.what_ran(study, folder), statuses=facts.statuses(study), grid=facts.grid_text(study), best=facts.best_config(study),
        pictures=drawn, missing=missing, groups=groups, more_groups=more_groups, columns=table, shown=rows.shown,
        static=range(min(STATIC_ROWS, len(trials))), total=len(study.all_trials), size=len(trials),
        again=failures.command(folder, "TRIAL") if failures.runs_alone(study) else "",
        data=as_json(rows.payload(study, trials, table) | failures.commands(study, folder, trials)))
