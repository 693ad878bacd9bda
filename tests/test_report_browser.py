"""The report in a real browser, where there is one: at a phone's width and a desktop's, light and dark."""

import html
import itertools
import json
import re
import subprocess

import pytest
from browser_helpers import BROWSER, NEEDS_BROWSER
from report_helpers import SHOWN, report_of_two

from resjax.report.write import write

WIDTHS, SCHEMES = (390, 1280), {"dark": 0, "light": 1}

pytestmark = NEEDS_BROWSER

# A window is at least 500 pixels wide, a frame is as narrow as wanted. The page itself stays as it is.
FRAME = """<!DOCTYPE html>
<meta name="color-scheme" content="light dark">
<iframe src="report.html" style="width: WIDTHpx; height: 900px; border: 0"></iframe>
<pre></pre>
<script>
onload = () => {
  const page = document.querySelector("iframe").contentDocument;
  const look = () => ({
    width: page.documentElement.clientWidth,
    needed: page.documentElement.scrollWidth,
    background: page.defaultView.getComputedStyle(page.body).backgroundColor,
    images: [...page.images].map(i => ({loaded: i.complete && i.naturalWidth > 0, source: i.currentSrc})),
  });
  const found = [look()];
  page.querySelectorAll("details").forEach(details => { details.open = true; });
  found.push(look());
  document.querySelector("pre").textContent = JSON.stringify(found);
};
</script>
"""


def opened(out, width, scheme):
    """What the browser makes of the page: as it comes, and with everything unfolded."""
    frame = out / f"frame{width}.html"
    frame.write_text(FRAME.replace("WIDTH", str(width)), "utf-8")
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--allow-file-access-from-files",  # the frame's parent may look into it
        f"--user-data-dir={out / 'profile'}",
        f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
        f"--window-size={max(width + 20, 500)},920",
        "--dump-dom",
        frame.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    text = done.stdout.decode()
    found = re.search(r"<pre>(.+?)</pre>", text, re.DOTALL)
    assert found, f"{text[-300:]}\n{done.stderr.decode()[-600:]}"
    return json.loads(html.unescape(found[1]))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """{(width, scheme): [as it comes, unfolded]}"""
    out = tmp_path_factory.mktemp("page")
    write(report_of_two(), out)
    return {key: opened(out, *key) for key in itertools.product(WIDTHS, SCHEMES)}


def test_nothing_is_wider_than_the_screen(pages):
    for (width, _), looks in pages.items():
        for look in looks:
            assert look["width"] == width
            assert look["needed"] <= width


def test_every_figure_is_there_in_the_form_that_fits(pages):
    forms = [set() for _ in SHOWN]
    for folded, unfolded in pages.values():
        assert len(folded["images"]) == len(SHOWN)
        assert all(image["loaded"] for image in folded["images"] + unfolded["images"])
        for sources, image in zip(forms, folded["images"], strict=True):
            sources.add(image["source"])
    assert [len(sources) for sources in forms] == [len(pages)] * len(SHOWN)


def test_light_and_dark_are_told_apart(pages):
    for width in WIDTHS:
        shown = {scheme: pages[width, scheme][0]["background"] for scheme in SCHEMES}
        assert shown == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 28)"}
