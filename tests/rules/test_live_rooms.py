"""Changes by the list of live rooms."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bridge.rules.live_rooms import KnownRoom, LiveRooms, compare_lists, poll_interval

TEN, LONG = timedelta(seconds=10), timedelta(minutes=2)


def known(key: int, room_id: str, *, tracked: bool = True, listed: bool = False, count: int | None = None) -> KnownRoom:
    return KnownRoom(key=key, room_id=room_id, tracked=tracked, listed=listed, listed_count=count)


@pytest.mark.parametrize(
    ("live", "stored", "new", "listed", "unlisted"),
    [
        ({"a": 1}, [], ("a",), {}, ()),
        ({"other": 1}, [], (), {}, ()),
        ({"a": 1}, [known(1, "a", tracked=False)], ("a",), {}, ()),
        ({"a": None}, [known(1, "a")], (), {1: None}, ()),
        ({"a": None}, [known(1, "a", listed=True)], (), {}, ()),
        ({"a": 2}, [known(1, "a", listed=True, count=2)], (), {}, ()),
        ({"a": 3}, [known(1, "a", listed=True, count=2)], (), {1: 3}, ()),
        ({"other": 3}, [known(1, "other")], (), {1: 3}, ()),
        ({}, [known(1, "a", listed=True, count=2)], (), {}, (1,)),
        ({}, [known(1, "a")], (), {}, ()),
        ({}, [known(1, "a", tracked=False, listed=True)], (), {}, ()),
    ],
)
def test_a_complete_list(
    live: dict[str, int | None],
    stored: list[KnownRoom],
    new: tuple[str, ...],
    listed: dict[int, int | None],
    unlisted: tuple[int, ...],
) -> None:
    changes = compare_lists(LiveRooms(peer_counts=live), stored, is_wanted=lambda room_id: room_id == "a")
    assert (changes.new, changes.listed, changes.unlisted) == (new, listed, unlisted)


def test_an_incomplete_list_makes_no_room_unlisted() -> None:
    live = LiveRooms(peer_counts={"b": 1}, complete=False)
    changes = compare_lists(live, [known(1, "a", listed=True, count=1)], is_wanted=lambda _: True)
    assert (changes.new, changes.unlisted) == (("b",), ())


@pytest.mark.parametrize(
    ("interval", "idle", "is_live", "expected"),
    [
        (TEN, LONG, True, TEN),
        (TEN, LONG, False, LONG),
        (TEN, None, False, TEN),
        (LONG, TEN, False, LONG),
    ],
)
def test_the_interval_of_a_room(
    interval: timedelta,
    idle: timedelta | None,
    is_live: bool,  # noqa: FBT001 - a parameter
    expected: timedelta,
) -> None:
    assert poll_interval(interval, idle, is_live=is_live) == expected
