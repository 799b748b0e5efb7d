"""A server on an event loop in a thread of its own, so that a test can look at it while it blocks on something else."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from tests.harness.waiting import PATIENCE


class LoopThread(ABC):
    """Use as a context manager; `_serve` calls `_ready()` when it listens and returns after `_stopping` is set."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._listening = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._listening.wait(PATIENCE) or self._failure is not None:
            raise AssertionError(f"{self._thread.name} did not start") from self._failure
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), f"{self._thread.name} does not stop"

    @abstractmethod
    async def _serve(self) -> None: ...

    def _ready(self) -> None:
        self._listening.set()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        except BaseException as failure:  # `__enter__` raises it in the test's thread
            self._failure = failure
            self._listening.set()
            raise
