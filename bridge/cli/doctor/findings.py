"""What a check has found: ok, or what is wrong and what to do about it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


class State(StrEnum):
    """How bad it is: a warning leaves the bridge working."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Check(StrEnum):
    """What was examined, in the order in which it is told."""

    VERSION = "version"
    OPEN_FILES = "open_files"
    WEB = "web"
    DATABASE = "database"
    DISK = "disk"
    SCHEMA = "schema"
    ENCRYPTION = "encryption"
    SECRETS = "secrets"
    API_KEY = "api_key"
    CLOCK = "clock"
    SOURCE = "source"
    ROOM = "room"
    ENDPOINT = "endpoint"
    CONNECTION = "connection"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the table, and one object of `--json`; without a subject it is about the whole."""

    check: Check
    subject: str | None = None
    state: State
    detail: str
    advice: str | None = None


def ok(check: Check, subject: str | None, detail: str) -> Finding:
    """All is well."""
    return Finding(check=check, subject=subject, state=State.OK, detail=detail)


def warn(check: Check, subject: str | None, detail: str, advice: str) -> Finding:
    """It works, but it should not stay so."""
    return Finding(check=check, subject=subject, state=State.WARN, detail=detail, advice=advice)


def fail(check: Check, subject: str | None, detail: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(check=check, subject=subject, state=State.FAIL, detail=detail, advice=advice)


async def run_aside(function: Callable[[], T], seconds: float) -> T:
    """Run what may hang in a thread that nobody waits for when the time is up: not even the end of the program does.

    Raises:
        TimeoutError: it has not ended in time.
    """
    ending: Future[T] = Future()
    ending.set_running_or_notify_cancel()

    def run() -> None:
        try:
            ending.set_result(function())
        except BaseException as error:  # noqa: BLE001 - whoever waits is told
            ending.set_exception(error)

    Thread(target=run, name="doctor", daemon=True).start()
    async with asyncio.timeout(seconds):
        return await asyncio.wrap_future(ending)
