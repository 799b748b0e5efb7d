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
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

AXE = Path(__file__).resolve().parent.parent / "oracles" / "node_modules" / "axe-core" / "axe.min.js"
PATIENCE_MS = 30_000

expect.set_options(timeout=PATIENCE_MS)


@dataclass(slots=True)
class Visitor:
    """A browser with its own cookies and one tab; `problems` has what a page must never cause."""

    context: BrowserContext
    base: str
    problems: list[str] = field(default_factory=list)
    page: Page = field(init=False)

    def __post_init__(self) -> None:
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("pageerror", lambda error: self._add(str(error)))
        self.page.on("dialog", lambda dialog: self._add(f"dialog {dialog.message}"))
        self.page.on("console", lambda message: self._note(message.type, message.text))

    def open(self, path: str = "/") -> Page:
        """Open a page in the tab: another tab would cost more than most pages."""
        self.page.goto(self.base + path)
        return self.page

    def _add(self, problem: str) -> None:
        self.problems.append(f"{self.page.url}: {problem}")

    def _note(self, kind: str, text: str) -> None:
        if kind == "error" and "Content Security Policy" in text:
            self._add(text)


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
