"""`bridge` and `python -m bridge`."""

from __future__ import annotations

import sys

INTERRUPTED = 130
"""What shells say of a program that ended by Ctrl-C."""


def main() -> None:
    """Run the program; Ctrl-C before it has even been loaded is no reason for a traceback."""
    try:
        from bridge.cli import main as run  # noqa: PLC0415 - loading takes a moment, and may be interrupted

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
