"""Visits and sessions as rows: the snapshot of a room is its open visits.

A quiet poll writes no visit. An open visit that no poll has missed was last seen when the room's last complete
snapshot was taken (`rooms.complete_at`), so `last_seen_at` is written only when that rule would not tell it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, bindparam, insert, select, update

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

AT_ONCE = 10_000
"""How many peer ids one statement may name: PostgreSQL takes 65,535 values, SQLite 32,766."""


def load(connection: Connection, room_rows: Sequence[Row[Any]], seen: Collection[str] = ()) -> dict[int, Presence]:
    """Who is in these rooms, by room key; the caller holds the rooms' rows.

    Of those who have left the sessions under way only the peer ids among `seen` are looked up: a long session has
    many, and only who comes back matters.
    """
    session_keys = [row.session_key for row in room_rows if row.session_key is not None]
    if not session_keys:
        return {row.id: Presence(tracked_since=row.tracked_since, complete_at=row.complete_at) for row in room_rows}
    session_rows = {row.id: row for row in connection.execute(_SESSIONS, {"keys": session_keys})}
    open_visits: dict[int, list[Row[Any]]] = defaultdict(list)
    for row in connection.execute(_OPEN_VISITS, {"keys": [row.id for row in room_rows]}):
        open_visits[row.session_key].append(row)
    departed = _departed(connection, session_keys, seen)
    return {
        row.id: Presence(
            visits={visit.peer_id: _visit(visit, row) for visit in open_visits[row.session_key]},
            session=_session(session_rows[row.session_key]) if row.session_key is not None else None,
            tracked_since=row.tracked_since,
            complete_at=row.complete_at,
            departed=frozenset(departed[row.session_key]),
        )
        for row in room_rows
    }


def _departed(connection: Connection, session_keys: Sequence[int], seen: Collection[str]) -> dict[int, set[str]]:
    departed: dict[int, set[str]] = defaultdict(set)
    for some in batched(seen, AT_ONCE):
        for row in connection.execute(_DEPARTED, {"keys": session_keys, "peers": some}):
            departed[row.session_key].add(row.peer_id)
    return departed


def batched(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """The values in lists of at most `size` (`itertools.batched` comes with Python 3.12)."""
    rest = iter(values)
    while some := list(islice(rest, size)):
        yield some


def rooms_with_suspects(connection: Connection, room_keys: Sequence[int]) -> frozenset[int]:
    """Those of the rooms in which somebody was missed and not yet often enough."""
    missed = (visits.c.room_key.in_(room_keys), visits.c.left_at.is_(None), visits.c.missed > 0)
    return frozenset(connection.execute(select(visits.c.room_key).where(*missed).distinct()).scalars())


@dataclass(slots=True)
class VisitWrites:
    """What many rooms' differences do to visits and sessions, gathered into a handful of statements."""

    _begun: list[dict[str, Any]] = field(default_factory=list)
    _changed: list[dict[str, Any]] = field(default_factory=list)
    _ended: list[dict[str, Any]] = field(default_factory=list)
    _counted: list[dict[str, Any]] = field(default_factory=list)

    def gather(
        self, connection: Connection, room: Row[Any], before: Presence, difference: PresenceDiff, *, complete: bool
    ) -> int | None:
        """Take in one room's difference; answers the key of the session that is now under way."""
        emptied = difference.emptied
        session = emptied.session if emptied is not None else difference.after.session
        if session is None:
            return None
        session_key: int = room.session_key
        if before.session is None:
            session_key = _begin_session(connection, room.id, session)
        if emptied is not None or session != before.session:
            self._counted.append(_session_values(session_key, session, emptied))
        self._begun += [_begin_values(room.id, session_key, visit) for visit in difference.arrived]
        self._ended += [_end_values(change) for change in difference.left]
        begun = {visit.visit_id for visit in difference.arrived}
        self._changed += [
            _change_values(visit)
            for visit in difference.after.visits.values()
            if visit.visit_id not in begun and _needs_writing(visit, before.visits[visit.peer_id], complete=complete)
        ]
        return None if emptied is not None else session_key

    def write(self, connection: Connection) -> None:
        """Write everything gathered: ends before beginnings, because a peer's new visit may replace its old one."""
        for statement, rows in (
            (_ENDED, self._ended),
            (_CHANGED, self._changed),
            (_BEGUN, self._begun),
            (_COUNTED, self._counted),
        ):
            if rows:
                connection.execute(statement, rows)


def _set_each(*names: str) -> dict[str, Any]:
    return {name: bindparam(name) for name in names}


_SESSIONS = select(sessions).where(sessions.c.id.in_(bindparam("keys", expanding=True)))
_OPEN_VISITS = (
    select(visits)
    .where(visits.c.room_key.in_(bindparam("keys", expanding=True)), visits.c.left_at.is_(None))
    .order_by(visits.c.id)
)
_DEPARTED = select(visits.c.session_key, visits.c.peer_id).where(
    visits.c.session_key.in_(bindparam("keys", expanding=True)),
    visits.c.peer_id.in_(bindparam("peers", expanding=True)),
    visits.c.left_at.is_not(None),
)
_OF_VISIT = update(visits).where(visits.c.public_id == bindparam("where_public_id"))
_ENDED = _OF_VISIT.values(_set_each("last_seen_at", "left_at", "left_at_source", "leave_reason"))
_CHANGED = _OF_VISIT.values(
    _set_each("display_name", "join_time", "reported_join_time", "last_seen_at", "metadata", "missed", "missing_since")
).values(_set_each("missing_reason"))
_BEGUN = insert(visits)
_COUNTED = (
    update(sessions)
    .where(sessions.c.id == bindparam("where_id"))
    .values(_set_each("visit_count", "unique_peers", "peak_peer_count", "ended_at", "empty_reason"))
)


def _visit(row: Row[Any], room: Row[Any]) -> Visit:
    last_seen_at = row.last_seen_at
    if not row.missed and room.complete_at is not None:
        last_seen_at = max(last_seen_at, room.complete_at)
    return Visit(
        visit_id=row.public_id,
        peer_id=row.peer_id,
        display_name=row.display_name,
        joined_at=row.joined_at,
        joined_at_source=TimeSource(row.joined_at_source),
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
        session_id=row.public_id,
        started_at=row.started_at,
        visit_count=row.visit_count,
        unique_peers=row.unique_peers,
        peak_peer_count=row.peak_peer_count,
    )


def _needs_writing(visit: Visit, before: Visit, *, complete: bool) -> bool:
    told_by_the_room = complete and not visit.missed and not before.missed
    return (
        visit.missed != before.missed
        or not same_json(visit.metadata, before.metadata)
        or visit.display_name != before.display_name
        or visit.join_time != before.join_time
        or visit.reported_join_time != before.reported_join_time
        or (visit.last_seen_at != before.last_seen_at and not told_by_the_room)
    )


def _begin_session(connection: Connection, room_key: int, session: Session) -> int:
    begun = insert(sessions).values(
        public_id=session.session_id,
        room_key=room_key,
        started_at=session.started_at,
        visit_count=session.visit_count,
        unique_peers=session.unique_peers,
        peak_peer_count=session.peak_peer_count,
    )
    key: int = connection.execute(begun.returning(sessions.c.id)).scalar_one()
    return key


def _session_values(session_key: int, session: Session, emptied: RoomEmptied | None) -> dict[str, Any]:
    return {
        "where_id": session_key,
        "visit_count": session.visit_count,
        "unique_peers": session.unique_peers,
        "peak_peer_count": session.peak_peer_count,
        "ended_at": None if emptied is None else emptied.ended_at,
        "empty_reason": None if emptied is None else emptied.reason.value,
    }


def _begin_values(room_key: int, session_key: int, visit: Visit) -> dict[str, Any]:
    return {
        "public_id": visit.visit_id,
        "room_key": room_key,
        "session_key": session_key,
        "peer_id": visit.peer_id,
        "display_name": visit.display_name,
        "joined_at": visit.joined_at,
        "joined_at_source": visit.joined_at_source.value,
        "join_time": visit.join_time,
        "reported_join_time": visit.reported_join_time,
        "last_seen_at": visit.last_seen_at,
        "metadata": visit.metadata,
        "initial": visit.initial,
        "missed": 0,
    }


def _change_values(visit: Visit) -> dict[str, Any]:
    return {
        "where_public_id": visit.visit_id,
        "display_name": visit.display_name,
        "join_time": visit.join_time,
        "reported_join_time": visit.reported_join_time,
        "last_seen_at": visit.last_seen_at,
        "metadata": visit.metadata,
        "missed": visit.missed,
        "missing_since": visit.missing_since,
        "missing_reason": None if visit.missing_reason is None else visit.missing_reason.value,
    }


def _end_values(change: PeerLeft) -> dict[str, Any]:
    return {
        "where_public_id": change.visit.visit_id,
        "last_seen_at": change.visit.last_seen_at,
        "left_at": change.left_at,
        "left_at_source": change.left_at_source.value,
        "leave_reason": change.reason.value,
    }
