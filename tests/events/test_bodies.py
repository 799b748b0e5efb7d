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
    draft_endpoint,
    draft_snapshot,
    draft_source,
    encode,
    rfc3339,
    seconds_between,
)
from bridge.events.types import EventType
from bridge.rules.presence import (
    EmptyReason,
    Json,
    LeaveReason,
    PeerJoined,
    PeerLeft,
    PeerUpdated,
    RoomEmptied,
    RoomOccupied,
    Session,
    TimeSource,
    Visit,
)

ROOM = RoomName(source="main", room_id="abc-defg-hij", room_name="Weekly stand-up")
JOINED = datetime(2026, 11, 23, 9, 0, 4, 512_000, tzinfo=UTC)
SEEN = datetime(2026, 11, 23, 9, 29, 49, 2_000, tzinfo=UTC)
LEFT = datetime(2026, 11, 23, 9, 29, 59, 7_000, tzinfo=UTC)
SESSION = Session(session_id="ses_1", started_at=JOINED, visit_count=7, unique_peers=5, peak_peer_count=4)


def visit(metadata: Json = None, **changes: Any) -> Visit:  # noqa: ANN401 - any field of a visit
    fields: dict[str, Any] = {
        "visit_id": "vis_1",
        "peer_id": "peerId-4cRF64LOB6dWF_d0qEzQs",
        "person_key": "ann@example.com",
        "display_name": "akmo3.eth",
        "joined_at": JOINED,
        "joined_at_source": TimeSource.UPSTREAM,
        "join_time": JOINED,
        "last_seen_at": SEEN,
        "metadata": metadata,
        "initial": False,
    }
    return Visit(**fields | changes)


def left(of: Visit | None = None, **changes: Any) -> PeerLeft:  # noqa: ANN401 - any field of a leave
    fields: dict[str, Any] = {
        "visit": of or visit({"displayName": "akmo3.eth"}),
        "session_id": "ses_1",
        "left_at": LEFT,
        "left_at_source": TimeSource.OBSERVED,
        "reason": LeaveReason.ABSENT,
        "peer_count": 2,
    }
    return PeerLeft(**fields | changes)


def body(drafted: Draft, room: RoomName = ROOM) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(encode(drafted, room, event_id="evt_1", sequence=42)))


def test_a_leave_is_the_example_of_the_contract_byte_for_byte() -> None:
    encoded = encode(draft(left(), LEFT), ROOM, event_id="evt_1", sequence=42)

    assert encoded == (
        b'{"id":"evt_1","type":"peer.left","timestamp":"2026-11-23T09:29:59.007Z","schema_version":1,'
        b'"data":{"source":"main","room_id":"abc-defg-hij","room_name":"Weekly stand-up","session_id":"ses_1",'
        b'"sequence":42,"visit_id":"vis_1","peer_id":"peerId-4cRF64LOB6dWF_d0qEzQs",'
        b'"person_key":"ann@example.com","display_name":"akmo3.eth",'
        b'"joined_at":"2026-11-23T09:00:04.512Z","joined_at_source":"upstream",'
        b'"left_at":"2026-11-23T09:29:59.007Z","left_at_source":"observed",'
        b'"last_seen_at":"2026-11-23T09:29:49.002Z","duration_seconds":1794.495,"uncertainty_seconds":10.005,'
        b'"leave_reason":"absent","peer_count":2,"initial":false,"observed_at":"2026-11-23T09:29:59.007Z",'
        b'"metadata":{"displayName":"akmo3.eth"}}}'
    )


ROOM_KEYS = ["source", "room_id", "room_name", "session_id", "sequence"]
PEER_KEYS = ["visit_id", "peer_id", "person_key", "display_name", "joined_at", "joined_at_source"]
OTHER_KEYS = ["peer_count", "initial", "observed_at", "metadata"]
OCCUPIED = [*ROOM_KEYS, "started_at", "peer_count", "observed_at"]


@pytest.mark.parametrize(
    ("change", "event_type", "keys"),
    [
        (
            PeerJoined(visit=visit(), session_id="ses_1", peer_count=1),
            "peer.joined",
            [*ROOM_KEYS, *PEER_KEYS, *OTHER_KEYS],
        ),
        (
            PeerUpdated(visit=visit(), session_id="ses_1", previous_metadata=None, peer_count=1),
            "peer.updated",
            [*ROOM_KEYS, *PEER_KEYS, *OTHER_KEYS, "previous_metadata"],
        ),
        (RoomOccupied(session=SESSION, peer_count=3), "room.occupied", OCCUPIED),
        (
            RoomEmptied(session=SESSION, ended_at=LEFT, last_seen_at=SEEN, reason=EmptyReason.ABSENT),
            "room.empty",
            [
                *OCCUPIED,
                "ended_at",
                "duration_seconds",
                "uncertainty_seconds",
                "unique_peers",
                "peak_peer_count",
                "visit_count",
                "empty_reason",
            ],
        ),
    ],
)
def test_an_event_has_exactly_the_keys_of_the_contract(
    change: PeerJoined | PeerUpdated | RoomOccupied | RoomEmptied, event_type: str, keys: list[str]
) -> None:
    event = body(draft(change, LEFT))

    assert list(event) == ["id", "type", "timestamp", "schema_version", "data"]
    assert (event["id"], event["type"], event["schema_version"]) == ("evt_1", event_type, 1)
    assert list(event["data"]) == keys
    assert event["data"]["sequence"] == 42


def test_the_name_of_an_unnamed_room_is_null() -> None:
    event = body(draft(left(), LEFT), RoomName(source="main", room_id="r", room_name=None))

    assert event["data"]["room_name"] is None


def test_the_timestamp_of_a_join_is_when_the_peer_joined() -> None:
    event = body(draft(PeerJoined(visit=visit(), session_id="ses_1", peer_count=1), LEFT))

    assert event["timestamp"] == event["data"]["joined_at"] == "2026-11-23T09:00:04.512Z"
    assert event["data"]["observed_at"] == "2026-11-23T09:29:59.007Z"


def test_the_timestamp_of_a_confirmed_leave_is_before_it_was_observed() -> None:
    event = body(draft(left(), LEFT + timedelta(seconds=4)))

    assert event["timestamp"] == event["data"]["left_at"] == "2026-11-23T09:29:59.007Z"
    assert event["data"]["observed_at"] == "2026-11-23T09:30:03.007Z"


@pytest.mark.parametrize("reason", list(LeaveReason))
def test_every_leave_reason_is_in_the_event(reason: LeaveReason) -> None:
    assert body(draft(left(reason=reason), LEFT))["data"]["leave_reason"] == reason.value


def test_an_update_has_the_previous_metadata() -> None:
    change = PeerUpdated(visit=visit({"v": 2}), session_id="ses_1", previous_metadata={"v": 1}, peer_count=1)
    event = body(draft(change, LEFT))

    assert (event["data"]["previous_metadata"], event["data"]["metadata"]) == ({"v": 1}, {"v": 2})


def test_an_empty_room_describes_the_whole_session() -> None:
    change = RoomEmptied(session=SESSION, ended_at=LEFT, last_seen_at=SEEN, reason=EmptyReason.NO_SESSION)
    event = body(draft(change, LEFT + timedelta(seconds=2)))

    assert event["timestamp"] == event["data"]["ended_at"] == "2026-11-23T09:29:59.007Z"
    assert event["data"] == {
        "source": "main",
        "room_id": "abc-defg-hij",
        "room_name": "Weekly stand-up",
        "session_id": "ses_1",
        "sequence": 42,
        "started_at": "2026-11-23T09:00:04.512Z",
        "peer_count": 0,
        "observed_at": "2026-11-23T09:30:01.007Z",
        "ended_at": "2026-11-23T09:29:59.007Z",
        "duration_seconds": 1794.495,
        "uncertainty_seconds": 10.005,
        "unique_peers": 5,
        "peak_peer_count": 4,
        "visit_count": 7,
        "empty_reason": "no_session",
    }


def test_a_snapshot_lists_the_peers_by_time_then_id() -> None:
    visits = [
        visit({"name": "B"}, peer_id="b", visit_id="vis_b", display_name="B"),
        visit(peer_id="a", visit_id="vis_a"),
        visit(peer_id="c", visit_id="vis_c", joined_at=JOINED - timedelta(seconds=1)),
    ]
    event = body(draft_snapshot(SESSION, visits, LEFT))

    assert list(event["data"]) == [*ROOM_KEYS, "peer_count", "observed_at", "peers"]
    assert event["timestamp"] == "2026-11-23T09:29:59.007Z"
    assert [one["peer_id"] for one in event["data"]["peers"]] == ["c", "a", "b"]
    assert event["data"]["peers"][2] == {
        "visit_id": "vis_b",
        "peer_id": "b",
        "person_key": "ann@example.com",
        "display_name": "B",
        "joined_at": "2026-11-23T09:00:04.512Z",
        "metadata": {"name": "B"},
    }
    assert event["data"]["peer_count"] == 3


def test_a_snapshot_of_an_empty_room_has_no_session() -> None:
    event = body(draft_snapshot(None, [], LEFT))

    assert (event["data"]["session_id"], event["data"]["peer_count"], event["data"]["peers"]) == (None, 0, [])


def test_the_bridges_own_events_have_no_room() -> None:
    no_room = RoomName(source=None, room_id=None, room_name=None)
    away = draft_source(
        available=False, source="main", condition="failing", since=SEEN, detail="status 500", observed_at=LEFT
    )
    gone = draft_endpoint(recovered=False, endpoint="crm", reason="gone", since=None, at=LEFT)

    for drafted, event_type in ((away, "source.unavailable"), (gone, "endpoint.disabled")):
        event = body(drafted, no_room)
        assert event["type"] == event_type
        assert list(event["data"])[:4] == ["source", "room_id", "room_name", "sequence"]
        assert event["data"]["room_id"] is None
    assert (
        draft_source(available=True, source="main", condition="failing", since=SEEN, detail=None, observed_at=LEFT).type
        is EventType.SOURCE_RECOVERED
    )
    assert (
        draft_endpoint(recovered=True, endpoint="crm", reason=None, since=SEEN, at=LEFT).type
        is EventType.ENDPOINT_RECOVERED
    )


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
