"""Log lines: structlog to stderr, readable on a terminal, otherwise one JSON document per line.

structlog is imported with the first line: it loads Rich and Pygments, half as much again as SQLAlchemy, and most
commands log nothing.

The service writes lines from a thread of its own: a reader that stalls (a full pipe, a paused terminal) must not stop
the work. Lines that find the queue full are dropped, and counted in a line once the reader goes on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import threading
from functools import cached_property
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    import structlog
    from structlog.stdlib import BoundLogger

QUEUED_LINES = 10_000
"""Lines that wait for a reader that stalls; some megabytes."""
LINES_AT_ONCE = 500
FLUSH_SECONDS = 0.5
"""Time for the last lines when the program ends."""

_wanted: dict[str, Any] | None = None
"""Arguments of `_configure`, which runs before the first line."""


def get_logger(name: str) -> BoundLogger:
    """The logger of the module `name`."""
    return cast("BoundLogger", _Logger(name))


def configure_logs(*, console: bool, level: str, queued: bool = False) -> None:
    """Set up logging for the whole process; lines of libraries are logged from `warning` on.

    With `queued`, a thread writes the lines, and the program calls `flush_logs` before it ends.
    """
    global _wanted, _queue  # noqa: PLW0603 - logging is global
    _queue = _LineQueue(sys.stderr.fileno()) if queued else None
    threshold = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(level=max(threshold, logging.WARNING), handlers=[_LibraryHandler()], force=True)
    logging.getLogger("apscheduler").setLevel(logging.ERROR)  # the next tick makes up for a skipped one
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
        logger_factory=lambda *_: _queue or _Unfailing(sys.stderr),
        cache_logger_on_first_use=False,
    )


class _LibraryHandler(logging.Handler):
    """Log lines of libraries, in the format of the bridge's own."""

    def emit(self, record: logging.LogRecord) -> None:
        log = get_logger("bridge.logs")
        write = log.warning if record.levelno < logging.ERROR else log.error
        write("library.logged", library=record.name, detail=record.getMessage())


def flush_logs(seconds: float) -> None:
    """Wait until the queued lines are written, for `seconds` at most."""
    if _queue is not None:
        _queue.flush(seconds)


class _LineQueue:
    """A logger whose lines a thread writes to a file descriptor; it neither waits nor fails.

    Not to `sys.stderr`, whose lock is needed at the end of the program, and would stay locked while the reader stalls.
    """

    def __init__(self, descriptor: int, limit: int = QUEUED_LINES) -> None:
        self._descriptor = descriptor
        self._limit = limit
        self._queue: SimpleQueue[str | threading.Event] = SimpleQueue()
        self._dropped = 0
        self._counting = threading.Lock()
        threading.Thread(target=self._write_lines, name="log-writer", daemon=True).start()

    def msg(self, message: str) -> None:
        if self._queue.qsize() < self._limit:
            self._queue.put(message)
        else:
            self._count_dropped(1)

    debug = info = warning = error = critical = exception = log = msg

    def flush(self, seconds: float) -> None:
        reached = threading.Event()
        self._queue.put(reached)
        reached.wait(seconds)

    def _write_lines(self) -> None:
        while True:
            batch = self._next_batch()
            lines = [item for item in batch if isinstance(item, str)]
            if lines and self._write("".join(f"{line}\n" for line in lines)):
                self._log_dropped()
            elif lines:
                self._count_dropped(len(lines))
            for item in batch:
                if isinstance(item, threading.Event):
                    item.set()

    def _next_batch(self) -> list[str | threading.Event]:
        batch = [self._queue.get()]
        with contextlib.suppress(Empty):
            while len(batch) < LINES_AT_ONCE:
                batch.append(self._queue.get_nowait())
        return batch

    def _write(self, text: str) -> bool:
        """Write the text, however long that takes; returns whether that was possible."""
        rest = memoryview(text.encode(errors="backslashreplace"))
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # the descriptor was inherited as a non-blocking one
                select.select([], [self._descriptor], [])
            except OSError:
                return False
        return True

    def _log_dropped(self) -> None:
        with self._counting:
            dropped, self._dropped = self._dropped, 0
        if dropped:
            log = get_logger("bridge.logs")
            log.warning("log.lines_dropped", count=dropped)

    def _count_dropped(self, count: int) -> None:
        with self._counting:
            self._dropped += count


_queue: _LineQueue | None = None


class _Unfailing:
    """A logger that never raises: a full disk or a closed pipe must not stop the work."""

    def __init__(self, file: TextIO) -> None:
        self._logger = _import_structlog().PrintLogger(file)

    def msg(self, message: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._logger.msg(message)

    debug = info = warning = error = critical = exception = log = msg
