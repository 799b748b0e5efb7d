"""LiveKit's own webhooks: signed as the `webhook` package of its protocol does it."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from typing import Any

import jwt
import pytest
from livekit import api

from bridge.errors import VerificationError
from bridge.rules.pokes import Expected
from bridge.sources.livekit.poke import read_poke
from bridge.sources.protocol import SourceSettings
from tests.harness.builders import START

KEY, SECRET = "APIabcdefghij", "s3cr3t-" + "x" * 40
SOURCE = SourceSettings(name="meet", kind="livekit", base_url="https://example.com", api_key=KEY, api_secret=SECRET)
NOW = int(START.timestamp())
BODY = json.dumps({"event": "participant_joined", "id": "EV_1", "room": {"sid": "RM_1", "name": "a/ä"}}).encode()


def digest(body: bytes) -> str:
    return b64encode(hashlib.sha256(body).digest()).decode()


def token(body: bytes = BODY, *, secret: str = SECRET, algorithm: str = "HS256", **changes: Any) -> str:  # noqa: ANN401 - JSON
    claims = {"iss": KEY, "exp": NOW + 300, "nbf": NOW, "sha256": digest(body)} | changes
    kept = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(kept, secret, algorithm=algorithm)


def read(body: bytes, authorization: str) -> str | None:
    return read_poke(SOURCE, {"authorization": authorization}, body, START).room_id


@pytest.mark.parametrize(
    ("event", "room"),
    [
        ({"event": "participant_left", "room": {"name": "a/ä"}}, "a/ä"),
        ({"event": "something_new", "room": {"name": "b"}}, "b"),
        ({"event": "egress_ended", "egressInfo": {"roomName": "c"}}, "c"),
        ({"event": "ingress_started", "ingress_info": {"room_name": "d"}}, "d"),
        ({"event": "room_started", "room": {"sid": "RM_1"}}, None),
        ({"event": "room_started", "room": {"name": "nul\0"}}, None),
        ({"event": "room_started", "room": ["name"]}, None),
        ([], None),
    ],
)
def test_any_signed_event_names_its_room(event: object, room: str | None) -> None:
    body = json.dumps(event).encode()
    assert read(body, token(body)) == room


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"event": "participant_joined", "participant": {"sid": "PA_1"}}, Expected(peer_id="PA_1", present=True)),
        ({"event": "participant_left", "participant": {"sid": "PA_1"}}, Expected(peer_id="PA_1")),
        ({"event": "participant_connection_aborted", "participant": {"sid": "PA_1"}}, Expected(peer_id="PA_1")),
        ({"event": "participant_joined", "participant": {"sid": "PA_1", "kind": "EGRESS"}}, None),
        ({"event": "participant_joined", "participant": {"sid": "PA_1", "permission": {"hidden": True}}}, None),
        ({"event": "participant_joined", "participant": {}}, None),
        ({"event": "participant_joined", "participant": "PA_1"}, None),
        ({"event": "room_finished"}, Expected(peer_id=None)),
        ({"event": "room_started"}, None),
        ({"event": {}}, None),
    ],
)
def test_the_message_sets_what_the_poll_should_find(event: dict[str, Any], expected: Expected | None) -> None:
    body = json.dumps(event).encode()
    assert read_poke(SOURCE, {"authorization": token(body)}, body, START).expected == expected


def test_a_token_made_by_livekit_is_accepted() -> None:
    made = api.AccessToken(KEY, SECRET).with_sha256(digest(BODY)).to_jwt()
    now = START.fromtimestamp(jwt.decode(made, options={"verify_signature": False})["nbf"], START.tzinfo)
    assert read_poke(SOURCE, {"authorization": made}, BODY, now).room_id == "a/ä"


@pytest.mark.parametrize("changes", [{"nbf": None}, {"nbf": NOW + 299}, {"nbf": NOW - 299}, {"exp": NOW + 1}])
def test_clocks_may_differ_a_little(changes: dict[str, Any]) -> None:
    assert read(BODY, token(**changes)) == "a/ä"


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        f"Bearer {token()}",
        token(secret="another secret of good length, really"),
        token(iss="APIother"),
        token(iss=None),
        token(algorithm="HS512"),
        jwt.encode({"iss": KEY, "exp": NOW + 300, "sha256": digest(BODY)}, "", algorithm="none"),
        token(b"another body"),
        token(sha256=None),
        token(sha256=["x"]),
        token(sha256=hashlib.sha256(BODY).hexdigest()),
        token(exp=None),
        token(exp=NOW),
        token(exp=True),
        token(exp="soon"),
        token(exp=NOW - 1, nbf=NOW - 301),
        token(exp=NOW + 10_000, nbf=NOW - 301),  # a long life does not allow replays
        token(nbf=NOW + 301),
        token(nbf="x"),
        token()[:-2],
        token().replace(".", "..", 1),
        "ö.ä.ü",
    ],
)
def test_anything_else_is_refused_without_a_word_about_the_secret(authorization: str) -> None:
    with pytest.raises(VerificationError) as refused:
        read(BODY, authorization)
    assert SECRET not in str(refused.value)
    assert not authorization or authorization not in str(refused.value)


def test_only_the_same_message_has_the_same_fingerprint() -> None:
    made = token()
    found = [read_poke(SOURCE, {"authorization": one}, BODY, START) for one in (made, made, token(nbf=NOW - 1))]
    assert found[0].fingerprint == found[1].fingerprint != found[2].fingerprint
