"""Answers that many long requests ask for at the same time: whether a token still exists."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Final

SHARED_SECONDS: Final = 5.0


class SharedAnswers:
    """Asks once for each key in a few seconds, however many want to know."""

    def __init__(self) -> None:
        self._asked: dict[Hashable, tuple[float, asyncio.Task[bool]]] = {}

    async def get(self, key: Hashable, ask: Callable[[], Coroutine[Any, Any, bool]]) -> bool:
        """Return the answer to `ask`, which is at most `SHARED_SECONDS` old."""
        now = asyncio.get_running_loop().time()
        self._asked = {known: asked for known, asked in self._asked.items() if asked[0] > now}
        if key not in self._asked:
            self._asked[key] = (now + SHARED_SECONDS, asyncio.create_task(ask()))
        return await asyncio.shield(self._asked[key][1])
