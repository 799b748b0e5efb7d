"""The real program as a process: started, waited for, stopped, killed, frozen, and always cleaned up."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.harness.waiting import PATIENCE, wait_until

ROOT = Path(__file__).parents[2]
READY = "bridge.started"
"""The log line that says that a service is up."""
_numbers = itertools.count(1)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The surroundings of a child: nothing of the caller's own bridge, no colours, output as it is written."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("BRIDGE")}
    return {**kept, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "PYTHONPATH": str(ROOT), **(extra or {})}


class Process:
    """A program of ours, in a session of its own, with its output in a file beside its configuration."""

    def __init__(self, command: Sequence[str], directory: Path, *, env: Mapping[str, str] | None = None) -> None:
        self.log = directory / f"process-{next(_numbers)}.log"
        self._command = command
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                env=environment(env),
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
        """The log lines so far (of one event), parsed; what is not a whole JSON line is passed over."""
        for line in self.output.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and event in (None, entry.get("event")):
                yield entry

    def wait_for_output(self, text: str, *, timeout: float = PATIENCE) -> str:
        """Wait until the output holds `text`; returns the first line with it. Fails at once when the process ends."""

        def line_with_text() -> str | None:
            alive = self.running
            line = next((line for line in self.output.splitlines() if text in line), None)
            if line is None and not alive:
                raise AssertionError(f"ended without saying {text!r}: {self}\n{self.output[-6000:]}")
            return line

        line = wait_until(line_with_text, timeout=timeout, what=lambda: f"{text!r} from {self}\n{self.output[-6000:]}")
        return line or ""

    def send(self, assign_sequences: signal.Signals) -> None:
        """Signal the process itself."""
        self._process.send_signal(assign_sequences)

    def stop(self, assign_sequences: signal.Signals = signal.SIGTERM, *, timeout: float = PATIENCE) -> int:
        """Ask it to end and return its exit code."""
        self.send(assign_sequences)
        return self.wait(timeout)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for its end and return the exit code; fails, with its output, when it does not come."""
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
        """Stop it in its tracks (SIGSTOP); it goes on, unaware, when the block ends."""
        self.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.send(signal.SIGCONT)


class BridgeProcess(Process):
    """`bridge run` with a configuration, all roles or some."""

    def __init__(self, config: Path, *roles: str, env: Mapping[str, str] | None = None) -> None:
        chosen = [argument for role in roles for argument in ("--role", role)]
        super().__init__(bridge_command("run", "--config", str(config), *chosen), config.parent, env=env)

    def wait_ready(self, timeout: float = PATIENCE) -> Self:
        """Wait for the log line that says that it is up."""
        self.wait_for_output(READY, timeout=timeout)
        return self


def bridge_command(*arguments: str) -> list[str]:
    """The command line that runs our program with this interpreter."""
    return [sys.executable, "-m", "bridge", *arguments]


def bridge(config: Path, *arguments: str, timeout: float = 60) -> str:
    """Run a command to its end and return its stdout; fails on any exit code but 0."""
    done = subprocess.run(
        bridge_command(*arguments, "--config", str(config)),
        cwd=config.parent,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"bridge {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
