"""The cost of frequent statements and listings depends on the rows that are due or shown, not on all stored ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from bridge.admin.attempts import AttemptFilter, list_attempts, list_dead_letters
from bridge.admin.deliveries import show_deliveries
from bridge.admin.due import find_due_work
from bridge.admin.event_stream import StreamFilter, key_of, keys_above, look_at_log, read_step
from bridge.admin.events import EventFilter, list_events, new_events
from bridge.admin.health import read_overdue
from bridge.admin.listing import Listing, Page
from bridge.admin.presence import list_peers, list_presence
from bridge.admin.rooms import RoomState, failing_sources, list_rooms, show_room
from bridge.admin.sessions import list_sessions, show_session
from bridge.admin.tokens import find_token, has_tokens
from bridge.db.engine import Database, allow_long_transaction
from bridge.db.final_keys import FinalKeys
from bridge.db.liveness import read_claims
from bridge.delivery.claim import claim_cursors, claim_redeliveries
from bridge.delivery.targets import TargetCache
from bridge.polling.discovery import claim_list, configure_discovery, record_list
from bridge.polling.source_state import poll_failed_rooms_now
from bridge.rules.live_rooms import LiveRooms
from bridge.rules.presence import FailureKind
from tests.harness.builders import at, peer, seen
from tests.harness.store_driver import StoreDriver, failed

MANY = 20_000
BIG = ("rooms", "sessions", "visits", "events", "cursors", "attempts", "dead_letters")
FULL_SCAN = re.compile(
    rf"(?:Seq Scan on|SCAN) (?:{'|'.join(BIG)})\b(?! USING (?:COVERING )?INDEX \w+_(?:claimed|open))"
)
"""Both databases' terms for reading a whole table, or (SQLite) a whole index of more than claims or open visits."""
SORT = re.compile(r"Sort Key|TEMP B-TREE")

FILL = (
    """INSERT INTO rooms (source, upstream_id, origin, enabled, tracked, added_at, tracked_since, next_poll_at,
           complete_at, last_sequence, chain_head)
       SELECT source, 'room-' || i, 'config', enabled, tracked, added_at, tracked_since, :later, :now, 1, chain_head
       FROM rooms, n WHERE upstream_id = 'model'""",
    """INSERT INTO sessions (public_id, room_key, started_at, ended_at, visit_count, unique_peers, peak_peer_count)
       SELECT 'ses_' || id, id, :now, :now, 1, 1, 1 FROM rooms WHERE upstream_id LIKE 'room-%'""",
    """INSERT INTO visits (public_id, room_key, session_key, peer_id, person_key, display_name, joined_at,
           joined_at_source, last_seen_at, metadata, initial, left_at, left_at_source, leave_reason)
       SELECT 'vis_' || id, room_key, id, 'peer', 'person-' || id % 1000, 'peer', :now, 'upstream',
              :now, '{}', false, :now, 'observed', 'absent'
       FROM sessions WHERE public_id LIKE 'ses\\_%' ESCAPE '\\' AND ended_at IS NOT NULL""",
    """INSERT INTO events (public_id, room_key, sequence, type, recorded_at, body, salt, commitment, hash, visit_id)
       SELECT 'evt_' || rooms.id, rooms.id, 1, type, TIME(rooms.id), body, salt, commitment, hash, 'vis_' || rooms.id
       FROM rooms, (SELECT * FROM events ORDER BY id LIMIT 1) AS model WHERE upstream_id LIKE 'room-%'""",
    """INSERT INTO cursors (endpoint_key, room_key, acked, head, next_attempt_at)
       SELECT endpoints.id, rooms.id, 1, 1, :now FROM rooms, endpoints WHERE upstream_id LIKE 'room-%'""",
    """INSERT INTO attempts (endpoint_key, event_key, kind, started_at, duration_seconds, outcome, detail, response)
       SELECT endpoints.id, events.id, 'live', TIME(events.id), 0.1, 'delivered', '', '' FROM events, endpoints""",
    """INSERT INTO dead_letters (endpoint_key, event_key, parked_at, reason, tries)
       SELECT endpoints.id, events.id, :now, 'rejected', 1 FROM events, endpoints WHERE events.id % 10 = 0""",
)


def fill(connection: Connection) -> None:
    """Add many rooms with a past session, an event that is delivered, and nothing that is due."""
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY})"  # noqa: S608 - a constant
    times, shifted = {"now": at(0), "later": at(100_000)}, r"CAST(:now AS timestamptz) + \1 * INTERVAL '1 s'"
    if connection.dialect.name == "sqlite":
        shifted = r"strftime('%Y-%m-%d %H:%M:%S.000000', :now, \1 || ' seconds')"
        times = {name: f"{time:%Y-%m-%d %H:%M:%S.%f}" for name, time in times.items()}  # type: ignore[misc]
    for statement in FILL:
        head, _, rest = statement.partition("SELECT")
        rest = re.sub(r"TIME\((.+?)\)", shifted, rest)
        given = {name: time for name, time in times.items() if f":{name}" in rest}
        connection.execute(text(f"{head}{numbers if ' n ' in rest else ''} SELECT{rest}"), given)


def fill_one_room(connection: Connection, count: int) -> None:
    """Add many events to the log of one room, a second apart."""
    allow_long_transaction(connection)
    shifted = "CAST(:now AS timestamptz) + i * INTERVAL '1 s'"
    now: object = at(0)
    if connection.dialect.name == "sqlite":
        shifted, now = "strftime('%Y-%m-%d %H:%M:%S.000000', :now, i || ' seconds')", f"{at(0):%Y-%m-%d %H:%M:%S.%f}"
    statement = f"""INSERT INTO events (public_id, room_key, sequence, type, recorded_at, body, salt, commitment, hash)
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
        SELECT 'evt_of_one_' || i, rooms.id, i + 1, type, {shifted}, body, salt, commitment, hash
        FROM n, rooms, (SELECT * FROM events ORDER BY id LIMIT 1) AS model WHERE upstream_id = 'room-7'"""  # noqa: S608 - constants
    connection.execute(text(statement), {"now": now})


def is_expensive(statement: str, plan: str) -> bool:
    """Whether a whole table is read; to read it until there are as many rows as the LIMIT says is cheap."""
    stops_early = "LIMIT" in statement and not SORT.search(plan)
    return FULL_SCAN.search(plan) is not None and not stops_early


def explain(connection: Connection, statement: str, values: Any) -> list[str]:  # noqa: ANN401 - the driver's
    """The plan for these values; on PostgreSQL also that of the statement prepared for any, if it may be used instead.

    PostgreSQL decides after five executions, and takes it if it is not more expensive: planning counts as some 10.
    """
    cursor: Any = connection.connection.cursor()
    if connection.dialect.name == "sqlite":
        cursor.execute(f"EXPLAIN QUERY PLAN {statement}", values)
        return ["\n".join(row[-1] for row in cursor.fetchall())]
    numbers = {name: f"${number}" for number, name in enumerate(values or (), start=1)}
    prepared = re.sub(r"%\((\w+)\)s", lambda match: numbers[match[1]], statement).replace("%%", "%")
    found = []
    for explained in ((f"EXPLAIN {statement}", values), (f"EXPLAIN (GENERIC_PLAN) {prepared}",)):
        cursor.execute(*explained, prepare=False)
        found.append("\n".join(row[-1] for row in cursor.fetchall()))
    ours, generic = (float(re.findall(r"cost=[\d.]+\.\.([\d.]+)", plan)[0]) for plan in found)
    return found if generic <= ours + 10 else found[:1]


@contextmanager
def plans(database: Database) -> Iterator[list[tuple[str, str]]]:
    """The statements that are executed within the block, with their plans."""
    found: list[tuple[str, str]] = []

    def note(connection: Connection, _cursor: object, statement: str, parameters: Any, *_: Any) -> None:  # noqa: ANN401 - SQLAlchemy's signature
        if statement.startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
            values = parameters[0] if isinstance(parameters, list) else parameters
            found.extend((statement, plan) for plan in explain(connection, statement, values))

    engines = (database._reading, database._writing)
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", note)


def two_pages(read: Callable[..., Listing[Any]], connection: Connection, **wanted: Any) -> None:  # noqa: ANN401 - of that listing
    """Read two pages of a listing, and count the rest."""
    first = read(connection, page=Page(limit=5), **wanted)
    read(connection, page=Page(limit=5, after=first.next, count=True), **wanted)


def ask_for_live_rooms(store: StoreDriver) -> None:
    """Two lists of a source that discovers."""
    every, new_id = timedelta(seconds=10), store.new_id
    store.write(configure_discovery, {"main"}, at(20))
    for seconds, names in ((20, ["room-7", "due", "new"]), (30, ["due"])):
        now, live = at(seconds), LiveRooms(peer_counts=dict.fromkeys(names))
        claimed = store.write(claim_list, "main", requests_per_second=0, every=every, now=now, token=store.token())
        assert claimed is not None
        store.write(record_list, claimed, live, globs=["*"], every=every, now=now, jitter=0.5, new_id=new_id)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("more_events", [0, pytest.param(1_000_000, marks=pytest.mark.campaign)])
def test_nothing_reads_a_whole_table(store: StoreDriver, more_events: int) -> None:
    store.subscribe()
    store.track("model")
    store.poll(0, model=seen(peer("a")))
    store.deliver(0)
    store.write(fill)
    if more_events:
        store.write(fill_one_room, more_events)
    store.track("due", "failing")
    if store.database.dialect == "postgresql":
        store.write(lambda connection: connection.execute(text("ANALYZE")))
    (event_id,) = (
        one.id
        for one in store.database.read_now(
            list_events, EventFilter(room="model", types=("peer.*",)), Page(limit=1)
        ).items
    )
    session_id = store.database.read_now(list_sessions, Page(limit=1)).items[0].id
    newest = store.database.read_now(
        lambda connection: connection.execute(text("SELECT max(id) FROM events")).scalar_one()
    )
    room, crm = "model", "crm"

    def read(function: Callable[..., Any], *arguments: Any, **wanted: Any) -> Callable[[], object]:  # noqa: ANN401 - of the function
        return lambda: store.database.read_now(function, *arguments, **wanted)

    def listing(function: Callable[..., Listing[Any]], **wanted: Any) -> Callable[[], object]:  # noqa: ANN401 - of the listing
        return lambda: store.database.read_now(lambda connection: two_pages(function, connection, **wanted))

    def work() -> None:
        store.poll(0, due=seen(peer("a"), peer("b")))
        store.poll(20, due=seen(peer("a")), failing=failed(FailureKind.TIMEOUT))
        targets = TargetCache(store.cipher)
        store.write(claim_cursors, store.terms(20, targets=targets))
        store.lose_claims()
        store.deliver(20)
        offer = targets.offer(token="mine", now=at(40), slots=10)
        store.poll(40, offer, due=seen(peer("b"), peer("c")))
        store.write(claim_redeliveries, store.terms(20))
        store.owed(20)

    things: dict[str, Callable[[], object]] = {
        "polls and deliveries": work,
        "due work": read(find_due_work, at(20)),
        "live rooms": partial(ask_for_live_rooms, store),
        "claims": read(read_claims),
        "a source that recovers": lambda: store.write(poll_failed_rooms_now, ["main"], at(20)),
        "readiness": read(read_overdue, at(20)),
        "rooms": listing(list_rooms),
        "rooms of a source": listing(list_rooms, source="main"),
        "occupied rooms": listing(list_rooms, state=RoomState.OCCUPIED),
        "room": read(show_room, room),
        "peers": read(list_peers, room, None, Page(limit=5)),
        "presence": listing(list_presence),
        "sessions": listing(list_sessions),
        "sessions of a room": listing(list_sessions, room=room),
        "sessions of a time": listing(list_sessions, since=at(0), until=at(10)),
        "session": read(show_session, session_id),
        "token": read(find_token, b"digest"),
        "tokens": read(has_tokens),
        "sources": read(failing_sources),
        "events": listing(list_events, wanted=EventFilter()),
        "events of a room": listing(list_events, wanted=EventFilter(room=room)),
        "events of a time": listing(list_events, wanted=EventFilter(since=at(0), until=at(10))),
        "events since": listing(list_events, wanted=EventFilter(since=at(MANY // 2))),
        "events until": listing(list_events, wanted=EventFilter(until=at(MANY // 2), up_to=MANY)),
        "events of a person": listing(list_events, wanted=EventFilter(person="person-7")),
        "events of a person in a room": listing(list_events, wanted=EventFilter(person="person-7", room=room)),
        "events of a type": listing(list_events, wanted=EventFilter(types=("room.occupied",))),
        "events of a rare type": read(list_events, EventFilter(types=("room.snapshot",)), Page(limit=3)),
        "events of the bridge": read(list_events, EventFilter(types=("source.*", "audit.*")), Page(limit=3)),
        "events that were missed": listing(list_events, wanted=EventFilter(room=room, after_sequence=1)),
        "new events": read(new_events, EventFilter(), after=newest, last=newest + 10, limit=5),
        "end of the log": read(look_at_log, FinalKeys(), newest),
        "last event of a stream": read(key_of, event_id),
        "events of a stream": read(read_step, 0, MANY, StreamFilter()),
        "events of a room's stream": read(read_step, 0, MANY, StreamFilter(room=room)),
        "events after a key": read(keys_above, newest),
        "attempts": listing(list_attempts, wanted=AttemptFilter()),
        "attempts at an endpoint": listing(list_attempts, wanted=AttemptFilter(endpoint=crm)),
        "attempts for a room": listing(list_attempts, wanted=AttemptFilter(room=room)),
        "attempts of an event": listing(list_attempts, wanted=AttemptFilter(event=event_id)),
        "failed attempts": listing(list_attempts, wanted=AttemptFilter(failed=True)),
        "deliveries to an endpoint": listing(list_attempts, wanted=AttemptFilter(delivered=True, endpoint=crm)),
        "failed deliveries to an endpoint": listing(list_attempts, wanted=AttemptFilter(failed=True, endpoint=crm)),
        "attempts of a time": listing(list_attempts, wanted=AttemptFilter(since=at(0), until=at(10))),
        "dead letters": listing(list_dead_letters, wanted=AttemptFilter()),
        "dead letters of an event": listing(list_dead_letters, wanted=AttemptFilter(event=event_id)),
        "deliveries of an event": read(show_deliveries, event_id),
    }
    scans = []
    for name, do in things.items():
        with plans(store.database) as found:
            do()
        scans += [f"{name}: {statement}\n{plan}" for statement, plan in found if is_expensive(statement, plan)]
        if name == "events of a rare type":
            assert any("ix_events_type" in plan for _, plan in found), "a type that is not there ends at once"
        if name.startswith("events of a person"):
            assert any("ix_events_visit" in plan for _, plan in found), "the events of others are not read"
        if do is work:
            assert any("ix_cursors_owed" in plan for _, plan in found), "a claim reads what is owed, not what is stored"
    assert not scans, "\n\n".join(scans)
