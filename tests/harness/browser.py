"""A real browser for the pages: Debian's Chromium, driven by Playwright.

Without Chromium the tests that need it are skipped; where the environment variable CI is set they fail instead.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

AXE = Path(__file__).resolve().parent.parent / "oracles" / "node_modules" / "axe-core" / "axe.min.js"
PATIENCE_MS = 30_000


@dataclass(slots=True)
class Visitor:
    """A browser with its own cookies; `problems` has what a page must never cause."""

    context: BrowserContext
    base: str
    problems: list[str] = field(default_factory=list)

    def open(self, path: str = "/") -> Page:
        """Open a page in a new tab."""
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: self.problems.append(f"{path}: {error}"))
        page.on("dialog", lambda dialog: self.problems.append(f"{path}: dialog {dialog.message}"))
        page.on("console", lambda message: self._note(path, message.type, message.text))
        page.goto(self.base + path)
        return page

    def _note(self, path: str, kind: str, text: str) -> None:
        if kind == "error" and "Content Security Policy" in text:
            self.problems.append(f"{path}: {text}")


def overflow(page: Page) -> int:
    """Return by how many pixels a page is wider than its window."""
    width: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return width


def serious_faults(page: Page) -> list[str]:
    """Return what axe-core calls serious or critical: rule and element."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = page.evaluate("axe.run().then(result => result.violations)")
    return [
        f"{fault['id']}: {node['target']} {node['html'][:120]}"
        for fault in found
        if fault["impact"] in {"serious", "critical"}
        for node in fault["nodes"]
    ]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the system's Chromium."""
    program = shutil.which("chromium")
    if program is None:
        reason = "there is no chromium on this machine: install Debian's package chromium"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
