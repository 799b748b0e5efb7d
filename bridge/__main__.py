"""`bridge` and `python -m bridge`."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys

INTERRUPTED = 130
"""Exit code of a program that was ended by Ctrl-C."""


def main() -> None:
    """Run the program; Ctrl-C while it is being imported prints no traceback."""
    if _command(sys.argv[1:]) == "run":  # until the service handles signals
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload must not end it
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # nothing has started yet
    gc.disable()  # until the command is imported: importing creates no garbage
    _open_streams()
    code = INTERRUPTED
    with contextlib.suppress(KeyboardInterrupt):
        from bridge.cli import main as run  # noqa: PLC0415 - loading takes a moment, and may be interrupted

        code = run()
    _close_streams()
    sys.exit(code)


def _command(arguments: list[str]) -> str | None:
    """The command: the first word that is neither an option nor the value of one."""
    words = iter(arguments)
    for word in words:
        if word in ("--config", "-c"):
            next(words, None)
        elif not word.startswith("-"):
            return word
    return None


def _open_streams() -> None:
    """Replace closed standard streams, so that writing to them does not fail."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - for as long as we run


def _close_streams() -> None:
    """Flush the standard streams; if that fails, Python must not exit with 120 because of it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    main()
