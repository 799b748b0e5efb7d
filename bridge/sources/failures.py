"""Failures that every kind has: what a status means, and the beginning of a body for the operator. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Final

from bridge.rules.backoff import parse_retry_after
from bridge.rules.presence import Failure, FailureKind

EXCERPT_LENGTH: Final = 200
"""Characters of a response that a failure shows."""

_UNAUTHORIZED: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_REDIRECTION: Final = 3


def kind_of_status(status: int) -> FailureKind:
    """The kind of failure that a status means, whatever the body contains."""
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return FailureKind.RATE_LIMITED
    if status in _UNAUTHORIZED:
        return FailureKind.UNAUTHORIZED
    return FailureKind.SERVER_ERROR if status >= HTTPStatus.INTERNAL_SERVER_ERROR else FailureKind.BAD_RESPONSE


def read_failure(
    status: int, headers: Mapping[str, str], body: bytes, now: datetime, *, kind: FailureKind, what: str | None = None
) -> Failure:
    """The failure that a response means, with what its headers add: the pause asked for, the target of a redirect.

    Args:
        status: the HTTP status.
        headers: of the response, names in any case.
        body: its beginning is shown.
        now: for a `Retry-After` that is a date.
        kind: of the failure.
        what: the problem; by default a text for the kind and the status.
    """
    named = {name.lower(): value for name, value in headers.items()}
    what = what or _describe(kind, status)
    if status // 100 == _REDIRECTION and "location" in named:
        what = f"{what}, to {excerpt(named['location'].encode(errors='replace'))}"
    detail = f"{what}: {excerpt(body) or '(empty)'}"
    return Failure(
        kind=kind, detail=detail, status=status, retry_after=parse_retry_after(named.get("retry-after"), now)
    )


def bad_response(status: int, body: bytes, what: str) -> Failure:
    """A response that is not what was asked for."""
    detail = f"{what}: {excerpt(body) or '(empty)'}"
    return Failure(kind=FailureKind.BAD_RESPONSE, detail=detail, status=status)


def excerpt(body: bytes) -> str:
    """The beginning of a body, printable."""
    text = " ".join(body[: EXCERPT_LENGTH * 8].decode(errors="replace").split())
    return "".join(character if character.isprintable() else "\ufffd" for character in text)[:EXCERPT_LENGTH]


def _describe(kind: FailureKind, status: int) -> str:
    if kind is FailureKind.RATE_LIMITED:
        return "too many requests"
    if kind is FailureKind.UNAUTHORIZED:
        return "the API key is not accepted"
    return (
        f"status {status}, a redirect, which is not followed" if status // 100 == _REDIRECTION else f"status {status}"
    )
