"""The rows of attendance from the database, streamed: sessions by start, a few at a time, each with its visits.

The database sorts; memory holds the visits of a few sessions, or of one person (view `total`). Only where a window or a
least percentage decides which join of a person was the first one that counts, the rows of view `total` are sorted here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, exists, func, or_, select, tuple_

from bridge.admin.listing import keys_of_room
from bridge.db.tables import rooms, sessions, visits
from bridge.errors import NotFoundError
from bridge.rules import attendance
from bridge.rules.attendance import AttendedSession, AttendedVisit, Report, View

SESSIONS_AT_ONCE = 200
VISITS_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Sessions of a room, one session, those that overlap [since, until); visits of one person."""

    room: str | None = None
    session: str | None = None
    person: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Groups:
    """Sessions that count as one: the members of each first session, and the first session of each other one."""

    members: Mapping[int, Sequence[int]] = field(default_factory=dict)
    first: Mapping[int, int] = field(default_factory=dict)


def attendance_rows(
    connection: Connection,
    selection: Selection,
    view: View,
    report: Report,
    *,
    merge_gap: timedelta = timedelta(0),
    on_visits: Callable[[int], object] = lambda _: None,
) -> Iterator[attendance.Row]:
    """Yield the rows of a view in their order; `on_visits` gets the number of visits that were read.

    Raises:
        NotFoundError: there is no such room or session.
    """
    conditions = _conditions(connection, selection, report)
    if view is View.TOTAL:
        yield from _total_rows(connection, conditions, selection, report, merge_gap, on_visits)
        return
    rows_of = attendance.visit_rows if view is View.VISIT else attendance.person_rows
    for session, found in session_visits(connection, conditions, selection, merge_gap):
        yield from rows_of(session, found, report)
        on_visits(len(found))


def list_attendance(
    connection: Connection, selection: Selection, view: View, report: Report, *, merge_gap: timedelta
) -> list[attendance.Row]:
    """As `attendance_rows`, all at once."""
    return list(attendance_rows(connection, selection, view, report, merge_gap=merge_gap))


def for_each_session(
    connection: Connection,
    selection: Selection,
    report: Report,
    merge_gap: timedelta,
    show: Callable[[AttendedSession, list[AttendedVisit]], object],
) -> None:
    """Call `show` with every selected session and its visits, by start.

    Raises:
        NotFoundError: there is no such room or session.
    """
    for session, found in session_visits(connection, _conditions(connection, selection, report), selection, merge_gap):
        show(session, found)


def read_session(
    connection: Connection, session_id: str, report: Report
) -> tuple[AttendedSession, list[AttendedVisit]]:
    """Return a session with its visits.

    Raises:
        NotFoundError: there is no such session.
    """
    selection = Selection(session=session_id)
    conditions = _conditions(connection, selection, report)
    return next(session_visits(connection, conditions, selection, timedelta(0)))


def count_visits(connection: Connection, selection: Selection, report: Report) -> int:
    """Return how many visits the selected sessions have, for a progress bar.

    Raises:
        NotFoundError: there is no such room or session.
    """
    total = select(func.coalesce(func.sum(sessions.c.visit_count), 0)).join(rooms, rooms.c.id == sessions.c.room_key)
    return int(connection.execute(total.where(*_conditions(connection, selection, report))).scalar_one())


def _conditions(connection: Connection, selection: Selection, report: Report) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if selection.room is not None:
        conditions.append(sessions.c.room_key.in_(keys_of_room(connection, selection.room)))
    if selection.session is not None:
        conditions.append(sessions.c.public_id == selection.session)
        if connection.execute(select(sessions.c.id).where(conditions[-1])).one_or_none() is None:
            raise NotFoundError(f"no session has the id {selection.session!r}", "`bridge attendance show` lists them")
    if selection.person is not None and selection.person not in (report.roster or ()):
        theirs = visits.alias()
        was_there = (theirs.c.session_key == sessions.c.id, theirs.c.person_key == selection.person)
        conditions.append(exists().where(*was_there))
    for since, until in ((selection.since, selection.until), report.window or (None, None)):
        if since is not None:
            is_later = or_(sessions.c.ended_at.is_(None), sessions.c.ended_at > since, sessions.c.started_at >= since)
            conditions.append(is_later)
        if until is not None:
            conditions.append(sessions.c.started_at < until)
    return conditions


def session_visits(
    connection: Connection, conditions: Sequence[ColumnElement[bool]], selection: Selection, merge_gap: timedelta
) -> Iterator[tuple[AttendedSession, list[AttendedVisit]]]:
    groups = _groups(connection, conditions, merge_gap)
    for some in _batches(connection, conditions, groups):
        keys = [key for row in some for key in groups.members.get(row.id, (row.id,))]
        others = _sessions_by_key(connection, [key for key in keys if key in groups.first])
        found = _visits(connection, keys, selection)
        for row in some:
            members = [row, *(others[key] for key in groups.members.get(row.id, (row.id,))[1:])]
            theirs = [_visit(visit, member) for member in members for visit in found[member.id]]
            yield attendance.merged([_session(member) for member in members]), theirs


def _batches(connection: Connection, conditions: Sequence[ColumnElement[bool]], groups: _Groups) -> Iterator[list[Any]]:
    """Yield the first sessions of all groups, by start, in batches of few visits."""
    after: tuple[datetime, int] | None = None
    while True:
        query = _SESSIONS.where(*conditions).order_by(sessions.c.started_at, sessions.c.id).limit(SESSIONS_AT_ONCE)
        if after is not None:
            query = query.where(tuple_(sessions.c.started_at, sessions.c.id) > tuple_(*after))
        found = connection.execute(query).all()
        batch: list[Any] = []
        size = 0
        for row in found:
            if row.id in groups.first:
                continue
            if batch and size + row.visit_count > VISITS_AT_ONCE:
                yield batch
                batch, size = [], 0
            batch.append(row)
            size += row.visit_count
        if batch:
            yield batch
        if len(found) < SESSIONS_AT_ONCE:
            return
        after = found[-1].started_at, found[-1].id


def _groups(connection: Connection, conditions: Sequence[ColumnElement[bool]], merge_gap: timedelta) -> _Groups:
    """Find sessions of one room that follow each other within the gap; memory holds only those that do."""
    if merge_gap <= timedelta(0):
        return _Groups()
    columns = (sessions.c.id, sessions.c.room_key, sessions.c.started_at, sessions.c.ended_at)
    query = select(*columns).join(rooms, rooms.c.id == sessions.c.room_key).where(*conditions)
    query = query.order_by(sessions.c.room_key, sessions.c.started_at, sessions.c.id)
    members: dict[int, list[int]] = {}
    first: dict[int, int] = {}
    head = previous = None
    for row in connection.execution_options(yield_per=SESSIONS_AT_ONCE).execute(query):
        is_near = (
            previous is not None
            and previous.room_key == row.room_key
            and previous.ended_at is not None
            and row.started_at - previous.ended_at <= merge_gap
        )
        if is_near and head is not None:
            first[row.id] = head
            members.setdefault(head, [head]).append(row.id)
        else:
            head = row.id
        previous = row
    return _Groups(members=members, first=first)


def _total_rows(
    connection: Connection,
    conditions: Sequence[ColumnElement[bool]],
    selection: Selection,
    report: Report,
    merge_gap: timedelta,
    on_visits: Callable[[int], object],
) -> Iterator[attendance.Row]:
    absent = set(report.roster or ())
    found: Iterable[attendance.Row] = _present_totals(connection, conditions, selection, report, merge_gap, on_visits)
    if report.window is not None or report.min_percent is not None:
        found = sorted(found, key=lambda row: (datetime.fromisoformat(row["first_joined_at"]), row["person_key"]))
    for row in found:
        absent.discard(row["person_key"])
        yield row
    yield from (attendance.absent_total(key, report) for key in sorted(absent))


def _present_totals(
    connection: Connection,
    conditions: Sequence[ColumnElement[bool]],
    selection: Selection,
    report: Report,
    merge_gap: timedelta,
    on_visits: Callable[[int], object],
) -> Iterator[attendance.Row]:
    """The rows of those who were there, by the first join of each in the selected sessions, then by person."""
    groups = _groups(connection, conditions, merge_gap)
    whole = _merged_sessions(connection, groups)
    for _, rows in groupby(_by_person(connection, conditions, selection), key=lambda row: row.person_key):
        pairs = [(whole.get(groups.first.get(row.key, row.key)) or _session(row), _visit(row, row)) for row in rows]
        found = attendance.total_row(pairs, report)
        on_visits(len(pairs))
        if found is not None:
            yield found


def _by_person(
    connection: Connection, conditions: Sequence[ColumnElement[bool]], selection: Selection
) -> Iterator[Row[Any]]:
    """Every visit with its session, person by person: by the first join of each, then by person."""
    first_join = func.min(visits.c.joined_at).over(partition_by=visits.c.person_key)
    query = _SESSIONS.add_columns(*_VISIT, sessions.c.id.label("key")).join(
        visits, visits.c.session_key == sessions.c.id
    )
    if selection.person is not None:
        query = query.where(visits.c.person_key == selection.person)
    query = query.where(*conditions).order_by(first_join, visits.c.person_key, visits.c.joined_at, visits.c.id)
    yield from connection.execution_options(yield_per=VISITS_AT_ONCE).execute(query)


def _merged_sessions(connection: Connection, groups: _Groups) -> dict[int, AttendedSession]:
    found = _sessions_by_key(connection, [key for keys in groups.members.values() for key in keys])
    return {head: attendance.merged([_session(found[key]) for key in keys]) for head, keys in groups.members.items()}


def _sessions_by_key(connection: Connection, keys: Sequence[int]) -> dict[int, Row[Any]]:
    found: dict[int, Row[Any]] = {}
    for start in range(0, len(keys), VISITS_AT_ONCE):
        some = _SESSIONS.where(sessions.c.id.in_(keys[start : start + VISITS_AT_ONCE]))
        found |= {row.id: row for row in connection.execute(some)}
    return found


def _visits(connection: Connection, keys: Sequence[int], selection: Selection) -> dict[int, list[Any]]:
    query = select(visits.c.session_key, *_VISIT).where(visits.c.session_key.in_(keys))
    if selection.person is not None:
        query = query.where(visits.c.person_key == selection.person)
    found: dict[int, list[Any]] = defaultdict(list)
    for row in connection.execute(query):
        found[row.session_key].append(row)
    return found


def _session(row: Row[Any]) -> AttendedSession:
    return AttendedSession(
        room_id=row.room_id,
        room_name=row.room_name,
        session_id=row.session_id,
        started_at=row.started_at,
        ended_at=row.ended_at,
        seen_until=row.complete_at,
    )


def _visit(row: Row[Any], session: Row[Any]) -> AttendedVisit:
    last_seen_at = row.last_seen_at
    if row.left_at is None and not row.missed and session.complete_at is not None:
        last_seen_at = max(last_seen_at, session.complete_at)  # polls without changes write no visit
    return AttendedVisit(
        visit_id=row.visit_id,
        peer_id=row.peer_id,
        person_key=row.person_key,
        display_name=row.display_name,
        joined_at=row.joined_at,
        joined_at_source=row.joined_at_source,
        joined_after=row.joined_after,
        last_seen_at=last_seen_at,
        left_at=row.left_at,
        left_at_source=row.left_at_source,
        leave_reason=row.leave_reason,
    )


_SESSIONS: Select[Any] = select(
    sessions.c.id,
    sessions.c.public_id.label("session_id"),
    sessions.c.started_at,
    sessions.c.ended_at,
    sessions.c.visit_count,
    rooms.c.upstream_id.label("room_id"),
    rooms.c.name.label("room_name"),
    rooms.c.complete_at,
).join(rooms, rooms.c.id == sessions.c.room_key)
_VISIT = (
    visits.c.public_id.label("visit_id"),
    *(visits.c.peer_id, visits.c.person_key, visits.c.display_name, visits.c.joined_at, visits.c.joined_at_source),
    *(visits.c.joined_after, visits.c.last_seen_at, visits.c.missed, visits.c.left_at, visits.c.left_at_source),
    visits.c.leave_reason,
)
