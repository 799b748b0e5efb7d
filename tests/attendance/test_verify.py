"""Tampering is found, with its position, and an unchanged log passes: by SQL on the columns that auditors know."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, delete, select, text, update

from bridge.attendance.audit import append_checkpoint, has_grown, read_heads, read_receipts
from bridge.attendance.privacy import Person, erase_person
from bridge.attendance.retention import prune_room
from bridge.attendance.verify import verify_log
from bridge.db.tables import events, rooms, sessions, visits
from bridge.errors import UsageError
from bridge.rules.chain import GENESIS, ChainHead, commit, link
from tests.harness.builders import at, peer, seen
from tests.harness.store_driver import StoreDriver

Found = list[tuple[str, int | None]]


@pytest.fixture
def logged(store: StoreDriver) -> StoreDriver:
    """Room a: two sessions and one under way, 15 events; room b: one; a checkpoint in the bridge's own log."""
    store.track("a", "b")
    ann, bo = peer("p1", 5, {"email": "ann"}), peer("p2", None, {"email": "bo"})
    store.poll(0, a=seen(), b=seen())
    store.poll(10, a=seen(ann), b=seen(ann))
    store.poll(30, a=seen(peer("p1", 5, {"email": "ann", "name": "Ann"}), bo), b=seen())
    store.poll(60, a=seen(bo), b=seen())
    store.poll(80, a=seen(), b=seen())
    for moment in (100, 300):
        store.poll(moment, a=seen(peer("p3", moment - 3)), b=seen())
        store.poll(moment + 20, a=seen(), b=seen())
    store.poll(400, a=seen(ann), b=seen())
    store.write(append_checkpoint, at(410), store.new_id)
    return store


def problems(store: StoreDriver, *receipts: ChainHead) -> Found:
    result = store.database.read_now(verify_log, receipts)
    assert result.document["ok"] is (not result.problems)
    return [(one.problem, one.sequence) for one in result.problems]


def tamper(store: StoreDriver, change: Callable[[Connection, int], object]) -> Found:
    """Change room a as the owner of the database could, and verify."""
    key = store.room("a").id
    store.write(lambda connection: change(connection, key))
    return problems(store)


class RolledBackError(Exception):
    """Nothing is wrong; the transaction must not commit."""


def tampers(store: StoreDriver, changes: Sequence[Callable[[Connection, int], object]]) -> list[Found]:
    """As `tamper` for each of the changes alone, in a transaction that is rolled back."""
    key, found = store.room("a").id, []

    def verify_with(connection: Connection, change: Callable[[Connection, int], object]) -> None:
        change(connection, key)
        found.append([(one.problem, one.sequence) for one in verify_log(connection).problems])
        raise RolledBackError

    for change in changes:
        with pytest.raises(RolledBackError):
            store.write(verify_with, change)
    return found


def at_sequence(room_key: int, sequence: int) -> Any:  # noqa: ANN401 - a condition
    return (events.c.room_key == room_key) & (events.c.sequence == sequence)


def test_an_untouched_log_passes(logged: StoreDriver) -> None:
    result = logged.database.read_now(verify_log)
    assert (result.problems, result.rooms, result.pruned, result.erased) == ([], 3, 0, 0)
    assert result.events == len(logged.rows(events, "id"))


def test_a_changed_body_is_found(logged: StoreDriver) -> None:
    def change(sequence: int, connection: Connection, key: int) -> None:
        where = at_sequence(key, sequence)
        body = bytes(connection.execute(select(events.c.body).where(where)).scalar_one())
        connection.execute(update(events).where(where).values(body=body.replace(b'"peer_count":', b'"peer_count":1')))

    sequences = [1, 2, 6, 7]
    found = tampers(logged, [partial(change, sequence) for sequence in sequences])
    assert found == [[("changed", sequence)] for sequence in sequences]


EVENT_CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"salt": b"s" * 16}, "changed"),
    ({"commitment": b"c" * 32}, "changed"),
    ({"hash": b"h" * 32}, "changed"),
    ({"hash": b"short"}, "changed"),
    ({"type": "peer.left"}, "changed"),
    ({"public_id": "evt_x"}, "changed"),
    ({"body": None, "salt": None}, "missing"),
]


def test_a_changed_column_of_an_event_is_found(logged: StoreDriver) -> None:
    def change(values: dict[str, Any], connection: Connection, key: int) -> None:
        connection.execute(update(events).where(at_sequence(key, 4)).values(**values))

    every = tampers(logged, [partial(change, values) for values, _ in EVENT_CHANGES])
    for found, (values, problem) in zip(every, EVENT_CHANGES, strict=True):
        assert found[0] == (problem, 4), values
        assert {kind for kind, _ in found} == {problem}, values


VISIT_CHANGES: list[dict[str, Any]] = [
    {"joined_at": at(6)},
    {"left_at": at(59)},
    {"peer_id": "other"},
    {"person_key": "bo"},
    {"display_name": "Bo"},
    {"left_at_source": "reconciled"},
    {"last_seen_at": at(31)},
    {"leave_reason": "rejoined"},
]


def test_a_changed_column_of_a_visit_is_found(logged: StoreDriver) -> None:
    first = logged.rows(visits, "id")[0]

    def change(values: dict[str, Any], connection: Connection, _: int) -> None:
        connection.execute(update(visits).where(visits.c.id == first.id).values(**values))

    every = tampers(logged, [partial(change, values) for values in VISIT_CHANGES])
    for found, values in zip(every, VISIT_CHANGES, strict=True):
        assert [kind for kind, _ in found] == ["visit_mismatch"], values


def test_changed_sessions_and_visits_of_other_rooms_are_found(logged: StoreDriver) -> None:
    last = logged.rows(sessions, "id")[-1]
    logged.write(lambda connection: connection.execute(
        update(sessions).where(sessions.c.id == last.id).values(started_at=at(0))
    ))  # fmt: skip
    assert [kind for kind, _ in problems(logged)] == ["visit_mismatch"]
    moved = logged.room("b").id
    found = tamper(logged, lambda connection, key: connection.execute(
        update(visits).where(visits.c.room_key == key, visits.c.peer_id == "p2").values(room_key=moved)
    ))  # fmt: skip
    assert [kind for kind, _ in found] == ["visit_mismatch"] * 2


def test_a_deleted_row_is_missing(logged: StoreDriver) -> None:
    found = tamper(logged, lambda connection, key: connection.execute(delete(events).where(at_sequence(key, 3))))
    assert found == [("missing", 3)]


def test_a_deleted_visit_is_found(logged: StoreDriver) -> None:
    first = logged.rows(visits, "id")[0]
    found = tamper(logged, lambda connection, _: connection.execute(delete(visits).where(visits.c.id == first.id)))
    assert [kind for kind, _ in found] == ["visit_mismatch"]


def test_a_swapped_pair_is_reordered(logged: StoreDriver) -> None:
    def swap(connection: Connection, key: int) -> None:
        for before, after in ((3, 1003), (4, 3), (1003, 4)):
            connection.execute(update(events).where(at_sequence(key, before)).values(sequence=after))

    assert tamper(logged, swap)[:2] == [("reordered", 3), ("reordered", 4)]


def cut_tail(connection: Connection, key: int, count: int = 10) -> None:
    """Delete the newest events, set the heads back, and delete the rows that came from them."""
    last = connection.execute(select(rooms.c.last_sequence).where(rooms.c.id == key)).scalar_one() - count
    head = connection.execute(select(events.c.hash).where(at_sequence(key, last))).scalar_one()
    connection.execute(delete(events).where(events.c.room_key == key, events.c.sequence > last))
    connection.execute(update(rooms).where(rooms.c.id == key).values(last_sequence=last, chain_head=head))


def test_a_deleted_tail_is_truncated_for_those_who_have_seen_it(logged: StoreDriver) -> None:
    checkpoint = logged.database.read_now(read_heads, at(420))
    file = [json.dumps(checkpoint.document)]
    last = logged.room("a").last_sequence
    assert problems(logged, *read_receipts(file, "file")) == []
    assert tamper(logged, cut_tail) != []
    assert ("truncated", last) in problems(logged, *read_receipts(file, "file"))


def test_a_tail_that_a_cursor_has_passed_is_truncated(logged: StoreDriver) -> None:
    logged.subscribe("crm")
    logged.write(lambda connection: connection.execute(
        text("UPDATE cursors SET head = 99, acked = 99 WHERE room_key = :key"), {"key": logged.room("a").id}
    ))  # fmt: skip
    assert problems(logged) in ([], [("truncated", logged.room("a").last_sequence + 1)])


def recompute(connection: Connection, key: int, old: bytes, new: bytes) -> None:
    """Replace a part of all bodies, and recompute the chain of the room."""
    head = GENESIS
    for row in connection.execute(select(events).where(events.c.room_key == key).order_by(events.c.sequence)).all():
        body = bytes(row.body).replace(old, new)
        commitment = commit(bytes(row.salt), body)
        head = link(head, row.sequence, commitment)
        values = {"body": body, "commitment": commitment, "hash": head}
        connection.execute(update(events).where(events.c.id == row.id).values(**values))
    connection.execute(update(rooms).where(rooms.c.id == key).values(chain_head=head))


def test_a_recomputed_chain_is_found_by_a_receiver(logged: StoreDriver) -> None:
    key = logged.room("a").id
    stored = [row for row in logged.rows(events, "sequence") if row.room_key == key]
    receipts = [ChainHead(source="main", room_id="a", sequence=row.sequence, hash=bytes(row.hash)) for row in stored]
    assert problems(logged, *receipts) == []

    def forge(connection: Connection, key: int) -> None:
        recompute(connection, key, b'"ann"', b'"eve"')
        connection.execute(update(visits).where(visits.c.person_key == "ann").values(person_key="eve"))

    tamper(logged, forge)
    assert [one for one in problems(logged, *receipts) if one[0] == "changed"] == [
        ("changed", row.sequence) for row in stored if row.sequence >= 2
    ]


def test_values_of_a_wrong_type_are_changed(sqlite_store: StoreDriver) -> None:
    store = sqlite_store
    store.track("a")
    store.poll(0, a=seen(peer("p", -5)))
    store.poll(10, a=seen())
    for statement in (
        "UPDATE events SET hash = 'text' WHERE sequence = 2",
        "UPDATE events SET body = 5 WHERE sequence = 3",
        "UPDATE visits SET left_at = 'yesterday', joined_at = 7",
        "UPDATE events SET sequence = 'x' WHERE sequence = 4",
        "UPDATE rooms SET chain_head = 'text'",
    ):
        store.write(lambda connection, statement=statement: connection.execute(text(statement)))
    assert {kind for kind, _ in problems(store)} == {"changed"}


def test_a_value_of_a_wrong_type_in_a_visit_or_session_is_changed(sqlite_store: StoreDriver) -> None:
    sqlite_store.track("a")
    sqlite_store.poll(0, a=seen(peer("p", -5)))
    sqlite_store.poll(10, a=seen())

    def change(statement: str, connection: Connection, _: int) -> None:
        connection.execute(text(statement))

    statements = [
        "UPDATE visits SET joined_at = 'yesterday'",
        "UPDATE visits SET left_at = 7",
        "UPDATE visits SET peer_id = X'FF'",
        "UPDATE sessions SET visit_count = 'one'",
    ]
    every = tampers(sqlite_store, [partial(change, statement) for statement in statements])
    assert [{kind for kind, _ in found} for found in every] == [{"changed"}] * len(statements)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE anchors SET sequence = 'x'",
        "UPDATE anchors SET hash = 'text'",
        "UPDATE anchors SET sequence = 'x', hash = 5",
    ],
)
def test_a_retention_anchor_of_a_wrong_type_is_changed_for_those_who_have_seen_it_too(
    sqlite_store: StoreDriver, statement: str
) -> None:
    sqlite_store.track("a")
    sqlite_store.poll(0, a=seen(peer("p", -5)))
    sqlite_store.poll(10, a=seen())
    head = sqlite_store.room("a")
    receipt = ChainHead(source="main", room_id="a", sequence=head.last_sequence, hash=bytes(head.chain_head))
    assert sqlite_store.write(prune_room, head.id, at(1000)).events == head.last_sequence
    assert problems(sqlite_store, receipt) == []
    sqlite_store.write(lambda connection: connection.execute(text(statement)))
    assert "changed" in {kind for kind, _ in problems(sqlite_store, receipt)}


def test_the_log_of_a_room_under_another_name_is_changed(logged: StoreDriver) -> None:
    def rename(values: dict[str, str], connection: Connection, key: int) -> None:
        connection.execute(update(rooms).where(rooms.c.id == key).values(**values))

    every = tampers(logged, [partial(rename, values) for values in ({"upstream_id": "c"}, {"source": "other"})])
    assert every == [[("changed", 1)]] * 2
    found = tamper(logged, lambda connection, key: recompute(connection, key, b'"room_id":"a"', b'"room_id":"b"'))
    assert found == [("changed", 1)]


@pytest.mark.parametrize("name", ["started_at", "visit_id", "person_key", "leave_reason"])
def test_a_body_that_lacks_what_its_type_has_is_changed(logged: StoreDriver, name: str) -> None:
    found = tamper(
        logged, lambda connection, key: recompute(connection, key, f'"{name}":'.encode(), b'"something_else":')
    )
    assert {kind for kind, _ in found} == {"changed"}


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"id":"x","type":"person.erased","data":{"sequence":2}}',
        b'{"id":"x","type":"person.erased","data":{"sequence":2,"visit_ids":5,"events":[]}}',
        b'{"id":"x","type":"person.erased","data":{"sequence":2,"visit_ids":[[1]],"events":[1]}}',
        b'{"id":"x","type":"person.erased","data":{"sequence":2,"visit_ids":[],"events":[{"source":{}}]}}',
    ],
)
def test_a_changed_erasure_explains_nothing(logged: StoreDriver, body: bytes) -> None:
    logged.write(erase_person, Person(peer_id="p3"), at(420), logged.new_id)
    assert problems(logged) == []
    is_erasure = events.c.type == "person.erased"
    found = tamper(logged, lambda connection, _: connection.execute(update(events).where(is_erasure).values(body=body)))
    assert {kind for kind, _ in found} == {"missing", "changed"}


def kept(**values: object) -> str:
    """A line that a receiver kept."""
    return json.dumps({"source": "main", "room_id": "a", "sequence": 1, "hash": "00" * 32} | values)


@pytest.mark.parametrize(
    "line",
    [
        "x",
        "[]",
        "5",
        "[" * 100_000,
        '{"rooms":[]}',
        kept(sequence="1"),
        kept(sequence=0),
        kept(sequence=2**63),
        kept(hash="00"),
        kept(hash=None),
        kept(room_id="\ud800"),
        kept(room_id="a\0"),
    ],
)
def test_a_file_that_is_no_record_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(UsageError, match="line 2"):
        list(read_receipts(["", line], "kept.jsonl"))
    assert [one.sequence for one in read_receipts([kept(sequence=2**63 - 1)], "kept.jsonl")] == [2**63 - 1]


def test_checkpoints_are_made_of_a_log_that_has_grown(logged: StoreDriver) -> None:
    assert not logged.database.read_now(has_grown)
    logged.poll(500, a=seen())
    assert logged.database.read_now(has_grown)
