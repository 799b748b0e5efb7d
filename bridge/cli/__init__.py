"""The command line, one file per command group: data to stdout, everything else to stderr, never a traceback.

Exit codes: 0 ok, 1 failed, 2 usage or configuration error, 3 verification failed.
"""

from __future__ import annotations

from bridge.cli.main import main

__all__ = ["main"]
