"""Shared parts of the tests of `bridge doctor`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.cli.conftest import Cli

ROOM = "abc-defg-hij"
Finding = Mapping[str, Any]


def http_response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    head = "\r\n".join((f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers))
    return head.encode() + b"\r\n\r\n" + body


def examine(cli: Cli, *, code: int = 0) -> list[Finding]:
    found: list[Finding] = cli("doctor", "--json", code=code).json()
    return found


def only(found: Sequence[Finding], check: str, subject: str | None = None) -> Finding:
    """Return the one finding of that check (and subject)."""
    (one,) = [one for one in found if one["check"] == check and subject in (None, one["subject"])]
    return one


def ago(**length: float) -> str:
    """Return a time in the past as SQLite stores it."""
    return (datetime.now(UTC) - timedelta(**length)).strftime("%Y-%m-%d %H:%M:%S.%f")


def contents(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir() if path.is_file()}
