"""The report in a browser: Debian's Chromium, driven by playwright. Every test also fails on a message of the console and on any request
but that for the page itself."""

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from machine import ClusterError, install_packages  # slurm/devcluster, whose folder slurm_fixture puts on the path

from analysis.load import load
from analysis.report import page as report
from benchmarks.made_up_space import write_space
from tests.made_up_study import write_study

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install .[dev]")
pytestmark = pytest.mark.slow
HOSTILE = '</script><img src="https://example.com/x" onerror="alert(1)"><script>alert(2)</script>'
NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, installed with apt where it is missing and can be (Debian or Ubuntu, root)."""
    if not any(map(shutil.which, NAMES)):
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            pytest.skip("there is no chromium on the PATH, and only root of a Debian or Ubuntu can install it here")
        try:
            install_packages({"chromium": "chromium"})
        except ClusterError as error:
            pytest.skip(f"chromium could not be installed: {error}")
    program = next(filter(None, map(shutil.which, NAMES)))
    with sync_api.sync_playwright() as playwright:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        made = playwright.chromium.launch(executable_path=program, args=options)
        yield made
        made.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A search of 120 trials, one of 2,000, a small study, and one whose names are hostile; each with one picture."""
    folder, two = tmp_path_factory.mktemp("pages"), {"a": 0.5, "b": 0.7}
    hostile = write_study(folder / "hostile", {HOSTILE: 0.5, "b": 0.7}, epochs=3, status={(HOSTILE, 0): "failed"}, study=HOSTILE)
    (hostile / "grid.toml").write_text(f"# {HOSTILE}\n")
    studies = {"space": write_space(folder / "space", trials=120, epochs=8), "small": write_study(folder / "small", two, epochs=4),
               "many": write_space(folder / "many", trials=2000, epochs=50), "hostile": hostile}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "FIGURES", ("comparison",))
        for name, study in studies.items():
            (folder / f"{name}.html").write_text(report.page(load(study)), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in studies}


@pytest.fixture
def opened(browser: Any, pages: dict[str, Path]) -> Iterator[Callable[..., Any]]:
    """Opens a page by its name, with options of a browser's context."""
    wrong: list[str] = []
    contexts = []

    def open_page(name: str, **options: Any) -> Any:
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}))
        tab = contexts[-1].new_page()
        address = pages[name].as_uri()
        tab.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
        tab.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(("data:", "blob:", address)) else None)
        tab.goto(address)
        tab.wait_for_timeout(200)
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


def data_of(tab: Any) -> dict[str, Any]:
    return json.loads(tab.locator("#data").text_content())  # type: ignore[no-any-return]


def values(data: dict[str, Any], name: str) -> list[Any]:
    """A column as its table shows it: choices by name."""
    column = next(c for c in data["columns"] if c["name"] == name)
    return [None if v is None else column["choices"][v] if column["kind"] == "choice" else v for v in column["values"]]


def settle(tab: Any) -> None:
    """Until table and curves have followed."""
    tab.wait_for_timeout(250)


def box(tab: Any, name: str) -> Any:
    return tab.get_by_label(f"filter {name}", exact=True)


def listed(tab: Any) -> list[str]:
    """The trials in the table, all of its rows scrolled to."""
    while True:
        rows = tab.locator("#table tbody tr").count()
        tab.locator("#tablebox").evaluate("box => { box.scrollTop = box.scrollHeight; }")
        tab.wait_for_timeout(60)
        if tab.locator("#table tbody tr").count() == rows:
            return tab.locator("#table tbody tr td:first-child").all_inner_texts()  # type: ignore[no-any-return]


def painted(tab: Any, selector: str) -> list[str]:
    """The pictures of its canvases."""
    return tab.locator(f"{selector} canvas").evaluate_all("all => all.map(c => c.toDataURL())")  # type: ignore[no-any-return]


def drag(tab: Any, axis: int, start: float, end: float) -> None:
    """Drags along an axis, from and to these places (0 its lower end, 1 its upper end)."""
    place = tab.locator(".axis").nth(axis)
    place.scroll_into_view_if_needed()
    at = place.bounding_box()
    x, y = at["x"] + at["width"] / 2, lambda p: at["y"] + 300 * (1 - p)
    tab.mouse.move(x, y(start))
    tab.mouse.down()
    tab.mouse.move(x, y((start + end) / 2))
    tab.mouse.move(x, y(end))
    tab.mouse.up()
    settle(tab)


# --------------------------------------------------------------------------------------------------------------- the table


def test_sorting(opened: Callable[..., Any]) -> None:
    tab = opened("space")
    data = data_of(tab)
    ids, lr, metric = (values(data, name) for name in ("trial_id", "param_lr", "val_acc"))
    assert listed(tab) == ids  # the best first
    head = tab.locator("th", has_text=re.compile("^lr$"))
    assert head.get_attribute("aria-sort") is None
    for direction, turn in (("ascending", 1), ("descending", -1)):
        head.get_by_role("button").press("Enter")
        assert head.get_attribute("aria-sort") == direction and tab.locator("[aria-sort]").count() == 1
        assert listed(tab) == [ids[i] for i in sorted(range(len(ids)), key=lambda i: (turn * lr[i], i))]
    tab.locator("th", has_text="validation accuracy").get_by_role("button").click()
    tab.locator("th", has_text="validation accuracy").get_by_role("button").click()
    worst_first = sorted(range(len(ids)), key=lambda i: (metric[i] is None, metric[i] or 0, i))
    assert listed(tab) == [ids[i] for i in worst_first]  # what has no value is last all the same


def test_filters(opened: Callable[..., Any]) -> None:
    tab = opened("space")
    data = data_of(tab)
    ids, lr, metric, depth, optimizer, momentum = (
        values(data, name) for name in ("trial_id", "param_lr", "val_acc", "param_depth", "param_optimizer", "param_momentum"))
    cases: list[tuple[dict[str, str], Callable[[int], bool]]] = [
        ({"lr": ">0.01"}, lambda i: lr[i] > 0.01),
        ({"lr": ">=1e-3 <0.1"}, lambda i: 1e-3 <= lr[i] < 0.1),
        ({"depth": "<=2"}, lambda i: int(depth[i]) <= 2),
        ({"optimizer": "=sgd"}, lambda i: optimizer[i] == "sgd"),
        ({"optimizer": "!= SGD"}, lambda i: optimizer[i] == "adamw"),
        ({"optimizer": "dam"}, lambda i: optimizer[i] == "adamw"),
        ({"momentum": "=n/a"}, lambda i: momentum[i] is None),
        ({"depth": "=3", "optimizer": "=sgd", "validation accuracy (%)": ">70"},
         lambda i: depth[i] == "3" and optimizer[i] == "sgd" and (metric[i] or 0) > 70),
        ({"lr": ">"}, lambda i: True), ({"trial": "no such"}, lambda i: False)]
    for boxes, keeps in cases:
        for name, text in boxes.items():
            box(tab, name).fill(text)
        settle(tab)
        wanted = [trial for i, trial in enumerate(ids) if keeps(i)]
        assert listed(tab) == wanted, boxes
        assert tab.locator("#count").inner_text() == (f"{len(wanted)} of 120 trials" if len(wanted) < 120 else "120 trials")
        if len(wanted) < 120:
            assert tab.locator(".chip").count() == len(boxes)
            tab.get_by_role("button", name="Clear all").click()
            settle(tab)
        for name in boxes:
            assert box(tab, name).input_value() == "" or len(wanted) == 120
            box(tab, name).fill("")
    settle(tab)
    box(tab, "lr").fill(">abc")
    assert box(tab, "lr").get_attribute("aria-invalid") == "true" and tab.locator("#count").inner_text() == "120 trials"


def test_a_large_table_is_capped_and_says_so(opened: Callable[..., Any]) -> None:
    tab = opened("many")
    assert tab.locator("#table tbody tr").count() == 60
    assert len(listed(tab)) == 500
    assert "The first 500 of 2,000 selected trials" in tab.locator("#more").inner_text()
    assert "1,000 of 2,000 lines in colour" in tab.locator("#lines").inner_text()
    assert "some epochs of each" in tab.locator("#curvesnote").inner_text()


# -------------------------------------------------------------------------------------------------------------- brushes


def test_brushing_with_the_mouse(opened: Callable[..., Any]) -> None:
    tab = opened("space")
    data = data_of(tab)
    ids, metric = values(data, "trial_id"), values(data, "val_acc")
    before = painted(tab, "#coordinates"), painted(tab, "#curvesbox")
    last = len(data["axes"]) - 1
    low, high = min(v for v in metric if v is not None), max(v for v in metric if v is not None)
    drag(tab, last, 0.5, 1.0)
    kept = [trial for trial, v in zip(ids, metric, strict=True) if v is not None and (v - low) / (high - low) > 0.5]
    assert listed(tab) == kept and 0 < len(kept) < 120
    assert tab.locator("#curvesnote").inner_text().startswith(f"validation accuracy (%) over epochs. {len(kept)} selected trials")
    assert "validation accuracy (%): " in tab.locator(".chip").inner_text()
    after = painted(tab, "#coordinates"), painted(tab, "#curvesbox")
    assert before[0][1] != after[0][1] and before[1] != after[1]  # selected lines and curves; grey lines are drawn once
    assert before[0][0] == after[0][0]
    thumb = tab.locator(".axis").nth(last).get_by_role("slider").first.bounding_box()
    tab.mouse.move(thumb["x"] + 10, thumb["y"] + 5)
    tab.mouse.down()
    tab.mouse.move(thumb["x"] + 10, thumb["y"] + 5 - 75)  # a quarter of the axis up
    tab.mouse.up()
    settle(tab)
    fewer = listed(tab)
    assert fewer == [t for t, v in zip(ids, metric, strict=True) if v is not None and (v - low) / (high - low) > 0.75]
    drag(tab, last, 0.9, 0.65)  # the whole brush
    between = [t for t, v in zip(ids, metric, strict=True) if v is not None and 0.5 < (v - low) / (high - low) < 0.75]
    assert listed(tab) == between
    drag(tab, last, 0.6, 0.99)  # no further than the end of the axis
    assert listed(tab) == fewer
    tab.locator(".chip").click()
    settle(tab)
    assert len(listed(tab)) == 120 and tab.locator(".chip").count() == 0


def test_brushes_and_filters_hold_together(opened: Callable[..., Any]) -> None:
    tab = opened("space")
    data = data_of(tab)
    ids, optimizer, depth = (values(data, n) for n in ("trial_id", "param_optimizer", "param_depth"))
    drag(tab, data["axes"].index("param_depth"), 0.55, 0.99)  # 3 and 4 of four choices
    box(tab, "optimizer").fill("=adamw")
    settle(tab)
    assert listed(tab) == [t for t, o, d in zip(ids, optimizer, depth, strict=True) if o == "adamw" and d in ("3", "4")]
    assert sorted(tab.locator(".chip").all_inner_texts()) == ["depth: 3, 4 ×", "optimizer =adamw ×"]
    drag(tab, data["axes"].index("param_depth"), 0.3, 0.3)  # a click beside the brush
    assert tab.locator(".chip").all_inner_texts() == ["optimizer =adamw ×"]


def test_brushing_with_the_keyboard(opened: Callable[..., Any]) -> None:
    tab = opened("space")
    data = data_of(tab)
    ids, depth, momentum = (values(data, n) for n in ("trial_id", "param_depth", "param_momentum"))
    lowest = tab.get_by_role("slider", name="depth, lowest", exact=True)
    for _ in range(200):  # it can be reached by Tab alone
        tab.keyboard.press("Tab")
        if lowest.evaluate("thumb => thumb === document.activeElement"):
            break
    assert lowest.evaluate("thumb => thumb === document.activeElement && getComputedStyle(thumb).outlineStyle !== 'none'")
    tab.keyboard.press("ArrowUp")
    tab.keyboard.press("ArrowUp")
    settle(tab)
    assert lowest.get_attribute("aria-valuetext") == "3, 4" and lowest.get_attribute("aria-valuenow") == "50"
    assert listed(tab) == [t for t, d in zip(ids, depth, strict=True) if d in ("3", "4")]
    tab.keyboard.press("Escape")
    settle(tab)
    assert len(listed(tab)) == 120
    lowest = tab.get_by_role("slider", name="momentum, lowest", exact=True)
    lowest.press("ArrowUp")  # from the lane below the axis to its lower end
    settle(tab)
    assert listed(tab) == [t for t, m in zip(ids, momentum, strict=True) if m is not None]
    lowest.press("ArrowDown")
    tab.get_by_role("slider", name="momentum, highest", exact=True).press("Home")
    settle(tab)
    assert listed(tab) == [t for t, m in zip(ids, momentum, strict=True) if m is None]


# ---------------------------------------------------------------------------------------------------------------- links


def test_a_row_a_line_and_a_curve_are_one_trial(opened: Callable[..., Any]) -> None:
    tab = opened("space")
    ids = values(data_of(tab), "trial_id")
    blank = painted(tab, "#coordinates")[2], painted(tab, "#curvesbox")[1]
    row = tab.locator("#table tbody tr").nth(4)
    row.hover()
    assert painted(tab, "#coordinates")[2] != blank[0] and painted(tab, "#curvesbox")[1] != blank[1]
    row.click()
    assert tab.locator("#trial h3").inner_text().startswith(f"Trial {ids[4]}, 5 of ")
    assert tab.locator("#command").inner_text().endswith(f"/trials/{ids[4]}/config.json --out again/{ids[4]}")
    tab.mouse.move(5, 5)
    box(tab, "trial").fill(ids[7])  # a single line, so that it is known where it is
    settle(tab)
    place = tab.locator(".plane").bounding_box()
    tab.locator(".plane").scroll_into_view_if_needed()
    place = tab.locator(".plane").bounding_box()
    for y in range(46, 380, 5):
        tab.mouse.move(place["x"] + place["width"] / 2 + 12, place["y"] + y)
        if tab.locator("#tip").is_visible():
            break
    assert ids[7] in tab.locator("#tip").inner_text()
    assert tab.locator("#table tbody tr.on button").inner_text() == ids[7]
    tab.mouse.down()
    tab.mouse.up()
    assert tab.locator("#trial h3").inner_text().startswith(f"Trial {ids[7]}, 8 of ")


def test_copying(opened: Callable[..., Any]) -> None:
    tab = opened("space", permissions=["clipboard-read", "clipboard-write"])
    for near, wanted in (("#best", tab.locator("#toml").inner_text()), ("#trial", tab.locator("#command").inner_text())):
        tab.locator(near).get_by_role("button", name="Copy").click()
        tab.locator(near).get_by_role("button", name="Copied").wait_for()
        assert tab.evaluate("navigator.clipboard.readText()").strip() == wanted.strip()
    assert "[fixed]" in tab.locator("#toml").inner_text()
    tab.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('not here')); }")
    tab.evaluate("navigator.clipboard.write([new ClipboardItem({ 'text/plain': new Blob(['other'], { type: 'text/plain' }) })])")
    tab.locator("#trial").get_by_role("button", name="Copy", exact=True).click()
    tab.locator("#trial").get_by_role("button", name="Copied").wait_for()
    box(tab, "trial").focus()
    tab.keyboard.press("Control+V")
    assert box(tab, "trial").input_value() == tab.locator("#command").inner_text()


def test_the_csv_holds_what_is_selected(opened: Callable[..., Any]) -> None:
    tab = opened("space")
    data = data_of(tab)
    box(tab, "optimizer").fill("=sgd")
    settle(tab)
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Download CSV").click()
    assert download.value.suggested_filename == "space_trials.csv"
    found = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8"))))
    assert [row["trial_id"] for row in found] == listed(tab)
    assert {row["param_optimizer"] for row in found} == {"sgd"} and list(found[0]) == [c["name"] for c in data["columns"]]
    shares = [v for v, o in zip(values(data, "val_acc"), values(data, "param_optimizer"), strict=True) if o == "sgd"]
    assert float(found[0]["val_acc"]) == pytest.approx(shares[0] / 100, rel=1e-4)
    assert found[-1]["val_acc"] == "" and shares[-1] is None


# --------------------------------------------------------------------------------------------------------------- places


def test_hostile_names_stay_text(opened: Callable[..., Any]) -> None:
    tab = opened("hostile")
    assert tab.locator("h1").inner_text() == HOSTILE
    assert tab.locator("img").count() == 1 and tab.locator("script").count() == 2
    assert tab.locator("#table tbody").get_by_text(HOSTILE, exact=True).count() == 3
    assert tab.locator(".tick", has_text="</script>").count() <= 1
    box(tab, "variant").fill(f"={HOSTILE}")
    settle(tab)
    assert len(listed(tab)) == 3


def test_without_a_script(opened: Callable[..., Any]) -> None:
    tab = opened("space", java_script_enabled=False)
    assert tab.locator("figure img").is_visible() and tab.locator("#table tbody tr").count() == report.STATIC_ROWS
    assert f"The best {report.STATIC_ROWS} of 120 trials" in tab.locator("#more").inner_text()
    for hidden in ("#explore", "#coordinates", "#csv", ".copy"):
        assert not tab.locator(hidden).first.is_visible()
    assert tab.locator("#table input, #table button").count() == 0


@pytest.mark.parametrize("name", ["space", "small", "hostile"])
def test_a_phone_needs_no_sideways_scrolling(name: str, opened: Callable[..., Any]) -> None:
    tab = opened(name, viewport={"width": 360, "height": 740}, device_scale_factor=2, has_touch=True)
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    for part in ("#verdict", "#trials"):
        assert tab.locator(part).bounding_box()["width"] <= 360
    tab.set_viewport_size({"width": 740, "height": 360})  # turned
    settle(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") == 740


def test_in_the_dark(opened: Callable[..., Any]) -> None:
    tab = opened("small", color_scheme="dark")

    def lightness() -> list[float]:
        return [sum(map(float, re.findall(r"\d+", tab.evaluate(f"getComputedStyle(document.body).{one}"))[:3])) / 3
                for one in ("backgroundColor", "color")]
    assert lightness()[0] < 40 and lightness()[1] > 200
    lines = painted(tab, "#coordinates")[1]
    tab.emulate_media(color_scheme="light")
    settle(tab)
    assert lightness()[0] > 230 and lightness()[1] < 60 and painted(tab, "#coordinates")[1] != lines
    tab.emulate_media(color_scheme="dark", media="print")
    assert lightness()[0] > 230


def test_on_paper(opened: Callable[..., Any]) -> None:
    tab = opened("space", color_scheme="dark")
    assert tab.pdf(format="A4").startswith(b"%PDF")
    assert tab.locator("#table tbody tr").count() >= 100  # more than were scrolled to
    tab.emulate_media(media="print")
    for hidden in ("nav", "#explore", "#table input", ".copy"):
        assert not tab.locator(hidden).first.is_visible()
    assert tab.locator("#verdict .lead").is_visible() and tab.locator("figure img").is_visible()


def test_it_can_be_used_by_the_keyboard(opened: Callable[..., Any]) -> None:
    tab = opened("small")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the trials"
    seen = set()
    for _ in range(200):
        tab.keyboard.press("Tab")
        what = tab.evaluate("[document.activeElement.tagName, document.activeElement.getAttribute('role') || '', "
                            "getComputedStyle(document.activeElement).outlineStyle]")
        if what[0] == "BODY":
            break
        assert what[2] != "none", what
        seen.add((what[0], what[1]))
    assert {("A", ""), ("BUTTON", ""), ("INPUT", ""), ("DIV", "slider"), ("PRE", "")} <= seen
