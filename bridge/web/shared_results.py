"""Results that many long requests need at the same time: whether a token still exists."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Final

SHARED_SECONDS: Final = 5.0


class SharedResults:
    """Calls a function once per key in a few seconds, however many requests need its result."""

    def __init__(self) -> None:
        self._calls: dict[Hashable, tuple[float, asyncio.Task[bool]]] = {}

    async def get(self, key: Hashable, call: Callable[[], Coroutine[Any, Any, bool]]) -> bool:
        """Return the result of `call`, which is at most `SHARED_SECONDS` old."""
        now = asyncio.get_running_loop().time()
        self._calls = {known: made for known, made in self._calls.items() if made[0] > now}
        if key not in self._calls:
            self._calls[key] = (now + SHARED_SECONDS, asyncio.create_task(call()))
        return await asyncio.shield(self._calls[key][1])
