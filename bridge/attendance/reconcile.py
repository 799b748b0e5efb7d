"""Exact times afterwards: ended sessions against the source's own record, within its request budget.

The record is fetched before the transaction that applies it; that one locks the room, reads the session again, and
writes what `bridge.rules.reconcile` decides. No event changes: a `session.reconciled` has the corrected figures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, and_, insert, or_, select, update

from bridge.admin.listing import keys_of_room
from bridge.attendance.query import Selection
from bridge.db.engine import Database
from bridge.db.event_log import append_events, room_log, write_log_ends
from bridge.db.tables import rooms, sessions, sources, visits
from bridge.errors import NotFoundError
from bridge.events.bodies import ReconciledVisit, draft_reconciled
from bridge.events.log import number_events
from bridge.polling.source_state import lock_source, source_health
from bridge.rules.identity import IdentityPolicy, find_display_name, find_person_key, keep_metadata
from bridge.rules.presence import Absent, Failure, FailureKind
from bridge.rules.rate import Rate
from bridge.rules.reconcile import (
    CLOCK_TOLERANCE,
    Outcome,
    Reconciliation,
    RecordedSession,
    SeenSession,
    SeenVisit,
    VisitChange,
    next_try,
    overlapping,
    reconcile,
)
from bridge.runtime import Runtime
from bridge.sources.kinds import open_source
from bridge.sources.protocol import RecordKeepingSource, Source, SourceSettings

ERASED: Final = "erased_"
"""Beginning of the pseudonyms of erased people."""
PAGES: Final = 100
"""Most pages of the source's sessions that are read for one session."""
LONGEST_WAIT: Final = timedelta(minutes=1)
"""Longest pause of a source that is waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedSession:
    """A session to reconcile."""

    key: int
    session_id: str
    source: str
    room_id: str
    started_at: datetime
    ended_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconciledSession:
    """The outcome of one session; `has_changed` if an event was (or would be) appended."""

    session: EndedSession
    outcome: Outcome
    has_changed: bool = False
    notes: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """The outcome as JSON."""
        return {
            "session_id": self.session.session_id,
            "source": self.session.source,
            "room_id": self.session.room_id,
            "outcome": self.outcome.value,
            "changed": self.has_changed,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileTerms:
    """Arguments of every reconciliation."""

    after: timedelta
    identity: IdentityPolicy
    dry_run: bool = False


def find_ended(connection: Connection, selection: Selection) -> list[EndedSession]:
    """Return the ended sessions of a selection, by start.

    Raises:
        NotFoundError: there is no such room or session.
    """
    query = _ENDED.order_by(sessions.c.started_at, sessions.c.id)
    if selection.room is not None:
        query = query.where(sessions.c.room_key.in_(keys_of_room(connection, selection.room)))
    if selection.since is not None:
        query = query.where(sessions.c.ended_at > selection.since)
    if selection.session is not None:
        query = query.where(sessions.c.public_id == selection.session)
        known = select(sessions.c.id).where(sessions.c.public_id == selection.session)
        if connection.execute(known).one_or_none() is None:
            raise NotFoundError(f"no session has the id {selection.session!r}", "see `bridge attendance show`")
    return [EndedSession(**row._asdict()) for row in connection.execute(query)]


def find_due(connection: Connection, now: datetime, after: timedelta, limit: int) -> list[EndedSession]:
    """Return sessions whose record is to be asked for now, the longest ended first."""
    is_first = and_(sessions.c.record_tries == 0, sessions.c.ended_at <= now - after)
    due = _ENDED.where(or_(is_first, sessions.c.record_due_at <= now)).order_by(sessions.c.ended_at).limit(limit)
    return [EndedSession(**row._asdict()) for row in connection.execute(due)]


async def reconcile_sessions(
    database: Database,
    accounts: Iterable[SourceSettings],
    ended: Sequence[EndedSession],
    runtime: Runtime,
    terms: ReconcileTerms,
    on_done: Callable[[ReconciledSession], object] = lambda _: None,
) -> list[ReconciledSession]:
    """Ask the sources for their records of some sessions, one after the other, and apply them.

    Args:
        database: where the sessions are.
        accounts: the configured sources.
        ended: the sessions.
        runtime: clock, ids and chance.
        terms: of all of them.
        on_done: called with the outcome of each session as soon as it is known.

    Raises:
        DatabaseError: the database failed.
    """
    done = []
    by_name = {account.name: account for account in accounts}
    async with AsyncExitStack() as stack:
        opened: dict[str, Source] = {}
        for session in ended:
            account = by_name.get(session.source)
            if account is not None and account.name not in opened:
                opened[account.name] = source = open_source(account, runtime.now)
                stack.push_async_callback(source.aclose)
            source_of_session = opened.get(session.source)
            done.append(await reconcile_session(database, account, source_of_session, session, runtime, terms))
            on_done(done[-1])
    return done


async def reconcile_session(
    database: Database,
    account: SourceSettings | None,
    source: Source | None,
    session: EndedSession,
    runtime: Runtime,
    terms: ReconcileTerms,
) -> ReconciledSession:
    """Ask the source for its record of one session and apply it.

    Raises:
        DatabaseError: the database failed.
    """
    record: list[RecordedSession] | Outcome
    if account is None:
        record, detail = Outcome.FAILED, f"source {session.source!r} is not configured"
    elif not isinstance(source, RecordKeepingSource):
        record, detail = Outcome.NO_RECORD, "this kind of source keeps no record"
    else:
        fetched = await _fetch_record(database, account, source, session, runtime)
        record = Outcome.FAILED if isinstance(fetched, Failure) else fetched
        detail = fetched.detail if isinstance(fetched, Failure) else ""
    act = database.read if terms.dry_run else database.write_aside
    done = await act(apply_record, session, record, runtime.now(), runtime.new_id, terms)
    return replace(done, notes=(detail,)) if detail else done


def apply_record(
    connection: Connection,
    session: EndedSession,
    record: Sequence[RecordedSession] | Outcome,
    now: datetime,
    new_id: Callable[[str], str],
    terms: ReconcileTerms,
) -> ReconciledSession:
    """Compare a session with its record, and write what has changed; an `Outcome` instead of a record is only noted."""
    room_query = select(rooms).join(sessions, sessions.c.room_key == rooms.c.id).where(sessions.c.id == session.key)
    room = connection.execute(room_query if terms.dry_run else room_query.with_for_update(of=rooms)).one_or_none()
    if room is None:
        return ReconciledSession(session=session, outcome=Outcome.MISSING, notes=("it was deleted meanwhile",))
    row = connection.execute(select(sessions).where(sessions.c.id == session.key)).one()
    stored = connection.execute(select(visits).where(visits.c.session_key == session.key).order_by(visits.c.id)).all()
    if isinstance(record, Outcome):
        done = ReconciledSession(session=session, outcome=record)
    elif any(visit.person_key.startswith(ERASED) for visit in stored):
        done = ReconciledSession(session=session, outcome=Outcome.ERASED)
    else:
        found = reconcile(_seen_session(connection, row, stored, record, now), record)
        if found.has_changed and not terms.dry_run:
            _write(connection, room, row, stored, found, now, new_id, terms.identity)
        done = ReconciledSession(
            session=session, outcome=found.outcome, has_changed=found.has_changed, notes=found.notes
        )
    if not terms.dry_run:
        tries = row.record_tries + 1
        values = {
            "record_tries": tries,
            "record_outcome": done.outcome.value,
            "record_due_at": next_try(session.ended_at, terms.after, tries, done.outcome, now),
        }
        connection.execute(update(sessions).where(sessions.c.id == session.key).values(values))
    return done


def take_request(connection: Connection, account: SourceSettings, now: datetime) -> timedelta:
    """Take one request out of a source's budget; returns zero, or how long to wait before asking again."""
    row, rate = lock_source(connection, account.name), Rate(account.requests_per_second)
    paused_until = source_health(row).paused_until
    if paused_until is not None and paused_until > now:
        return paused_until - now
    if rate.per_second > 0:
        if rate.available(row.next_request_at, now) < 1:
            wait: timedelta = row.next_request_at - now
            return max(wait, timedelta(milliseconds=10))
        after = rate.after(1, row.next_request_at, now)
        connection.execute(update(sources).where(sources.c.name == row.name).values(next_request_at=after))
    return timedelta(0)


async def _fetch_record(
    database: Database, account: SourceSettings, source: RecordKeepingSource, session: EndedSession, runtime: Runtime
) -> list[RecordedSession] | Failure:
    """Read the sessions of the room that were under way with ours, each with its visits."""
    ours = SeenSession(started_at=session.started_at, ended_at=session.ended_at, visits=())
    found: list[RecordedSession] = []
    for page in range(PAGES):
        if (failure := await _wait_for_budget(database, account, runtime)) is not None:
            return failure
        listed = await source.fetch_sessions(session.room_id, page)
        if isinstance(listed, Failure):
            return listed
        found += overlapping(ours, listed)
        if len(listed) < source.sessions_per_page or _is_past(listed, session):
            break
    complete: list[RecordedSession] = []
    for one in {each.session_id: each for each in found}.values():
        if (failure := await _wait_for_budget(database, account, runtime)) is not None:
            return failure
        listed_visits = await source.fetch_visits(one.session_id)
        if isinstance(listed_visits, Failure):
            return listed_visits
        complete.append(replace(one, visits=listed_visits))
    return complete


def _is_past(listed: Sequence[RecordedSession], session: EndedSession) -> bool:
    """Whether the following pages only have older sessions than ours: so it is if the newest come first."""
    starts = [one.started_at for one in listed]
    return starts == sorted(starts, reverse=True) and all(
        one.ended_at is not None and one.ended_at < session.started_at - CLOCK_TOLERANCE for one in listed[-1:]
    )


async def _wait_for_budget(database: Database, account: SourceSettings, runtime: Runtime) -> Failure | None:
    while (wait := await database.write_aside(take_request, account, runtime.now())) > timedelta(0):
        if wait > LONGEST_WAIT:
            kind = FailureKind.RATE_LIMITED
            return Failure(kind=kind, detail=f"source {account.name!r} is paused for {wait.total_seconds():.0f} s more")
        await asyncio.sleep(min(wait.total_seconds(), 1.0))
    return None


def _seen_session(
    connection: Connection, row: Row[Any], stored: Sequence[Row[Any]], record: Sequence[RecordedSession], now: datetime
) -> SeenSession:
    start = min([row.started_at, *(one.started_at for one in record)])
    end = max([row.ended_at, *(one.ended_at or now for one in record)])
    others = select(sessions.c.started_at, sessions.c.ended_at).where(
        sessions.c.room_key == row.room_key,
        sessions.c.id != row.id,
        sessions.c.started_at <= end,
        or_(sessions.c.ended_at.is_(None), sessions.c.ended_at >= start),
    )
    return SeenSession(
        started_at=row.started_at,
        ended_at=row.ended_at,
        visits=tuple(_seen_visit(visit) for visit in stored),
        neighbours=tuple((other.started_at, other.ended_at or now) for other in connection.execute(others)),
    )


def _seen_visit(row: Row[Any]) -> SeenVisit:
    return SeenVisit(
        visit_id=row.public_id,
        peer_id=row.peer_id,
        joined_at=row.joined_at,
        joined_at_source=row.joined_at_source,
        joined_after=row.joined_after,
        last_seen_at=row.last_seen_at,
        left_at=row.left_at,
        left_at_source=row.left_at_source,
        leave_reason=row.leave_reason,
    )


def _write(
    connection: Connection,
    room: Row[Any],
    row: Row[Any],
    stored: Sequence[Row[Any]],
    found: Reconciliation,
    now: datetime,
    new_id: Callable[[str], str],
    identity: IdentityPolicy,
) -> None:
    names = {visit.public_id: (visit.person_key, visit.display_name) for visit in stored}
    listed = []
    for visit in found.visits:
        if visit.visit_id is None:
            visit_id, named = _add(connection, row, visit, new_id, identity)
            names[visit_id] = named
        else:
            visit_id = visit.visit_id
            if visit.change is not VisitChange.NONE:
                _correct(connection, visit)
        person_key, display_name = names[visit_id]
        listed.append(
            ReconciledVisit(
                visit_id=visit_id,
                peer_id=visit.peer_id,
                person_key=person_key,
                display_name=display_name,
                joined_at=visit.joined_at,
                left_at=visit.left_at,
                left_at_source=visit.left_at_source,
                change=visit.change.value,
            )
        )
    reconciled = draft_reconciled(
        session_id=row.public_id,
        started_at=found.started_at,
        ended_at=found.ended_at,
        visits=listed,
        observed_at=now,
    )
    log, new = number_events(room_log(room), [reconciled], now, new_id)
    write_log_ends(connection, [log])
    append_events(connection, new)
    values = {"started_at": found.started_at, "ended_at": found.ended_at, "reconciled_sequence": log.last_sequence}
    connection.execute(update(sessions).where(sessions.c.id == row.id).values(values))


def _correct(connection: Connection, visit: SeenVisit) -> None:
    values = {
        "joined_at": visit.joined_at,
        "joined_at_source": visit.joined_at_source,
        "left_at": visit.left_at,
        "left_at_source": visit.left_at_source,
    }
    connection.execute(update(visits).where(visits.c.public_id == visit.visit_id).values(values))


def _add(
    connection: Connection, row: Row[Any], visit: SeenVisit, new_id: Callable[[str], str], identity: IdentityPolicy
) -> tuple[str, tuple[str, str]]:
    """Insert a visit that no poll saw; returns its id, its person and its name."""
    visit_id = new_id("vis")
    metadata = None if isinstance(visit.metadata, Absent) else visit.metadata
    person_key = find_person_key([metadata], identity) or visit.peer_id
    name = find_display_name([metadata], identity)
    display_name = visit.peer_id if name is None else name
    connection.execute(
        insert(visits).values(
            public_id=visit_id,
            room_key=row.room_key,
            session_key=row.id,
            peer_id=visit.peer_id,
            person_key=person_key,
            display_name=display_name,
            joined_at=visit.joined_at,
            joined_at_source=visit.joined_at_source,
            join_time=visit.joined_at,
            last_seen_at=visit.last_seen_at,
            metadata=keep_metadata(metadata, identity),
            initial=False,
            left_at=visit.left_at,
            left_at_source=visit.left_at_source,
            leave_reason=visit.leave_reason,
        )
    )
    return visit_id, (person_key, display_name)


_ENDED = (
    select(
        sessions.c.id.label("key"),
        sessions.c.public_id.label("session_id"),
        rooms.c.source,
        rooms.c.upstream_id.label("room_id"),
        sessions.c.started_at,
        sessions.c.ended_at,
    )
    .join(rooms, rooms.c.id == sessions.c.room_key)
    .where(sessions.c.ended_at.is_not(None))
)
