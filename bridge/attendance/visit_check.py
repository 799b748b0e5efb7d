"""Visits and sessions of one room against its log: the rows that the events call for are the rows that are stored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Column, ColumnElement, Connection, Row, select, type_coerce
from sqlalchemy.types import NullType

from bridge.db.tables import sessions, visits
from bridge.events.bodies import rfc3339
from bridge.events.types import EventType
from bridge.rules.reconcile import RECONCILED

SESSIONS_AT_ONCE: Final = 100
JOINED: Final = ("peer_id", "person_key", "display_name", "joined_at", "joined_at_source")
LEFT: Final = ("left_at", "left_at_source", "last_seen_at", "leave_reason")
ENDED: Final = ("ended_at", "empty_reason", "unique_peers", "peak_peer_count", "visit_count")
_TIMES: Final = frozenset({"joined_at", "left_at", "last_seen_at", "started_at", "ended_at"})
_COUNTS: Final = frozenset({"unique_peers", "peak_peer_count", "visit_count"})
_WRONG: Final = object()
"""Stands for a value of a wrong type."""


@dataclass(slots=True, kw_only=True)
class _Visit:
    sequence: int
    """Of the last event about it."""
    facts: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class _Session:
    sequence: int
    facts: dict[str, Any]
    visits: dict[str, _Visit] = field(default_factory=dict)
    is_whole: bool = True


class RoomCheck:
    """Gets the events of a room in order, and compares each session once no more events about it can follow."""

    def __init__(
        self,
        connection: Connection,
        room_key: int,
        *,
        is_erased: Callable[[int], bool],
        erased_visits: Collection[str],
        report: Callable[[int | None, str], object],
        report_changed: Callable[[int | None, str], object],
    ) -> None:
        self._connection = connection
        self._room_key = room_key
        self._is_erased = is_erased
        self._erased_visits = erased_visits
        self._report = report
        self._report_changed = report_changed
        self._pending: dict[str, _Session] = {}
        self._closed: list[str] = []
        self._compared: set[int] = set()
        self._sequence = 0
        self._has_lost = False

    def event(self, sequence: int, body: dict[str, Any]) -> None:
        """Apply an event; its body was verified.

        Raises:
            KeyError: the body lacks a key of its type.
            TypeError: a value in it has a wrong type.
        """
        self._sequence = sequence
        data = body["data"]
        session_id = str(data.get("session_id"))
        session = self._pending.get(session_id)
        match body["type"]:
            case EventType.ROOM_OCCUPIED:
                facts = {"started_at": data["started_at"], **dict.fromkeys(ENDED[:2])}
                self._pending[session_id] = _Session(sequence=sequence, facts=facts)
            case EventType.PEER_JOINED if session is not None:
                facts = {name: data[name] for name in JOINED} | dict.fromkeys(("left_at", "left_at_source"))
                session.visits[data["visit_id"]] = _Visit(sequence=sequence, facts=facts)
            case EventType.PEER_UPDATED if session is not None and data["visit_id"] in session.visits:
                session.visits[data["visit_id"]].facts["display_name"] = data["display_name"]
            case EventType.PEER_LEFT if session is not None and data["visit_id"] in session.visits:
                left = session.visits[data["visit_id"]]
                left.sequence = sequence
                left.facts |= {name: data[name] for name in (*JOINED, *LEFT)}
            case EventType.ROOM_EMPTY if session is not None:
                session.facts |= {name: data[name] for name in ENDED}
                self._close(session_id)
            case EventType.SESSION_RECONCILED if session is not None:
                self._reconcile(session, sequence, data)
                self._close(session_id)

    def lose(self) -> None:
        """Note an event that cannot be used, which is reported elsewhere: whatever depends on it is not compared."""
        self._has_lost = True
        for session in self._pending.values():
            session.is_whole = False

    def end(self) -> None:
        """Compare the remaining sessions, and report stored ones without an event."""
        self._compare(list(self._pending), is_last=True)
        if self._has_lost:
            return
        query = select(sessions.c.id, sessions.c.public_id).where(sessions.c.room_key == self._room_key)
        for row in self._connection.execution_options(yield_per=1_000).execute(query.order_by(sessions.c.id)):
            if row.id not in self._compared:
                self._report(None, f"no event of the log began the session {row.public_id}")

    def _close(self, session_id: str) -> None:
        self._closed.append(session_id)
        if len(self._closed) >= SESSIONS_AT_ONCE:
            self._compare(self._closed)
            self._closed = []

    def _reconcile(self, session: _Session, sequence: int, data: dict[str, Any]) -> None:
        session.facts |= {"started_at": data["started_at"], "ended_at": data["ended_at"]}
        for each in data["visits"]:
            visit = session.visits.setdefault(each["visit_id"], _Visit(sequence=sequence, facts={}))
            visit.facts |= {name: each[name] for name in ("peer_id", "person_key", "display_name")}
            visit.facts |= {name: each[name] for name in ("joined_at", "left_at", "left_at_source")}
            if each["left_at_source"] == RECONCILED or each["change"] != "none":
                visit.facts["joined_at_source"] = "upstream"
            visit.sequence = sequence

    def _compare(self, session_ids: Sequence[str], *, is_last: bool = False) -> None:
        """Compare these sessions; those with a later session.reconciled wait for it, unless the log has ended."""
        found = {row.public_id: row for row in self._sessions(session_ids)}
        ready = []
        for session_id in dict.fromkeys(session_ids):
            expected, row = self._pending.get(session_id), found.get(session_id)
            if expected is None:
                continue
            if row is None:
                self._report(expected.sequence, f"the session {session_id} is not stored")
                del self._pending[session_id]
                continue
            later = row.reconciled_sequence
            if is_last or type(later) is not int or later <= self._sequence:
                ready.append((session_id, expected, row))
        rows = self._visits([row.id for _, _, row in ready])
        for session_id, expected, row in ready:
            if expected.is_whole:
                self._compare_session(expected, row, rows.get(row.id, []))
            self._compared.add(row.id)
            del self._pending[session_id]

    def _compare_session(self, expected: _Session, row: Row[Any], stored: Sequence[Row[Any]]) -> None:
        later = row.reconciled_sequence
        has_lost_record = type(later) is int and self._is_erased(later)
        if not has_lost_record:
            self._compare_facts(expected.sequence, f"session {row.public_id}", expected.facts, row)
        for visit in stored:
            if visit.public_id in self._erased_visits:
                continue
            wanted = expected.visits.pop(visit.public_id, None)
            if visit.room_key != self._room_key:
                self._report(expected.sequence, f"visit {visit.public_id}: it is in another room than its session")
            if has_lost_record:
                continue
            if wanted is None:
                self._report(expected.sequence, f"no event of the log began the visit {visit.public_id}")
            else:
                self._compare_facts(wanted.sequence, f"visit {visit.public_id}", wanted.facts, visit)
        stored_ids = {visit.public_id for visit in stored}
        for visit_id, wanted in expected.visits.items():
            if visit_id not in stored_ids and visit_id not in self._erased_visits:
                self._report(wanted.sequence, f"the visit {visit_id} is not stored with its session")

    def _compare_facts(self, sequence: int, what: str, facts: dict[str, Any], row: Row[Any]) -> None:
        stored = {name: _shown(name, getattr(row, name)) for name in facts}
        wrong = [name for name, value in stored.items() if value is _WRONG]
        if wrong:
            self._report_changed(sequence, f"{what}: {', '.join(wrong)} has a value of a wrong type")
        different = [name for name, value in facts.items() if stored[name] != value and name not in wrong]
        if different:
            self._report(sequence, f"{what}: {', '.join(different)} does not match the log")

    def _sessions(self, session_ids: Sequence[str]) -> list[Row[Any]]:
        found: list[Any] = []
        for start in range(0, len(session_ids), 1_000):
            ids = session_ids[start : start + 1_000]
            query = select(*_as_they_are(sessions.columns)).where(sessions.c.public_id.in_(ids))
            found += self._connection.execute(query.where(sessions.c.room_key == self._room_key))
        return found

    def _visits(self, session_keys: Sequence[int]) -> dict[int, list[Any]]:
        found: dict[int, list[Any]] = {}
        for start in range(0, len(session_keys), 1_000):
            keys = session_keys[start : start + 1_000]
            query = select(*_as_they_are(visits.columns)).where(visits.c.session_key.in_(keys))
            for row in self._connection.execute(query.order_by(visits.c.id)):
                found.setdefault(row.session_key, []).append(row)
        return found


def _as_they_are(columns: Any) -> list[ColumnElement[Any]]:  # noqa: ANN401 - of a table
    """The values of the driver, without SQLAlchemy's conversion."""

    def as_is(column: Column[Any]) -> ColumnElement[Any]:
        return type_coerce(column, NullType()).label(column.name)

    return [as_is(column) for column in columns if column.name != "metadata"]


def _shown(name: str, value: object) -> object:
    """A value as events have it: a time as they print it, any other unchanged; `_WRONG` if it has another type."""
    if value is None:
        return None
    if name not in _TIMES:
        return value if type(value) is (int if name in _COUNTS else str) else _WRONG
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
        return rfc3339(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        return _WRONG
