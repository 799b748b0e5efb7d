"""Sessions for listings: the occupied periods of rooms."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, or_, select

from bridge.admin.listing import Listing, Order, Page, columns_of, fetch_page, keys_of_room
from bridge.db.tables import rooms, sessions
from bridge.errors import NotFoundError
from bridge.events.bodies import seconds_between


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedSession:
    """A session; without `ended_at` it is under way. `record_outcome` is the outcome of its reconciliation."""

    id: str
    source: str
    room_id: str
    room_name: str | None
    started_at: datetime
    ended_at: datetime | None
    duration_seconds: float | None
    empty_reason: str | None
    visit_count: int
    unique_peers: int
    peak_peer_count: int
    record_outcome: str | None


def list_sessions(
    connection: Connection,
    page: Page,
    *,
    room: str | None = None,
    source: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Listing[ListedSession]:
    """Return sessions in the order in which they were recorded: of a room (of `source`, or any), or in [since, until).

    Raises:
        NotFoundError: there is no such room.
    """
    query = _SESSIONS
    if room is not None:
        query = query.where(sessions.c.room_key.in_(keys_of_room(connection, room, source)))
    if since is not None:
        query = query.where(or_(sessions.c.ended_at.is_(None), sessions.c.ended_at > since))
    if until is not None:
        query = query.where(sessions.c.started_at < until)
    return fetch_page(connection, query, _AS_RECORDED, page, _session)


def show_session(connection: Connection, session_id: str) -> ListedSession:
    """Return a session.

    Raises:
        NotFoundError: there is none with this id.
    """
    row = connection.execute(_SESSIONS.where(sessions.c.public_id == session_id)).one_or_none()
    if row is None:
        raise NotFoundError(f"no session has the id {session_id!r}", "`bridge attendance show` lists them")
    return _session(**row._asdict())


def _session(*, started_at: datetime, ended_at: datetime | None, **others: Any) -> ListedSession:  # noqa: ANN401 - columns
    duration = None if ended_at is None else seconds_between(started_at, ended_at)
    return ListedSession(started_at=started_at, ended_at=ended_at, duration_seconds=duration, **others)


_SESSIONS: Select[Any] = select(
    sessions.c.public_id.label("id"),
    rooms.c.source,
    rooms.c.upstream_id.label("room_id"),
    rooms.c.name.label("room_name"),
    *columns_of(sessions, ListedSession),
).join(rooms, rooms.c.id == sessions.c.room_key)
_AS_RECORDED = Order((sessions.c.id,))
"""Not by their start, which a reconciliation may correct: a session would be on two pages, or on none."""
