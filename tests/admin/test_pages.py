"""Pages of the listings: every item once, whatever is added meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from bridge.admin.attempts import AttemptFilter, list_attempts, list_dead_letters
from bridge.admin.endpoints import list_endpoints
from bridge.admin.events import EventFilter, list_events
from bridge.admin.listing import Listing, Page, pages
from bridge.admin.presence import list_presence
from bridge.admin.rooms import RoomState, list_rooms
from bridge.admin.sessions import list_sessions
from bridge.errors import UsageError
from bridge.rules.delivery import DeliveryPolicy, Outcome, PostResult
from tests.harness.builders import seen
from tests.harness.store_driver import StoreDriver

ROOMS = 5
REFUSED = PostResult(outcome=Outcome.REJECTED, duration=timedelta(seconds=1), status=422)

LISTINGS: dict[str, tuple[Callable[..., Listing[Any]], dict[str, Any]]] = {
    "rooms": (list_rooms, {}),
    "occupied rooms": (list_rooms, {"state": RoomState.OCCUPIED}),
    "presence": (list_presence, {}),
    "sessions": (list_sessions, {}),
    "sessions, oldest first": (list_sessions, {"newest_first": False}),
    "rooms, from Z": (list_rooms, {"newest_first": True}),
    "endpoints": (list_endpoints, {}),
    "events": (list_events, {"wanted": EventFilter()}),
    "attempts": (list_attempts, {"wanted": AttemptFilter()}),
    "dead letters": (list_dead_letters, {"wanted": AttemptFilter()}),
}


def add(store: StoreDriver, seconds: int) -> None:
    """Add an occupied room, an endpoint, two events, an attempt and a dead letter."""
    name = f"{seconds:03}"
    store.track(name, seconds=seconds)
    store.subscribe(name, seconds, events=("peer.joined",), rooms=(name,))
    store.poll(seconds, **{name: seen("a")})
    store.deliver(seconds, lambda *_: REFUSED)


@pytest.mark.parametrize("name", LISTINGS)
def test_every_item_is_listed_once_while_others_are_added(store: StoreDriver, name: str) -> None:
    function, wanted = LISTINGS[name]
    newest_first = wanted.get("newest_first")
    wanted = {key: value for key, value in wanted.items() if key != "newest_first"}

    def read(page: Page) -> Listing[Any]:
        return store.database.read_now(function, page=replace(page, newest_first=newest_first), **wanted)

    store.policy = DeliveryPolicy(refused_schedule=())
    for number in range(ROOMS):
        add(store, 1000 * number)
    everything = read(Page(limit=100)).items
    assert len(everything) > 2 * 2

    found: list[Any] = []
    for number, page in enumerate(pages(read, limit=100, at_once=2), start=ROOMS):
        assert len(page.items) <= 2
        found += page.items
        if number < ROOMS + 2:
            add(store, 1000 * number)
    assert [one for one in found if one in everything] == list(everything)
    assert len(found) == len({repr(one) for one in found})


def test_the_items_that_are_left_out_are_counted(store: StoreDriver) -> None:
    store.track(*"abcdefg")

    def read(page: Page) -> Listing[Any]:
        return store.database.read_now(list_rooms, page)

    assert [(len(page.items), page.more) for page in pages(read, limit=5, at_once=2)] == [(2, 0), (2, 0), (1, 2)]
    assert [(len(page.items), page.more) for page in pages(read, limit=9, at_once=5)] == [(5, 0), (2, 0)]
    assert read(Page(limit=7)).next is None


@pytest.mark.parametrize("after", ["", "x", "WzFd", "bnVsbA", "WyJhIiwgIlx1MDAwMCJd", "WzEsIDJd", "é"])
def test_what_is_no_position_is_refused(store: StoreDriver, after: str) -> None:
    with pytest.raises(UsageError, match="not a position"):
        store.database.read_now(list_rooms, Page(limit=1, after=after))
