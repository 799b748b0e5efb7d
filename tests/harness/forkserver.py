"""A fork server for bridge processes: a parent that has loaded the program forks a child per command.

A start costs two seconds of CPU time, a fork a few milliseconds: hundreds of processes are affordable. A child runs the
real program, `bridge.__main__`, with real signals and its own log; the parent has no thread, loop or connection that it
could inherit. A child may get a kill point: then it kills itself at a chosen statement.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import os
import pkgutil
import re
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn

from sqlalchemy import Engine, Pool, create_engine, event

from tests.harness.waiting import PATIENCE

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


class ChildProcess:
    """A forked bridge process, with those methods of `subprocess.Popen` that the tests use."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""
        if self.returncode is None:
            self.returncode = self._server.request(wait=self.pid, timeout=0)
        return self.returncode

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for its end and return its exit code.

        Raises:
            subprocess.TimeoutExpired: it is still running.
        """
        if self.returncode is None:
            self.returncode = self._server.request(wait=self.pid, timeout=timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("bridge", timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Signal it, if it has not been waited for."""
        if self.returncode is None:
            os.kill(self.pid, number)


class ForkServer:
    """The parent process, seen from a test. Its children end with it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._requests = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.harness.forkserver"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._response() == "ready"

    def close(self) -> None:
        self._process.communicate(timeout=PATIENCE)

    def fork(
        self,
        arguments: Sequence[str],
        *,
        directory: Path,
        environment: Mapping[str, str],
        log: Path,
        kill_point: KillPoint | None = None,
    ) -> ChildProcess:
        """Run the program in a child, in `directory`, with its output in `log`."""
        pid = self.request(
            run=[*arguments],
            directory=str(directory),
            environment=environment,
            log=str(log),
            kill_point=None if kill_point is None else asdict(kill_point),
        )
        return ChildProcess(self, pid)

    def request(self, **command: object) -> Any:  # noqa: ANN401 - JSON
        """Send the parent a request and return its response."""
        with self._requests:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            return self._response()

    def _response(self) -> Any:  # noqa: ANN401 - JSON
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the fork server has ended: {self._process.poll()}"
        return json.loads(line)


def main() -> None:
    """Run the parent: load everything, then serve the requests on stdin until it is closed."""
    _load()
    children: set[int] = set()
    _respond("ready")
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        match request:
            case {"run": arguments}:
                del request["run"]
                if not (pid := os.fork()):
                    _run_child(arguments, **request)
                children.add(pid)
                _respond(pid)
            case {"wait": pid, "timeout": timeout}:
                status = _wait(pid, timeout)
                children -= set() if status is None else {pid}
                _respond(status)
            case other:
                raise ValueError(f"not a request: {other!r}")
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _respond(response: object) -> None:
    print(json.dumps(response), flush=True)  # noqa: T201 - the test reads it


def _load() -> None:
    for module in pkgutil.iter_modules(importlib.import_module("bridge.cli").__path__):
        importlib.import_module(f"bridge.cli.{module.name}")  # the program imports commands when they are used
    create_engine("postgresql+psycopg://").dispose()  # the driver is loaded late; no connection is made
    assert threading.active_count() == 1, "a fork would lose the other threads, and keep their locks"
    gc.collect()
    gc.freeze()  # else the collector writes to every page, and every child copies it


def _run_child(
    arguments: Sequence[str],
    *,
    directory: str,
    environment: Mapping[str, str],
    log: str,
    kill_point: dict[str, Any] | None,
) -> NoReturn:
    """Run the program as if it had been started with its output in a file."""
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
            _install(KillPoint(**{**kill_point, "moment": Moment(kill_point["moment"])}))
        importlib.import_module("bridge.__main__").main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:  # noqa: BLE001 - a child must never go on as its parent
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


def _wait(pid: int, timeout: float) -> int | None:
    limit = time.monotonic() + timeout
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > limit:
            return None
        time.sleep(0.002)


if __name__ == "__main__":
    main()
