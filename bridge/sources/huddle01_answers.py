"""What an answer of Huddle01 says about a room: a snapshot, or a failure that changes nothing.

Pure: `now` is an argument. The rules are DESIGN section 4 and upstream.md section 5. A 404 empties a room only when
its JSON says that there is no session: a proxy's page, another server's 404 or a wrong path is not an empty room.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from hashlib import blake2b
from typing import Final

from bridge import __version__
from bridge.presence import Failure, FailureKind, Json, Snapshot
from bridge.sources.huddle01_peers import Listing, read_listing, read_number
from bridge.sources.untrusted_json import decode_json

EXCERPT_LENGTH: Final = 200
"""How many characters of an answer a failure repeats."""
LONGEST_RETRY_AFTER: Final = timedelta(days=3650)
"""Whatever asks for more has lost its mind, and would overflow our arithmetic."""

_NO_SESSION_STATUSES: Final = (404, 412)
_UNAUTHORIZED_STATUSES: Final = (401, 403)
_SECONDS: Final = re.compile(r"\s*([0-9]{1,300})(?:\.[0-9]*)?\s*", re.ASCII)

_SUBJECT: Final = re.compile(r"\b(?:sessions?|rooms?|meetings?|calls?|participants?|peers?)\b", re.IGNORECASE)
_ABSENCE: Final = re.compile(
    r"\bnot found\b|\bno (?:such|ongoing|live|active|current|sessions?|rooms?|meetings?|participants?|peers?)\b"
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
    r"\b(?:incorrect|invalid|wrong|missing|unknown|expired|no)\b.*\bapi[ _-]?key\b"
    r"|\bapi[ _-]?key\b.*\b(?:incorrect|invalid|wrong|missing|unknown|expired|required)\b",
    re.IGNORECASE | re.DOTALL,
)


def _fingerprint(answer: bytes) -> bytes:
    return blake2b(answer, digest_size=16, key=f"huddle01 {__version__}".encode()).digest()


NO_SESSION: Final = Snapshot(peers=(), no_session=True, fingerprint=_fingerprint(b""))
"""Nobody is there, and the upstream knows of no session."""


def interpret(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> Snapshot | Failure:
    """Judge one answer; never raises for anything that it may hold.

    Args:
        status: the HTTP status.
        headers: of the answer; names in lower case, unless the mapping does not care.
        body: decoded from any content encoding.
        now: for a `Retry-After` that is a date; with a time zone.
    """
    try:
        document = decode_json(body)
    except ValueError as error:
        document = None
        if status == 200:  # noqa: PLR2004 - HTTP's own name for OK
            return _failure(FailureKind.BAD_ANSWER, status, body, f"the body is not JSON ({error})")
    fields = document if isinstance(document, dict) else {}
    participants = fields.get("participants")
    if status == 200 and isinstance(participants, list) and fields.get("ok") is not False:  # noqa: PLR2004 - as above
        return _snapshot(read_listing(participants), fields.get("count"), body)
    return _without_list(status, headers, body, fields, now)


def read_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """How long to wait, from seconds or an HTTP date (RFC 9110 section 10.2.3); None if it is neither."""
    if value is None:
        return None
    if seconds := _SECONDS.fullmatch(value):
        return timedelta(seconds=min(int(seconds[1]), int(LONGEST_RETRY_AFTER.total_seconds())))
    try:
        moment = parsedate_to_datetime(value)
        wait = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return min(max(wait, timedelta()), LONGEST_RETRY_AFTER)


def excerpt(body: bytes) -> str:
    """The beginning of a body, fit for a log line."""
    text = " ".join(body[: EXCERPT_LENGTH * 8].decode(errors="replace").split())
    return "".join(character if character.isprintable() else "\ufffd" for character in text)[:EXCERPT_LENGTH]


def _snapshot(listing: Listing, count: Json, body: bytes) -> Snapshot:
    complete = _is_complete(listing, count)
    notes = _notes(listing, count, complete=complete)
    return Snapshot(peers=listing.peers, complete=complete, notes=notes, fingerprint=_fingerprint(body))


def _is_complete(listing: Listing, count: Json) -> bool:
    """Whether all are listed: `count` may count a peer that is listed twice once or twice."""
    if count is None:
        return listing.skipped == 0
    return read_number(count) in (listing.usable, len(listing.peers))


def _notes(listing: Listing, count: Json, *, complete: bool) -> tuple[str, ...]:
    notes = []
    if listing.skipped:
        notes.append(f"{listing.skipped} skipped: no object with a usable peerId")
    if duplicates := listing.usable - len(listing.peers):
        notes.append(f"{duplicates} listed again: the earliest joinTime counts")
    if listing.exited:
        notes.append(f"{listing.exited} with an exitTime: counted as present")
    if not complete and count is not None:
        notes.append(f"count is {count!r:.40}, but {listing.usable} can be used: may add, removes nobody")
    return tuple(notes)


def _without_list(
    status: int, headers: Mapping[str, str], body: bytes, fields: Mapping[str, Json], now: datetime
) -> Snapshot | Failure:
    wait = read_retry_after(headers.get("retry-after"), now)
    if status == 429:  # noqa: PLR2004 - Too Many Requests
        return _failure(FailureKind.RATE_LIMITED, status, body, "too many requests", wait)
    if status in _UNAUTHORIZED_STATUSES or _says_bad_key(fields):
        return _failure(FailureKind.UNAUTHORIZED, status, body, "the API key is not accepted")
    if (status in _NO_SESSION_STATUSES or status == 200) and _says_no_session(fields):  # noqa: PLR2004 - OK
        return NO_SESSION
    match status // 100:
        case 5:
            return _failure(FailureKind.SERVER_ERROR, status, body, "server error", wait)
        case 3:
            where = excerpt(headers.get("location", "").encode(errors="replace"))
            return _failure(FailureKind.BAD_ANSWER, status, body, f"redirected, not followed, to {where or 'nowhere'}")
        case 2:
            return _failure(FailureKind.BAD_ANSWER, status, body, "no list of participants")
        case _:
            return _failure(FailureKind.BAD_ANSWER, status, body, "unexpected answer")


def _says_bad_key(fields: Mapping[str, Json]) -> bool:
    message = fields.get("message")
    by_words = isinstance(message, str) and fields.get("ok") is not True and _BAD_KEY.search(message) is not None
    return fields.get("validated") is False or by_words


def _says_no_session(fields: Mapping[str, Json]) -> bool:
    """Only `message` in words about a session or room: `ok: false` alone, or "not found", is what any server says."""
    message = fields.get("message")
    if not isinstance(message, str) or fields.get("participants"):
        return False
    about_a_session = _SUBJECT.search(message) and _ABSENCE.search(message)
    return about_a_session is not None and _ABOUT_SOMETHING_ELSE.search(message) is None


def _failure(
    kind: FailureKind, status: int, body: bytes, what: str, retry_after: timedelta | None = None
) -> Failure:
    return Failure(kind=kind, detail=f"{what}: {excerpt(body) or '(empty)'}", status=status, retry_after=retry_after)
