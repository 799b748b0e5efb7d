"""Interprets a response of LiveKit's `RoomService`: a snapshot of the room, or a failure that changes nothing. Pure.

Its errors are Twirp's: `{"code", "msg"}` with a status. For a room that does not exist, a self-hosted server returns an
empty list, others the error `not_found`, which empties the room only if it is about the room: `bad_route`, or the 404
page of a proxy, is a failure.
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
from bridge.rules.presence import Absent, Failure, FailureKind, Json, Snapshot
from bridge.sources.failures import kind_of_status, read_failure
from bridge.sources.livekit.participants import Ignored, Listing, field_of, read_listing
from bridge.sources.untrusted_json import decode_json, encode_json
from bridge.sources.values import live_rooms, read_number

_READER: Final = f"livekit {__version__}".encode()
_CODES: Final = {
    "unauthenticated": FailureKind.UNAUTHORIZED,
    "permission_denied": FailureKind.UNAUTHORIZED,
    "resource_exhausted": FailureKind.RATE_LIMITED,
    **dict.fromkeys(
        ("internal", "unknown", "unavailable", "dataloss", "data_loss", "deadline_exceeded"), FailureKind.SERVER_ERROR
    ),
}
"""Failures by Twirp's error code, more exact than the status: older versions gave `resource_exhausted` a 403."""
_END_OF_COUNTS: Final = 1 << 31
_NO_ROOM: Final = re.compile(r"\broom\b.* (?:does not exist|not found)\b", re.IGNORECASE)


def interpret(
    status: int, headers: Mapping[str, str], body: bytes, now: datetime, *, ignored: Ignored
) -> Snapshot | Failure:
    """Interpret a response to `ListParticipants`; never raises, whatever it contains.

    Args:
        status: the HTTP status.
        headers: of the response, names in any case.
        body: decoded from any content encoding.
        now: for a `Retry-After` that is a date; with a time zone.
        ignored: participants that do not count.
    """
    document = _read_object(body)
    if status == HTTPStatus.OK and (listed := _list_in(document, "participants")) is not None:
        return _snapshot(read_listing(listed, ignored))
    if status == HTTPStatus.NOT_FOUND and _means_no_room(document):
        return Snapshot(peers=(), no_session=True, fingerprint=_fingerprint([]))
    return _failure("participants", document, status, headers, body, now)


def read_rooms(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> LiveRooms | Failure:
    """Interpret a response to `ListRooms`: it lists empty rooms too, so the live ones are those with participants."""
    document = _read_object(body)
    if status == HTTPStatus.OK and (listed := _list_in(document, "rooms")) is not None:
        found = [room for room in map(_read_room, listed) if room is not None]
        return live_rooms(((name, count) for name, count in found if count), unreadable=len(listed) - len(found))
    return _failure("rooms", document, status, headers, body, now)


def _read_room(item: Json) -> tuple[str, int] | None:
    """The name, and the number of participants (of 32 bits, of which the database stores 31)."""
    if not isinstance(item, dict):
        return None
    name, number = item.get("name"), field_of(item, "num_participants")
    count = 0 if number is None else read_number(number)
    if not isinstance(name, str) or count is None or not 0 <= count < _END_OF_COUNTS:
        return None
    return name, int(count)


def _read_object(body: bytes) -> dict[str, Json] | None:
    try:
        document = decode_json(body)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _list_in(document: dict[str, Json] | None, name: str) -> list[Json] | None:
    """The list; an empty one may be null, or be left out of a message that has nothing else."""
    if document is None or (document and name not in document):
        return None
    listed = document.get(name)
    return [] if listed is None else listed if isinstance(listed, list) else None


def _means_no_room(document: dict[str, Json] | None) -> bool:
    code, message = (document or {}).get("code"), (document or {}).get("msg")
    return code == "not_found" and isinstance(message, str) and _NO_ROOM.search(message) is not None


def _failure(
    name: str, document: dict[str, Json] | None, status: int, headers: Mapping[str, str], body: bytes, now: datetime
) -> Failure:
    code = (document or {}).get("code")
    kind = _CODES.get(code) if isinstance(code, str) else None
    what = f"no list of {name}" if status == HTTPStatus.OK and kind is None else None
    return read_failure(status, headers, body, now, kind=kind or kind_of_status(status), what=what)


def _snapshot(listing: Listing) -> Snapshot:
    notes = () if not listing.skipped else (f"{listing.skipped} skipped: no usable sid, or a state that is unknown",)
    facts: list[Json] = [
        [peer.peer_id, None if peer.join_time is None else peer.join_time.isoformat(), peer.metadata]
        for peer in sorted(listing.peers, key=lambda peer: peer.peer_id)
        if not isinstance(peer.metadata, Absent)
    ]
    return Snapshot(peers=listing.peers, complete=not listing.skipped, notes=notes, fingerprint=_fingerprint(facts))


def _fingerprint(facts: list[Json]) -> bytes | None:
    """A fingerprint of the used fields: LiveKit lists participants in any order, and changes versions and tracks."""
    try:
        return blake2b(encode_json(facts), digest_size=16, key=_READER).digest()
    except RecursionError:  # metadata within metadata may be too deep to be written again
        return None
