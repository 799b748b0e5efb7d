"""T1: which rooms are handed out, to whom, and how many."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import select

from bridge.db.tables import rooms
from bridge.polling.plan import ClaimedRoom
from bridge.rules.presence import FailureKind
from tests.harness.store_driver import StoreDriver, at, failed, seen


def names(claimed: list[ClaimedRoom]) -> list[str]:
    return [one.upstream_id for one in claimed]


def test_only_what_is_due_is_claimed(store: StoreDriver) -> None:
    store.track("early", seconds=0)
    store.track("late", seconds=10)

    assert names(store.claim(5)) == ["early"]
    assert names(store.claim(10)) == ["late"]
    assert store.claim(11) == []


def test_the_longest_due_comes_first_and_no_more_than_asked_for(store: StoreDriver) -> None:
    store.track("c", seconds=3)
    store.track("b", seconds=2)
    store.track("a", seconds=1)

    assert names(store.claim(10, limit=2)) == ["a", "b"]
    assert names(store.claim(10, limit=2)) == ["c"]


def test_a_claim_says_when_the_room_was_due(store: StoreDriver) -> None:
    store.track("a", seconds=3)
    (claimed,) = store.claim(10, token="mine")

    assert (claimed.due_at, claimed.token, claimed.source, claimed.is_probe) == (at(3), "mine", "main", False)


def test_rooms_of_other_sources_and_disabled_or_removed_ones_are_left_alone(store: StoreDriver) -> None:
    store.track("a", "b")
    store.track("other", source="second")
    store.track("off", enabled=False)

    assert names(store.claim(0)) == ["a", "b"]
    assert names(store.claim(0, source="second")) == ["other"]


def test_a_lease_that_ran_out_makes_the_room_due_again(store: StoreDriver) -> None:
    store.track("a")
    store.claim(0, lease=timedelta(seconds=20))

    assert store.claim(19.9) == []
    assert names(store.claim(20)) == ["a"]


@pytest.mark.parametrize("rate", [1, 3, 20, 100])
def test_two_pollers_share_one_budget_exactly(store: StoreDriver, rate: float) -> None:
    store.track(*(f"room{number}" for number in range(400)))
    claimed = 0
    for tick in range(26):
        for _ in ("one poller", "the other"):
            claimed += len(store.claim(60 + tick * 0.1, rate=rate, lease=timedelta(hours=1)))

    burst = max(1, int(0.25 * rate))
    assert int(2.5 * rate) <= claimed <= int(2.5 * rate) + burst


def test_what_was_not_asked_for_does_not_pile_up(store: StoreDriver) -> None:
    store.track(*(f"room{number}" for number in range(100)))

    assert len(store.claim(0, rate=20)) == 5
    assert len(store.claim(3600, rate=20)) == 5
    assert store.claim(3600, rate=20) == []


def test_a_budget_that_is_spent_in_part_leaves_the_rest(store: StoreDriver) -> None:
    store.track("a", "b", "c", "d", "e", "f")

    assert len(store.claim(0, rate=20, limit=2)) == 2
    assert len(store.claim(0, rate=20)) == 3


def test_no_budget_means_no_limit(store: StoreDriver) -> None:
    store.track(*(f"room{number}" for number in range(100)))

    assert len(store.claim(0, rate=0)) == 100


def test_a_source_in_trouble_gets_one_probe_at_a_time_and_none_while_held(store: StoreDriver) -> None:
    store.track("a", "b", "c")
    first, *_ = store.claim(0, limit=1)
    store.record([first], lambda _: failed(FailureKind.UNAUTHORIZED), 1)

    assert store.claim(60.9) == []
    (probe,) = store.claim(61)
    assert probe.is_probe
    assert store.claim(62) == []
    assert len(store.claim(61 + 21)) == 1, "a probe that never came back must not hold the source for ever"


def test_probes_take_turns_among_the_rooms(store: StoreDriver) -> None:
    store.track("a", "b", "c")
    store.record(store.claim(0, limit=1), lambda _: failed(FailureKind.UNAUTHORIZED), 1)
    asked, now = [], 1.0
    for _ in range(4):
        now += 60
        probes = store.claim(now)
        asked += names(probes)
        store.record(probes, lambda _: failed(FailureKind.UNAUTHORIZED), now)

    assert set(asked[:3]) == {"a", "b", "c"}


def test_a_good_probe_frees_the_source_and_its_failed_rooms(store: StoreDriver) -> None:
    store.track("a", "b", "c")
    store.record(store.claim(0), lambda _: failed(FailureKind.UNAUTHORIZED), 1)
    probe = store.claim(61)
    store.record(probe, lambda _: seen(), 62)

    assert {*names(probe), *names(store.claim(62))} == {"a", "b", "c"}


def test_a_few_rooms_that_always_fail_do_not_take_the_source_down(store: StoreDriver) -> None:
    """Most rooms response well: the source as a whole works, and nobody is told that it does not."""
    bad = {f"bad{number}" for number in range(8)}
    store.track(*sorted(bad), *(f"good{number:02}" for number in range(32)))
    asked: dict[str, int] = {}
    now = 0.0
    while now < 120:
        claimed = store.claim(now, limit=64)
        for room in claimed:
            asked[room.upstream_id] = asked.get(room.upstream_id, 0) + 1
        if claimed:
            store.record(claimed, lambda name: failed() if name in bad else seen(), now)
        now += 0.5

    told = store.told(None) if any(room.upstream_id is None for room in store.rooms()) else []
    assert told.count("source.unavailable") <= 1, f"{len(told)} events about a source that works: {told[:6]}…"
    assert min(asked[f"good{number:02}"] for number in range(32)) >= 11
    assert max(asked[name] for name in bad) <= 9, "a failing room backs off to a minute"


def test_two_connections_never_claim_the_same_room(postgresql_stage: StoreDriver) -> None:
    store = postgresql_stage
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


def test_rooms_that_somebody_else_is_writing_are_skipped_not_waited_for(postgresql_stage: StoreDriver) -> None:
    store = postgresql_stage
    store.track("a", "b")
    key = store.room("a").id
    with store.database._writing.begin() as other:
        other.execute(select(rooms.c.id).where(rooms.c.id == key).with_for_update())

        assert names(store.claim(0)) == ["b"]
