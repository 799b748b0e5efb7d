from __future__ import annotations

import json
import re
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.events.bodies import RoomName, draft, draft_endpoint, draft_snapshots, draft_source, encode
from bridge.events.formats import SAFE_INTEGER, Format, Rendered, render
from bridge.rules.presence import (
    Change,
    EmptyReason,
    Json,
    PeerJoined,
    PeerUpdated,
    RoomEmptied,
    RoomOccupied,
    Visit,
    display_name,
)
from bridge.rules.signing import Huddle01Secret
from tests.events import builders
from tests.events.builders import JOINED, LEFT, ROOM, SESSION
from tests.harness.oracles import node, require_oracles

KEY = "ak_schlüssel"
JOINED_MS = 1795424404512
LEFT_MS = JOINED_MS + 1794495
NO_ROOM = RoomName(source=None, room_id=None, room_name=None)
PERSON: Json = {"displayName": "akmo3.eth", "isHandRaised": False, "tags": ["a", {"b": 1.5}], "wallet": None}


def visit(metadata: Json = PERSON, peer_id: str = "peerId-4cRF") -> Visit:
    return builders.visit(metadata, peer_id=peer_id, display_name=display_name(metadata) or peer_id)


def body_of(change: Change, room: RoomName = ROOM) -> bytes:
    return encode(draft(change, LEFT), room, event_id="evt_1", sequence=42)


def joined(metadata: Json = PERSON, peer_id: str = "peerId-4cRF", room: RoomName = ROOM) -> bytes:
    return body_of(PeerJoined(visit=visit(metadata, peer_id), session_id="ses_1", peer_count=2), room)


def left() -> bytes:
    return body_of(builders.left(visit()))


def updated(metadata: Json = PERSON, previous: Json = None) -> bytes:
    change = PeerUpdated(visit=visit(metadata), session_id="ses_1", previous_metadata=previous, peer_count=2)
    return body_of(change)


def emptied() -> bytes:
    last_seen = LEFT - timedelta(seconds=2)
    return body_of(RoomEmptied(session=SESSION, ended_at=LEFT, last_seen_at=last_seen, reason=EmptyReason.NO_SESSION))


def snapshot(*visits: Visit) -> bytes:
    return encode(draft_snapshots(SESSION, visits, LEFT)[0], ROOM, event_id="evt_1", sequence=42)


def source_unavailable() -> bytes:
    drafted = draft_source(
        available=False, source="main", condition="unauthorized", since=JOINED, detail=None, observed_at=LEFT
    )
    return encode(drafted, NO_ROOM, event_id="evt_1", sequence=42)


def endpoint_disabled() -> bytes:
    drafted = draft_endpoint(recovered=False, endpoint="crm", reason="gone", since=None, at=LEFT)
    return encode(drafted, NO_ROOM, event_id="evt_1", sequence=42)


EVENTS = {
    "peer.joined": joined(),
    "peer.left": left(),
    "peer.updated": updated(),
    "room.occupied": body_of(RoomOccupied(session=SESSION, peer_count=1)),
    "room.empty": emptied(),
    "room.snapshot": snapshot(visit(), visit(None, "b")),
    "source.unavailable": source_unavailable(),
    "endpoint.disabled": endpoint_disabled(),
}
every_event = pytest.mark.parametrize(("kind", "body"), EVENTS.items(), ids=EVENTS)


def document(event_format: Format, body: bytes) -> dict[str, Any]:
    rendered: dict[str, Any] = json.loads(render(event_format, body).body)
    return rendered


def flat(body: bytes) -> dict[str, Any]:
    return document(Format.FLAT, body)


def payload(body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = document(Format.HUDDLE01, body)["payload"]
    return found


@every_event
def test_standard_is_the_stored_body(kind: str, body: bytes) -> None:
    assert json.loads(body)["type"] == kind
    assert render(Format.STANDARD, body) == Rendered(body=body, content_type="application/json", event_id="evt_1")


@every_event
@pytest.mark.parametrize(
    ("event_format", "content_type"),
    [
        (Format.FLAT, "application/json"),
        (Format.HUDDLE01, "text/plain"),
        (Format.CLOUDEVENTS, "application/cloudevents+json"),
    ],
)
def test_every_format_of_every_event_has_its_id_and_is_compact(
    kind: str, body: bytes, event_format: Format, content_type: str
) -> None:
    rendered = render(event_format, body)
    assert (rendered.content_type, rendered.event_id) == (content_type, "evt_1")
    found = json.loads(rendered.body)
    assert found["id"] == "evt_1"
    assert kind in (found.get("type"), found.get("event", "").replace(":", "."))
    assert rendered.body == json.dumps(found, separators=(",", ":"), ensure_ascii=False).encode()
    assert render(event_format, body) == rendered


def test_the_id_is_found_anywhere_in_the_body() -> None:
    body = json.dumps({"type": "x", "id": 'e"1', "data": {}}).encode()
    assert render(Format.STANDARD, body).event_id == 'e"1'


# --- flat


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (None, {"metadata": None}),
        ("raw ☃", {"metadata": "raw ☃"}),
        (7, {"metadata": 7}),
        (2.5, {"metadata": 2.5}),
        (True, {"metadata": True}),
        (["a", {"ü": None}], {"metadata": '["a",{"ü":null}]'}),
        ({}, {}),
        ({"": 1}, {"metadata_": 1}),
        ({"a": {"b": "ü"}}, {"metadata_a": '{"b":"ü"}'}),
        ({"_truncated": True}, {"metadata__truncated": True}),
    ],
)
def test_flat_metadata(metadata: Json, expected: dict[str, Json]) -> None:
    found = flat(joined(metadata))
    assert {key: value for key, value in found.items() if key.startswith("metadata")} == expected


def test_flat_keeps_both_metadata_of_an_update_apart() -> None:
    found = flat(updated({"name": "new"}, {"name": "old", "gone": 1}))
    assert found["metadata_name"] == "new"
    assert (found["previous_metadata_name"], found["previous_metadata_gone"]) == ("old", 1)
    assert flat(updated({}, "text"))["previous_metadata"] == "text"


def test_flat_metadata_cannot_overwrite_the_keys_of_the_event() -> None:
    event = json.loads(joined({"key": "theirs", "id": "theirs"}))
    event["data"] |= {"metadata_key": "ours", "id": "data's"}
    found = flat(json.dumps(event).encode())
    assert (found["metadata_key"], found["metadata_id"], found["id"]) == ("ours", "theirs", "evt_1")


def test_flat_writes_lists_as_json_text() -> None:
    peers = flat(EVENTS["room.snapshot"])["peers"]
    assert [(peer["peer_id"], peer["metadata"]) for peer in json.loads(peers)] == [("b", None), ("peerId-4cRF", PERSON)]


JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(0, 99).map(str), inner, max_size=4)
    ),
    max_leaves=12,
)
PEER_IDS = st.text(min_size=1)
ROOMS = st.builds(RoomName, source=st.text(min_size=1), room_id=st.text(min_size=1), room_name=st.none() | st.text())


@given(metadata=JSON_VALUES, peer_id=PEER_IDS, room=ROOMS)
def test_flat_has_only_scalars_and_the_same_keys_for_any_metadata(metadata: Json, peer_id: str, room: RoomName) -> None:
    body = joined(metadata, peer_id, room)
    found, event = flat(body), json.loads(body)
    assert not any(isinstance(value, dict | list) for value in found.values())
    own = {*event, *event["data"]} - {"data", "metadata"}
    assert {key for key in found if not key.startswith("metadata")} == own
    assert {key: found[key] for key in own} == {key: {**event["data"], **event}[key] for key in own}
    found_metadata = {
        key.removeprefix("metadata_"): value for key, value in found.items() if key.startswith("metadata_")
    }
    if isinstance(metadata, dict):
        assert found_metadata.keys() == metadata.keys()
    else:
        assert (found_metadata, "metadata" in found) == ({}, True)


# --- huddle01


def test_huddle01_join_has_the_keys_of_huddle01() -> None:
    rendered = document(Format.HUDDLE01, joined())
    theirs = ("id", "sessionId", "roomId", "joinedAt", "metadata", "browser", "device")
    assert (rendered["id"], rendered["event"]) == ("evt_1", "peer:joined")
    assert {key: rendered["payload"][key] for key in theirs} == {
        "id": "peerId-4cRF",
        "sessionId": "ses_1",
        "roomId": "abc-defg-hij",
        "joinedAt": JOINED_MS,
        "metadata": json.dumps(PERSON, separators=(",", ":")),
        "browser": {},
        "device": {},
    }


def test_huddle01_has_the_bridges_own_events_in_the_same_form() -> None:
    rendered = document(Format.HUDDLE01, source_unavailable())
    assert rendered["event"] == "source:unavailable"
    assert rendered["payload"] == {
        "timestamp": LEFT_MS,
        "schemaVersion": 1,
        "sequence": 42,
        "affectedSource": "main",
        "condition": "unauthorized",
        "since": JOINED_MS,
        "observedAt": LEFT_MS,
    }
    ended = payload(emptied())
    assert (ended["endedAt"], ended["duration"], ended["uncertainty"]) == (LEFT_MS, 1794495, 2000)


@pytest.mark.parametrize("metadata", ["text", 7, [1, {"ü": 2.0}], {"1": 1, "0": 0}, {"n": 10**30}, True, ""])
def test_huddle01_metadata_is_json_text_in_ascii(metadata: Json) -> None:
    text = payload(joined(metadata))["metadata"]
    assert text.isascii()
    assert json.loads(text) == metadata


def test_huddle01_leaves_out_unknown_metadata() -> None:
    assert "metadata" not in payload(joined(None))
    assert "metadata" not in payload(updated(None))


def test_huddle01_has_numbers_that_javascript_would_change_as_text() -> None:
    event = json.loads(joined())
    event["data"] |= {"large": SAFE_INTEGER, "larger": SAFE_INTEGER + 1, "broken": 2.5, "peers": [1.0]}
    found = payload(json.dumps(event).encode())
    assert (found["large"], found["larger"]) == (SAFE_INTEGER, str(SAFE_INTEGER + 1))
    assert (found["broken"], found["peers"]) == ("2.5", "[1.0]")


def outcomes(bodies: list[bytes]) -> list[str]:
    lines = []
    for body in bodies:
        rendered = render(Format.HUDDLE01, body)
        header = Huddle01Secret(key=KEY.encode()).sign(rendered.event_id, 1795424404512, rendered.body)
        lines.append(json.dumps({"body": rendered.body.decode(), "header": header}))
    return node("receive_huddle01.mjs", KEY, input="\n".join(lines)).splitlines()


def test_the_official_receiver_accepts_every_kind_of_event() -> None:
    assert outcomes(list(EVENTS.values())) == ["accepted"] * len(EVENTS)


HOSTILE: list[Json] = [
    {"10": 1, "9": 2, "__proto__": {"x": 1}, "constructor": None},
    {"float": 1.0, "small": 1e-7, "large": 1e21, "zero": -0.0, "integer": 2**53 + 1, "huge": 10**400},
    '\u2028\u2029\x7f\u0085\ufeff\u0000\b\f\n\r\t"\\/</script>',
    {"\u2028": "😀", "😀": ["\ufffd", "\U0010ffff"]},
    [[[[[]]]]],
    "",
]


@settings(max_examples=8, deadline=None)
@given(
    metadata=st.lists(JSON_VALUES, min_size=30, max_size=60),
    peer_ids=st.lists(PEER_IDS, min_size=30, max_size=30),
    rooms=st.lists(ROOMS, min_size=30, max_size=30),
)
@example(metadata=HOSTILE, peer_ids=[str(each) or " " for each in HOSTILE], rooms=[ROOM] * len(HOSTILE))
def test_the_official_receiver_accepts_any_metadata(
    metadata: list[Json], peer_ids: list[str], rooms: list[RoomName]
) -> None:
    require_oracles()
    bodies = [joined(*each) for each in zip(metadata, peer_ids, rooms, strict=False)]
    bodies += [updated(each, other) for each, other in pairwise(metadata)]
    bodies.append(snapshot(*(visit(each, str(number)) for number, each in enumerate(metadata))))
    assert outcomes(bodies) == ["accepted"] * len(bodies)


# --- cloudevents


@pytest.mark.parametrize("kind", ["room.empty", "room.snapshot", "source.unavailable", "endpoint.disabled"])
def test_cloudevents_has_a_subject_only_where_there_is_a_peer(kind: str) -> None:
    found = document(Format.CLOUDEVENTS, EVENTS[kind])
    assert "subject" not in found
    assert found["source"] == ("/sources/main/rooms/abc-defg-hij" if kind.startswith("room") else "/bridge")


def test_cloudevents_sequence_sorts_as_text() -> None:
    drafted = draft(RoomOccupied(session=SESSION, peer_count=1), LEFT)
    numbers = [1, 2, 9, 10, 11, 99, 100, 12345, 2**31 - 1]
    bodies = [encode(drafted, ROOM, event_id="evt_1", sequence=number) for number in numbers]
    sequences = [document(Format.CLOUDEVENTS, body)["sequence"] for body in bodies]
    assert sorted(sequences) == sequences
    assert [int(sequence) for sequence in sequences] == numbers


def test_cloudevents_of_an_event_without_a_sequence_has_none() -> None:
    event = json.loads(joined())
    event["data"]["sequence"] = None
    assert not document(Format.CLOUDEVENTS, json.dumps(event).encode()).keys() & {"sequence", "sequencetype"}


@given(metadata=JSON_VALUES, peer_id=PEER_IDS, room=ROOMS)
@example(metadata=None, peer_id="a\nb", room=RoomName(source="a/b", room_id="../x?y#z ü", room_name=None))
def test_cloudevents_attributes_are_legal_for_any_names(metadata: Json, peer_id: str, room: RoomName) -> None:
    """CloudEvents 1.0, type system: a value is not empty and has no control characters."""
    body = joined(metadata, peer_id, room)
    found = document(Format.CLOUDEVENTS, body)
    assert found.pop("data") == json.loads(body)["data"]
    assert all(re.fullmatch("[a-z0-9]{1,20}", name) for name in found)
    for value in found.values():
        assert isinstance(value, int) or (
            value and not re.search(r"[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]", value)
        )
    assert re.fullmatch(r"/sources/[\w.~%-]+/rooms/[\w.~%-]+", found["source"], re.ASCII)
    assert found.get("subject", peer_id) == peer_id
