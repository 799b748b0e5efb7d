"""Huddle01's participants as peers: usable items, their times and metadata.

An item that cannot be used is skipped and counted, never a reason to fail; whether the list is complete in spite of it
is decided in `responses.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from bridge.rules.epoch import EPOCH, read_epoch
from bridge.rules.identity import cut_metadata, storable
from bridge.rules.presence import ABSENT, Absent, Json, Peer
from bridge.sources.untrusted_json import decode_json_text, encode_json

PEER_ID_LIMIT: Final = 512
"""Characters; Huddle01's ids have 28, and a database index would not take a much longer one."""

_END: Final = datetime(9999, 1, 1, tzinfo=UTC)
_NUMBER: Final = re.compile(r"\s*[0-9]+(?:\.[0-9]+)?\s*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A parsed list of participants; `usable` counts items, of which several may be about one peer."""

    peers: tuple[Peer, ...]
    usable: int
    skipped: int
    exited: int


def read_listing(items: Sequence[Json]) -> Listing:
    """Read every item; of several about one peer, the one with the earliest joinTime counts."""
    peers: dict[str, Peer] = {}
    usable = exited = 0
    for item in items:
        if not isinstance(item, dict) or (peer := _read_peer(item)) is None:
            continue
        usable += 1
        if item.get("exitTime") is not None:
            exited += 1
        twin = peers.setdefault(peer.peer_id, peer)
        if twin is not peer:
            peers[peer.peer_id] = min(twin, peer, key=_precedence)
    return Listing(peers=tuple(peers.values()), usable=usable, skipped=len(items) - usable, exited=exited)


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

    The last year that there is counts as none: in another time zone it may already be over.
    """
    number = read_number(value)
    moment = _read_iso(value) if number is None else read_epoch(number)
    return moment if moment is not None and EPOCH < moment < _END else None


def read_metadata(value: Json) -> Json:
    """The metadata, with JSON text that is an object decoded."""
    return _read_object(value) if isinstance(value, str) and value.lstrip().startswith("{") else value


def _read_peer(item: dict[str, Json]) -> Peer | None:
    peer_id = item.get("peerId")
    if not isinstance(peer_id, str) or not 0 < len(peer_id) <= PEER_ID_LIMIT:
        return None
    return Peer(
        peer_id=storable(peer_id),
        join_time=read_join_time(item.get("joinTime")),
        metadata=read_metadata(item["metadata"]) if "metadata" in item else ABSENT,
    )


def _precedence(peer: Peer) -> tuple[bool, datetime, bytes]:
    """The earliest joinTime first; then any order that does not depend on the order of the items."""
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
