"""What the service says of itself during the demo: kept in a file, out of the way, and heard where it matters."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

KEPT_TROUBLES = 10

Entry = MutableMapping[str, Any]


class ServiceLog:
    """Hears the log lines of the service; `started` is set when it is up, `dashboard` is where its pages are."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.dashboard: str | None = None
        self._troubles: deque[str] = deque(maxlen=KEPT_TROUBLES)

    @property
    def failed_attempts(self) -> list[str]:
        """The newest warnings and errors."""
        return list(self._troubles)

    def hear(self, _logger: object, level: str, entry: Entry) -> Entry:
        """A structlog processor."""
        match entry["event"]:
            case "web.listening":
                self.dashboard = entry["url"]
            case "bridge.started":
                self.started.set()
            case _:
                pass
        if level not in ("debug", "info"):
            facts = " ".join(f"{key}={value}" for key, value in entry.items() if key != "event")
            self._troubles.append(f"{entry['event']} {facts}")
        return entry


@contextmanager
def service_log(path: Path) -> Iterator[ServiceLog]:
    """Send everything that this process logs to a file for as long as the block lasts."""
    log = ServiceLog()
    file = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    logging.basicConfig(handlers=[file], level=logging.WARNING, force=True)
    structlog.configure(
        processors=[
            log.hear,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ],
        logger_factory=structlog.PrintLoggerFactory(file.stream),
    )
    try:
        yield log
    finally:
        structlog.reset_defaults()
        logging.getLogger().removeHandler(file)
        file.close()
