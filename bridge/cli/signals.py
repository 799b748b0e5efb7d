"""How a command that runs until told to stop hears it: Ctrl-C, SIGTERM, a closed terminal; a second time is at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

from bridge.signals import Heard, StopSignals

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _leave_nothing() -> None: ...


class Stopping:
    """Made inside a running event loop; `asked` is set by the first signal.

    Args:
        at_once: what must not be left behind even when the second signal ends the process where it stands.
    """

    def __init__(self, at_once: Callable[[], None] = _leave_nothing) -> None:
        self.asked = asyncio.Event()
        self._signals = StopSignals()
        self._at_once = at_once
        self.listen()

    def listen(self) -> None:
        """Hear the signals from now on, whoever heard them before."""
        loop = asyncio.get_running_loop()
        for assign_sequences in SIGNALS:
            loop.add_signal_handler(assign_sequences, self._hear)

    def _hear(self) -> None:
        if self._signals.hear(asyncio.get_running_loop().time()) is Heard.SECOND:
            self._at_once()
            os._exit(1)
        self.asked.set()
