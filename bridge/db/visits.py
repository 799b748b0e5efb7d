"""Visits and sessions as rows: the presence of a room is its open visits.

A poll without changes writes no visit: an open visit that no poll missed was last seen at the room's last complete
snapshot (`rooms.complete_at`). `visits.last_seen_at` is written only where that is not so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, Protocol, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Text, and_, bindparam, select, union_all

from bridge.db.arrays import ManyRows, Rows, execute_together, insert_many, one_of, types_of
from bridge.db.tables import sessions, visits
from bridge.rules.presence import (
    LeaveReason,
    PeerLeft,
    Presence,
    PresenceDiff,
    RoomEmptied,
    Session,
    TimeSource,
    Visit,
    same_json,
)

T = TypeVar("T")

BATCH_SIZE = 10_000
"""Peer ids per statement: PostgreSQL takes 65,535 parameters, SQLite 32,766."""


class TrackedRoom(Protocol):
    """The columns of `rooms` that belong to its presence."""

    @property
    def id(self) -> int: ...
    @property
    def session_key(self) -> int | None: ...
    @property
    def tracked_since(self) -> datetime | None: ...
    @property
    def complete_at(self) -> datetime | None: ...


def load_presence(
    connection: Connection, rooms: Sequence[TrackedRoom | Row[Any]], seen: Collection[str] = ()
) -> dict[int, Presence]:
    """Presence of rooms by key; the rows of the rooms are locked, or a change of them does no harm.

    `departed` has only peer ids among `seen`: a long session has many, and only a return matters.
    """
    occupied = [room for room in rooms if room.session_key is not None]
    sessions_by_room, open_visits, departed = _load_visits(connection, occupied, seen) if occupied else ({}, {}, {})
    return {
        room.id: Presence(
            visits={row.peer_id: _visit(row, room.complete_at) for row in open_visits.get(room.id, ())},
            session=sessions_by_room.get(room.id),
            tracked_since=room.tracked_since,
            complete_at=room.complete_at,
            departed=frozenset(departed.get(room.id, ())),
        )
        for room in rooms
    }


def _load_visits(
    connection: Connection, rooms: Sequence[TrackedRoom | Row[Any]], seen: Collection[str]
) -> tuple[dict[int, Session], dict[int, list[Row[Any]]], dict[int, set[str]]]:
    """Sessions under way, their open visits, and the peers of `seen` that have left them; by room."""
    keys = {"keys": [room.session_key for room in rooms]}
    under_way: dict[int, Session] = {}
    open_visits: dict[int, list[Row[Any]]] = defaultdict(list)
    departed: dict[int, set[str]] = defaultdict(set)
    first, *others = list(batched(seen, BATCH_SIZE)) or [[]]
    for row in connection.execute(_VISITS if first else _OPEN_VISITS, keys | {"peers": first} if first else keys):
        under_way.setdefault(row.session_room, _session(row))
        if row.left_at is not None:
            departed[row.session_room].add(row.peer_id)
        elif row.visit_id is not None:
            open_visits[row.session_room].append(row)
    for peers in others:
        for row in connection.execute(_DEPARTED, keys | {"peers": peers}):
            departed[row.session_room].add(row.peer_id)
    return under_way, open_visits, departed


def rooms_with_suspects(connection: Connection, room_keys: Sequence[int]) -> frozenset[int]:
    """The rooms among these in which a leave waits to be confirmed."""
    if not room_keys:
        return frozenset()
    return frozenset(connection.execute(_WITH_SUSPECTS, {"keys": room_keys}).scalars())


@dataclass(slots=True)
class PresenceWrites:
    """The rows of visits and sessions that the differences of many rooms insert or change."""

    _sessions: list[dict[str, Any]] = field(default_factory=list)
    _visits: list[dict[str, Any]] = field(default_factory=list)

    def add(self, room_key: int, before: Presence, diff: PresenceDiff, *, complete: bool) -> str | None:
        """Add one room's difference; returns the id of its session under way, None if the room is empty."""
        session = diff.emptied.session if diff.emptied is not None else diff.after.session
        if session is None:
            return None
        if diff.emptied is not None or session != before.session:
            self._sessions.append(_session_values(room_key, session, diff.emptied))
        begun = {visit.visit_id for visit in diff.arrived}
        present = [
            visit
            for visit in diff.after.visits.values()
            if visit.visit_id in begun or _needs_writing(visit, before.visits[visit.peer_id], complete=complete)
        ]
        ids = {"room_key": room_key, "session_id": session.session_id}
        self._visits += [ids | _visit_values(change.visit, change) for change in diff.left]
        self._visits += [ids | _visit_values(visit, None) for visit in present]
        return None if diff.emptied is not None else session.session_id

    def write(self, connection: Connection, others: Iterable[tuple[ManyRows, Rows]] = ()) -> None:
        """Write sessions, then visits together with others; a peer's old visit ends before its new one begins."""
        execute_together(connection, [(_WRITE_SESSIONS, self._sessions)])
        execute_together(connection, [(_WRITE_VISITS, self._visits), *others])


def batched(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """The values in lists of at most `size` (`itertools.batched` comes with Python 3.12)."""
    rest = iter(values)
    while some := list(islice(rest, size)):
        yield some


def bind(*names: str) -> dict[str, Any]:
    """Values for an UPDATE whose parameters have the names of the columns."""
    return {name: bindparam(name) for name in names}


def _visit(row: Row[Any], complete_at: datetime | None) -> Visit:
    last_seen_at = row.last_seen_at
    if not row.missed and complete_at is not None:
        last_seen_at = max(last_seen_at, complete_at)
    return Visit(
        visit_id=row.visit_id,
        peer_id=row.peer_id,
        person_key=row.person_key,
        display_name=row.display_name,
        joined_at=row.joined_at,
        joined_at_source=TimeSource(row.joined_at_source),
        joined_after=row.joined_after,
        join_time=row.join_time,
        reported_join_time=row.reported_join_time,
        last_seen_at=last_seen_at,
        metadata=row.metadata,
        initial=row.initial,
        missed=row.missed,
        missing_since=row.missing_since,
        missing_reason=None if row.missing_reason is None else LeaveReason(row.missing_reason),
    )


def _session(row: Row[Any]) -> Session:
    return Session(
        session_id=row.session_id,
        started_at=row.started_at,
        visit_count=row.visit_count,
        unique_peers=row.unique_peers,
        peak_peer_count=row.peak_peer_count,
    )


def _needs_writing(visit: Visit, before: Visit, *, complete: bool) -> bool:
    follows_from_room = complete and not visit.missed and not before.missed
    return (
        visit.missed != before.missed
        or not same_json(visit.metadata, before.metadata)
        or visit.display_name != before.display_name
        or visit.join_time != before.join_time
        or visit.reported_join_time != before.reported_join_time
        or (visit.last_seen_at != before.last_seen_at and not follows_from_room)
    )


def _session_values(room_key: int, session: Session, emptied: RoomEmptied | None) -> dict[str, Any]:
    return {
        "public_id": session.session_id,
        "room_key": room_key,
        "started_at": session.started_at,
        "visit_count": session.visit_count,
        "unique_peers": session.unique_peers,
        "peak_peer_count": session.peak_peer_count,
        "ended_at": None if emptied is None else emptied.ended_at,
        "empty_reason": None if emptied is None else emptied.reason.value,
    }


def _visit_values(visit: Visit, left: PeerLeft | None) -> dict[str, Any]:
    return {
        "public_id": visit.visit_id,
        "peer_id": visit.peer_id,
        "person_key": visit.person_key,
        "display_name": visit.display_name,
        "joined_at": visit.joined_at,
        "joined_at_source": visit.joined_at_source.value,
        "joined_after": visit.joined_after,
        "join_time": visit.join_time,
        "reported_join_time": visit.reported_join_time,
        "last_seen_at": visit.last_seen_at,
        "metadata": visit.metadata,
        "initial": visit.initial,
        "missed": visit.missed,
        "missing_since": visit.missing_since,
        "missing_reason": None if visit.missing_reason is None else visit.missing_reason.value,
        "left_at": None if left is None else left.left_at,
        "left_at_source": None if left is None else left.left_at_source.value,
        "leave_reason": None if left is None else left.reason.value,
    }


def session_key(public_id: ColumnElement[Any]) -> Any:  # noqa: ANN401 - a scalar subquery
    """The key of the session with that id."""
    return select(sessions.c.id).where(sessions.c.public_id == public_id).scalar_subquery()


_COLUMNS = (
    sessions.c.room_key.label("session_room"),
    sessions.c.public_id.label("session_id"),
    *(sessions.c[name] for name in ("started_at", "visit_count", "unique_peers", "peak_peer_count")),
    visits.c.id.label("visit_key"),
    visits.c.public_id.label("visit_id"),
    *(
        visits.c[name]
        for name in (
            "peer_id", "person_key", "display_name", "joined_at", "joined_at_source", "joined_after", "join_time",
            "reported_join_time", "last_seen_at", "metadata", "initial", "missed", "missing_since", "missing_reason",
            "left_at",
        )
    ),
)  # fmt: skip
_IS_OPEN = and_(
    visits.c.room_key == sessions.c.room_key, visits.c.session_key == sessions.c.id, visits.c.left_at.is_(None)
)
_OF_SESSIONS = one_of(sessions.c.id, "keys")
_OPEN = select(*_COLUMNS).select_from(sessions).outerjoin(visits, _IS_OPEN).where(_OF_SESSIONS)
_OPEN_VISITS = _OPEN.order_by(visits.c.id)
_DEPARTED = (
    select(*_COLUMNS)
    .join_from(sessions, visits, visits.c.session_key == sessions.c.id)
    .where(
        _OF_SESSIONS,
        one_of(visits.c.peer_id, "peers"),
        visits.c.left_at.is_not(None),
    )
)
_VISITS = union_all(_OPEN, _DEPARTED).order_by("visit_key")
_WITH_SUSPECTS = (
    select(visits.c.room_key)
    .where(one_of(visits.c.room_key, "keys"), visits.c.left_at.is_(None), visits.c.missed > 0)
    .distinct()
)
_COUNTERS = ("visit_count", "unique_peers", "peak_peer_count", "ended_at", "empty_reason")
_SESSION = ("public_id", "room_key", "started_at", *_COUNTERS)
_WRITE_SESSIONS = insert_many(
    sessions,
    lambda new: {name: new[name] for name in _SESSION},
    types_of(sessions, *_SESSION),
    key=[sessions.c.public_id],
    change=lambda new: {name: new[name] for name in _COUNTERS},
)
_CHANGEABLE = (
    "display_name", "join_time", "reported_join_time", "last_seen_at", "metadata", "missed", "missing_since",
    "missing_reason", "left_at", "left_at_source", "leave_reason",
)  # fmt: skip
_VISIT = (
    "public_id", "room_key", "peer_id", "person_key", "joined_at", "joined_at_source", "joined_after", "initial",
    *_CHANGEABLE,
)  # fmt: skip
_WRITE_VISITS = insert_many(
    visits,
    lambda new: {name: new[name] for name in _VISIT} | {"session_key": session_key(new["session_id"])},
    types_of(visits, *_VISIT, session_id=Text()),
    key=[visits.c.public_id],
    change=lambda new: {name: new[name] for name in _CHANGEABLE},
)
