"""Interprets a response of Huddle01: a snapshot of the room, or a failure that changes nothing.

Pure: `now` is an argument. A 404 empties a room only if its JSON reports that there is no session: a proxy's page,
another server's 404 or a wrong path is no empty room.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from hashlib import blake2b
from http import HTTPStatus
from typing import Final

from bridge import __version__
from bridge.rules.backoff import parse_retry_after
from bridge.rules.presence import Failure, FailureKind, Json, Snapshot
from bridge.sources.huddle01.participants import Listing, read_listing, read_number
from bridge.sources.untrusted_json import decode_json

EXCERPT_LENGTH: Final = 200
"""Characters of a response that a failure shows."""

_MAY_MEAN_NO_SESSION: Final = (HTTPStatus.OK, HTTPStatus.NOT_FOUND, HTTPStatus.PRECONDITION_FAILED)
_UNAUTHORIZED: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_REDIRECTION: Final = 3
_READER: Final = f"huddle01 {__version__}".encode()

_SUBJECT: Final = re.compile(r"\b(?:sessions?|rooms?|meetings?|participants?)\b", re.IGNORECASE)
_ABSENCE: Final = re.compile(
    r"\bnot found\b|\bno (?:such|ongoing|live|active|current|sessions?|rooms?|meetings?|participants?)\b"
    r"|\bnot (?:live|active|ongoing|exist)\b|n't (?:live|active|ongoing|exist)\b|(?:could|can)(?:n't|not| not) find\b"
    r"|\bha(?:s|ve) ended\b",
    re.IGNORECASE,
)
_ABOUT_SOMETHING_ELSE: Final = re.compile(
    r"\b(?:keys?|tokens?|cookies?|credentials?|auth\w*|routes?|paths?|urls?|endpoints?|services?|servers?|gateways?"
    r"|upstreams?|hosts?|pages?|resources?)\b",
    re.IGNORECASE,
)
_BAD_KEY: Final = re.compile(
    r"\b(?:(?:incorrect|invalid|wrong|missing|unknown|expired)(?: \w+){0,3}|no) api[ _-]?key\b"
    r"|\bapi[ _-]?key(?: \w+){0,3} (?:incorrect|invalid|wrong|missing|unknown|expired|required)\b",
    re.IGNORECASE,
)


def fingerprint(body: bytes) -> bytes:
    """A digest of a body, salted with the bridge's version: another version may interpret the same body differently."""
    return blake2b(body, digest_size=16, key=_READER).digest()


NO_SESSION: Final = Snapshot(peers=(), no_session=True, fingerprint=fingerprint(b""))
"""An empty room without a session."""


def interpret(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> Snapshot | Failure:
    """Interpret one response; never raises, whatever it contains.

    Args:
        status: the HTTP status.
        headers: of the response, names in any case.
        body: decoded from any content encoding.
        now: for a `Retry-After` that is a date; with a time zone.
    """
    try:
        document = decode_json(body)
    except ValueError as error:
        document = None
        if status == HTTPStatus.OK:
            return _failure(FailureKind.BAD_RESPONSE, status, body, f"the body is not JSON ({error})")
    fields = document if isinstance(document, dict) else {}
    participants = fields.get("participants")
    if status == HTTPStatus.OK and isinstance(participants, list) and fields.get("ok") is not False:
        return _snapshot(read_listing(participants), fields.get("count"), body)
    return _without_list(status, headers, body, fields, now)


def excerpt(body: bytes) -> str:
    """The beginning of a body, printable."""
    text = " ".join(body[: EXCERPT_LENGTH * 8].decode(errors="replace").split())
    return "".join(character if character.isprintable() else "\ufffd" for character in text)[:EXCERPT_LENGTH]


def _snapshot(listing: Listing, count: Json, body: bytes) -> Snapshot:
    complete = _is_complete(listing, count)
    notes = _notes(listing, count, complete=complete)
    return Snapshot(peers=listing.peers, complete=complete, notes=notes, fingerprint=fingerprint(body))


def _is_complete(listing: Listing, count: Json) -> bool:
    """Whether every peer is listed: `count` may count a peer that is listed twice once or twice."""
    if count is None:
        return listing.skipped == 0
    return read_number(count) in (listing.usable, len(listing.peers))


def _notes(listing: Listing, count: Json, *, complete: bool) -> tuple[str, ...]:
    notes = []
    if listing.skipped:
        notes.append(f"{listing.skipped} skipped: not an object with a usable peerId")
    if duplicates := listing.usable - len(listing.peers):
        notes.append(f"{duplicates} listed again: the earliest joinTime counts")
    if listing.exited:
        notes.append(f"{listing.exited} with an exitTime: counted as present")
    if not complete and count is not None:
        notes.append(f"count is {count!r:.40}, but {listing.usable} are usable: incomplete, so it removes no peer")
    return tuple(notes)


def _without_list(
    status: int, headers: Mapping[str, str], body: bytes, fields: Mapping[str, Json], now: datetime
) -> Snapshot | Failure:
    if status in _MAY_MEAN_NO_SESSION and _means_no_session(fields):
        return NO_SESSION
    named = {name.lower(): value for name, value in headers.items()}
    kind, what = _name_failure(status, fields)
    if status // 100 == _REDIRECTION and "location" in named:
        what = f"{what}, to {excerpt(named['location'].encode(errors='replace'))}"
    return _failure(kind, status, body, what, parse_retry_after(named.get("retry-after"), now))


def _name_failure(status: int, fields: Mapping[str, Json]) -> tuple[FailureKind, str]:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return FailureKind.RATE_LIMITED, "too many requests"
    if status in _UNAUTHORIZED or _means_bad_key(fields):
        return FailureKind.UNAUTHORIZED, "the API key is not accepted"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return FailureKind.SERVER_ERROR, f"status {status}"
    if status // 100 == _REDIRECTION:
        return FailureKind.BAD_RESPONSE, f"status {status}, a redirect, which is not followed"
    if status != HTTPStatus.OK:
        return FailureKind.BAD_RESPONSE, f"status {status}"
    return FailureKind.BAD_RESPONSE, "ok is false" if fields.get("ok") is False else "no list of participants"


def _means_bad_key(fields: Mapping[str, Json]) -> bool:
    message = fields.get("message")
    by_words = isinstance(message, str) and fields.get("ok") is not True and _BAD_KEY.search(message) is not None
    return fields.get("validated") is False or by_words


def _means_no_session(fields: Mapping[str, Json]) -> bool:
    """Whether the message is about a missing session or room: `ok: false` or "not found" alone may mean anything."""
    message = fields.get("message")
    if not isinstance(message, str) or fields.get("participants"):
        return False
    about_a_session = _SUBJECT.search(message) and _ABSENCE.search(message)
    return about_a_session is not None and _ABOUT_SOMETHING_ELSE.search(message) is None


def _failure(kind: FailureKind, status: int, body: bytes, what: str, retry_after: timedelta | None = None) -> Failure:
    return Failure(kind=kind, detail=f"{what}: {excerpt(body) or '(empty)'}", status=status, retry_after=retry_after)
