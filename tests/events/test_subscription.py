from __future__ import annotations

import pytest

from bridge.events.subscription import NO_ENDPOINT, Subscription, all_but, includes, only, subscription
from bridge.events.types import EventType


def wanting(*types: str, rooms: tuple[str, ...] = ("*",), endpoint_key: int = 7) -> Subscription:
    return subscription(endpoint_key, types, rooms)


@pytest.mark.parametrize(
    ("audience", "included"),
    [(None, True), (NO_ENDPOINT, False), (only(7), True), (only(8), False), (all_but(7), False), (all_but(8), True)],
)
def test_an_audience_includes_every_endpoint_or_none_or_one_or_all_but_one(
    audience: int | None, *, included: bool
) -> None:
    assert includes(audience, 7) is included
    assert wanting("*").wants("peer.left", "a", audience) is included


@pytest.mark.parametrize(
    ("event_type", "room_id", "wanted"),
    [
        ("peer.left", "abc-1", True),
        ("peer.left", "other", False),
        ("peer.left", None, True),
        ("room.empty", "abc-1", False),
    ],
)
def test_an_endpoint_wants_matching_types_of_matching_rooms(
    event_type: str, room_id: str | None, *, wanted: bool
) -> None:
    assert wanting("peer.*", rooms=("abc-*",)).wants(event_type, room_id) is wanted


def test_event_types_are_those_that_a_glob_matches() -> None:
    assert wanting("peer.*", "room.empty").event_types == ("peer.joined", "peer.left", "room.empty", "peer.updated")
    assert wanting("*").event_types == tuple(EventType)
    assert wanting().event_types == ()
