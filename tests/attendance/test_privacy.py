"""Erasure leaves nothing of a person, retention leaves anchors; the chain verifies after both."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest

from bridge.attendance.privacy import Erasure, Person, PresentError, copy_of_person, erase_person
from bridge.attendance.query import Selection, list_attendance
from bridge.attendance.retention import Pruned, count_prunable, prune_room, rooms_to_prune
from bridge.attendance.verify import Verification, verify_log
from bridge.db.event_log import append_system_events
from bridge.db.tables import anchors, events, rooms, sessions, visits
from bridge.delivery.claim import ClaimedCursor
from bridge.events.bodies import draft_source
from bridge.polling.rooms import make_due
from bridge.rules.attendance import Report, View
from bridge.rules.delivery import PostResult
from bridge.rules.pokes import Expected
from bridge.rules.presence import Json, Peer
from tests.harness.builders import at, peer, seen
from tests.harness.postgres import dump
from tests.harness.store_driver import GOOD, RETRYABLE, StoreDriver
from tests.harness.tables import everything

SECRETS = ("eve@example.com", "Eve Secret", "peer-of-eve", "0xhidden", "thanks, Eve")


def eve(joined: float) -> Peer:
    metadata: Json = {"email": "eve@example.com", "name": "Eve Secret", "wallet": "0xhidden"}
    return peer("peer-of-eve", joined, metadata)


@pytest.fixture
def met(store: StoreDriver) -> StoreDriver:
    """Two sessions of Eve, delivered to one endpoint and owed to another, with a snapshot for a third."""
    store.track("a", "b")
    store.subscribe("done")
    store.subscribe("owed")
    store.poll(0, a=seen(), b=seen())
    store.poll(10, a=seen(eve(5)), b=seen(peer("q", 9)))
    store.subscribe("new", seconds=11, events=["room.snapshot"], rooms=["a"])
    store.poll(30, a=seen(), b=seen(peer("q", 9)))
    store.poll(40, a=seen(), b=seen(peer("q", 9)))
    store.poll(50, a=seen(eve(45)), b=seen(peer("q", 9)))
    store.poll(60, a=seen(), b=seen(peer("q", 9)))
    excerpt = "no JSON: peer-of-eve"
    away = draft_source(
        available=False, source="main", condition="failing", since=at(60), detail=excerpt, observed_at=at(60)
    )
    store.write(append_system_events, [away], at(60), store.new_id)

    def respond(cursor: ClaimedCursor, kind: str) -> PostResult:
        result = RETRYABLE if cursor.target.name == "owed" else GOOD
        is_about_eve = cursor.room_id == "a" and kind.startswith("peer.")
        return replace(result, detail="thanks, Eve", response=b"thanks, Eve") if is_about_eve else result

    store.deliver(61, respond)
    return store


def verification(store: StoreDriver) -> Verification:
    found = store.database.read_now(verify_log)
    assert found.problems == []
    return found


def erase(store: StoreDriver, person: Person, *, dry_run: bool = False) -> Erasure:
    return store.write(erase_person, person, at(100), store.new_id, dry_run=dry_run)


EVE = Person(key="eve@example.com")


@pytest.mark.parametrize("person", [EVE, Person(peer_id="peer-of-eve")])
def test_nothing_of_an_erased_person_is_left(met: StoreDriver, person: Person, migrated_url: str) -> None:
    met.write(make_due, "main", "a", at(70), Expected(peer_id="peer-of-eve", present=False))
    before = everything(migrated_url)
    assert all(secret in before for secret in SECRETS)
    on_postgresql = migrated_url.startswith("postgresql")
    assert not on_postgresql or all(secret.encode() in dump(migrated_url) for secret in SECRETS)
    would = erase(met, person, dry_run=True)
    assert everything(migrated_url) == before
    totals = [row["total_seconds"] for row in met.database.read_now(
        list_attendance, Selection(), View.PERSON, Report(zone=ZoneInfo("UTC")), merge_gap=timedelta(0)
    )]  # fmt: skip

    erased = erase(met, person)
    met.database.truncate_wal(1)

    assert erased == would == Erasure(visits=2, events=6)
    after = everything(migrated_url)
    assert [secret for secret in SECRETS if secret in after] == []
    file = met.database.file
    if file is not None:
        raw = b"".join(path.read_bytes() for path in file.parent.glob(f"{file.name}*"))
    else:
        raw = dump(migrated_url)
    assert [secret for secret in SECRETS if secret.encode() in raw] == []
    assert verification(met).erased == 6
    rows = met.database.read_now(
        list_attendance, Selection(), View.PERSON, Report(zone=ZoneInfo("UTC")), merge_gap=timedelta(0)
    )
    assert [row["total_seconds"] for row in rows] == totals
    assert len({row["person_key"] for row in rows if row["person_key"].startswith("erased_")}) == 1
    assert erase(met, person) == Erasure(visits=0, events=0)


@pytest.mark.parametrize(
    ("excerpt", "is_erased"),
    [
        ('{"name": "Evelyn", "team": "x"}', True),
        ('{"name": "Zo\\u00eb \\"Z\\" M"}', True),
        ('{"metadata": "{\\"wallet\\": \\"0xolder\\"}"}', True),
        ('{"wallet": "0xnewer"', True),
        ('{"role": "participants"}', True),
        ("no list of participants", False),
        ('{"name": "Bo"}', False),
    ],
)
def test_excerpts_with_an_earlier_name_or_metadata_are_erased(
    store: StoreDriver, excerpt: str, *, is_erased: bool
) -> None:
    names = ("Evelyn", 'Zoë "Z" M', "Eve")
    wallets = ("0xolder", "0xold", "0xnewer")
    store.track("a")
    for seconds, (name, wallet) in enumerate(zip(names, wallets, strict=True)):
        metadata: Json = {"email": "eve", "name": name, "more": [{"wallet": wallet}], "role": "participants"}
        store.poll(seconds * 10, a=seen(peer("p1", -5, metadata), peer("p2", -5, {"name": "Bo"})))
    store.poll(30, a=seen())
    away = draft_source(
        available=False, source="main", condition="failing", since=at(31), detail=excerpt, observed_at=at(31)
    )
    store.write(append_system_events, [away], at(31), store.new_id)
    assert erase(store, Person(key="eve")).events == 4 + is_erased
    assert verification(store).erased == 4 + is_erased


def test_what_was_owed_of_an_erased_person_is_passed_over(met: StoreDriver) -> None:
    erase(met, EVE)
    sent = met.deliver(1000)
    kept = {row.public_id for row in met.rows(events, "id") if row.body is not None}
    assert sent
    assert set(sent) <= kept
    assert all(row.acked == row.head for row in met.rows(events.metadata.tables["cursors"], "id"))


def test_who_is_present_is_not_erased(met: StoreDriver) -> None:
    with pytest.raises(PresentError, match="in the room 'b' now"):
        erase(met, Person(peer_id="q"))


def test_a_copy_has_everything_of_one_person_and_nothing_of_others(met: StoreDriver) -> None:
    copy = met.database.read_now(copy_of_person, EVE)
    assert [visit["peer_id"] for visit in copy["visits"]] == ["peer-of-eve"] * 2
    assert [event["type"] for event in copy["events"]] == [
        "peer.joined", "room.snapshot", "peer.left", "peer.joined", "peer.left", "source.unavailable",
    ]  # fmt: skip
    assert [one["peer_id"] for one in copy["events"][1]["data"]["peers"]] == ["peer-of-eve"]
    answered = {(one["endpoint"], one["event_id"]) for one in copy["attempts"] if one["response"] == "thanks, Eve"}
    assert {event_id for _, event_id in answered} <= {event["id"] for event in copy["events"]}
    assert {endpoint for endpoint, _ in answered} == {"done"}
    assert json.loads(json.dumps(copy)) == copy


def prune(store: StoreDriver, seconds: float) -> Pruned:
    total = Pruned()
    for key in store.database.read_now(rooms_to_prune, at(seconds)):
        while (pruned := store.write(prune_room, key, at(seconds))).events:
            total += pruned
    return total


@pytest.mark.parametrize(("before", "left"), [(0, [1, 1]), (25, [1, 1]), (45, [9, 1]), (70, [14, 1]), (1000, [14, 1])])
def test_old_sessions_go_whole_and_the_chain_goes_on(met: StoreDriver, before: float, left: list[int]) -> None:
    """Room b's session is under way: nothing of it goes."""
    last = [row for row in met.rows(rooms, "id") if row.source is not None]
    keys = met.database.read_now(rooms_to_prune, at(before))
    expected = sum((met.database.read_now(count_prunable, key, at(before)) for key in keys), start=Pruned())
    assert prune(met, before) == expected
    assert [row.last_sequence for row in met.rows(rooms, "id") if row.source is not None] == [
        row.last_sequence for row in last
    ]
    verification(met)
    firsts = [
        min(row.sequence for row in met.rows(events, "id") if row.room_key == key.id)
        if any(row.room_key == key.id for row in met.rows(events, "id"))
        else key.last_sequence + 1
        for key in last
    ]
    assert (firsts[0] == 1, firsts[1]) == (left[0] == 1, 1)
    met.poll(2000, a=seen(peer("z", 1990)), b=seen(peer("q", 9)))
    assert met.deliver(2001)
    verification(met)


def test_an_erasure_is_explained_for_as_long_as_what_it_erased(met: StoreDriver) -> None:
    erase(met, EVE)
    assert prune(met, 55).sessions == 1
    verification(met)
    prune(met, 5000)
    assert verification(met).erased == 0


def test_a_long_log_is_pruned_in_steps(store: StoreDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.attendance.retention.EVENTS_AT_ONCE", 5)
    store.track("a")
    for second in range(0, 400, 20):
        store.poll(second, a=seen(peer(f"p{second}", second)))
        store.poll(second + 10, a=seen())
    assert store.write(prune_room, store.room("a").id, at(1000)).events in range(4, 9)
    assert prune(store, 1000).events
    verification(store)
    assert [len(store.rows(table, "id")) for table in (events, sessions, visits)] == [0, 0, 0]
    assert [(row.sequence, row.hash) for row in store.rows(anchors, "room_key")] == [(80, store.room("a").chain_head)]
