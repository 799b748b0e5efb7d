"""Pictures of the dashboard for README: `make screenshots`. They need Chromium, and show `bridge demo`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page

from tests.harness.browser import chromium
from tests.harness.process import bridge_command, environment

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
SIZE = {"width": 1120, "height": 630}
SECONDS_OF_DEMO = 20


def main() -> int:
    """Start a demo, let it run for a while, and take the pictures."""
    command = [*bridge_command("demo"), "--seed", "8"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(), text=True) as demo, chromium() as browser:
        assert demo.stdout is not None
        link = next(found[0] for line in demo.stdout if (found := re.search(r"http\S+/sign-in\S+", line)))
        page = browser.new_page(viewport=SIZE, device_scale_factor=1.5, color_scheme="light")  # type: ignore[arg-type]
        page.goto(link)
        page.wait_for_timeout(SECONDS_OF_DEMO * 1000)
        page.goto(link.partition("/sign-in")[0] + "/")
        page.screenshot(path=IMAGES / "rooms.png")
        page.goto(link.partition("/sign-in")[0] + _fullest_session(page))
        page.screenshot(path=IMAGES / "timeline.png")
        demo.terminate()
    return 0


def _fullest_session(page: Page) -> str:
    """Return the path of the session with the most people, and some uncertainty."""
    page.goto(page.url.rstrip("/") + "/sessions")
    rows = page.locator("tbody tr").all()
    fullest = max(rows, key=lambda row: int(row.locator("td.number").nth(1).inner_text()))
    return str(fullest.locator("td a").first.get_attribute("href"))


if __name__ == "__main__":
    sys.exit(main())
