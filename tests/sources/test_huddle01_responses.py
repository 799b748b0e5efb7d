from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.rules.identity import cut_metadata
from bridge.rules.live_rooms import LiveRooms
from bridge.rules.presence import ABSENT, Absent, Failure, FailureKind, Json, Peer, Snapshot, same_json
from bridge.sources.failures import EXCERPT_LENGTH
from bridge.sources.huddle01.responses import interpret, read_live_sessions

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
JOINED = datetime(2024, 8, 28, 15, 2, 58, 134000, tzinfo=UTC)
JOIN_TIME = 1724857378134
BAD_KEY = {"message": "Incorrect or no API key provided", "ok": False, "validated": False}


def response(status: int, document: object, **headers: str) -> Snapshot | Failure:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return interpret(status, named, json.dumps(document).encode(), NOW)


def listed(*items: object, **fields: object) -> Snapshot:
    found = response(200, {"participants": list(items), **fields})
    assert isinstance(found, Snapshot), found
    return found


def item(peer_id: str = "peerId-a", **fields: object) -> dict[str, object]:
    return {"peerId": peer_id, "joinTime": JOIN_TIME, "metadata": {"displayName": "Ann"}, **fields}


def only_peer(**fields: object) -> Peer:
    (peer,) = listed({**item(), **fields}).peers
    return peer


def failure(status: int, body: bytes, **headers: str) -> Failure:
    found = interpret(status, {name.replace("_", "-"): value for name, value in headers.items()}, body, NOW)
    assert isinstance(found, Failure), found
    return found


def test_the_documented_response() -> None:
    body = b"""{"count": 1, "participants": [{"peerId": "peerId-4cRF64LOB6dWF_d0qEzQs", "joinTime": 1724857378134,
        "metadata": {"displayName": "akmo3.eth", "isHandRaised": false}}]}"""
    found = interpret(200, {}, body, NOW)
    assert isinstance(found, Snapshot)
    assert found.peers == (
        Peer(
            peer_id="peerId-4cRF64LOB6dWF_d0qEzQs",
            join_time=JOINED,
            metadata={"displayName": "akmo3.eth", "isHandRaised": False},
        ),
    )
    assert (found.complete, found.no_session, found.notes) == (True, False, ())


@pytest.mark.parametrize(
    ("items", "count", "complete", "peers"),
    [
        ([], 0, True, 0),
        ([], None, True, 0),
        ([item("a"), item("b")], 2, True, 2),
        ([item("a"), item("b")], None, True, 2),
        ([item("a"), item("b")], "2", True, 2),
        ([item("a"), item("b")], 3, False, 2),
        ([item("a"), item("b")], 1, False, 2),
        ([item("a")], True, False, 1),
        ([item("a")], [1], False, 1),
        ([item("a")], -1, False, 1),
        # a peer listed twice: count may mean items or peers
        ([item("a"), item("a")], 2, True, 1),
        ([item("a"), item("a")], 1, True, 1),
        ([item("a"), item("a")], 3, False, 1),
        ([item("a"), item("a")], None, True, 1),
        # an unreadable item is missing only if it was counted, or if there is no count
        ([item("a"), {"metadata": {}}], 2, False, 1),
        ([item("a"), {"metadata": {}}], 1, True, 1),
        ([item("a"), "peerId-b"], None, False, 1),
        ([{"peerId": ""}], None, False, 0),
        ([{"peerId": "x" * 513}], 1, False, 0),
        ([{"peerId": "x" * 512}], 1, True, 1),
        ([None, 1, [], item("a")], 4, False, 1),
    ],
)
def test_a_list_is_complete_if_every_counted_item_could_be_read(
    items: list[object], count: object, *, complete: bool, peers: int
) -> None:
    found = listed(*items) if count is None else listed(*items, count=count)
    assert (found.complete, len(found.peers)) == (complete, peers)
    assert not found.no_session


def test_a_count_of_null_is_like_no_count() -> None:
    assert listed(item(), count=None).complete


def test_only_unusual_lists_have_notes() -> None:
    found = listed(item("a"), item("a", joinTime=1), "stranger", item("b", exitTime=JOIN_TIME + 1), count=9, extra={})
    assert [note.split(":")[0] for note in found.notes] == [
        "1 skipped",
        "1 listed again",
        "1 with an exitTime",
        "count is 9, but 3 are usable",
    ]
    assert {peer.peer_id for peer in found.peers} == {"a", "b"}
    assert listed(item("a", exitTime=None, role="guest"), count=1, pageSize=5).notes == ()


def test_of_two_items_of_one_peer_the_earliest_join_counts_in_any_order() -> None:
    early = item("a", joinTime=1000, metadata={"n": 1})
    late = item("a", joinTime=2000, metadata={"n": 2})
    unknown = item("a", joinTime=None, metadata={"n": 3})
    for items in ([early, late, unknown], [unknown, late, early], [late, early, unknown]):
        (peer,) = listed(*items).peers
        assert peer.join_time == datetime(1970, 1, 1, 0, 16, 40, tzinfo=UTC)
        assert peer.metadata == {"n": 1}


def test_of_two_items_that_differ_only_in_metadata_the_same_counts_in_any_order() -> None:
    one, other, without = item("a", metadata={"n": 1}), item("a", metadata={"n": 2}), item("a")
    del without["metadata"]
    assert listed(one, other, without).peers == listed(other, without, one).peers == listed(without, one, other).peers


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (JOIN_TIME, JOINED),
        (JOIN_TIME + 0.5, JOINED + timedelta(microseconds=500)),
        (str(JOIN_TIME), JOINED),
        (f" {JOIN_TIME}.0 ", JOINED),
        ("2024-08-28T15:02:58.134Z", JOINED),
        ("2024-08-28T17:02:58.134+02:00", JOINED),
        ("2024-08-28T15:02:58.134", JOINED),
        ("2024-08-28", datetime(2024, 8, 28, tzinfo=UTC)),
        (1724857378, JOINED.replace(microsecond=0)),
        (1724857378.134, JOINED),
        ("1724857378", JOINED.replace(microsecond=0)),
        (10**11 - 1, datetime(5138, 11, 16, 9, 46, 39, tzinfo=UTC)),
        (10**11, datetime(1973, 3, 3, 9, 46, 40, tzinfo=UTC)),
        (None, None),
        (True, None),
        (-1, None),
        ("-5", None),
        ("soon", None),
        ("1e12", None),
        ("\uff11\uff17\uff12\uff14", None),
        ("1969-12-31", None),
        ("0001-01-01T00:00:00+23:59", None),
        ("9999-12-31T23:59:59-23:59", None),
        ([], None),
        ({"$date": JOIN_TIME}, None),
        (10**15, None),
        (10**4000, None),
        (1e300, None),
        ("9" * 5000, None),
    ],
)
def test_join_time(value: object, expected: datetime | None) -> None:
    assert only_peer(joinTime=value).join_time == expected


def test_a_missing_join_time_is_unknown() -> None:
    (peer,) = listed({"peerId": "a"}).peers
    assert peer.join_time is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            {"displayName": "Ann", "deep": {"er": [1, None, 2.5]}},
            {"displayName": "Ann", "deep": {"er": [1, None, 2.5]}},
        ),
        ('{"displayName": "Ann"}', {"displayName": "Ann"}),
        (' \n{"displayName": "Ann"} ', {"displayName": "Ann"}),
        (json.dumps(json.dumps({"a": 1})), json.dumps(json.dumps({"a": 1}))),
        ("displayName=Ann; not JSON", "displayName=Ann; not JSON"),
        ('["Ann"]', '["Ann"]'),
        ('"Ann"', '"Ann"'),
        ("", ""),
        ('{"broken": ', '{"broken": '),
        ('{"not": NaN}', '{"not": NaN}'),
        (None, None),
        (42, 42),
        (True, True),
        (["a", {}], ["a", {}]),
        ("Ann \ud83d", "Ann \ufffd"),
        ({"na\ud83dme": "\udc00\ud83d"}, {"na\ufffdme": "\ufffd\ufffd"}),
        ('{"n": "\\ud83d"}', {"n": "\ufffd"}),
        ('{"n": "\\ud83d\\ude00"}', {"n": "\U0001f600"}),
        ({"path": r"C:\users\ud8"}, {"path": r"C:\users\ud8"}),
        ({"text": r"\ud800"}, {"text": r"\ud800"}),
    ],
)
def test_metadata(value: Json, expected: Json) -> None:
    metadata = only_peer(metadata=value).metadata
    assert not isinstance(metadata, Absent)
    assert same_json(metadata, expected)
    json.dumps(metadata, ensure_ascii=False).encode()


@pytest.mark.parametrize("count", ["1e999", "1" + "0" * 5000])
def test_a_count_that_cannot_be_read_makes_the_list_incomplete(count: str) -> None:
    found = interpret(200, {}, f'{{"participants":[],"count":{count}}}'.encode(), NOW)
    assert isinstance(found, Snapshot)
    assert not found.complete


@pytest.mark.parametrize("number", ["1e400", "-1e400", "7" * 5000, "-" + "7" * 5000])
@pytest.mark.parametrize("as_text", [False, True])
def test_a_number_that_cannot_be_read_is_kept_as_text(number: str, *, as_text: bool) -> None:
    """One participant's metadata must not hide the others."""
    metadata = json.dumps(f'{{"n":{number}}}') if as_text else f'{{"n":{number}}}'
    body = f'{{"count":2,"participants":[{{"peerId":"a","metadata":{metadata}}},{{"peerId":"b"}}]}}'.encode()
    found = interpret(200, {}, body, NOW)
    assert isinstance(found, Snapshot)
    assert [peer.peer_id for peer in found.peers] == ["a", "b"]
    assert found.peers[0].metadata == {"n": number}


def test_missing_metadata_is_not_null() -> None:
    (peer,) = listed({"peerId": "a"}).peers
    assert peer.metadata is ABSENT


@pytest.mark.parametrize(
    ("levels", "fits"), [(1, True), (100, True), (101, False), (200, False), (900, False), (2500, False)]
)
@pytest.mark.parametrize("as_text", [False, True])
def test_metadata_is_truncated_when_it_is_nested_too_deeply(levels: int, *, fits: bool, as_text: bool) -> None:
    """A peer must not be able to hide the others by its metadata."""
    nested = '{"a":' * levels + "1" + "}" * levels
    written = json.dumps(nested) if as_text else nested
    body = f'{{"count":2,"participants":[{{"peerId":"a","metadata":{written}}},{{"peerId":"b"}}]}}'.encode()
    found = interpret(200, {}, body, NOW)
    assert isinstance(found, Snapshot)
    assert (found.complete, [peer.peer_id for peer in found.peers]) == (True, ["a", "b"])
    metadata = found.peers[0].metadata
    assert not isinstance(metadata, Absent)
    assert (cut_metadata(metadata) == {"_truncated": True}) is not fits


@pytest.mark.parametrize(
    ("value", "kept"), [("a\ud800b", "a\ufffdb"), ("a\0b", "a\ufffdb"), (" ", " "), ("../x y", "../x y"), ("☃", "☃")]
)
def test_a_peer_id_is_any_text_that_can_be_stored(value: str, kept: str) -> None:
    assert only_peer(peerId=value).peer_id == kept


@pytest.mark.parametrize("status", [404, 412, 200])
@pytest.mark.parametrize(
    "document",
    [
        {"ok": False, "message": "Session Not Found"},
        {"ok": False, "message": "No live sessions found for this room id"},
        {"message": "Room Not Found", "code": "BAD_REQUEST"},
        {"message": "Session Not Found"},
        {"ok": False, "message": "No ongoing meeting"},
        {"ok": False, "message": "The room isn't live"},
        {"ok": False, "message": "This room does not exist"},
        {"ok": False, "message": "Session not found", "participants": [], "count": 0},
    ],
)
def test_messages_that_mean_no_session_empty_the_room(status: int, document: object) -> None:
    found = response(status, document)
    assert isinstance(found, Snapshot)
    assert (found.peers, found.complete, found.no_session) == ((), True, True)
    assert found.fingerprint is not None


@pytest.mark.parametrize("status", [404, 412, 200])
@pytest.mark.parametrize(
    "document",
    [
        {"error": "not found"},
        {"message": "no Route matched with those values"},
        {"message": "Not Found"},
        {"ok": False},
        {"ok": False, "message": None},
        {"ok": False, "message": ["Session Not Found"]},
        {"ok": False, "message": "Something went wrong"},
        {"ok": False, "message": "Route GET /api/v2/sdk/rooms not found"},
        {"ok": False, "message": "room service not found"},
        {"message": "session token not found"},
        {"message": "API call not found"},
        {"success": False, "error": {"issues": []}},
        {"ok": False, "message": "Session Not Found", "participants": [{"peerId": "a"}]},
        {},
        [],
        "Session Not Found",
        None,
    ],
)
def test_any_other_not_found_does_not_empty_the_room(status: int, document: object) -> None:
    found = response(status, document)
    assert isinstance(found, Failure)
    assert found.kind is FailureKind.BAD_RESPONSE


@pytest.mark.parametrize("status", [201, 204, 206, 301, 400, 405, 410, 500, 503])
def test_no_other_status_can_empty_the_room(status: int) -> None:
    assert isinstance(response(status, {"ok": False, "message": "Session Not Found"}), Failure)
    assert isinstance(response(status, {"count": 0, "participants": []}), Failure)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, b"<html><h1>404 Not Found</h1></html>", FailureKind.BAD_RESPONSE),
        (404, b"Session Not Found", FailureKind.BAD_RESPONSE),
        (404, b"", FailureKind.BAD_RESPONSE),
        (408, b"", FailureKind.BAD_RESPONSE),
        (401, b"", FailureKind.UNAUTHORIZED),
        (403, b"<html>Forbidden</html>", FailureKind.UNAUTHORIZED),
        (429, b"slow down", FailureKind.RATE_LIMITED),
        (429, json.dumps(BAD_KEY).encode(), FailureKind.RATE_LIMITED),
        (500, b"", FailureKind.SERVER_ERROR),
        (503, b'{"ok":false,"message":"try later"}', FailureKind.SERVER_ERROR),
        (200, b"", FailureKind.BAD_RESPONSE),
        (200, b"<html>Welcome</html>", FailureKind.BAD_RESPONSE),
        (200, b'{"count":1,"participants":[{"peerId":"a"', FailureKind.BAD_RESPONSE),
        (200, b'{"count":0,"participants":[]} trailing', FailureKind.BAD_RESPONSE),
        (200, b"[]", FailureKind.BAD_RESPONSE),
        (200, b'{"count":0}', FailureKind.BAD_RESPONSE),
        (200, b'{"count":0,"participants":null}', FailureKind.BAD_RESPONSE),
        (200, b'{"count":0,"participants":{}}', FailureKind.BAD_RESPONSE),
        (200, b'{"participants":"none"}', FailureKind.BAD_RESPONSE),
        (200, b'{"ok":false,"count":0,"participants":[]}', FailureKind.BAD_RESPONSE),
        (200, b'{"participants":[],"count":NaN}', FailureKind.BAD_RESPONSE),
        (200, b'{"participants":[{"peerId":"\xff"}]}', FailureKind.BAD_RESPONSE),
        (200, b'{"participants":[{"peerId":"\xed\xa0\x80"}]}', FailureKind.BAD_RESPONSE),
        (200, '{"participants":[]}'.encode("utf-16"), FailureKind.BAD_RESPONSE),
        (200, b"[" * 100_000, FailureKind.BAD_RESPONSE),
        (200, b"[" * 100_000 + b"]" * 100_000, FailureKind.BAD_RESPONSE),
    ],
)
def test_any_other_response_is_a_failure(status: int, body: bytes, kind: FailureKind) -> None:
    found = failure(status, body)
    assert (found.kind, found.status) == (kind, status)


def test_a_byte_order_mark_is_accepted() -> None:
    assert isinstance(interpret(200, {}, b'\xef\xbb\xbf{"count":0,"participants":[]}', NOW), Snapshot)


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 412, 500])
def test_the_body_for_a_bad_key_is_recognized_under_any_status(status: int) -> None:
    found = response(status, BAD_KEY)
    assert isinstance(found, Failure)
    assert (found.kind, found.status) == (FailureKind.UNAUTHORIZED, status)


@pytest.mark.parametrize(
    ("document", "unauthorized"),
    [
        ({"message": "API key missing or invalid"}, True),
        ({"ok": False, "message": "Invalid API key"}, True),
        ({"ok": False, "message": "missing or wrong api-key"}, True),
        ({"validated": False}, True),
        ({"ok": True, "validated": True, "message": "API key is not missing"}, False),
        ({"ok": False, "message": "No session for API key"}, False),
        ({"ok": False, "message": "Session Not Found", "validated": True}, False),
    ],
)
def test_messages_for_a_bad_key(document: object, *, unauthorized: bool) -> None:
    found = response(400, document)
    assert isinstance(found, Failure)
    assert (found.kind is FailureKind.UNAUTHORIZED) is unauthorized


@pytest.mark.parametrize("name", ["retry-after", "Retry-After"])
@pytest.mark.parametrize(("status", "kind"), [(429, FailureKind.RATE_LIMITED), (503, FailureKind.SERVER_ERROR)])
def test_retry_after(name: str, status: int, kind: FailureKind) -> None:
    found = interpret(status, {name: "Mon, 23 Nov 2026 09:31:30 GMT"}, b"", NOW)
    assert isinstance(found, Failure)
    assert (found.kind, found.retry_after) == (kind, timedelta(seconds=90))


def test_a_failure_shows_the_beginning_of_the_body_in_one_printable_line() -> None:
    found = failure(502, b"<html>\r\n\t<h1>Bad\x00\x1b[31m gateway</h1>\xff" + b"x" * 5000)
    assert "<html> <h1>Bad\ufffd\ufffd[31m gateway</h1>\ufffdxxx" in found.detail
    assert found.detail.isprintable()
    assert len(found.detail) < EXCERPT_LENGTH + 50


def test_the_failure_of_a_redirect_has_its_target() -> None:
    found = failure(302, b"", location="https://elsewhere.example/" + "x" * 1000)
    assert "https://elsewhere.example/xxx" in found.detail
    assert len(found.detail) < 2 * EXCERPT_LENGTH


def test_equal_lists_have_equal_fingerprints_and_others_do_not() -> None:
    same = [listed(item("a"), count=1) for _ in range(2)]
    assert same[0].fingerprint == same[1].fingerprint is not None
    others = [listed(item("b"), count=1), listed(item("a"), count=2), listed(count=0)]
    assert len({snapshot.fingerprint for snapshot in (*same, *others)}) == 4


JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),  # any character: surrogates too
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
ITEMS = JSON_VALUES | st.fixed_dictionaries(
    {},
    optional={
        "peerId": st.sampled_from(["a", "b", "c", "", "a\ud800"]) | JSON_VALUES,
        "joinTime": st.integers() | st.floats() | st.dates().map(str) | st.datetimes().map(str) | JSON_VALUES,
        "metadata": JSON_VALUES | JSON_VALUES.map(json.dumps),
        "exitTime": JSON_VALUES,
    },
)
BODIES = (
    st.binary()
    | JSON_VALUES.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {"participants": st.lists(ITEMS, max_size=5) | JSON_VALUES},
        optional={"count": st.integers(0, 5) | JSON_VALUES, "ok": JSON_VALUES, "message": JSON_VALUES},
    ).map(lambda value: json.dumps(value).encode())
)
STATUSES = st.sampled_from([200, 404, 412, 429, 500]) | st.integers(100, 999)
HEADERS = st.dictionaries(st.sampled_from(["Retry-After", "location", "x"]), st.text(st.characters()) | st.just("1"))


@given(status=STATUSES, headers=HEADERS, body=BODIES)
@example(status=200, headers={}, body=b'{"participants":[{"peerId":"a","joinTime":1e308}]}')
def test_no_response_raises_or_leaves_text_that_cannot_be_stored(
    status: int, headers: dict[str, str], body: bytes
) -> None:
    found = interpret(status, headers, body, NOW)
    match found:
        case Failure():
            assert found.detail.isprintable()
            found.detail.encode()
        case Snapshot():
            assert status in (200, 404, 412)
            assert len({peer.peer_id for peer in found.peers}) == len(found.peers)
            for peer in found.peers:
                assert peer.peer_id.encode()
                assert "\0" not in peer.peer_id
                if peer.metadata is not ABSENT:
                    json.dumps(peer.metadata, ensure_ascii=False, allow_nan=False).encode()
                if peer.join_time is not None:
                    assert peer.join_time.utcoffset() == timedelta()


@given(items=st.lists(ITEMS, max_size=6), count=st.none() | st.integers(0, 7), order=st.randoms())
def test_the_order_of_the_list_does_not_matter(items: list[Any], count: int | None, order: Any) -> None:  # noqa: ANN401 - random.Random
    shuffled = list(items)
    order.shuffle(shuffled)
    both = [response(200, {"participants": each, "count": count}) for each in (items, shuffled)]
    if any(isinstance(found, Failure) for found in both):
        assert all(isinstance(found, Failure) for found in both)
        return
    one, other = (
        (sorted(map(repr, found.peers)), found.complete, found.notes) for found in both if isinstance(found, Snapshot)
    )
    assert one == other


@given(body=st.binary(), status=st.sampled_from([404, 412]))
def test_arbitrary_bytes_never_empty_a_room(status: int, body: bytes) -> None:
    assert isinstance(interpret(status, {}, body, NOW), Failure)


@pytest.mark.parametrize(
    ("status", "body", "live"),
    [
        (200, '{"liveSessions": []}', []),
        (200, '{"liveSessions": [{"roomId": "a"}, {"roomid": "b", "startTime": 1}]}', ["a", "b"]),
        (200, '{"liveSessions": [{"roomId": "a"}, {"roomId": "a"}, {"roomId": ".."}]}', ["a"]),
        (404, '{"ok": false, "message": "No live sessions found"}', []),
    ],
)
def test_the_live_rooms(status: int, body: str, live: list[str]) -> None:
    found = read_live_sessions(status, {}, body.encode(), NOW)
    assert isinstance(found, LiveRooms)
    assert (found.peer_counts, found.complete) == (dict.fromkeys(live), True)


@pytest.mark.parametrize("item", ["7", "{}", '{"roomId": null}', "[]"])
def test_a_list_of_live_rooms_with_an_item_that_cannot_be_read_is_incomplete(item: str) -> None:
    found = read_live_sessions(200, {}, f'{{"liveSessions": [{item}, {{"roomId": "b"}}]}}'.encode(), NOW)
    assert isinstance(found, LiveRooms)
    assert (found.peer_counts, found.complete, len(found.notes)) == ({"b": None}, False, 1)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, "{}", FailureKind.BAD_RESPONSE),
        (200, '{"count": 0, "participants": []}', FailureKind.BAD_RESPONSE),
        (200, "<html>", FailureKind.BAD_RESPONSE),
        (401, '{"message": "Incorrect or no API key provided"}', FailureKind.UNAUTHORIZED),
        (404, "404 Not Found", FailureKind.BAD_RESPONSE),
        (503, "", FailureKind.SERVER_ERROR),
    ],
)
def test_no_list_of_live_rooms(status: int, body: str, kind: FailureKind) -> None:
    found = read_live_sessions(status, {}, body.encode(), NOW)
    assert isinstance(found, Failure)
    assert found.kind is kind
