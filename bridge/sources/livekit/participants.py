"""LiveKit's participants as peers (`ParticipantInfo` of its protocol). Pure.

Fields are read as Protocol Buffers' JSON mapping writes them: in snake_case or camelCase, numbers also as texts, enums
as names or numbers, and what is absent has the value zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bridge.rules.identity import KEY_LIMIT, storable
from bridge.rules.presence import Json, Peer
from bridge.sources.values import PEER_ID_LIMIT, distinct_peers, read_join_time, read_metadata, read_number

STATES: Final = {0: "joining", 1: "joined", 2: "active", 3: "disconnected"}
KINDS: Final = {0: "standard", 1: "ingress", 2: "egress", 3: "sip", 4: "agent", 7: "connector", 8: "bridge"}
_PRESENT: Final = ("joined", "active")
_NOT_PRESENT: Final = ("joining", "disconnected")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignored:
    """Participants that are never counted: those of these kinds, and hidden ones."""

    kinds: tuple[str, ...] = ()
    hidden: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The peers of a list of participants, and the number of items that could not be read."""

    peers: tuple[Peer, ...]
    skipped: int


def read_listing(items: Sequence[Json], ignored: Ignored) -> Listing:
    """Read every item; those that cannot be read are counted, and those that are not there are left out."""
    peers: list[Peer] = []
    skipped = 0
    for item in items:
        if not isinstance(item, dict):
            skipped += 1
            continue
        state = _enum_name(field_of(item, "state"), STATES)
        if state in _NOT_PRESENT or is_ignored(item, ignored):
            continue
        peer = _read_peer(item) if state in _PRESENT else None
        if peer is None:
            skipped += 1
        else:
            peers.append(peer)
    return Listing(peers=distinct_peers(peers), skipped=skipped)


def is_ignored(item: Mapping[str, Json], ignored: Ignored) -> bool:
    """Whether a participant is never counted."""
    permission = field_of(item, "permission")
    is_hidden = isinstance(permission, dict) and field_of(permission, "hidden") is True
    return (ignored.hidden and is_hidden) or _enum_name(field_of(item, "kind"), KINDS) in ignored.kinds


def _read_peer(item: Mapping[str, Json]) -> Peer | None:
    sid = field_of(item, "sid")
    if not isinstance(sid, str) or not 0 < len(sid) <= PEER_ID_LIMIT:
        return None
    identity, name = _text(item, "identity"), _text(item, "name")
    attributes = field_of(item, "attributes")
    metadata = read_metadata(field_of(item, "metadata"))
    envelope: dict[str, Json] = {
        "identity": identity,
        "name": name,
        "kind": _enum_name(field_of(item, "kind"), KINDS),
        "attributes": attributes if isinstance(attributes, dict) else {},
        "metadata": "" if metadata is None else metadata,
    }
    return Peer(
        peer_id=storable(sid),
        join_time=read_join_time(field_of(item, "joined_at_ms")) or read_join_time(field_of(item, "joined_at")),
        metadata=envelope,
        person_key=storable(identity)[:KEY_LIMIT] or None,
        display_name=storable(name or identity) or None,
        documents=(envelope["metadata"], envelope["attributes"], {**envelope, "name": name or None}),
        has_id_per_visit=True,
    )


def field_of(item: Mapping[str, Json], name: str) -> Json:
    """The value of a field in snake_case, or as camelCase; None if it is absent."""
    value = item.get(name)
    if value is not None or "_" not in name:
        return value
    first, *rest = name.split("_")
    return item.get(first + "".join(map(str.capitalize, rest)))


def _text(item: Mapping[str, Json], name: str) -> str:
    value = field_of(item, name)
    return value if isinstance(value, str) else ""


def _enum_name(value: Json, names: Mapping[int, str]) -> str:
    """The name of an enum's value in lower case; of an unknown one its number, of none the first."""
    number = read_number(value)
    if number is not None:
        return next((name for key, name in names.items() if key == number), str(value))
    if isinstance(value, str):
        return value.lower() or names[0]
    return names[0] if value is None else ""
