"""Standard output of the commands that run until they are stopped, coloured on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

Part = str | tuple[str, str]
"""A part of a line: plain text, or text with a Rich style."""


class Screen:
    """Standard output, one line at a time, coloured on a terminal; `on_gone` is called once when its reader has gone.

    That is no error: `bridge demo | head` ends the demo in order.
    """

    def __init__(self, on_gone: Callable[[], None] = lambda: None) -> None:
        self._console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
        self._on_gone = on_gone
        self.gone = False

    def show(self, *parts: Part) -> None:
        """Write one line."""
        text = Text.assemble(*parts)
        text.rstrip()
        with self._console.capture() as captured:
            self._console.print(text, soft_wrap=True)
        self._write(captured.get())

    def write_line(self, text: str) -> None:
        """Write one line that is meant for a program, unchanged."""
        self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        if self.gone:
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError:
            self.gone = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python's own flush fails at the end
            self._on_gone()
