"""How tests wait: on a condition, with a generous limit and a message; never on a guess of how long something takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds before a wait gives up: far beyond what a healthy run needs, on a slow machine too."""
LOOK_AGAIN = 0.02


def wait_until(
    condition: Callable[[], T], *, timeout: float = PATIENCE, what: str | Callable[[], str] = "the condition"
) -> T:
    """Look at `condition` until it is true and return its value; `what` is said when it never is."""
    limit = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > limit:
            said = what if isinstance(what, str) else what()
            raise AssertionError(f"waited {timeout:g} s in vain for {said}")
        time.sleep(LOOK_AGAIN)
