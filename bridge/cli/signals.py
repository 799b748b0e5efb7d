"""Signals to a command that runs until it is stopped: Ctrl-C, SIGTERM, a closed terminal."""

from __future__ import annotations

import asyncio
import os
import signal


class Stopping:
    """Sets `requested` at the first signal; the second ends the process at once. Made inside a running event loop."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self.requested.is_set():
            os._exit(1)
        self.requested.set()
