"""Where bridge processes are born quickly: a parent that has loaded the program forks a child per command.

A start takes a second, a fork a few milliseconds: that is what makes hundreds of `kill -9` affordable. A child is the
real command, `bridge.cli.main.run`, with real signals and its own log; the parent has no thread, loop or connection
that it could inherit. A child may be given a fuse: then it kills itself at a chosen statement, to the instant.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from sqlalchemy import Engine, Pool, create_engine, event

from tests.harness.process import READY, environment
from tests.harness.waiting import PATIENCE, wait_until

BURNT = "fuse.burnt"
"""The line that a child logs just before its fuse kills it."""
_numbers = itertools.count(1)


class Moment(StrEnum):
    """When, seen from the statement that a fuse is waiting for."""

    BEFORE = "before it is sent"
    AFTER = "after it was executed"
    COMMIT = "before its transaction commits"
    COMMITTED = "after its transaction committed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fuse:
    """Kills its process at a moment of the first matching statement, or of a later one."""

    statement: str
    """A regular expression for its beginning."""
    moment: Moment
    passing: int = 0
    """How many matches are let pass."""


class Child:
    """A forked bridge process; as with any process, somebody has to wait for its end."""

    def __init__(self, nursery: Nursery, pid: int, log: Path) -> None:
        self.pid = pid
        self.log = log
        self.status: int | None = None
        """Its exit code, the signal's assign_sequences below zero if one killed it; None while nobody has seen its end."""
        self._nursery = nursery

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def burnt(self) -> bool:
        """Whether it was its own fuse that killed it."""
        return BURNT in self.output

    def send(self, assign_sequences: signal.Signals) -> None:
        """Signal it; nothing happens to one that has ended."""
        if self.status is None:
            os.kill(self.pid, assign_sequences)

    def wait_ready(self) -> Self:
        """Wait for the log line that says that it is up."""
        wait_until(lambda: READY in self.output, what=lambda: f"{READY} from {self.log}\n{self.output[-6000:]}")
        return self

    def kill(self) -> None:
        """`kill -9`, and see it end."""
        self.send(signal.SIGKILL)
        self.wait()

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for its end and return the exit code; fails, with its output, when it does not come."""
        if self.status is None:
            self.status = self._nursery.order(wait=self.pid, timeout=timeout)
        if self.status is None:
            raise AssertionError(f"still running after {timeout:g} s: {self.log}\n{self.output[-6000:]}")
        return self.status


class Nursery:
    """The parent process, seen from a test; use as a context manager. Its children end with it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.harness.forkserver"],
            cwd=directory,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        assert self._response() == "ready"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.communicate(timeout=PATIENCE)

    def fork(self, *arguments: str, fuse: Fuse | None = None) -> Child:
        """Run a command in a child."""
        log = self._directory / f"child-{next(_numbers)}.log"
        log.touch()
        pid = self.order(run=arguments, log=str(log), fuse=None if fuse is None else asdict(fuse))
        return Child(self, pid, log)

    def run(self, *arguments: str) -> str:
        """Run a command to its end and return its output; fails on any exit code but 0."""
        child = self.fork(*arguments)
        assert child.wait() == 0, f"bridge {' '.join(arguments)}: exit {child.status}\n{child.output}"
        return child.output

    def order(self, **command: object) -> Any:  # noqa: ANN401 - JSON
        """Tell the parent to do something and return its response."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._response()

    def _response(self) -> Any:  # noqa: ANN401 - JSON
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the nursery has ended: {self._process.poll()}"
        return json.loads(line)


def main() -> None:
    """Be the parent: load everything, then do what the lines on stdin say, until there are no more."""
    _load()
    children: set[int] = set()
    _say("ready")
    for line in sys.stdin:
        match json.loads(line):
            case {"run": arguments, "log": log, "fuse": fuse}:
                if not (pid := os.fork()):
                    _be_born(arguments, log, fuse)
                children.add(pid)
                _say(pid)
            case {"wait": pid, "timeout": timeout}:
                status = _wait(pid, timeout)
                children -= set() if status is None else {pid}
                _say(status)
            case other:
                raise ValueError(f"not an order: {other!r}")
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _say(response: object) -> None:
    print(json.dumps(response), flush=True)  # noqa: T201 - the test reads it


def _load() -> None:
    for module in ("main", "serve", "deliveries"):  # the program imports commands when they are used
        importlib.import_module(f"bridge.cli.{module}")
    create_engine("postgresql+psycopg://").dispose()  # the driver is loaded late; no connection is made
    assert threading.active_count() == 1, "a fork would lose the other threads, and keep their locks"
    gc.collect()
    gc.freeze()  # else the collector writes to every page, and every child copies it


def _be_born(arguments: Sequence[str], log: str, fuse: dict[str, Any] | None) -> NoReturn:
    """Become the command, as if it had been started with its output in a file."""
    code = 70
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream, file in enumerate((os.open(os.devnull, os.O_RDONLY), output, output)):
            os.dup2(file, stream)
        if fuse is not None:
            _lay(Fuse(statement=fuse["statement"], moment=Moment(fuse["moment"]), passing=fuse["passing"]))
        code = importlib.import_module("bridge.cli.main").run(arguments)
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - a child must never go on as its parent
        traceback.print_exc()
    os._exit(code)


def _lay(fuse: Fuse) -> None:
    """Have SQLAlchemy tell of every statement and commit of this process, and die at the chosen one."""
    pattern = re.compile(fuse.statement)
    matches = itertools.count()
    lit: set[object] = set()
    """The driver's connections whose transaction has come to the statement."""

    def before(connection: Any, _cursor: Any, statement: str, *_: object) -> None:  # noqa: ANN401 - SQLAlchemy's
        if pattern.match(statement) and next(matches) >= fuse.passing:
            lit.add(connection.connection.dbapi_connection)
            if fuse.moment is Moment.BEFORE:
                _die(statement)

    def after(connection: Any, _cursor: Any, statement: str, *_: object) -> None:  # noqa: ANN401
        if fuse.moment is Moment.AFTER and connection.connection.dbapi_connection in lit:
            _die(statement)

    def commit(connection: Any) -> None:  # noqa: ANN401
        if fuse.moment is Moment.COMMIT and connection.connection.dbapi_connection in lit:
            _die("COMMIT")

    def checkin(dbapi_connection: object, _record: object) -> None:
        if fuse.moment is Moment.COMMITTED and dbapi_connection in lit:
            _die("after COMMIT")

    event.listen(Engine, "before_cursor_execute", before)
    event.listen(Engine, "after_cursor_execute", after)
    event.listen(Engine, "commit", commit)
    event.listen(Engine, "rollback", lambda connection: lit.discard(connection.connection.dbapi_connection))
    event.listen(Pool, "checkin", checkin)


def _die(where: str) -> None:
    line = json.dumps({"event": BURNT, "at": where.partition("\n")[0][:200]})
    os.write(2, f"{line}\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)
    select.select([], [], [])  # it ends here, whichever thread is told first


def _wait(pid: int, timeout: float) -> int | None:
    limit = time.monotonic() + timeout
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > limit:
            return None
        time.sleep(0.001)


if __name__ == "__main__":
    main()
