from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import count

from bridge.events.bodies import RoomName, draft_snapshot
from bridge.events.log import RoomLog, number_events
from bridge.rules.chain import GENESIS, commit, link

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
NAME = RoomName(source="main", room_id="room", room_name=None)


def test_events_take_the_next_sequences_and_are_chained() -> None:
    numbers, before = count(1), RoomLog(room_key=3, name=NAME, last_sequence=4, chain_head=GENESIS)
    drafts = [draft_snapshot(None, [], NOW) for _ in range(2)]

    log, (first, second) = number_events(before, drafts, NOW, lambda prefix: f"{prefix}_{next(numbers)}")

    assert [(one.public_id, one.sequence, one.room_key) for one in (first, second)] == [
        ("evt_1", 5, 3),
        ("evt_3", 6, 3),
    ]
    assert [one.commitment for one in (first, second)] == [commit(one.salt, one.body) for one in (first, second)]
    assert first.hash == link(GENESIS, 5, first.commitment)
    assert second.hash == link(first.hash, 6, second.commitment)
    assert len({first.salt, second.salt}) == 2
    assert log == RoomLog(room_key=3, name=NAME, last_sequence=6, chain_head=second.hash)
    body = json.loads(second.body)
    assert (body["id"], body["data"]["sequence"], body["data"]["room_id"]) == ("evt_3", 6, "room")


def test_without_drafts_the_log_stays_as_it_is() -> None:
    log = RoomLog(room_key=3, name=NAME, last_sequence=4, chain_head=GENESIS)

    assert number_events(log, [], NOW, str) == (log, [])
