"""The command line: one file per command group. Data to stdout, talk to stderr, no traceback to anybody.

Exit codes: 0 ok, 1 failed, 2 usage or configuration error, 3 verification failed (CONTRACT section 2).
"""

from __future__ import annotations

from bridge.cli.main import main

__all__ = ["main"]
