"""Verification: every chain against its events, visits and sessions against the log, the log against receipts.

It streams: memory holds the visits of a few sessions. Columns are read as they are, without conversion, because a value
of a wrong type is a finding and not an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Row, bindparam, func, select, type_coerce
from sqlalchemy.types import NullType

from bridge.attendance.visit_check import RoomCheck
from bridge.db.tables import anchors, cursors, events, rooms
from bridge.events.types import EventType
from bridge.rules.chain import GENESIS, ChainHead, commit, link

ROWS_AT_ONCE = 1_000
Position = tuple[str | None, str | None, int]


class ProblemKind(StrEnum):
    """Kinds of problems."""

    CHANGED = "changed"
    MISSING = "missing"
    REORDERED = "reordered"
    TRUNCATED = "truncated"
    VISIT_MISMATCH = "visit_mismatch"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditProblem:
    """A problem and its position; `sequence` is None where no event is concerned."""

    source: str | None
    room_id: str | None
    sequence: int | None
    problem: str
    detail: str


@dataclass(slots=True, kw_only=True)
class Verification:
    """Result; `pruned` events lie before retention anchors, `erased` ones have lost their bodies."""

    rooms: int = 0
    events: int = 0
    pruned: int = 0
    erased: int = 0
    problems: list[AuditProblem] = field(default_factory=list)

    @property
    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "ok": not self.problems,
            "rooms": self.rooms,
            "events": self.events,
            "pruned": self.pruned,
            "erased": self.erased,
            "problems": [
                {name: getattr(one, name) for name in ("source", "room_id", "sequence", "problem", "detail")}
                for one in self.problems
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasures:
    """The visits and events that `person.erased` events name."""

    events: frozenset[Position] = frozenset()
    visits: frozenset[str] = frozenset()


def verify_log(
    connection: Connection,
    receipts: Iterable[ChainHead] = (),
    on_events: Callable[[int], object] = lambda _: None,
) -> Verification:
    """Verify everything; `on_events` gets the number of events done."""
    result = Verification()
    erasures = _read_erasures(connection)
    for room in connection.execute(_ROOMS).all():
        result.rooms += 1
        _RoomVerification(connection, room, erasures, result, on_events).run()
    for receipt in receipts:
        _check_receipt(connection, receipt, result)
    return result


def count_events(connection: Connection) -> int:
    """Return how many events the log has, for a progress bar."""
    return int(connection.execute(select(func.count()).select_from(events)).scalar_one())


class _RoomVerification:
    """One room's chain, and what follows from its events."""

    def __init__(
        self,
        connection: Connection,
        room: Any,  # noqa: ANN401 - a row of _ROOMS
        erasures: Erasures,
        result: Verification,
        on_events: Callable[[int], object],
    ) -> None:
        self._connection = connection
        self._room = room
        self._erasures = erasures
        self._result = result
        self._on_events = on_events
        self._last = 0
        self._previous: bytes | None = GENESIS
        self._is_misnamed = False
        self._check = RoomCheck(
            connection,
            room.id,
            is_erased=lambda sequence: (room.source, room.upstream_id, sequence) in erasures.events,
            erased_visits=erasures.visits,
            report=lambda sequence, detail: self._report(sequence, ProblemKind.VISIT_MISMATCH, detail),
            report_changed=lambda sequence, detail: self._report(sequence, ProblemKind.CHANGED, detail),
        )

    def run(self) -> None:
        anchor = self._connection.execute(select(*_raw(anchors)).where(anchors.c.room_key == self._room.id)).first()
        if anchor is not None:
            if type(anchor.sequence) is int and _is_hash(anchor.hash):
                self._last, self._previous = anchor.sequence, bytes(anchor.hash)
                self._result.pruned += anchor.sequence
            else:
                self._report(None, ProblemKind.CHANGED, "the retention anchor has a value of a wrong type")
        for row in self._events():
            self._event(row)
        self._end()
        self._check.end()

    def _events(self) -> Iterator[Row[Any]]:
        query = select(*_raw(events)).where(events.c.room_key == self._room.id).order_by(events.c.sequence)
        for some in self._connection.execution_options(yield_per=ROWS_AT_ONCE).execute(query).partitions():
            yield from some
            self._on_events(len(some))

    def _event(self, row: Row[Any]) -> None:
        self._result.events += 1
        expected = self._last + 1
        if type(row.sequence) is not int or row.sequence < expected:
            self._report(expected, ProblemKind.CHANGED, f"event {row.public_id} has the sequence {row.sequence!r}")
            self._check.lose()
            return
        if row.sequence > expected:
            self._report(expected, ProblemKind.MISSING, f"{row.sequence - expected} missing before {row.sequence}")
            self._previous = None
            self._check.lose()
        self._last = row.sequence
        known = len(self._result.problems)
        body = self._verified_body(row)
        self._previous = bytes(row.hash) if _is_hash(row.hash) else None
        if body is not None:
            self._check_visits(row.sequence, body)
        elif len(self._result.problems) > known:
            self._check.lose()

    def _check_visits(self, sequence: int, body: dict[str, Any]) -> None:
        names = body["data"].get("source"), body["data"].get("room_id")
        if names != (self._room.source, self._room.upstream_id) and not self._is_misnamed:
            self._is_misnamed = True
            self._report(sequence, ProblemKind.CHANGED, f"the body is that of room {names[1]!r} of source {names[0]!r}")
        try:
            self._check.event(sequence, body)
        except (KeyError, TypeError):
            self._report(sequence, ProblemKind.CHANGED, "the body lacks what events of its type have")
            self._check.lose()

    def _verified_body(self, row: Row[Any]) -> dict[str, Any] | None:
        """Check one event; returns its parsed body, if it has a valid one."""
        if not (_is_hash(row.commitment) and _is_hash(row.hash)):
            self._report(row.sequence, ProblemKind.CHANGED, "commitment or hash is not one")
            return None
        follows = self._previous is None or link(self._previous, row.sequence, bytes(row.commitment)) == bytes(row.hash)
        if row.body is None:
            position = (self._room.source, self._room.upstream_id, row.sequence)
            if position in self._erasures.events:
                self._result.erased += 1
            else:
                self._report(row.sequence, ProblemKind.MISSING, "the body is gone, and no person.erased explains it")
            if not follows:
                self._report(row.sequence, ProblemKind.CHANGED, "the hash does not follow from the one before")
            return None
        if not (_is_bytes(row.body) and _is_bytes(row.salt)):
            self._report(row.sequence, ProblemKind.CHANGED, "body or salt is not binary")
            return None
        body = _parse(bytes(row.body))
        if body is not None and body["data"]["sequence"] != row.sequence:
            detail = f"the body is that of event {body['data']['sequence']}"
            self._report(row.sequence, ProblemKind.REORDERED, detail)
            return None
        if body is None or commit(bytes(row.salt), bytes(row.body)) != bytes(row.commitment):
            self._report(row.sequence, ProblemKind.CHANGED, "the body is not the one that was committed to")
            return None
        if (body["id"], body["type"]) != (row.public_id, row.type):
            self._report(row.sequence, ProblemKind.CHANGED, "id or type of the row is not that of the body")
        if not follows:
            self._report(row.sequence, ProblemKind.CHANGED, "the hash does not follow from the one before")
        return body

    def _end(self) -> None:
        last_sequence, head = self._room.last_sequence, self._room.chain_head
        if type(last_sequence) is not int or not _is_hash(head):
            self._report(None, ProblemKind.CHANGED, "last_sequence or chain_head of the room has a wrong type")
            return
        reached = self._connection.execute(_CURSOR_HEAD, {"room": self._room.id}).scalar() or 0
        if last_sequence > self._last:
            detail = f"the log ends at {self._last}, its head is {last_sequence}"
            self._report(self._last + 1, ProblemKind.TRUNCATED, detail)
        elif last_sequence < self._last:
            self._report(self._last, ProblemKind.CHANGED, f"the head of the log is set back to {last_sequence}")
        elif self._previous is not None and self._previous != bytes(head):
            self._report(self._last or None, ProblemKind.CHANGED, "chain_head is not the hash of the last event")
        if type(reached) is int and reached > max(last_sequence, self._last):
            detail = f"the log ends at {self._last}, but a cursor has reached {reached}"
            self._report(self._last + 1, ProblemKind.TRUNCATED, detail)

    def _report(self, sequence: int | None, kind: ProblemKind, detail: str) -> None:
        self._result.problems.append(
            AuditProblem(
                source=self._room.source,
                room_id=self._room.upstream_id,
                sequence=sequence,
                problem=kind.value,
                detail=detail,
            )
        )


def _check_receipt(connection: Connection, receipt: ChainHead, result: Verification) -> None:
    """Look up one event of a receipt: its hash must be in the log, unless retention has deleted it."""

    def report(kind: ProblemKind, detail: str) -> None:
        result.problems.append(
            AuditProblem(
                source=receipt.source,
                room_id=receipt.room_id,
                sequence=receipt.sequence,
                problem=kind.value,
                detail=detail,
            )
        )

    of_room = (
        rooms.c.source.is_not_distinct_from(receipt.source),
        rooms.c.upstream_id.is_not_distinct_from(receipt.room_id),
    )
    query = select(rooms.c.id, _as_is(anchors.c.sequence, "anchor"), _as_is(anchors.c.hash))
    room = connection.execute(query.outerjoin(anchors, anchors.c.room_key == rooms.c.id).where(*of_room)).first()
    if room is None:
        report(ProblemKind.TRUNCATED, "the room is not in the database")
        return
    anchor = room.anchor if type(room.anchor) is int else 0
    if receipt.sequence <= anchor:
        if receipt.sequence == anchor and not (_is_hash(room.hash) and bytes(room.hash) == receipt.hash):
            report(ProblemKind.CHANGED, "the retention anchor has another hash than the receipt")
        return
    wanted = (events.c.room_key == room.id, events.c.sequence == receipt.sequence)
    found = connection.execute(select(_as_is(events.c.hash)).where(*wanted)).first()
    if found is not None:
        if not _is_bytes(found.hash) or bytes(found.hash) != receipt.hash:
            report(ProblemKind.CHANGED, "the log has another hash than the receipt")
        return
    newest = connection.execute(select(func.max(events.c.sequence)).where(events.c.room_key == room.id)).scalar() or 0
    if type(newest) is int and receipt.sequence > newest:
        report(ProblemKind.TRUNCATED, f"the log ends at {newest or anchor}")
    else:
        report(ProblemKind.MISSING, "the event is not in the log")


def _read_erasures(connection: Connection) -> Erasures:
    positions: set[Position] = set()
    visits: set[str] = set()
    own_log = select(_as_is(events.c.body)).join(rooms, rooms.c.id == events.c.room_key)
    query = own_log.where(rooms.c.source.is_(None), events.c.type == EventType.PERSON_ERASED.value)
    for row in connection.execution_options(yield_per=ROWS_AT_ONCE).execute(query):
        body = _parse(bytes(row.body)) if _is_bytes(row.body) else None
        if body is not None:
            with suppress(KeyError, TypeError):  # a body without these lists explains nothing
                visits.update(body["data"]["visit_ids"])
                positions.update((one["source"], one["room_id"], one["sequence"]) for one in body["data"]["events"])
    return Erasures(events=frozenset(positions), visits=frozenset(visits))


def _parse(body: bytes) -> dict[str, Any] | None:
    """The body, if it has the parts that every one has."""
    try:
        found = json.loads(body)
        is_whole = isinstance(found["id"], str) and isinstance(found["type"], str)
        return found if is_whole and type(found["data"]["sequence"]) is int else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _is_bytes(value: object) -> bool:
    return isinstance(value, bytes | memoryview)


def _is_hash(value: object) -> bool:
    return isinstance(value, bytes | memoryview) and len(value) == len(GENESIS)


def _as_is(column: Column[Any], name: str | None = None) -> ColumnElement[Any]:
    """The value of the driver, without SQLAlchemy's conversion."""
    return type_coerce(column, NullType()).label(name or column.name)


def _raw(table: Any) -> Any:  # noqa: ANN401 - columns of a table
    return [_as_is(column) for column in table.columns]


_ROOMS = select(
    *(rooms.c.id, rooms.c.source, rooms.c.upstream_id),
    *(_as_is(rooms.c.last_sequence), _as_is(rooms.c.chain_head)),
).order_by(rooms.c.id)
_CURSOR_HEAD = select(func.max(cursors.c.head)).where(cursors.c.room_key == bindparam("room"))
