"""The result of a check: ok, or what is wrong and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """With a warning, the bridge works."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Check(StrEnum):
    """The checks, in the order of the table."""

    DATABASE = "database"
    SCHEMA = "schema"
    SECRETS = "secrets"
    API_KEY = "api_key"
    CLOCK = "clock"
    ROOM = "room"
    ENDPOINT = "endpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One row of the table, and one object of `--json`."""

    check: Check
    subject: str | None = None
    state: State
    detail: str
    advice: str | None = None


def ok(check: Check, subject: str | None, detail: str) -> Finding:
    return Finding(check=check, subject=subject, state=State.OK, detail=detail)


def warn(check: Check, subject: str | None, detail: str, advice: str) -> Finding:
    return Finding(check=check, subject=subject, state=State.WARN, detail=detail, advice=advice)


def fail(check: Check, subject: str | None, detail: str, advice: str) -> Finding:
    return Finding(check=check, subject=subject, state=State.FAIL, detail=detail, advice=advice)
