"""The real program: as a process that is started, waited for, stopped, killed and frozen, and as single commands.

`Process` starts any program. `Bridge` runs ours in a fork of a process that has loaded it already, one for each worker
of pytest: a start of Python and the program costs two seconds of CPU time.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bridge.cli.main import run
from tests.harness.forkserver import KILLED_ITSELF, KillPoint, fork
from tests.harness.waiting import PATIENCE, wait_until

ROOT = Path(__file__).parents[2]
READY = "bridge.started"
"""The log event of a service that is up."""
_numbers = itertools.count(1)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a child: none of the caller's own bridge, no colours, unbuffered output."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("BRIDGE")}
    return {**kept, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "PYTHONPATH": str(ROOT), **(extra or {})}


class Process:
    """A program in a session of its own, with its output in a file; use as a context manager, which kills it."""

    def __init__(self, command: Sequence[str], directory: Path, *, env: Mapping[str, str] | None = None) -> None:
        self.log = directory / f"process-{next(_numbers)}.log"
        self._command = command
        self._start(directory, environment(env))

    def _start(self, directory: Path, env: Mapping[str, str]) -> None:
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=directory,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()
        if error is not None:
            error.add_note(f"--- {self}\n{self.output[-6000:]}")

    def __str__(self) -> str:
        return f"{' '.join(self._command[2:])} (exit {self._process.poll()}, {self.log})"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def lines(self, event: str | None = None) -> Iterator[dict[str, Any]]:
        """Return the log lines so far (of one event), parsed; other output is left out."""
        for line in self.output.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and event in (None, entry.get("event")):
                yield entry

    def wait_for_output(self, text: str, *, timeout: float = PATIENCE) -> str:
        """Wait for `text` in the output and return the first line with it; fails at once when the process ends."""

        def line_with_text() -> str | None:
            running = self.running
            line = next((line for line in self.output.splitlines() if text in line), None)
            if line is None and not running:
                raise AssertionError(f"ended without {text!r} in its output: {self}\n{self.output[-6000:]}")
            return line

        line = wait_until(line_with_text, timeout=timeout, what=lambda: f"{text!r} from {self}\n{self.output[-6000:]}")
        return line or ""

    def send(self, number: signal.Signals) -> None:
        """Signal the process itself, not its children."""
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM, *, timeout: float = PATIENCE) -> int:
        """Signal it, wait for its end and return its exit code."""
        self.send(number)
        return self.wait(timeout)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for its end and return its exit code; fails, with its output, when it goes on."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout:g} s: {self}\n{self.output[-6000:]}") from None

    def kill(self) -> None:
        """End it and its children at once, frozen or not."""
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop it (SIGSTOP) until the block ends."""
        self.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.send(signal.SIGCONT)


class Bridge(Process):
    """A command of the bridge; with a kill point it kills itself at a statement."""

    def __init__(
        self,
        *arguments: str,
        directory: Path,
        env: Mapping[str, str] | None = None,
        kill_point: KillPoint | None = None,
    ) -> None:
        self._kill_point = kill_point
        super().__init__(arguments, directory, env=env)

    def _start(self, directory: Path, env: Mapping[str, str]) -> None:
        self.log.touch()
        self._fork = fork(
            self._command, directory=directory, environment=env, log=self.log, kill_point=self._kill_point
        )

    def __str__(self) -> str:
        return f"bridge {' '.join(self._command)} (exit {self._fork.exitcode}, {self.log})"

    @property
    def pid(self) -> int:
        assert self._fork.pid is not None
        return self._fork.pid

    @property
    def running(self) -> bool:
        return self._fork.exitcode is None

    @property
    def killed_itself(self) -> bool:
        return KILLED_ITSELF in self.output

    def send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # perhaps from another thread than the one that waits for its end
            os.kill(self.pid, number)

    def wait(self, timeout: float = PATIENCE) -> int:
        self._fork.join(timeout)
        if self._fork.exitcode is None:
            raise AssertionError(f"still running after {timeout:g} s: {self}\n{self.output[-6000:]}")
        return self._fork.exitcode

    def kill(self) -> None:
        if self.running:
            self.send(signal.SIGKILL)
        self.wait()


class BridgeProcess(Bridge):
    """`bridge run` with a configuration, all roles or some."""

    def __init__(
        self,
        config: Path,
        *roles: str,
        env: Mapping[str, str] | None = None,
        kill_point: KillPoint | None = None,
    ) -> None:
        chosen = [argument for role in roles for argument in ("--role", role)]
        super().__init__(
            "run", "--config", str(config), *chosen, directory=config.parent, env=env, kill_point=kill_point
        )

    def wait_ready(self, timeout: float = PATIENCE) -> Self:
        """Wait for the log line of a service that is up."""
        self.wait_for_output(READY, timeout=timeout)
        return self


def bridge_command(*arguments: str) -> list[str]:
    """Return the command line that runs our program with this interpreter."""
    return [sys.executable, "-m", "bridge", *arguments]


def command(config: Path, *arguments: str) -> str:
    """Run a command in this process, which saves its start, and return its stdout; fails on any exit code but 0."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run([*arguments, "--config", str(config)])
    assert code == 0, f"bridge {' '.join(arguments)}: exit {code}\n{out.getvalue()}\n{err.getvalue()}"
    return out.getvalue()
