"""`bridge` and `python -m bridge`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

INTERRUPTED = 130
"""What shells say of a program that ended by Ctrl-C."""


def main() -> None:
    """Run the program; Ctrl-C before it has even been loaded is no reason for a traceback."""
    if "run" in sys.argv:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload that comes before the service listens is no hang-up
    _open_streams()
    code = INTERRUPTED
    with contextlib.suppress(KeyboardInterrupt):
        from bridge.cli import main as run  # noqa: PLC0415 - loading takes a moment, and may be interrupted

        code = run()
    _close_streams()
    sys.exit(code)


def _open_streams() -> None:
    """Whoever closed stdout or stderr does not want to read them: that is no reason to fail."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - for as long as we run


def _close_streams() -> None:
    """Python ends with 120 if it cannot write what is left; what could not be written has been told."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    main()
