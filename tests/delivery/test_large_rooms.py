"""A room of 5,000 people with as much metadata as they may have: polled, delivered, and in a snapshot."""

from __future__ import annotations

import json

import pytest

from bridge.db.tables import events
from bridge.rules.presence import Json
from tests.harness.builders import peer, seen
from tests.harness.log import log_problems
from tests.harness.store_driver import StoreDriver

PEOPLE = 5_000
METADATA: Json = {"displayName": "Ann", "about": "x" * 4_500}
LARGEST_BODY = 4 * 1024 * 1024


@pytest.mark.slow
@pytest.mark.parametrize(
    "migrated_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.campaign)], indirect=True
)
def test_5000_people_are_delivered_and_sent_as_a_snapshot_in_parts(store: StoreDriver) -> None:
    store.track("hall")
    people = [peer(f"p{number:04}", -60, METADATA) for number in range(PEOPLE)]
    store.poll(0, hall=seen(*people))
    store.subscribe("late", 1)
    store.poll(10, hall=seen(*people[1:]))

    rows = store.rows(events, "sequence")
    types = [row.type for row in rows]
    assert types == ["room.occupied", *["peer.joined"] * PEOPLE, *["room.snapshot"] * 10, "peer.left"]
    assert max(len(row.body) for row in rows) < LARGEST_BODY
    assert log_problems(json.loads(row.body) for row in rows) == []
