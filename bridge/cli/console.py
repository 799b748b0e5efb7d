"""Lines as they happen: coloured on a terminal, plain elsewhere, each written at once, safe whatever they quote.

A reader who has gone (`bridge demo | head`, a closed terminal) is noticed once and told nothing more; whoever owns
the screen ends in order. Widths are columns, not characters: names may be in any script.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from bridge.config.words import printable

Part = str | tuple[str, str]
"""A item of a line: plain, or with a Rich style."""


def _nobody_to_tell() -> None: ...


class Screen:
    """Standard output, a line at a time; `on_gone` is called once when nobody reads it any more."""

    def __init__(self, on_gone: Callable[[], None] = _nobody_to_tell) -> None:
        self._console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
        self._on_gone = on_gone
        self.gone = False

    @property
    def width(self) -> int:
        """Columns; 80 where there is no terminal."""
        return self._console.width if self._console.is_terminal else 80

    def show(self, *parts: Part) -> None:
        """Write one line."""
        text = Text.assemble(*parts)
        text.rstrip()
        with self._console.capture() as captured:
            self._console.print(text, soft_wrap=True)
        self._write(captured.get())

    def write_line(self, text: str) -> None:
        """Write one line that is for a program: as it is."""
        self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        if self.gone:
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError:
            self.gone = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python fails to flush when it ends
            self._on_gone()


def fit(text: str, width: int) -> str:
    """The text, cut or filled to `width` columns, with nothing in it that could fool a terminal."""
    safe = printable(text)
    if cell_len(safe) > width:
        safe = set_cell_size(safe, width - 1) + "…"
    return set_cell_size(safe, width)
