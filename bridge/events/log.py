"""Numbering events: the next sequences of a room's log, chained by hashes. Pure; `bridge.db.event_log` stores them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from bridge.events.bodies import Draft, RoomName, encode
from bridge.rules.chain import commit, link, new_salt


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomLog:
    """The end of a room's log. The row of the room is locked until the new end is written."""

    room_key: int
    name: RoomName
    last_sequence: int
    chain_head: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event with its sequence, ready to be stored."""

    room_key: int
    room_id: str | None
    public_id: str
    sequence: int
    type: str
    recorded_at: datetime
    body: bytes
    salt: bytes
    commitment: bytes
    previous_hash: bytes
    hash: bytes
    audience: int | None = None
    visit_id: str | None = None


def number_events(
    log: RoomLog, drafts: Iterable[Draft], recorded_at: datetime, new_id: Callable[[str], str]
) -> tuple[RoomLog, list[NewEvent]]:
    """Give the drafts the next sequences of a room's log; returns the log's new end and the events."""
    events: list[NewEvent] = []
    for draft in drafts:
        event_id, sequence = new_id("evt"), log.last_sequence + 1
        body = encode(draft, log.name, event_id=event_id, sequence=sequence)
        salt = new_salt(new_id)
        commitment = commit(salt, body)
        previous_hash = log.chain_head
        log = replace(log, last_sequence=sequence, chain_head=link(previous_hash, sequence, commitment))
        events.append(
            NewEvent(
                room_key=log.room_key,
                room_id=log.name.room_id,
                public_id=event_id,
                sequence=sequence,
                type=draft.type.value,
                recorded_at=recorded_at,
                body=body,
                salt=salt,
                commitment=commitment,
                previous_hash=previous_hash,
                hash=log.chain_head,
                audience=draft.audience,
                visit_id=draft.visit_id,
            )
        )
    return log, events
