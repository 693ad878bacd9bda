"""The report's answer to the pointer in a real browser, where Playwright and a Chromium are."""

import dataclasses
import importlib
import io

import numpy as np
import pytest
from browser_helpers import NEEDS_BROWSER, chromium
from report_helpers import LABELS, report_of_two

from resjax.report.write import write
from resjax.studies import style
from resjax.studies.catalogue import STUDIES
from resjax.studies.words import number, percent

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
pytestmark = NEEDS_BROWSER
FIGURES = {}  # as they are drawn for a page, or for a phone
PHONE = {"viewport": {"width": 390, "height": 800}, "has_touch": True, "color_scheme": "dark"}


@pytest.fixture(scope="module")
def results():
    """{study: {label: result}}; curves has no units."""
    found = {study.name: own for study, own in report_of_two().results}
    pairs, influence = (importlib.import_module(f"golden_cases.{name}") for name in ("pairs", "influence"))
    found["pairs"] = dict.fromkeys(LABELS[:1], pairs.RUNS)
    found["influence"] = dict.fromkeys(LABELS[:1], influence.TOLD)
    return found


@pytest.fixture(scope="module")
def address(tmp_path_factory, results):
    report = report_of_two()
    shown = [(STUDIES[name], own) for name, own in results.items()]
    report = dataclasses.replace(report, results=shown, command=dict.fromkeys(results, "again"))
    return write(report, tmp_path_factory.mktemp("page")).as_uri()


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def opened(browser, address):
    """Opens the page in a context of these options."""
    contexts, errors = [], []

    def page(address=address, **options):
        contexts.append(browser.new_context(**{"viewport": {"width": 1000, "height": 800}, **options}))
        own = contexts[-1].new_page()
        own.on("pageerror", lambda error: errors.append(str(error)))
        own.on("request", lambda asked: errors.append(asked.url) if asked.url.startswith("http") else None)
        own.goto(address)
        return own

    yield page
    for context in contexts:
        context.close()
    assert errors == []


def share(study, results, x, y=0.5, panel=0, narrow=False, form=""):
    """Where the data coordinate ``x`` of a panel is, as a share of the figure's width and height; ``y`` is a
    share of the panel's height, or the data coordinate of a point (a one-element list)."""
    key = study, narrow, form
    if key not in FIGURES:
        with style.theme(narrow=narrow):
            FIGURES[key] = STUDIES[study].plot(results[study])
            FIGURES[key].savefig(io.BytesIO(), format="svg")
    figure = FIGURES[key]
    ax = figure.axes[panel]
    across = ax.transData.transform((x, y[0] if isinstance(y, list) else ax.get_ylim()[0]))
    up = across[1] if isinstance(y, list) else ax.bbox.y0 + y * ax.bbox.height
    there = figure.transFigure.inverted().transform((across[0], up))
    return there[0], 1 - there[1]


def place(page, study, at):
    """That share of the figure as a point of the window, after scrolling it to the middle."""
    image = page.locator(f"#{study} figure img")
    box = image.bounding_box()
    page.evaluate(f"scrollBy(0, {box['y'] + at[1] * box['height'] - page.viewport_size['height'] / 2})")
    box = image.bounding_box()
    return box["x"] + at[0] * box["width"], box["y"] + at[1] * box["height"]


def marks(page, study):
    """[mark, (left, top, right, bottom)] in the figure, as shares of it."""
    frame = page.locator(f"#{study} figure img").bounding_box()
    found = []
    for mark in page.locator(f"#{study} .unit-mark").all():
        box = mark.bounding_box()
        left, top = (box[k] - frame[k] for k in ("x", "y"))
        ends = left, top, left + box["width"], top + box["height"]
        found.append([end / frame["width" if i % 2 == 0 else "height"] for i, end in enumerate(ends)])
    return np.array(found)


def rows(page):
    """[[text]] of the box's table."""
    lines = page.locator(".unit-box tr").all()
    return [[cell.inner_text() for cell in line.locator("th, td").all()] for line in lines]


def test_a_unit_is_highlighted_in_all_figures_and_shows_its_numbers(opened, results):
    page, k = opened(), 4
    size = "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
    before = page.evaluate(size)
    page.mouse.move(*place(page, "lesion", share("lesion", results, k + 1)))
    assert page.locator(".unit-box strong").inner_text() == "stage1/unit5"
    heads, *lines = rows(page)
    assert heads == ["", *LABELS] and lines[0] == [
        "error",
        *(percent(own.error[k]) for own in results["lesion"].values()),
    ]
    for study in ("lesion", "gradients", "pairs"):  # influence has four units
        found = marks(page, study)
        at = share(study, results, k + 1)
        assert ((found[:, 0] < at[0]) & (at[0] < found[:, 2])).any(), study
        next_one = share(study, results, k + (2 if study != "pairs" else 0))
        assert not ((found[:, 0] < next_one[0]) & (next_one[0] < found[:, 2]) & (found[:, 3] > 0.95)).any()
    assert len(marks(page, "lesion")) == len(marks(page, "gradients")) == 1
    assert len(marks(page, "pairs")) == 4 and len(marks(page, "influence")) == 0
    assert page.locator("#curves .unit-mark").count() == 0
    assert page.evaluate(size) == before
    page.mouse.move(2, 2)
    assert page.locator(".unit-box").is_hidden() and page.locator(".unit-mark").count() == 0


def test_the_unit_of_a_twin_is_highlighted_and_that_of_another_network_is_not(opened, tmp_path):
    cases = importlib.import_module("golden_cases.pairs")
    own = {"deep": cases.RUNS, "twin": cases.RUNS, "other": cases.HALF}  # five units, five and four
    report = dataclasses.replace(report_of_two(), results=[(STUDIES["pairs"], own)])
    page = opened(write(dataclasses.replace(report, command={"pairs": "again"}), tmp_path).as_uri())
    at = share("pairs", {"pairs": own}, 4, [2], form="three networks")
    page.mouse.move(*place(page, "pairs", at))
    assert page.locator(".unit-box strong").inner_text() == "stage1/unit2 and stage1/unit4"
    top = marks(page, "pairs")[:, 1]
    assert (top < 0.33).sum() == 6 and (top > 0.33).sum() == 8 and (top > 0.67).sum() == 0


def test_a_layer_shows_its_own_numbers_and_highlights_its_unit(opened, results):
    page = opened()
    page.mouse.move(*place(page, "gradients", share("gradients", results, 2)))
    assert page.locator(".unit-box strong").inner_text() == "stage1/unit2/conv1/kernel"
    said = rows(page)
    mean = results["gradients"]["deep"].mean[:, 1]
    assert [line[1].split(" (")[0] for line in said[1:]] == [number(value) for value in mean]
    (left, _, right, _), at = marks(page, "lesion")[0], share("lesion", results, 2)
    assert left < at[0] < right


def test_a_map_shows_the_value_of_two_units(opened, results):
    page = opened()
    at = share("pairs", results, 4, [2])
    page.mouse.move(*place(page, "pairs", at))
    assert page.locator(".unit-box strong").inner_text() == "stage1/unit2 and stage1/unit4"
    assert rows(page)[-1] == ["interaction (points)", "-0.4"]
    assert len(marks(page, "lesion")) == 2
    left, right = marks(page, "pairs")[:, 0], marks(page, "pairs")[:, 2]
    assert (left < 0.5).sum() == 2 and (right > 0.5).sum() == 4  # a cross, and two in the other map


def test_a_point_of_a_scatter_is_a_unit(opened, results):
    page, own = opened(), results["influence"]["deep"]
    for k in range(4):
        at = share("influence", results, own.of("influence")[k], [own.loss[k, k] - own.intact_loss], 2)
        page.mouse.move(*place(page, "influence", at))
        assert page.locator(".unit-box strong").inner_text() == f"stage1/unit{k + 1}"
        shown = dict(line[-2:] for line in rows(page))
        assert shown["loss without it"] == number(own.loss[k, k])
        assert page.locator("#influence .unit-mark.point").count() == 1
        assert len(marks(page, "lesion")) == 1


def test_a_click_keeps_the_unit_until_escape(opened, results):
    page = opened()
    page.mouse.click(*place(page, "lesion", share("lesion", results, 3)))
    page.mouse.move(2, 2)
    assert page.locator(".unit-box").is_hidden() and len(marks(page, "gradients")) == 1
    page.mouse.move(*place(page, "gradients", share("gradients", results, 5)))
    assert marks(page, "lesion")[0, 0] > share("lesion", results, 4)[0]
    page.mouse.move(2, 2)
    assert marks(page, "lesion")[0, 0] < share("lesion", results, 3)[0]
    page.keyboard.press("Escape")
    assert page.locator(".unit-mark").count() == 0


def test_escape_works_anywhere_and_the_browser_keeps_its_keys(opened, results):
    page = opened()
    page.mouse.click(*place(page, "lesion", share("lesion", results, 3)))
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Escape")
    assert page.locator(".unit-mark").count() == 0
    taken = """alt => !document.querySelector("#lesion figure").dispatchEvent(
        new KeyboardEvent("keydown", {key: "ArrowRight", altKey: alt, bubbles: true, cancelable: true}))"""
    assert page.evaluate(taken, False) and not page.evaluate(taken, True)


def test_the_keyboard_chooses_a_unit(opened):
    page, title = opened(), ".unit-box strong"

    def tab_to(study):
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate(f"document.activeElement === document.querySelector('#{study} figure')"):
                return
        raise AssertionError(f"Tab does not reach the figure of {study}")

    tab_to("lesion")
    assert page.locator(title).inner_text() == "stage1/unit1"
    for key, name in (
        ("ArrowRight", 2),
        ("ArrowRight", 3),
        ("ArrowLeft", 2),
        ("End", 10),
        ("ArrowRight", 10),
    ):
        page.keyboard.press(key)
        assert page.locator(title).inner_text() == f"stage1/unit{name}", key
    page.keyboard.press("Escape")
    assert page.locator(".unit-box").is_hidden()
    tab_to("pairs")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.locator(title).inner_text() == "stage1/unit2 and stage1/unit3"
    page.keyboard.press("Tab")
    assert page.locator(".unit-box").is_hidden()


@pytest.mark.parametrize("options", [{}, PHONE], ids=["page", "phone"])
def test_the_box_stays_inside_the_window(opened, results, options):
    page, narrow = opened(**options), bool(options)
    for study, last in (("lesion", 10), ("gradients", 8), ("pairs", 5)):
        for x in range(1, last + 1):
            at = place(page, study, share(study, results, x, narrow=narrow))
            page.touchscreen.tap(*at) if narrow else page.mouse.move(*at)
            box, size = page.locator(".unit-box").bounding_box(), page.viewport_size
            assert box["x"] >= 0 and box["x"] + box["width"] <= size["width"], (study, x)
            assert box["y"] >= 0 and box["y"] + box["height"] <= size["height"], (study, x)
            assert len(marks(page, study))
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]


def test_a_tap_chooses_and_a_tap_elsewhere_lets_go(opened, results):
    page = opened(**PHONE)
    page.touchscreen.tap(*place(page, "lesion", share("lesion", results, 5, narrow=True)))
    assert page.locator(".unit-box strong").inner_text() == "stage1/unit5"
    (left, _, right, _), at = marks(page, "gradients")[0], share("gradients", results, 5, narrow=True)
    assert left < at[0] < right
    page.locator("#lesion .finding").tap()
    assert page.locator(".unit-box").is_hidden() and page.locator(".unit-mark").count() == 0


def test_paper_and_a_browser_without_scripts_show_the_figures_as_before(opened, results):
    page = opened()
    assert page.locator(".hint").is_visible()
    page.mouse.click(*place(page, "lesion", share("lesion", results, 3)))
    page.emulate_media(media="print")
    for own in (".unit-mark", ".unit-box", ".hint"):
        assert not any(one.is_visible() for one in page.locator(own).all())
    plain = opened(java_script_enabled=False)
    assert plain.locator(".hint").is_hidden() and plain.locator(".unit-box").count() == 0
    sizes = [one.locator("#lesion figure").bounding_box() for one in (opened(), plain)]
    assert [sizes[0][k] for k in ("width", "height")] == [sizes[1][k] for k in ("width", "height")]
