"""Values as upstreams write them: numbers, times, metadata, room ids, and lists that name a peer twice. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from bridge.rules.epoch import EPOCH, read_epoch
from bridge.rules.identity import cut_metadata
from bridge.rules.live_rooms import LiveRooms
from bridge.rules.presence import Absent, Json, Peer
from bridge.sources.untrusted_json import decode_json_text, encode_json

PEER_ID_LIMIT: Final = 512
"""Characters; the ids of upstreams have some 28, and a database index would not take a much longer one."""

ROOM_ID_LIMIT: Final = 512
"""Characters, for the same reason."""

_END: Final = datetime(9999, 1, 1, tzinfo=UTC)
_NUMBER: Final = re.compile(r"\s*[0-9]+(?:\.[0-9]+)?\s*", re.ASCII)


def read_number(value: Json) -> int | float | None:
    """A number, or the text of a non-negative one; a boolean is none."""
    match value:
        case bool():
            return None
        case int() | float():
            return value
        case str() if _NUMBER.fullmatch(value):
            return float(value)
        case _:
            return None


def read_join_time(value: Json) -> datetime | None:
    """Epoch seconds or milliseconds, or ISO 8601 (UTC if it has no offset); None unless it lies after 1970-01-01.

    The last year of `datetime` counts as none: in another time zone it may already be over.
    """
    number = read_number(value)
    moment = _read_iso(value) if number is None else read_epoch(number)
    return moment if moment is not None and EPOCH < moment < _END else None


def read_metadata(value: Json) -> Json:
    """The metadata, with JSON text that is an object decoded."""
    return _read_object(value) if isinstance(value, str) and value.lstrip().startswith("{") else value


def read_room_id(value: Json) -> str | None:
    """The id of a room, if a room of that id can be tracked: the configuration takes the same ones."""
    if not isinstance(value, str) or not 0 < len(value) <= ROOM_ID_LIMIT:
        return None
    return value if value.isprintable() and value == value.strip() and value not in (".", "..") else None


def live_rooms(items: Iterable[tuple[Json, int | None]], *, unreadable: int) -> LiveRooms:
    """The list of ids with their numbers of peers. It is complete unless some items are `unreadable`.

    A room whose id cannot be tracked is left out: the list is complete without it.
    """
    counts, unusable = dict[str, int | None](), 0
    for value, count in items:
        room_id = read_room_id(value)
        if room_id is None:
            unusable += 1
        else:
            counts[room_id] = count
    notes = []
    if unreadable:
        notes.append(f"{unreadable} cannot be read: no room counts as no longer live")
    if unusable:
        notes.append(f"{unusable} left out: a room with such an id cannot be tracked")
    return LiveRooms(peer_counts=counts, complete=not unreadable, notes=tuple(notes))


def distinct_peers(peers: Iterable[Peer]) -> tuple[Peer, ...]:
    """Each peer once: of several with the same id, the one with the earliest join time."""
    kept: dict[str, Peer] = {}
    for peer in peers:
        twin = kept.setdefault(peer.peer_id, peer)
        if twin is not peer:
            kept[peer.peer_id] = min(twin, peer, key=_precedence)
    return tuple(kept.values())


def _precedence(peer: Peer) -> tuple[bool, datetime, bytes]:
    """The earliest join time first; then any order that does not depend on the order of the items."""
    metadata = b"" if isinstance(peer.metadata, Absent) else encode_json(cut_metadata(peer.metadata))
    return peer.join_time is None, peer.join_time or EPOCH, metadata


def _read_iso(value: Json) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _read_object(text: str) -> Json:
    try:
        value = decode_json_text(text)
    except ValueError:
        return text
    return value if isinstance(value, dict) else text
