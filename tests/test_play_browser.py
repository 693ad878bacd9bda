"""The page in a real browser, where Playwright and a Chromium are: what a person does and then sees."""

import contextlib
import io
import json

import numpy as np
import pytest
from browser_helpers import NEEDS_BROWSER, chromium
from play_helpers import served
from run_helpers import tiny_run

from resjax.analysis import lesion, load_runs, reorder
from resjax.play.live import Live, Sizes

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
pytestmark = NEEDS_BROWSER
EXAMPLES = 24


@pytest.fixture(scope="module")
def lives(tmp_path_factory):
    """A residual network and its plain twin; units 1 and 2, counted from 0, are equal."""
    folder = tmp_path_factory.mktemp("play")
    tiny_run(folder / "residual")
    tiny_run(folder / "plain", shortcut="none")
    return [Live(run, Sizes(EXAMPLES, 12)) for run in load_runs([folder / "residual", folder / "plain"])]


@pytest.fixture(scope="module")
def address(lives):
    with served(lives) as own:
        yield f"{own}/?token=token"


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser, address):
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    own = context.new_page()
    errors = []
    own.on("pageerror", lambda error: errors.append(str(error)))
    own.goto(address)
    settled(own)
    yield own
    context.close()
    assert errors == []


def settled(page):
    """Waits until no question is on its way."""
    page.wait_for_function("!asking && !waiting && document.querySelectorAll('.number b').length > 0")


def errors_of(page):
    """The shown error of each run, in per cent."""
    texts = [run.locator(".number b").first.inner_text() for run in page.locator(".run").all()]
    return [float(text.removesuffix(" %")) for text in texts]


def unit(page, place, run=0):
    return page.locator(".run").nth(run).locator(f'.unit[data-place="{place}"]')


def test_a_switch_shows_the_error_of_that_deletion(page, lives):
    results = [lesion(*live.subject.evaluation(EXAMPLES), loss=live.subject.loss) for live in lives]
    for place in (1, 4):
        unit(page, place).locator(".box").click()
        settled(page)
        for shown, result in zip(errors_of(page), results, strict=True):
            assert shown == pytest.approx(100 * result.error[place], abs=0.051)
        assert f"gates={place}:0" in page.url
        page.locator("#undo").click()
        settled(page)
    assert "gates" not in page.url


def test_two_units_are_dragged_and_others_are_refused(page, lives):
    box = [unit(page, place).locator(".name").bounding_box() for place in range(5)]

    def drag(start, end):
        page.mouse.move(box[start]["x"] + 8, box[start]["y"] + 5)
        page.mouse.down()
        page.mouse.move(box[end]["x"] + 8, box[end]["y"] + 5, steps=4)
        page.mouse.up()
        settled(page)

    drag(1, 4)
    assert "Only equal units can change places" in page.locator("#message").inner_text()
    assert "order" not in page.url
    drag(1, 2)
    assert "order=0,2,1,3,4" in page.url
    live = lives[0]
    result = reorder(*live.subject.evaluation(EXAMPLES), loss=live.subject.loss, swaps=(1,), draws=1)
    swapped = np.flatnonzero((result.order == [0, 2, 1, 3, 4]).all(1))[0]
    assert errors_of(page)[0] == pytest.approx(100 * result.error[swapped], abs=0.051)


def test_the_copied_lines_print_the_shown_error(page):
    unit(page, 2).locator(".alpha").fill("0.5")
    settled(page)
    page.locator("#python").click()
    page.wait_for_function("document.querySelector('#message').textContent === 'Copied.'")
    lines = page.evaluate("navigator.clipboard.readText()")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(lines, {})
    errors = [float(line.split()[1]) for line in printed.getvalue().splitlines() if line.startswith("error")]
    assert errors_of(page) == pytest.approx([100 * error for error in errors], abs=0.051)


def test_a_unit_that_one_of_two_runs_needs_stays_on(page):
    unit(page, 3).locator(".box").click()
    assert "In plain, stage2/unit1 changes the shape" in page.locator("#message").inner_text()
    assert "gates" not in page.url


def test_the_gradient_is_shown_where_there_is_one(page):
    unit(page, 1).locator(".box").click()
    settled(page)
    page.locator("#gradient").click()
    page.wait_for_function("document.querySelectorAll('.gradient').length === 2")
    residual, plain = (panel.inner_text() for panel in page.locator(".gradient").all())
    assert "mean length" in residual and "No gradient by path length: a unit without a shortcut" in plain


def test_an_address_has_its_state(page, browser, address):
    unit(page, 1).locator(".box").click()
    page.locator("#reestimated").check()
    settled(page)
    other = browser.new_page()
    other.goto(page.url)
    settled(other)
    assert errors_of(other) == errors_of(page)
    assert "gates=1:0&reestimated" in page.url
    other.close()


@pytest.mark.parametrize("state", ["order=0,1", "order=0,0,1,2,3", "order=a", "gates=1:x", "gates=9:0", "?"])
def test_an_address_of_another_network_is_the_intact_one(browser, address, page, state):
    other = browser.new_page()
    errors = []
    other.on("pageerror", lambda error: errors.append(str(error)))
    other.goto(f"{address}#{state}")
    settled(other)
    assert errors == [] and errors_of(other) == errors_of(page)
    other.close()


def test_a_question_that_was_replaced_is_asked_again(page):
    answered = []

    def once(route):
        answered.append(1)
        route.fulfill(json={"replaced": True}) if len(answered) == 1 else route.continue_()

    page.route("**/ask/measure", once)
    before = errors_of(page)
    page.evaluate("change({gates: [0, 0, 0, 1, 0]})")
    settled(page)
    assert len(answered) == 2 and errors_of(page) != before


def test_a_pulled_slider_never_queues(page):
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "/ask/measure" in request.url else None)
    page.evaluate("for (let i = 0; i < 40; i++) setGate(2, i / 20)")
    settled(page)
    assert len(asked) <= 3
    assert page.evaluate("state.gates[2]") == 1.95


def test_what_was_tried_can_be_saved(page):
    page.locator("#count").fill("2")
    page.locator("#random").click()
    settled(page)
    with page.expect_download() as download:
        page.locator("#save").click()
    with open(download.value.path()) as file:
        log = json.load(file)
    assert sum(gate == 0 for gate in log[-1]["state"]["gates"]) == 2
    assert [100 * run["error"] for run in log[-1]["runs"]] == pytest.approx(errors_of(page), abs=0.051)


def test_a_narrow_page_needs_no_more_than_its_width(browser, address):
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme="dark")
    narrow = context.new_page()
    narrow.goto(address)
    settled(narrow)
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 390
    background = narrow.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, background.removeprefix("rgb(").removesuffix(")").split(","))) < 200
    context.close()
