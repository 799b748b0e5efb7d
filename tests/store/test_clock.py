"""A clock that is put back: nothing waits until it has caught up."""

from __future__ import annotations

from bridge.store.clock import forgive_clock
from tests.store.stage import TROUBLE, Stage, at, busy, peer, seen, tried

HOUR = 3600


def owing(stage: Stage) -> int:
    stage.track("a")
    key = stage.subscribe()
    stage.poll(0, a=seen(peer("p", 0)))
    return key


def test_rooms_are_polled_at_once(stage: Stage) -> None:
    owing(stage)
    assert stage.claim(-HOUR) == []
    stage.write(forgive_clock, at(-HOUR))
    assert [room.upstream_id for room in stage.claim(-HOUR)] == ["a"]


def test_what_was_to_be_retried_is_retried_at_once(stage: Stage) -> None:
    owing(stage)
    (cursor,) = stage.owed(1)
    stage.settle(1, tried(cursor, 1, TROUBLE))
    assert stage.owed(-HOUR) == []
    stage.write(forgive_clock, at(-HOUR))
    assert len(stage.owed(-HOUR)) == 1


def test_what_an_endpoint_asked_for_stands(stage: Stage) -> None:
    owing(stage)
    (cursor,) = stage.owed(1)
    stage.settle(1, tried(cursor, 1, busy(60)))
    stage.write(forgive_clock, at(-HOUR))
    assert stage.owed(-HOUR) == []
    assert len(stage.owed(61)) == 1


def test_what_somebody_is_working_on_stays_theirs(stage: Stage) -> None:
    owing(stage)
    assert len(stage.owed(1)) == 1
    stage.write(forgive_clock, at(-HOUR))
    assert stage.owed(-HOUR) == []
