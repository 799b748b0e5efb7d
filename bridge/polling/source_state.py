"""Sources as rows: health and request budget, shared by every poller. The rules are those of `bridge.rules.polling`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, func, literal_column, or_, select, update

from bridge.db.arrays import one_of
from bridge.db.engine import upsert
from bridge.db.tables import rooms, sources
from bridge.db.visits import bind
from bridge.polling.plan import StoredSource
from bridge.rules.polling import HIGHEST_FAILURE_SCORE, UNAVAILABLE, Condition, SourceHealth

HEALTH_COLUMNS = (
    sources.c.condition, sources.c.since, sources.c.paused_until, sources.c.failure_score, sources.c.pauses
)  # fmt: skip
LIST_JOB: Final = "discover "
"""The beginning of the name of a source's job to ask for its list of live rooms (`jobs`)."""
WELL_SOURCE: Final = StoredSource(health=SourceHealth(), room_count=HIGHEST_FAILURE_SCORE, has_healthy_room=True)
"""A healthy source, of which no poll fails."""


def list_job(source: str) -> str:
    """The name of the job that asks a source for its list of live rooms."""
    return LIST_JOB + source


def read_source(connection: Connection, name: str) -> Row[Any] | None:
    """The row of a source, not locked."""
    return connection.execute(_READ_SOURCE, {"name": name}).one_or_none()


def lock_source(connection: Connection, name: str) -> Row[Any]:
    """Lock the row of a source; it is inserted if a process whose configuration lacks the source removed it."""
    rows = _lock(connection, [name])
    return rows[0]


def load_sources(
    connection: Connection, names: Collection[str], *, failing: Collection[str] = ()
) -> dict[str, StoredSource]:
    """Lock the rows of sources; of those with a `failing` poll, also what decides whether it counts."""
    if not names:
        return {}
    return {
        row.name: StoredSource(
            health=source_health(row),
            room_count=_room_count(connection, row.name) if row.name in failing else HIGHEST_FAILURE_SCORE,
            has_healthy_room=row.name not in failing or _has_healthy_room(connection, row.name),
        )
        for row in _lock(connection, sorted(names))
    }


def source_health(row: Row[Any]) -> SourceHealth:
    """Health out of a row of `sources`."""
    return SourceHealth(
        condition=Condition(row.condition),
        since=row.since,
        paused_until=row.paused_until,
        failure_score=row.failure_score,
        pauses=row.pauses,
    )


def write_source_health(connection: Connection, health: Mapping[str, SourceHealth]) -> None:
    """Write the health of locked sources."""
    if health:
        connection.execute(_WRITE_HEALTH, [_health_values(name, one) for name, one in health.items()])


def poll_failed_rooms_now(connection: Connection, names: Sequence[str], at: datetime) -> None:
    """Make every room due that failed at sources that have recovered."""
    if names:
        connection.execute(_POLL_FAILED_NOW, {"names": list(names), "at": at})


def retry_sources(connection: Connection, changed: Collection[str], now: datetime) -> None:
    """Probe unavailable sources now, because a start or a reload may have repaired them.

    A rate limit stays, unless the source is among the `changed`, whose URL or key is another one: then its rooms that
    failed are due too.
    """
    failed = (rooms.c.source.in_(changed), _HAS_FAILED)
    connection.execute(update(rooms).where(*failed, rooms.c.next_poll_at > now).values(next_poll_at=now))
    retried = or_(sources.c.condition.in_(UNAVAILABLE), sources.c.name.in_(changed))
    connection.execute(update(sources).where(retried, sources.c.paused_until > now).values(paused_until=now))


def _lock(connection: Connection, names: Sequence[str]) -> list[Row[Any]]:
    found = {row.name: row for row in connection.execute(_LOCK_SOURCES, {"names": names})}
    for name in names:
        if name not in found:
            connection.execute(upsert(connection.dialect.name)(sources).values(name=name).on_conflict_do_nothing())
            found[name] = connection.execute(_LOCK_SOURCES, {"names": [name]}).one()
    return [found[name] for name in names]


def _room_count(connection: Connection, source: str) -> int:
    """Polled rooms of the source, counted up to the number that makes a difference."""
    return connection.execute(_COUNT_ROOMS, {"source": source}).scalar_one()


def _has_healthy_room(connection: Connection, source: str) -> bool:
    return connection.execute(_HEALTHY_ROOM, {"source": source}).one_or_none() is not None


def _health_values(name: str, health: SourceHealth) -> dict[str, Any]:
    return {
        "key": name,
        "condition": health.condition.value,
        "since": health.since,
        "paused_until": health.paused_until,
        "failure_score": health.failure_score,
        "pauses": health.pauses,
    }


_HAS_FAILED = rooms.c.failures > literal_column("0")  # as in `ix_rooms_failing`, which a parameter would not match
_READ_SOURCE = select(sources).where(sources.c.name == bindparam("name"))
_LOCK_SOURCES = select(sources).where(one_of(sources.c.name, "names")).order_by(sources.c.name).with_for_update()
_POLLED = (rooms.c.source == bindparam("source"), rooms.c.next_poll_at.is_not(None))
_COUNT_ROOMS = select(func.count()).select_from(
    select(rooms.c.id).where(*_POLLED).limit(HIGHEST_FAILURE_SCORE).subquery()
)
_HEALTHY_ROOM = select(rooms.c.id).where(*_POLLED, rooms.c.failures == 0).limit(1)
_WRITE_HEALTH = (
    update(sources)
    .where(sources.c.name == bindparam("key"))
    .values(bind("condition", "since", "paused_until", "failure_score", "pauses"))
)
_POLL_FAILED_NOW = (
    update(rooms)
    .where(
        one_of(rooms.c.source, "names"),
        _HAS_FAILED,
        rooms.c.next_poll_at > bindparam("at"),
    )
    .values(next_poll_at=bindparam("at"))
)
