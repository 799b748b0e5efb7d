from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.events.bodies import (
    Draft,
    RoomName,
    draft,
    draft_snapshots,
    encode,
    rfc3339,
    seconds_between,
)
from bridge.rules.presence import (
    Json,
    PeerUpdated,
)
from tests.events.builders import JOINED, LEFT, ROOM, SESSION, left, visit


def body(drafted: Draft, room: RoomName = ROOM) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(encode(drafted, room, event_id="evt_1", sequence=42)))


def test_a_leave_is_the_example_of_the_contract_byte_for_byte() -> None:
    encoded = encode(draft(left(), LEFT), ROOM, event_id="evt_1", sequence=42)

    assert encoded == (
        b'{"id":"evt_1","type":"peer.left","timestamp":"2026-11-23T09:29:59.007Z","schema_version":1,'
        b'"data":{"source":"main","room_id":"abc-defg-hij","room_name":"Weekly stand-up","session_id":"ses_1",'
        b'"sequence":42,"visit_id":"vis_1","peer_id":"peerId-4cRF64LOB6dWF_d0qEzQs","display_name":"akmo3.eth",'
        b'"joined_at":"2026-11-23T09:00:04.512Z","joined_at_source":"upstream",'
        b'"left_at":"2026-11-23T09:29:59.007Z","left_at_source":"observed",'
        b'"last_seen_at":"2026-11-23T09:29:49.002Z","duration_seconds":1794.495,"uncertainty_seconds":10.005,'
        b'"leave_reason":"absent","peer_count":2,"initial":false,"observed_at":"2026-11-23T09:29:59.007Z",'
        b'"metadata":{"displayName":"akmo3.eth"}}}'
    )


def test_the_timestamp_of_a_confirmed_leave_is_before_it_was_observed() -> None:
    event = body(draft(left(), LEFT + timedelta(seconds=4)))

    assert event["timestamp"] == event["data"]["left_at"] == "2026-11-23T09:29:59.007Z"
    assert event["data"]["observed_at"] == "2026-11-23T09:30:03.007Z"


def test_an_update_has_the_previous_metadata() -> None:
    change = PeerUpdated(visit=visit({"v": 2}), session_id="ses_1", previous_metadata={"v": 1}, peer_count=1)
    event = body(draft(change, LEFT))

    assert (event["data"]["previous_metadata"], event["data"]["metadata"]) == ({"v": 1}, {"v": 2})


def test_a_snapshot_lists_the_peers_by_time_then_id() -> None:
    visits = [
        visit({"name": "B"}, peer_id="b", visit_id="vis_b", display_name="B"),
        visit(peer_id="a", visit_id="vis_a"),
        visit(peer_id="c", visit_id="vis_c", joined_at=JOINED - timedelta(seconds=1)),
    ]
    event = body(draft_snapshots(SESSION, visits, LEFT)[0])

    assert event["timestamp"] == "2026-11-23T09:29:59.007Z"
    assert [one["peer_id"] for one in event["data"]["peers"]] == ["c", "a", "b"]
    assert event["data"]["peers"][2] == {
        "visit_id": "vis_b",
        "peer_id": "b",
        "display_name": "B",
        "joined_at": "2026-11-23T09:00:04.512Z",
        "metadata": {"name": "B"},
    }
    assert [event["data"][key] for key in ("peer_count", "part", "parts")] == [3, 1, 1]


@pytest.mark.parametrize(("count", "sizes"), [(500, [500]), (501, [500, 1]), (1500, [500, 500, 500])])
def test_a_snapshot_of_a_large_room_comes_in_parts(count: int, sizes: list[int]) -> None:
    visits = [visit(peer_id=f"{number:04}", visit_id=f"vis_{number}") for number in range(count)]
    parts = [body(drafted)["data"] for drafted in draft_snapshots(SESSION, visits, LEFT)]

    assert [len(part["peers"]) for part in parts] == sizes
    assert [(part["part"], part["parts"]) for part in parts] == [(n, len(sizes)) for n in range(1, len(sizes) + 1)]
    assert {part["peer_count"] for part in parts} == {count}
    assert [one["peer_id"] for part in parts for one in part["peers"]] == [f"{number:04}" for number in range(count)]


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05.000Z"),
        (datetime(2026, 1, 2, 3, 4, 5, 999_999, tzinfo=UTC), "2026-01-02T03:04:05.999Z"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=5, minutes=30))), "2026-01-01T21:34:05.000Z"),
        (datetime(1970, 1, 1, tzinfo=UTC), "1970-01-01T00:00:00.000Z"),
    ],
)
def test_times_are_written_in_utc_with_milliseconds(moment: datetime, text: str) -> None:
    assert rfc3339(moment) == text


MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - the strategy adds the zone


@settings(max_examples=200, deadline=None)
@given(MOMENTS, MOMENTS)
def test_durations_agree_with_the_times_as_written(one: datetime, other: datetime) -> None:
    start, end = sorted((one, other))
    printed = datetime.fromisoformat(rfc3339(end)) - datetime.fromisoformat(rfc3339(start))

    assert seconds_between(start, end) == printed.total_seconds()
    assert seconds_between(end, start) <= 0 or printed == timedelta(0)
    assert seconds_between(end, start) >= 0


HOSTILE: st.SearchStrategy[Json] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(HOSTILE)
def test_any_metadata_is_kept_and_always_encoded_to_the_same_bytes(metadata: Json) -> None:
    drafted = draft(left(visit(metadata)), LEFT)
    encoded = encode(drafted, ROOM, event_id="evt_1", sequence=42)

    assert json.loads(encoded)["data"]["metadata"] == metadata
    assert encode(drafted, ROOM, event_id="evt_1", sequence=42) == encoded
    assert b"\n" not in encoded


def test_text_is_written_as_utf8_without_escapes() -> None:
    encoded = encode(draft(left(visit({"name": "Zoë 🦊 \u2028\x00"})), LEFT), ROOM, event_id="evt_1", sequence=1)

    assert "Zoë 🦊 \u2028\\u0000".encode() in encoded
