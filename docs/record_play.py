"""Records the page of ``resjax.play`` for the README: one unit off, five units off, the order reversed.

    python docs/record_play.py --workdir=runs/demo/residual,runs/demo/plain [--out docs/img/play.webp]
        [--still docs/img/play.png]

It needs Playwright with a Chromium, which RESJAX_BROWSER may name. Every frame shows numbers that the page
has measured. ``--still`` also writes the picture of docs/play.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 1130, 780
HIDDEN = "#take, .details { display: none !important } .busy .number b { opacity: 1 !important }"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="two runs, separated by a comma")
    parser.add_argument("--out", type=Path, default=Path("docs/img/play.webp"))
    parser.add_argument("--still", type=Path, help="also a picture of the whole page, with two units off")
    args = parser.parse_args()
    browser = os.environ.get("RESJAX_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
    with served(args.workdir) as address, sync_playwright() as started:
        opened = started.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = opened.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(address)
        settled(page)
        if args.still:
            whole(page, args.still)
        page.add_style_tag(content=HIDDEN)
        frames = list(recorded(page))
        opened.close()
    pictures, milliseconds = zip(*frames, strict=True)
    pictures[0].save(
        args.out,
        save_all=True,
        append_images=pictures[1:],
        duration=milliseconds,
        loop=0,
        quality=60,
        method=4,
    )
    seconds, size = sum(milliseconds) / 1000, args.out.stat().st_size
    print(f"{args.out}: {len(frames)} frames, {seconds:.1f} s, {size:,} bytes")


@contextlib.contextmanager
def served(workdirs: str) -> Iterator[str]:
    """The address of the page of two runs."""
    command = [sys.executable, "-u", "-m", "resjax.play", f"--workdir={workdirs}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as own:
        try:
            assert own.stdout is not None
            yield next(found[0] for line in own.stdout if (found := re.findall(r"http://\S+", line)))
        finally:
            own.terminate()


def settled(page: Any) -> None:
    """Waits until the numbers are those of the state."""
    page.wait_for_function(
        "!asking && !waiting && document.querySelectorAll('.number b').length > 0", timeout=60_000
    )


def frame(page: Any) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def recorded(page: Any) -> Iterator[tuple[Image.Image, int]]:
    """Pictures and for how many milliseconds each is shown."""
    page.evaluate("change(intact(), 'Two networks with the same branches: with shortcuts, and without.')")
    settled(page)
    yield frame(page), 1600
    for number, unit in enumerate((13, 4, 22, 7, 16)):
        page.locator(f'.unit[data-place="{unit}"] .box').first.click()
        text = "One unit is off." if not number else f"{number + 1} units are off."
        page.evaluate(f"say('{text}')")
        settled(page)
        page.mouse.move(5, 5)
        yield frame(page), {0: 2200, 4: 2000}.get(number, 500)
    page.locator("#intact").click()
    page.evaluate("say('All units are on again.')")
    settled(page)
    yield frame(page), 900
    page.locator("#reverse").click()
    page.evaluate("say('The units of each kind run in reverse order.')")
    settled(page)
    page.mouse.move(5, 5)
    yield frame(page), 2200


def whole(page: Any, path: Path) -> None:
    """The whole page with two units off."""
    for unit in (4, 13):
        page.locator(f'.unit[data-place="{unit}"] .box').first.click()
    settled(page)
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    picture.quantize(128).save(path, optimize=True)
    page.locator("#intact").click()
    settled(page)


if __name__ == "__main__":
    main()
