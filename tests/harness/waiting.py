"""Waiting for a condition, with a generous limit and a message; never for a guess of how long something takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds before a wait gives up: far beyond what a healthy run needs, on a busy machine too."""
INTERVAL = 0.01


def wait_until(
    condition: Callable[[], T], *, timeout: float = PATIENCE, what: str | Callable[[], str] = "the condition"
) -> T:
    """Check `condition` until it is true and return its value; `what` is the message if it never is."""
    limit = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > limit:
            raise AssertionError(
                f"waited {timeout:g} s without success for {what if isinstance(what, str) else what()}"
            )
        time.sleep(INTERVAL)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until the condition is true; for changes that no event announces."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - it changes elsewhere: in a receiver, a log, a database
            await asyncio.sleep(0.002)
