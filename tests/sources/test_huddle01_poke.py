"""Huddle01's own webhooks: signed as its documentation says, and as other serializers write them."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import timedelta
from typing import Any

import pytest

from bridge.errors import VerificationError
from bridge.rules.pokes import Expected
from bridge.sources.huddle01.poke import read_poke
from bridge.sources.protocol import SourceSettings
from tests.harness.builders import START

KEY = "ak_schlüssel"
SOURCE = SourceSettings(name="main", kind="huddle01", base_url="https://example.com", api_key=KEY)
BODY = {"id": "wh_1", "event": "peer:joined", "payload": {"id": "p", "roomId": "a/ä", "joinedAt": 1}}
NOW_MS = int(START.timestamp() * 1000)


def compact(body: Any) -> bytes:  # noqa: ANN401 - JSON
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def signature(
    signed: bytes, *, time: int = NOW_MS, key: str = KEY, algorithm: str = "sha256", id_: str = "wh_1"
) -> str:
    mac = hmac.new(key.encode(), f"{id_}.{time}.".encode() + signed, getattr(hashlib, algorithm)).hexdigest()
    return f"t={time},{algorithm}={mac}"


def read(body: bytes, header: str) -> str | None:
    return read_poke(SOURCE, {"huddle01-signature": header}, body, START).room_id


FLOAT = b'{"id":7,"event":"x","payload":{"roomId":"a","duration":1e21,"z":1.50}}'


@pytest.mark.parametrize(
    ("body", "header", "room"),
    [
        (compact(BODY), signature(compact(BODY)), "a/ä"),
        (compact(BODY), signature(compact(BODY), algorithm="sha512"), "a/ä"),
        (json.dumps(BODY, indent=2).encode(), signature(compact(BODY)), "a/ä"),  # escaped and indented on the wire
        (FLOAT, signature(FLOAT, id_="7"), "a"),  # numbers that Python would write otherwise
        (compact(BODY), signature(compact(BODY), time=NOW_MS // 1000), "a/ä"),
        (compact(BODY), signature(compact(BODY), time=NOW_MS - 299_000), "a/ä"),
        (compact({"id": "wh_1", "event": "x"}), signature(compact({"id": "wh_1", "event": "x"})), None),
        *[
            (compact(no_room), signature(compact(no_room)), None)
            for no_room in (
                {**BODY, "payload": payload} for payload in ({"roomId": 5}, {"roomId": ""}, ["roomId"], None)
            )
        ],
    ],
)
def test_what_the_upstream_signed_names_its_room(body: bytes, header: str, room: str | None) -> None:
    assert read(body, header) == room


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Expected(peer_id="p", present=True)),
        ({"event": "peer:left"}, Expected(peer_id="p")),
        ({"event": "peer:left", "payload": {"roomId": "a", "id": 7}}, None),
        ({"event": "meeting:ended"}, Expected(peer_id=None)),
        ({"event": "meeting:started"}, None),
        ({"event": ["peer:left"]}, None),
    ],
)
def test_the_message_sets_what_the_poll_should_find(changes: dict[str, Any], expected: Expected | None) -> None:
    body = compact(BODY | changes)
    poke = read_poke(SOURCE, {"huddle01-signature": signature(body)}, body, START)
    assert poke.expected == expected
    assert poke.may_be_live is (expected != Expected(peer_id=None))


GOOD = signature(compact(BODY))


@pytest.mark.parametrize(
    ("body", "header"),
    [
        (compact(BODY), ""),
        (compact(BODY), GOOD.replace(",", ", ")),
        (compact(BODY), GOOD.replace("sha256", "sha1")),
        (compact(BODY), GOOD[:-1]),
        (compact(BODY), GOOD.upper().replace("T=", "t=").replace("SHA", "sha")),
        (compact(BODY), signature(compact(BODY), key="ak_other")),
        (compact(BODY), signature(compact(BODY), time=NOW_MS - 301_000)),
        (compact(BODY), signature(compact(BODY), time=NOW_MS + 301_000)),
        (compact(BODY), GOOD.replace(str(NOW_MS), str(NOW_MS + 1))),
        (compact({**BODY, "event": "peer:left"}), GOOD),
        (compact({**BODY, "id": "wh_2"}), GOOD),
        (b"not JSON", signature(b"not JSON")),
        (b"[]", signature(b"[]")),
        (b"\xff", signature(b"\xff")),
        (b'{"id":' + b"[" * 50_000, GOOD),
        (b'{"id":"wh_1","x":' + b"[" * 900 + b"]" * 900 + b"}", GOOD),
        (compact({"event": "x"}), signature(compact({"event": "x"}), id_="")),
    ],
)
def test_anything_else_is_refused_without_a_word_about_the_key(body: bytes, header: str) -> None:
    with pytest.raises(VerificationError) as refused:
        read(body, header)
    assert KEY not in str(refused.value)


def test_only_the_same_message_has_the_same_fingerprint() -> None:
    headers = [GOOD, GOOD, signature(compact(BODY), time=NOW_MS + 1)]
    first, same, other = [
        read_poke(SOURCE, {"huddle01-signature": each}, compact(BODY), START + timedelta(seconds=1)) for each in headers
    ]
    assert first.fingerprint == same.fingerprint != other.fingerprint
