"""Interprets a response of Huddle01: a snapshot of the room, or a failure that changes nothing.

Pure: `now` is an argument. A 404 empties a room only if its JSON reports that there is no session: a proxy's page,
another server's 404 or a wrong path does not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from hashlib import blake2b
from http import HTTPStatus
from typing import Final

from bridge import __version__
from bridge.rules.live_rooms import LiveRooms
from bridge.rules.presence import Failure, FailureKind, Json, Snapshot
from bridge.sources.failures import bad_response, kind_of_status, read_failure
from bridge.sources.huddle01.participants import Listing, read_listing
from bridge.sources.untrusted_json import decode_json
from bridge.sources.values import live_rooms, read_number

_MAY_MEAN_NO_SESSION: Final = (HTTPStatus.OK, HTTPStatus.NOT_FOUND, HTTPStatus.PRECONDITION_FAILED)
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


def read_live_sessions(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> LiveRooms | Failure:
    """Interpret a response to a request for the live sessions; it may report that there are none."""
    try:
        document = decode_json(body)
    except ValueError:
        document = None
    fields = document if isinstance(document, dict) else {}
    listed = None if fields.get("ok") is False else fields.get("liveSessions")
    if status == HTTPStatus.OK and isinstance(listed, list):
        found = [room_id for item in listed if isinstance(room_id := _room_id(item), str)]
        return live_rooms(((room_id, None) for room_id in found), unreadable=len(listed) - len(found))
    found_room = interpret(status, headers, body, now)
    if isinstance(found_room, Failure):
        return found_room
    if found_room.no_session:
        return LiveRooms(peer_counts={})
    return bad_response(status, body, "no list of live sessions")


def _room_id(item: Json) -> Json:
    """Documentation and SDK disagree about the key's spelling."""
    return item.get("roomId", item.get("roomid")) if isinstance(item, dict) else None


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
            return bad_response(status, body, f"the body is not JSON ({error})")
    fields = document if isinstance(document, dict) else {}
    participants = fields.get("participants")
    if status == HTTPStatus.OK and isinstance(participants, list) and fields.get("ok") is not False:
        return _snapshot(read_listing(participants), fields.get("count"), body)
    return _without_list(status, headers, body, fields, now)


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
    kind, what = kind_of_status(status), None
    if kind is not FailureKind.RATE_LIMITED and _means_bad_key(fields):
        kind = FailureKind.UNAUTHORIZED
    elif status == HTTPStatus.OK:
        what = "ok is false" if fields.get("ok") is False else "no list of participants"
    return read_failure(status, headers, body, now, kind=kind, what=what)


def _means_bad_key(fields: Mapping[str, Json]) -> bool:
    message = fields.get("message")
    by_message = isinstance(message, str) and fields.get("ok") is not True and _BAD_KEY.search(message) is not None
    return fields.get("validated") is False or by_message


def _means_no_session(fields: Mapping[str, Json]) -> bool:
    """Whether the message is about a missing session or room: `ok: false` or "not found" alone may mean anything."""
    message = fields.get("message")
    if not isinstance(message, str) or fields.get("participants"):
        return False
    about_a_session = _SUBJECT.search(message) and _ABSENCE.search(message)
    return about_a_session is not None and _ABOUT_SOMETHING_ELSE.search(message) is None
