"""T1: the rooms that a claim gets."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import select

from bridge.db.tables import rooms
from bridge.polling.plan import ClaimedRoom
from bridge.rules.presence import FailureKind
from tests.harness.builders import at, seen
from tests.harness.store_driver import StoreDriver, failed


def names(claimed: list[ClaimedRoom]) -> list[str]:
    return [one.upstream_id for one in claimed]


def test_only_due_rooms_are_claimed(store: StoreDriver) -> None:
    store.track("early", seconds=0)
    store.track("late", seconds=10)

    assert names(store.claim(5)) == ["early"]
    assert names(store.claim(10)) == ["late"]
    assert store.claim(11) == []


def test_the_longest_due_rooms_come_first_up_to_the_limit(store: StoreDriver) -> None:
    store.track("c", seconds=3)
    store.track("b", seconds=2)
    store.track("a", seconds=1)

    assert names(store.claim(10, limit=2)) == ["a", "b"]
    assert names(store.claim(10, limit=2)) == ["c"]


def test_a_claim_has_the_due_time_of_the_room(store: StoreDriver) -> None:
    store.track("a", seconds=3)
    (claimed,) = store.claim(10, token="mine")

    assert (claimed.due_at, claimed.token, claimed.source, claimed.is_probe) == (at(3), "mine", "main", False)


def test_rooms_of_other_sources_and_disabled_rooms_are_not_claimed(store: StoreDriver) -> None:
    store.track("a", "b")
    store.track("other", source="second")
    store.track("off", enabled=False)

    assert names(store.claim(0)) == ["a", "b"]
    assert names(store.claim(0, source="second")) == ["other"]


def test_a_claimed_room_is_due_again_once_its_claim_is_freed(store: StoreDriver) -> None:
    store.track("a")
    store.claim(0)

    assert store.claim(3600) == []
    store.lose_claims()
    assert names(store.claim(1)) == ["a"]


@pytest.mark.parametrize("rate", [1, 3, 20, 100])
def test_two_pollers_share_one_request_budget(store: StoreDriver, rate: float) -> None:
    store.track(*(f"room{number}" for number in range(400)))
    claimed = 0
    for tick in range(26):
        for _ in ("one poller", "the other"):
            claimed += len(store.claim(60 + tick * 0.1, rate=rate))

    burst = max(1, int(0.25 * rate))
    assert int(2.5 * rate) <= claimed <= int(2.5 * rate) + burst


def test_an_unavailable_source_gets_one_probe_that_is_not_lost_and_none_while_paused(
    store: StoreDriver,
) -> None:
    store.track("a", "b", "c")
    first, *_ = store.claim(0, limit=1)
    store.record([first], lambda _: failed(FailureKind.UNAUTHORIZED), 1)

    assert store.claim(60.9) == []
    (probe,) = store.claim(61)
    assert probe.is_probe
    assert store.claim(3600) == []
    store.lose_claims()
    assert len(store.claim(61)) == 1


def test_probes_take_turns_among_the_rooms(store: StoreDriver) -> None:
    store.track("a", "b", "c")
    store.record(store.claim(0, limit=1), lambda _: failed(FailureKind.UNAUTHORIZED), 1)
    probed, now = [], 1.0
    for _ in range(4):
        now += 60
        probes = store.claim(now)
        probed += names(probes)
        store.record(probes, lambda _: failed(FailureKind.UNAUTHORIZED), now)

    assert set(probed[:3]) == {"a", "b", "c"}


def test_a_successful_probe_makes_the_failed_rooms_of_the_source_due(store: StoreDriver) -> None:
    store.track("a", "b", "c")
    store.record(store.claim(0), lambda _: failed(FailureKind.UNAUTHORIZED), 1)
    probe = store.claim(61)
    store.record(probe, lambda _: seen(), 62)

    assert {*names(probe), *names(store.claim(62))} == {"a", "b", "c"}


def test_a_few_rooms_that_always_fail_do_not_make_the_source_fail(store: StoreDriver) -> None:
    bad = {f"bad{number}" for number in range(8)}
    store.track(*sorted(bad), *(f"good{number:02}" for number in range(32)))
    polls: dict[str, int] = {}
    now = 0.0
    while now < 120:
        claimed = store.claim(now, limit=64)
        for room in claimed:
            polls[room.upstream_id] = polls.get(room.upstream_id, 0) + 1
        if claimed:
            store.record(claimed, lambda name: failed() if name in bad else seen(), now)
        now += 0.5

    notices = store.event_types(None) if any(room.upstream_id is None for room in store.rooms()) else []
    assert notices.count("source.unavailable") <= 1, f"{len(notices)} events about a source that works"
    assert min(polls[f"good{number:02}"] for number in range(32)) >= 11
    assert max(polls[name] for name in bad) <= 9, "a failing room backs off to a minute"


def test_two_pollers_never_claim_the_same_room(postgresql_store: StoreDriver) -> None:
    store = postgresql_store
    store.track(*(f"room{number}" for number in range(60)))
    claimed: list[str] = []

    def take() -> None:
        while some := store.claim(0, limit=7):
            claimed.extend(names(some))

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(claimed) == sorted({*claimed})
    assert len(claimed) == 60


def test_rooms_that_another_transaction_has_locked_are_skipped(postgresql_store: StoreDriver) -> None:
    store = postgresql_store
    store.track("a", "b")
    key = store.room("a").id
    with store.database._writing.begin() as other:
        other.execute(select(rooms.c.id).where(rooms.c.id == key).with_for_update())

        assert names(store.claim(0)) == ["b"]
