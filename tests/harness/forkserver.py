"""Processes of the bridge, forked from one that has loaded the program.

A start costs two seconds of CPU time, a fork a few milliseconds: hundreds of processes are affordable. A fork runs the
real program, `bridge.__main__`, with real signals and its own log. It may get a kill point: then it kills itself at a
chosen statement.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import re
import select
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NoReturn

from sqlalchemy import Engine, Pool, event

from bridge.__main__ import main

_forkserver = multiprocessing.get_context("forkserver")
_forkserver.set_forkserver_preload(["tests.harness.preloaded"])

KILLED_ITSELF = "kill_point.reached"
"""The event that a child logs just before its kill point kills it."""


class Moment(StrEnum):
    """The moment of a kill, relative to a statement."""

    BEFORE = "before it is sent"
    AFTER = "after it was executed"
    COMMIT = "before its transaction commits"
    COMMITTED = "after its transaction committed"


@dataclass(frozen=True, slots=True, kw_only=True)
class KillPoint:
    """Where a process kills itself: at the first matching statement, or at a later one."""

    statement: str
    """A regular expression for the beginning of the statement."""
    moment: Moment
    skip: int = 0
    """The number of matches to let pass."""


def fork(
    arguments: Sequence[str],
    *,
    directory: Path,
    environment: Mapping[str, str],
    log: Path,
    kill_point: KillPoint | None = None,
) -> ForkServerProcess:
    """Run the program in a fork, in `directory`, with its output in `log`."""
    process = _forkserver.Process(target=_run, args=(arguments, directory, environment, log, kill_point), daemon=True)
    process.start()
    return process


def _run(
    arguments: Sequence[str], directory: Path, environment: Mapping[str, str], log: Path, kill_point: KillPoint | None
) -> NoReturn:
    code = 70
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream, file in enumerate((os.open(os.devnull, os.O_RDONLY), output, output)):
            os.dup2(file, stream)
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it is a text file
        os.chdir(directory)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["bridge", *arguments]
        if kill_point is not None:
            _install(kill_point)
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:  # noqa: BLE001 - it must not go on as its parent
        traceback.print_exc()
    os._exit(code)


def _install(kill_point: KillPoint) -> None:
    """Listen to every statement and commit of this process, and end it at the chosen one."""
    pattern = re.compile(kill_point.statement)
    matches = itertools.count()
    reached: set[object] = set()
    """The driver's connections whose transaction has come to the statement."""

    def before(connection: Any, _cursor: Any, statement: str, *_: object) -> None:  # noqa: ANN401 - SQLAlchemy's
        if pattern.match(statement) and next(matches) >= kill_point.skip:
            reached.add(connection.connection.dbapi_connection)
            if kill_point.moment is Moment.BEFORE:
                _kill_itself(statement)

    def after(connection: Any, _cursor: Any, statement: str, *_: object) -> None:  # noqa: ANN401
        if kill_point.moment is Moment.AFTER and connection.connection.dbapi_connection in reached:
            _kill_itself(statement)

    def commit(connection: Any) -> None:  # noqa: ANN401
        if kill_point.moment is Moment.COMMIT and connection.connection.dbapi_connection in reached:
            _kill_itself("COMMIT")

    def checkin(dbapi_connection: object, _record: object) -> None:
        if kill_point.moment is Moment.COMMITTED and dbapi_connection in reached:
            _kill_itself("after COMMIT")

    event.listen(Engine, "before_cursor_execute", before)
    event.listen(Engine, "after_cursor_execute", after)
    event.listen(Engine, "commit", commit)
    event.listen(Engine, "rollback", lambda connection: reached.discard(connection.connection.dbapi_connection))
    event.listen(Pool, "checkin", checkin)


def _kill_itself(where: str) -> None:
    line = json.dumps({"event": KILLED_ITSELF, "at": where.partition("\n")[0][:200]})
    os.write(2, f"{line}\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)
    select.select([], [], [])  # it ends here, whichever thread gets the signal
