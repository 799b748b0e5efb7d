"""Log lines: structlog to stderr, readable on a terminal, otherwise one JSON document per line."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import TextIO

import structlog


def configure_logs(*, console: bool, level: str) -> None:
    """Set up logging for the whole process; lines of libraries are logged from `warning` on."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if console:
        plain = structlog.dev.plain_traceback
        colors = sys.stderr.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        last: list[structlog.typing.Processor] = [
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)
        ]
    else:
        # Without local variables: those of a failed delivery are secrets.
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        last = [structlog.processors.ExceptionRenderer(tracebacks), structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_: _Unfailing(sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=max(threshold, logging.WARNING), handlers=[_LibraryHandler()], force=True)
    logging.getLogger("apscheduler").setLevel(logging.ERROR)  # a tick that was skipped is made up for by the next one


class _LibraryHandler(logging.Handler):
    """Log lines of libraries, in the form of our own."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger("bridge.logs")
        write = log.warning if record.levelno < logging.ERROR else log.error
        write("library.logged", library=record.name, detail=record.getMessage())


class _Unfailing:
    """A logger that never raises: a full disk or a closed pipe must not stop the work."""

    def __init__(self, file: TextIO) -> None:
        self._logger = structlog.PrintLogger(file)

    def msg(self, message: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._logger.msg(message)

    debug = info = warning = error = critical = exception = log = msg
