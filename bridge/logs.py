"""Log lines: structlog to stderr, readable on a terminal, otherwise one JSON document per line.

structlog is imported with the first line: it loads Rich and Pygments, half as much again as SQLAlchemy, and most
commands log nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    import structlog
    from structlog.stdlib import BoundLogger

_wanted: dict[str, Any] | None = None
"""Arguments of `_configure`, which runs before the first line."""


def get_logger(name: str) -> BoundLogger:
    """The logger of a module; `name` says which."""
    return cast("BoundLogger", _Logger(name))


def configure_logs(*, console: bool, level: str) -> None:
    """Set up logging for the whole process; lines of libraries are logged from `warning` on."""
    global _wanted  # noqa: PLW0603 - logging is global
    threshold = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(level=max(threshold, logging.WARNING), handlers=[_LibraryHandler()], force=True)
    logging.getLogger("apscheduler").setLevel(logging.ERROR)  # a tick that was skipped is made up for by the next one
    _wanted = {"console": console, "threshold": threshold}
    if "structlog" in sys.modules:
        _import_structlog()


def _import_structlog() -> Any:  # noqa: ANN401 - the module
    global _wanted  # noqa: PLW0603 - as above
    import structlog  # noqa: PLC0415 - see the head of this file

    if (wanted := _wanted) is not None:
        _configure(**wanted)
        _wanted = None
    return structlog


class _Logger:
    """A logger of structlog, imported when it is used."""

    def __init__(self, name: str) -> None:
        self._name = name

    @cached_property
    def _logger(self) -> Any:  # noqa: ANN401 - structlog's
        return _import_structlog().get_logger(self._name)

    def __getattr__(self, method: str) -> Any:  # noqa: ANN401 - structlog's
        return getattr(self._logger, method)


def _configure(*, console: bool, threshold: int) -> None:
    import structlog  # noqa: PLC0415 - as above

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


class _LibraryHandler(logging.Handler):
    """Log lines of libraries, in the form of our own."""

    def emit(self, record: logging.LogRecord) -> None:
        log = get_logger("bridge.logs")
        write = log.warning if record.levelno < logging.ERROR else log.error
        write("library.logged", library=record.name, detail=record.getMessage())


class _Unfailing:
    """A logger that never raises: a full disk or a closed pipe must not stop the work."""

    def __init__(self, file: TextIO) -> None:
        self._logger = _import_structlog().PrintLogger(file)

    def msg(self, message: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._logger.msg(message)

    debug = info = warning = error = critical = exception = log = msg
