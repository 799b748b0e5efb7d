"""The log as listings and the API select it."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.admin.events import EventFilter, list_events
from bridge.admin.listing import Page, pages
from bridge.attendance.privacy import Person, erase_person
from bridge.errors import ArgumentError
from tests.harness.builders import at, peer, seen
from tests.harness.store_driver import StoreDriver, failed


@pytest.fixture
def logged(store: StoreDriver) -> StoreDriver:
    """Ada is in both rooms one after the other, Bob in the first; then their source fails."""
    ada, bob = (peer(f"peer-{name}", metadata={"email": name}) for name in ("ada", "bob"))
    store.track("first", "second")
    store.poll(0, first=seen(ada, bob))
    store.poll(10, second=seen(ada))
    store.poll(10, first=seen(bob))
    store.poll(20, second=seen())
    for seconds in (30, 40, 50, 60):
        store.poll(seconds, **dict.fromkeys(due(store, seconds), failed()))
    return store


def due(store: StoreDriver, seconds: float) -> list[str]:
    claimed = store.claim(seconds)
    store.lose_claims()
    return [room.upstream_id for room in claimed]


def listed(store: StoreDriver, *, newest_first: bool = True, **wanted: Any) -> list[str]:  # noqa: ANN401 - fields of an EventFilter
    """List with pages of two, so that every order has to continue."""

    def read(page: Page) -> Any:  # noqa: ANN401 - a Listing
        page = Page(limit=page.limit, after=page.after, newest_first=newest_first)
        return store.database.read_now(list_events, EventFilter(**wanted), page)

    events = [event.facts for page in pages(read, 100, at_once=2) for event in page.items]
    return [f"{event['data']['room_id']} {event['data']['sequence']} {event['type']}" for event in events]


FIRST = ["first 1 room.occupied", "first 2 peer.joined", "first 3 peer.joined", "first 4 peer.left"]
SECOND = ["second 1 room.occupied", "second 2 peer.joined", "second 3 peer.left", "second 4 room.empty"]


SELECTED: list[tuple[dict[str, Any], list[str]]] = [
    ({"room": "first"}, FIRST),
    ({"room": "second", "after_sequence": 2}, SECOND[2:]),
    ({"room": "second", "after_sequence": 9}, []),
    ({"person": "ada"}, ["first 2 peer.joined", SECOND[1], "first 4 peer.left", SECOND[2]]),
    ({"person": "ada", "room": "first", "types": ("*.left",)}, ["first 4 peer.left"]),
    ({"person": "bob"}, ["first 3 peer.joined"]),
    ({"person": "nobody"}, []),
    ({"since": at(10), "until": at(11)}, [*SECOND[:2], FIRST[3]]),
    ({"since": at(20), "types": ("room.*",)}, [SECOND[3]]),
    ({"until": at(1)}, FIRST[:3]),
    ({"since": at(1000)}, []),
    ({"until": at(-1)}, []),
]


def test_events_are_selected_in_both_orders(logged: StoreDriver) -> None:
    for wanted, oldest_first in SELECTED:
        assert listed(logged, newest_first=False, **wanted) == oldest_first, wanted
        assert listed(logged, **wanted) == oldest_first[::-1], wanted


def test_events_of_the_bridge_itself_are_selected_by_type(logged: StoreDriver) -> None:
    assert listed(logged, types=("source.*", "endpoint.*")) == ["None 1 source.unavailable"]


def test_an_erased_person_is_in_no_listing(logged: StoreDriver) -> None:
    logged.write(erase_person, Person(key="ada"), at(100), logged.new_id)
    assert listed(logged, person="ada") == []
    assert "first 2 peer.joined" not in listed(logged, room="first")
    assert len(listed(logged, room="first")) == len(FIRST) - 2


def test_a_sequence_needs_its_room(store: StoreDriver) -> None:
    with pytest.raises(ArgumentError, match="name the room too"):
        store.database.read_now(list_events, EventFilter(after_sequence=1), Page(limit=1))
