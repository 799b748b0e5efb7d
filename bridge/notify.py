"""Messages to the service manager that started this process: the protocol of sd_notify(3), as systemd reads it."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

SEND_SECONDS = 1.0
"""Longest time that a manager which reads nothing can delay the caller; the message is dropped then."""


class ServiceManager:
    """The service manager that an environment names: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`.

    Without `NOTIFY_SOCKET`, nothing is sent. A message that cannot be sent is dropped: the service goes on without it.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        name = env.get("NOTIFY_SOCKET", "")
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        self._ping_seconds = _ping_seconds(env)

    def ready(self) -> None:
        """Report that the service is up, or that a reload has ended, with new settings or without."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Report that a reload begins."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that the service stops."""
        self._send("STOPPING=1")

    @asynccontextmanager
    async def watchdog(self) -> AsyncIterator[None]:
        """Ping the manager's watchdog, if it has one, for as long as this event loop runs its tasks."""
        pinging = asyncio.create_task(self._ping())
        try:
            yield
        finally:
            pinging.cancel()

    async def _ping(self) -> None:
        while self._ping_seconds is not None:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._ping_seconds)

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.settimeout(SEND_SECONDS)
            manager.connect(self._address)
            manager.sendall("\n".join(lines).encode())


def _ping_seconds(env: Mapping[str, str]) -> float | None:
    """Half of the time after which the watchdog ends this process; None if it has no such limit."""
    limit, process = env.get("WATCHDOG_USEC", ""), env.get("WATCHDOG_PID", "")
    if not limit.isdecimal() or int(limit) == 0 or process not in ("", str(os.getpid())):
        return None
    return int(limit) / 2 / 1_000_000
