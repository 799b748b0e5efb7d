"""T2: records polls. One transaction for many rooms: load → plan → write.

Load locks the rooms, in the order of their keys, and reads what the plan needs; the plan (`bridge.polling.plan`) is
pure; write executes it with one statement per kind of row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Row, Text, select, update

from bridge.db.arrays import ManyRows, Rows, Values, execute_together, one_of, types_of, update_many
from bridge.db.cursors import Offer, Raised
from bridge.db.event_log import append_events, number_system_events
from bridge.db.tables import rooms, sources
from bridge.db.visits import load_presence, rooms_with_suspects, session_key
from bridge.polling.claim import END_PROBE
from bridge.polling.plan import (
    LoadedPolls,
    Poll,
    PollingSettings,
    PollPlan,
    RecordedPoll,
    SeenRoom,
    StoredRoom,
    StoredSource,
    is_ours,
    may_change,
    plan_polls,
)
from bridge.polling.source_state import (
    HEALTH_COLUMNS,
    WELL_SOURCE,
    load_sources,
    poll_failed_rooms_now,
    source_health,
    write_source_health,
)
from bridge.rules.pokes import Expected
from bridge.rules.polling import SourceHealth
from bridge.rules.presence import Failure, Snapshot


def record_polls(
    connection: Connection,
    polls: Sequence[Poll],
    *,
    settings: PollingSettings,
    new_id: Callable[[str], str],
    offer: Offer | None = None,
) -> list[RecordedPoll]:
    """Record polls; returns one `RecordedPoll` per poll, in order.

    Args:
        connection: of a writing transaction.
        polls: one per room.
        settings: of polling.
        new_id: makes a public id with a prefix.
        offer: of this process's sender, to take over what the polls bring.
    """
    plan = plan_polls(polls, _load(connection, polls), settings, new_id)
    raised = _write(connection, plan, polls, new_id, offer)
    for poll, recorded in zip(polls, plan.recorded, strict=True):
        if recorded.event_count:
            recorded.taken = raised.taken.get(poll.room.key, ())
            recorded.wakes_senders = poll.room.key in raised.to_claim
    return plan.recorded


def _load(connection: Connection, polls: Sequence[Poll]) -> LoadedPolls:
    keys = sorted({poll.room.key for poll in polls})
    rows = connection.execute(_LOCK_ROOMS, {"keys": keys}).all()
    stored = {row.id: _stored_room(row) for row in rows}
    ours = [poll for poll in polls if is_ours(poll, stored)]
    changing = [poll for poll in ours if may_change(poll, stored[poll.room.key])]
    snapshots = [poll.result for poll in changing if isinstance(poll.result, Snapshot)]
    seen = {peer.peer_id for snapshot in snapshots for peer in snapshot.peers}
    failing = [poll for poll in ours if isinstance(poll.result, Failure)]
    return LoadedPolls(
        rooms=stored,
        sources=_load_sources(connection, rows, ours, failing),
        presence=load_presence(connection, [stored[poll.room.key] for poll in changing], seen),
        with_suspects=rooms_with_suspects(connection, [poll.room.key for poll in failing]),
    )


def _load_sources(
    connection: Connection, rows: Sequence[Row[Any]], polls: Sequence[Poll], failing: Sequence[Poll]
) -> dict[str, StoredSource]:
    """The sources of the polls; their rows are locked only if these polls may change them."""
    names = {poll.room.source for poll in polls}
    well = {row.source for row in rows if row.condition is not None and source_health(row) == SourceHealth()}
    failing_names = {poll.room.source for poll in failing}
    locked = load_sources(connection, (names - well) | failing_names, failing=failing_names)
    return {name: locked.get(name, WELL_SOURCE) for name in names}


def _write(
    connection: Connection,
    plan: PollPlan,
    polls: Sequence[Poll],
    new_id: Callable[[str], str],
    offer: Offer | None,
) -> Raised:
    rooms_after: list[tuple[ManyRows, Rows]] = [  # a room is in one of them
        (_WRITE_QUIET, [room._asdict() for room in plan.quiet]),
        (_WRITE_SEEN, [_seen_values(room) for room in plan.seen]),
        (_WRITE_FAILED, [room._asdict() for room in plan.failed]),
        (_RELEASE, [{"key": key} for key in plan.skipped]),
    ]
    plan.presence.write(connection, rooms_after)
    execute_together(connection, [(_END_EXPECTATION, [{"key": key} for key in plan.answered])])
    probes = [{"key": poll.room.source, "token": poll.room.token} for poll in polls if poll.room.is_probe]
    if probes:
        connection.execute(END_PROBE, probes)
    write_source_health(connection, plan.sources)
    at = max(poll.at for poll in polls)
    poll_failed_rooms_now(connection, plan.recovered, at)
    notices = number_system_events(connection, plan.notices, at, new_id)
    return append_events(connection, [*notices, *plan.events], offer)


def _stored_room(row: Row[Any]) -> StoredRoom:
    return StoredRoom(
        id=row.id,
        source=row.source,
        upstream_id=row.upstream_id,
        name=row.name,
        interval=None if row.interval_seconds is None else timedelta(seconds=row.interval_seconds),
        leave_after_missed=row.leave_after_missed,
        claim_token=row.claim_token,
        tracked_since=row.tracked_since,
        complete_at=row.complete_at,
        fingerprint=row.fingerprint,
        failures=row.failures,
        session_key=row.session_key,
        last_sequence=row.last_sequence,
        chain_head=row.chain_head,
        next_poll_at=row.next_poll_at,
        listed=row.listed,
        expected=None if row.expected is None else Expected.parse(row.expected),
    )


def _seen_values(room: SeenRoom) -> dict[str, Any]:
    return {
        "key": room.log.room_key,
        "polled_at": room.polled_at,
        "next_poll_at": room.next_poll_at,
        "complete_at": room.complete_at,
        "fingerprint": room.fingerprint,
        "session_id": room.session_id,
        "last_sequence": room.log.last_sequence,
        "chain_head": room.log.chain_head,
    }


_LOCK_ROOMS = (
    select(rooms, *HEALTH_COLUMNS)
    .outerjoin(sources, sources.c.name == rooms.c.source)
    .where(one_of(rooms.c.id, "keys"))
    .order_by(rooms.c.id)
    .with_for_update(of=rooms)
)
_OF_ROOM = {"key": rooms.c.id.type}
_SUCCEEDED = {"claim_token": None, "failures": 0, "last_failure": None}
_FAILED = ("next_poll_at", "polled_at", "failures", "last_failure")
_QUIET = ("next_poll_at", "polled_at")
_SEEN = (*_QUIET, "complete_at", "fingerprint", "last_sequence", "chain_head")


def _update_room(new: Values, names: Sequence[str], **others: Any) -> Any:  # noqa: ANN401 - an UPDATE
    return update(rooms).where(rooms.c.id == new["key"]).values({name: new[name] for name in names} | others)


_RELEASE = update_many(lambda new: _update_room(new, (), claim_token=None), _OF_ROOM)
_END_EXPECTATION = update_many(lambda new: _update_room(new, (), expected=None), _OF_ROOM)
_WRITE_FAILED = update_many(
    lambda new: _update_room(new, _FAILED, claim_token=None), types_of(rooms, *_FAILED, **_OF_ROOM)
)
_WRITE_QUIET = update_many(
    lambda new: _update_room(new, _QUIET, complete_at=new["polled_at"], **_SUCCEEDED),
    types_of(rooms, *_QUIET, **_OF_ROOM),
)
_WRITE_SEEN = update_many(
    lambda new: _update_room(new, _SEEN, session_key=session_key(new["session_id"]), **_SUCCEEDED),
    types_of(rooms, *_SEEN, session_id=Text(), **_OF_ROOM),
)
