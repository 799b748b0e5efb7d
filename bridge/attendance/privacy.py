"""Erasure of a person, and a copy of all that is stored of one.

Erasure deletes the person's names, keys and metadata, the bodies and salts of every event about the person's visits,
and receivers' responses to these events. Hashes and durations stay, under a random pseudonym. `person.erased` names the
events, so that verification can distinguish erasure from tampering.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, delete, select, update

from bridge.db.engine import allow_long_transaction
from bridge.db.event_log import append_system_events, lock_system_log
from bridge.db.tables import attempts, dead_letters, endpoints, events, redeliveries, rooms, sessions, visits
from bridge.errors import BridgeError
from bridge.events.bodies import draft_erased, rfc3339
from bridge.events.types import EventType

KEYS_AT_ONCE: Final = 5_000
ABOUT_VISITS: Final = (EventType.PEER_JOINED, EventType.PEER_UPDATED, EventType.PEER_LEFT)
SHARED: Final = (EventType.ROOM_SNAPSHOT, EventType.SESSION_RECONCILED)
WITH_EXCERPTS: Final = (EventType.SOURCE_UNAVAILABLE, EventType.SOURCE_RECOVERED)
"""Types of the bridge's own log whose `detail` may quote a response of the upstream."""
METADATA: Final = ("metadata", "previous_metadata")
WAL_SECONDS: Final = 10.0
"""Time for emptying SQLite's write-ahead log after an erasure (`Database.truncate_wal`)."""
SHORTEST_WORD: Final = 3
"""Characters; a shorter name would match too many texts."""


class PresentError(BridgeError):
    """The person is in a room now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A person by key, or by one peer id."""

    key: str | None = None
    peer_id: str | None = None

    @property
    def condition(self) -> ColumnElement[bool]:
        return visits.c.person_key == self.key if self.key is not None else visits.c.peer_id == self.peer_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """Numbers of visits and of events whose bodies are (or would be) gone."""

    visits: int
    events: int


def erase_person(
    connection: Connection, person: Person, now: datetime, new_id: Callable[[str], str], *, dry_run: bool = False
) -> Erasure:
    """Erase a person; an unknown one has no visits, and nothing is done.

    Raises:
        PresentError: the person is in a room.
    """
    if not dry_run:
        allow_long_transaction(connection)
    room_keys = connection.execute(select(visits.c.room_key).where(person.condition).distinct()).scalars().all()
    locked = select(rooms.c.id).where(rooms.c.id.in_(room_keys)).order_by(rooms.c.id)
    connection.execute(locked if dry_run else locked.with_for_update())
    found = connection.execute(select(visits).where(person.condition).order_by(visits.c.id)).all()
    if not found:
        return Erasure(visits=0, events=0)
    present = [visit for visit in found if visit.left_at is None]
    if present:
        room_id = connection.execute(select(rooms.c.upstream_id).where(rooms.c.id == present[0].room_key)).scalar()
        raise PresentError(f"{present[0].person_key!r} is in the room {room_id!r} now: erase after they have left")
    if not dry_run:
        lock_system_log(connection, now)
    mentions = list(_mentions(connection, found))
    if not dry_run:
        _erase_events(connection, [row.key for row in mentions])
        _erase_visits(connection, [visit.id for visit in found], new_id("erased"))
        _forget_failures(connection, room_keys)
        positions = [(row.source, row.upstream_id, row.sequence) for row in mentions]
        erased = draft_erased(visit_ids=[visit.public_id for visit in found], events=positions, at=now)
        append_system_events(connection, [erased], now, new_id)
    return Erasure(visits=len(found), events=len(mentions))


def copy_of_person(connection: Connection, person: Person) -> dict[str, Any]:
    """Everything that is stored of a person, as JSON; of events that are about others too, only this person's part.

    Of the deliveries of these events, it has what the receivers responded, which may have repeated them.
    """
    columns = [column for column in visits.columns if column.name not in ("id", "room_key", "session_key")]
    query = (
        select(*columns, rooms.c.source, rooms.c.upstream_id.label("room_id"), sessions.c.public_id.label("session_id"))
        .join(rooms, rooms.c.id == visits.c.room_key)
        .join(sessions, sessions.c.id == visits.c.session_key)
        .where(person.condition)
        .order_by(visits.c.id)
    )
    found = connection.execute(query).mappings().all()
    raw = connection.execute(select(visits).where(person.condition)).all()
    ids = {visit.public_id for visit in raw}
    mentions = list(_mentions(connection, raw)) if raw else []
    return {
        "person_key": person.key,
        "peer_id": person.peer_id,
        "visits": [{name: _plain(value) for name, value in row.items()} for row in found],
        "events": [_own_part(json.loads(bytes(row.body)), ids) for row in mentions],
        "attempts": list(_attempts(connection, [row.key for row in mentions])),
    }


def _attempts(connection: Connection, event_keys: Sequence[int]) -> Iterator[dict[str, Any]]:
    """To whom events were delivered, with the excerpts of the responses."""
    columns = [column for column in attempts.columns if column.name not in ("id", "endpoint_key", "event_key")]
    query = (
        select(events.c.public_id.label("event_id"), endpoints.c.name.label("endpoint"), *columns)
        .join(events, events.c.id == attempts.c.event_key)
        .join(endpoints, endpoints.c.id == attempts.c.endpoint_key)
        .order_by(attempts.c.id)
    )
    for start in range(0, len(event_keys), KEYS_AT_ONCE):
        some = query.where(attempts.c.event_key.in_(event_keys[start : start + KEYS_AT_ONCE]))
        for row in connection.execute(some).mappings():
            yield {name: _plain(value) for name, value in row.items()}


def _mentions(connection: Connection, found: Sequence[Row[Any]]) -> Iterator[Row[Any]]:
    """Yield the events that are about these visits, alone or with others, or whose excerpts name the person."""
    ids = {visit.public_id for visit in found}
    names = {text for visit in found for text in (visit.peer_id, visit.person_key, visit.display_name)}
    values = {text for visit in found for text in _texts(visit.metadata)}
    about = [kind.value for kind in (*ABOUT_VISITS, *SHARED)]
    for room_key in sorted({visit.room_key for visit in found}):
        in_room = _EVENTS.where(events.c.room_key == room_key, events.c.type.in_(about))
        for row in _stream(connection, in_room):
            parts = list(_parts(json.loads(bytes(row.body))["data"], ids))
            names.update(part["display_name"] for part in parts)
            values.update(text for part in parts for name in METADATA for text in _texts(part.get(name)))
            if parts:
                yield row
    texts = _identifying_texts(names, values)
    own = _EVENTS.where(rooms.c.source.is_(None), events.c.type.in_([kind.value for kind in WITH_EXCERPTS]))
    for row in _stream(connection, own):
        if any(text in bytes(row.body) for text in texts):
            yield row


def _stream(connection: Connection, query: Any) -> Iterator[Row[Any]]:  # noqa: ANN401 - a Select
    """Yield the rows some at a time, by sequence, so that they may be changed meanwhile."""
    after = 0
    while True:
        some = query.where(events.c.sequence > after).order_by(events.c.sequence).limit(KEYS_AT_ONCE)
        found = connection.execute(some).all()
        yield from found
        if len(found) < KEYS_AT_ONCE:
            return
        after = found[-1].sequence


def _parts(data: dict[str, Any], ids: set[str]) -> Iterator[dict[str, Any]]:
    """The parts of an event about these visits: all of it, or some of its peers or visits."""
    listed = [each for name in ("peers", "visits") for each in data.get(name, ())]
    return (part for part in (*listed, data) if part.get("visit_id") in ids)


def _texts(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            yield from (text for each in value.values() for text in _texts(each))
        case list():
            yield from (text for each in value for text in _texts(each))
        case _:
            return


def _identifying_texts(names: Collection[str], values: Collection[str]) -> set[bytes]:
    """Texts that identify the person in an excerpt: a name anywhere, a value of the metadata as a whole text.

    An excerpt is a text in JSON, and most often JSON itself, which may have escapes.
    """
    written = {(text, text in names) for text in (*names, *values) if len(text) >= SHORTEST_WORD}
    found: set[bytes] = set()
    for text, is_name in written:
        for inner in (text, _escaped(text, is_ascii=False), _escaped(text, is_ascii=True)):
            outer = _escaped(inner, is_ascii=False)
            found |= {outer.encode()} if is_name else {f'"{outer}\\'.encode(), f'"{outer}"'.encode()}
    return found


def _escaped(text: str, *, is_ascii: bool) -> str:
    return json.dumps(text, ensure_ascii=is_ascii)[1:-1]


def _own_part(body: dict[str, Any], ids: set[str]) -> dict[str, Any]:
    for name in ("peers", "visits"):
        if name in body["data"]:
            body["data"][name] = [each for each in body["data"][name] if each["visit_id"] in ids]
    return body


def _erase_events(connection: Connection, keys: Sequence[int]) -> None:
    """Erase bodies and salts; what was owed of these events is passed over."""
    for start in range(0, len(keys), KEYS_AT_ONCE):
        some = keys[start : start + KEYS_AT_ONCE]
        connection.execute(update(events).where(events.c.id.in_(some)).values(body=None, salt=None))
        connection.execute(update(attempts).where(attempts.c.event_key.in_(some)).values(detail="", response=""))
        for table in (dead_letters, redeliveries):
            connection.execute(delete(table).where(table.c.event_key.in_(some)))


def _erase_visits(connection: Connection, keys: Sequence[int], pseudonym: str) -> None:
    values = {"person_key": pseudonym, "display_name": pseudonym, "peer_id": pseudonym, "metadata": None}
    for start in range(0, len(keys), KEYS_AT_ONCE):
        connection.execute(update(visits).where(visits.c.id.in_(keys[start : start + KEYS_AT_ONCE])).values(values))


def _forget_failures(connection: Connection, room_keys: Sequence[int]) -> None:
    """A failure quotes the response of the upstream, which may have named the person, and a poke names a peer."""
    connection.execute(update(rooms).where(rooms.c.id.in_(room_keys)).values(last_failure=None, expected=None))


def _plain(value: object) -> object:
    return rfc3339(value) if isinstance(value, datetime) else value


_EVENTS = (
    select(events.c.id.label("key"), events.c.sequence, events.c.body, rooms.c.source, rooms.c.upstream_id)
    .join(rooms, rooms.c.id == events.c.room_key)
    .where(events.c.body.is_not(None))
)
