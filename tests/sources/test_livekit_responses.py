"""LiveKit's responses: what its server writes, what Protocol Buffers' JSON allows, and anything else."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.rules.identity import IdentityPolicy
from bridge.rules.live_rooms import LiveRooms
from bridge.rules.presence import Failure, FailureKind, Peer, Presence, PresencePolicy, Snapshot, diff
from bridge.sources.livekit.participants import Ignored
from bridge.sources.livekit.responses import interpret, read_rooms

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
JOINED = datetime(2026, 11, 23, 9, 0, 0, 123000, tzinfo=UTC)
DEFAULT = Ignored(kinds=("egress",))


def read(document: object, ignored: Ignored = DEFAULT) -> Snapshot:
    found = interpret(200, {}, json.dumps(document).encode(), NOW, ignored=ignored)
    assert isinstance(found, Snapshot), found
    return found


def ann(**fields: object) -> dict[str, Any]:
    return {"sid": "PA_1", "identity": "ann", "state": "ACTIVE", **fields}


def only_peer(**fields: object) -> Peer:
    (peer,) = read({"participants": [ann(**fields)]}).peers
    return peer


def ids(snapshot: Snapshot) -> list[str]:
    return [peer.peer_id for peer in snapshot.peers]


# As livekit-server 1.13.5 writes it: every field, 64-bit numbers as texts.
RECORDED = """{"participants": [{"sid": "PA_kL3wVpwU5aJh", "identity": "ann", "state": "ACTIVE", "tracks": [],
 "metadata": "{\\"email\\": \\"ann@example.com\\"}", "joined_at": "1795424400", "joined_at_ms": "1795424400123",
 "name": "Ann", "version": 3, "permission": {"can_subscribe": true, "can_publish": true, "can_publish_data": true,
 "can_publish_sources": [], "hidden": false, "recorder": false}, "region": "", "is_publisher": false,
 "kind": "STANDARD", "attributes": {"team": "a"}, "disconnect_reason": "UNKNOWN_REASON", "kind_details": []}]}"""


def test_what_the_server_writes() -> None:
    found = interpret(200, {}, RECORDED.encode(), NOW, ignored=DEFAULT)
    assert isinstance(found, Snapshot)
    envelope = {
        "identity": "ann",
        "name": "Ann",
        "kind": "standard",
        "attributes": {"team": "a"},
        "metadata": {"email": "ann@example.com"},
    }
    (peer,) = found.peers
    assert (peer.peer_id, peer.join_time, peer.metadata) == ("PA_kL3wVpwU5aJh", JOINED, envelope)
    assert (peer.person_key, peer.display_name) == ("ann", "Ann")
    assert (found.complete, found.no_session, found.notes) == (True, False, ())


@pytest.mark.parametrize(
    ("fields", "joined_at"),
    [
        ({"joined_at_ms": "1795424400123", "joined_at": "1795424400"}, JOINED),
        ({"joinedAtMs": 1795424400123, "joinedAt": 1}, JOINED),
        ({"joined_at_ms": "0", "joined_at": "1795424400"}, JOINED.replace(microsecond=0)),
        ({"joined_at": 1795424400}, JOINED.replace(microsecond=0)),
        ({"joinedAt": "1795424400"}, JOINED.replace(microsecond=0)),
        ({"joined_at_ms": 0, "joined_at": 0}, None),
        ({"joined_at_ms": "soon", "joined_at": [1]}, None),
        ({"joined_at_ms": "9" * 30}, None),
        ({}, None),
    ],
)
def test_the_join_time_in_every_form(fields: dict[str, object], joined_at: datetime | None) -> None:
    assert only_peer(**fields).join_time == joined_at


@pytest.mark.parametrize(
    ("state", "is_there", "complete"),
    [
        ("JOINED", True, True),
        ("ACTIVE", True, True),
        (1, True, True),
        ("2", True, True),
        ("JOINING", False, True),
        ("DISCONNECTED", False, True),
        (3, False, True),
        (None, False, True),  # absent: zero, which is JOINING
        ("HOVERING", False, False),  # of a later version: it may be present, so no peer leaves
        (9, False, False),
        ([], False, False),
    ],
)
def test_only_participants_that_have_joined_are_there(state: object, *, is_there: bool, complete: bool) -> None:
    found = read({"participants": [ann(state=state)]})
    assert (ids(found), found.complete) == (["PA_1"] * is_there, complete)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (None, "standard"),
        ("AGENT", "agent"),
        (4, "agent"),
        ("3", "sip"),
        (0, "standard"),
        ("ROBOT", "robot"),
        (99, "99"),
    ],
)
def test_kinds_are_ignored_by_their_word_also_unknown_ones(kind: object, word: str) -> None:
    document = {"participants": [ann(kind=kind)]}
    (peer,) = read(document, Ignored(kinds=("egress",))).peers
    assert isinstance(peer.metadata, dict)
    assert peer.metadata["kind"] == word
    found = read(document, Ignored(kinds=(word,)))
    assert (found.peers, found.complete) == ((), True)


@pytest.mark.parametrize("permission", [{"hidden": True}, {"hidden": True, "recorder": True}])
def test_hidden_participants_are_ignored_if_wanted(permission: dict[str, bool]) -> None:
    document = {"participants": [ann(permission=permission)]}
    assert ids(read(document, Ignored(hidden=True))) == []
    assert ids(read(document, Ignored(hidden=False))) == ["PA_1"]


@pytest.mark.parametrize(
    ("fields", "policy", "person", "name"),
    [
        ({"metadata": '{"email": "m"}', "attributes": {"email": "a"}}, {}, "m", "ann"),
        ({"metadata": "plain", "attributes": {"email": "a", "displayName": "A"}}, {}, "a", "A"),
        ({"metadata": '{"user": {"id": 7, "mail": "m"}}'}, {"person_key": ("user.id", "user.mail")}, "m", "ann"),
        ({"name": "Ann"}, {}, "ann", "Ann"),
        ({"name": ""}, {}, "ann", "ann"),
        ({"metadata": '{"email": ""}'}, {"metadata": ()}, "ann", "ann"),
        ({"identity": ""}, {}, "PA_1", "PA_1"),
        ({"kind": "SIP"}, {"person_key": ("kind",)}, "sip", "ann"),
    ],
)
def test_person_and_name(fields: dict[str, Any], policy: dict[str, Any], person: str, name: str) -> None:
    snapshot = read({"participants": [ann(**fields)]})
    rules = PresencePolicy(identity=IdentityPolicy(**policy))
    (visit,) = diff(Presence(tracked_since=NOW), snapshot, rules, NOW, lambda kind: kind).arrived
    assert (visit.person_key, visit.display_name) == (person, name)


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({}, {"attributes": {}, "metadata": ""}),
        ({"metadata": "plain", "attributes": []}, {"attributes": {}, "metadata": "plain"}),
        ({"metadata": "[1]"}, {"attributes": {}, "metadata": "[1]"}),
        ({"metadata": '{"a": {"b": 1}}'}, {"attributes": {}, "metadata": {"a": {"b": 1}}}),
    ],
)
def test_its_own_metadata_is_decoded_if_it_is_an_object(fields: dict[str, object], kept: dict[str, object]) -> None:
    assert only_peer(**fields).metadata == {"identity": "ann", "name": "", "kind": "standard", **kept}


def test_the_same_sid_with_another_time_is_a_resume_and_no_rejoin() -> None:
    """A participant that is moved to another server keeps its sid, and gets a new `joined_at`."""
    before = Presence(tracked_since=NOW)
    for joined_at, count in ((1795424400, 2), (1795424460, 0), (1795424520, 0)):
        found = diff(
            before, read({"participants": [ann(joined_at=joined_at)]}), PresencePolicy(), NOW, lambda kind: kind
        )
        assert len(found.changes) == count
        before = found.after


def test_order_versions_and_tracks_do_not_change_the_fingerprint() -> None:
    bob = ann(sid="PA_2", identity="bob")
    first = read({"participants": [ann(version=1), bob]})
    same = read({"participants": [bob, ann(version=2, tracks=[{"sid": "TR_1"}])]})
    others = [
        read({"participants": [ann()]}),
        read({"participants": [ann(name="Ann"), bob]}),
        read({"participants": [ann(), bob, {}]}, Ignored(kinds=())),
        read({"participants": [ann(), bob, 5]}),
    ]
    assert first.fingerprint == same.fingerprint != others[0].fingerprint
    assert first.fingerprint != others[1].fingerprint
    assert (others[2].fingerprint, others[3].complete) == (first.fingerprint, False)


@pytest.mark.parametrize("body", ["{}", '{"participants": []}', '{"participants": null}', '{"participants":[],"x":1}'])
def test_an_empty_room(body: str) -> None:
    found = interpret(200, {}, body.encode(), NOW, ignored=DEFAULT)
    assert isinstance(found, Snapshot)
    assert (found.peers, found.complete, found.no_session) == ((), True, False)


def test_a_room_that_does_not_exist_is_empty() -> None:
    body = b'{"code":"not_found","msg":"requested room does not exist"}'
    found = interpret(404, {}, body, NOW, ignored=DEFAULT)
    assert isinstance(found, Snapshot)
    assert (found.peers, found.complete, found.no_session) == ((), True, True)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, "invalid authorization token", FailureKind.UNAUTHORIZED),
        (401, '{"code":"unauthenticated","msg":"permissions denied"}', FailureKind.UNAUTHORIZED),
        (403, '{"code":"permission_denied","msg":"x"}', FailureKind.UNAUTHORIZED),
        (403, '{"code":"resource_exhausted","msg":"x"}', FailureKind.RATE_LIMITED),
        (429, '{"code":"resource_exhausted","msg":"x"}', FailureKind.RATE_LIMITED),
        (429, "", FailureKind.RATE_LIMITED),
        (404, '{"code":"bad_route","msg":"no handler for path"}', FailureKind.BAD_RESPONSE),
        (404, '{"code":"not_found","msg":"participant does not exist"}', FailureKind.BAD_RESPONSE),
        (404, "<html>room does not exist</html>", FailureKind.BAD_RESPONSE),
        (404, "404 page not found", FailureKind.BAD_RESPONSE),
        (400, '{"code":"malformed","msg":"the json request could not be decoded"}', FailureKind.BAD_RESPONSE),
        (500, '{"code":"internal","msg":"x"}', FailureKind.SERVER_ERROR),
        (503, '{"code":"unavailable","msg":"no response from servers"}', FailureKind.SERVER_ERROR),
        (408, '{"code":"deadline_exceeded","msg":"x"}', FailureKind.SERVER_ERROR),
        (502, "<html>Bad Gateway</html>", FailureKind.SERVER_ERROR),
        (302, "", FailureKind.BAD_RESPONSE),
        (200, "<html>welcome to the hotel</html>", FailureKind.BAD_RESPONSE),
        (200, '{"status":"ok"}', FailureKind.BAD_RESPONSE),
        (200, '{"participants":{}}', FailureKind.BAD_RESPONSE),
        (200, "[]", FailureKind.BAD_RESPONSE),
        (200, "null", FailureKind.BAD_RESPONSE),
        (200, "", FailureKind.BAD_RESPONSE),
        (200, '{"code":"internal","msg":"x"}', FailureKind.SERVER_ERROR),
        (204, '{"participants":[]}', FailureKind.BAD_RESPONSE),
    ],
)
def test_anything_else_is_a_failure(status: int, body: str, kind: FailureKind) -> None:
    for found in (
        interpret(status, {}, body.encode(), NOW, ignored=DEFAULT),
        read_rooms(status, {}, body.encode(), NOW),
    ):
        assert isinstance(found, Failure)
        assert (found.kind, found.status) == (kind, status)
        assert body[:100] in found.detail


def test_retry_after_and_the_target_of_a_redirect_are_read() -> None:
    limited = interpret(429, {"Retry-After": "7"}, b"", NOW, ignored=DEFAULT)
    moved = interpret(301, {"LOCATION": "https://elsewhere"}, b"", NOW, ignored=DEFAULT)
    assert isinstance(limited, Failure)
    assert isinstance(moved, Failure)
    assert limited.retry_after == timedelta(seconds=7)
    assert "https://elsewhere" in moved.detail


@pytest.mark.parametrize(
    ("body", "live"),
    [
        ('{"rooms": []}', {}),
        ("{}", {}),
        ('{"rooms": null}', {}),
        ('{"rooms": [{"name": "a", "num_participants": 2}, {"name": "b", "numParticipants": "3"}]}', {"a": 2, "b": 3}),
        ('{"rooms": [{"name": "a"}, {"name": "b", "num_participants": 0}]}', {}),
        ('{"rooms": [{"name": " a", "num_participants": 1}, {"name": "\\u0000", "num_participants": 1}]}', {}),
    ],
)
def test_a_list_of_rooms_names_those_with_participants(body: str, live: dict[str, int]) -> None:
    found = read_rooms(200, {}, body.encode(), NOW)
    assert isinstance(found, LiveRooms)
    assert (found.peer_counts, found.complete) == (live, True)


@pytest.mark.parametrize(
    "item",
    [
        *("7", "{}", "[]", '{"name": 1}'),
        *(f'{{"name": "a", "num_participants": {count}}}' for count in ('"many"', -1, 1 << 31, f'"{"9" * 400}"')),
    ],
)
def test_a_list_with_an_item_that_cannot_be_read_is_incomplete(item: str) -> None:
    found = read_rooms(200, {}, f'{{"rooms": [{item}, {{"name": "b", "num_participants": 1}}]}}'.encode(), NOW)
    assert isinstance(found, LiveRooms)
    assert (found.peer_counts, found.complete, len(found.notes)) == ({"b": 1}, False, 1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["sid", "identity", "name", "state", "kind", "attributes", "metadata", "permission", "joined_at", "joinedAtMs"]
USABLE = st.one_of(JSON, st.sampled_from(["ACTIVE", "JOINED", "2", 2, "PA_1", '{"a": "b"}', {"hidden": True}]))
ITEMS = st.lists(st.dictionaries(st.sampled_from(FIELDS), USABLE, max_size=10) | JSON, max_size=4)


@given(items=ITEMS, status=st.sampled_from([200, 404, 500]), raw=st.none() | st.binary(max_size=40))
def test_the_reader_never_raises_and_a_list_is_always_read(items: list[Any], status: int, raw: bytes | None) -> None:
    body = json.dumps({"participants": items}).encode() if raw is None else raw
    found = interpret(status, {}, body, NOW, ignored=DEFAULT)
    assert isinstance(found, Snapshot) or found.detail
    if raw is None and status == 200:
        assert isinstance(found, Snapshot)
        assert all(isinstance(peer.metadata, dict) and peer.peer_id for peer in found.peers)
        assert len({*ids(found)}) == len(found.peers)
        diff(Presence(tracked_since=NOW), found, PresencePolicy(), NOW, lambda kind: kind)


def test_metadata_that_is_nested_as_deeply_as_can_be_is_read() -> None:
    for levels in (100, 900, 5_000, 100_000):
        nested = '{"a":' * levels + "1" + "}" * levels
        found = read({"participants": [ann(metadata=nested)]})
        assert len(diff(Presence(tracked_since=NOW), found, PresencePolicy(), NOW, lambda kind: kind).arrived) == 1
