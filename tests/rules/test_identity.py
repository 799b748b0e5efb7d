"""The person and the name of a peer, and the metadata that is kept."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bridge.rules.identity import IdentityPolicy, cut_metadata, find_display_name, find_person_key, keep_metadata
from bridge.rules.presence import Json, PresencePolicy
from bridge.sources.values import read_metadata
from tests.harness.builders import Room, peer

BIG: Json = {"name": "Ann", "email": "ann@example.com", "picture": "x" * 9000}


@pytest.mark.parametrize(
    ("metadata", "paths", "key"),
    [
        ({"email": "a@b.c", "walletAddress": "0x1"}, ("email", "walletAddress"), "a@b.c"),
        ({"email": "", "walletAddress": "0x1"}, ("email", "walletAddress"), "0x1"),
        ({"email": 7, "user": {"email": "u"}}, ("email", "user.email"), "u"),
        ({"user.email": "flat", "user": {"email": "deep"}}, ("user.email",), "flat"),
        ({"user": "text"}, ("user.email",), None),
        ("text", ("email",), None),
        ({"email": "a\0b"}, ("email",), "a\ufffdb"),
        ({"email": "x" * 600}, ("email",), "x" * 512),
    ],
)
def test_the_person_is_the_first_text_that_is_not_empty(
    metadata: Json, paths: tuple[str, ...], key: str | None
) -> None:
    assert find_person_key([metadata], IdentityPolicy(person_key=paths)) == key


@pytest.mark.parametrize(
    ("value", "policy", "kept"),
    [
        ({"a": 1, "b": 2}, None, {"a": 1, "b": 2}),
        ({"a": 1, "b": 2}, (), None),
        ({"a": 1, "b": 2}, ("b", "c"), {"b": 2}),
        ({"a": {"x": 1, "y": 2}, "b": 2}, ("a.y", "a.x"), {"a": {"y": 2, "x": 1}}),
        ("text", ("a",), None),
        ("text", None, "text"),
        (BIG, None, {"_truncated": True}),
        (BIG, ("name",), {"name": "Ann"}),
    ],
)
def test_metadata_is_kept_by_the_policy(value: Json, policy: tuple[str, ...] | None, kept: Json) -> None:
    assert keep_metadata(value, IdentityPolicy(metadata=policy)) == kept


def test_names_are_cut_and_can_be_stored() -> None:
    assert find_display_name([{"displayName": "A" * 9000}], IdentityPolicy()) == "A" * 8192
    assert find_display_name([{"name": "A\0B"}], IdentityPolicy()) == "A\ufffdB"


def test_person_and_name_are_found_in_what_is_not_kept_and_the_person_stays() -> None:
    room = Room(policy=PresencePolicy(identity=IdentityPolicy(metadata=())))
    (first,) = room.diff(0, peer("p", metadata=BIG)).after.visits.values()
    assert (first.person_key, first.display_name, first.metadata) == ("ann@example.com", "Ann", None)

    changed = room.diff(10, peer("p", metadata={"name": "Anna", "email": "other@example.com"}))

    (visit,) = changed.after.visits.values()
    assert (visit.person_key, visit.display_name) == ("ann@example.com", "Anna")
    assert len(changed.changes) == 1, "the log has the new name"


def test_the_source_names_the_person_where_metadata_does_not() -> None:
    """LiveKit has an identity and a name of its own, and attributes beside the metadata."""
    room, seen = Room(), peer("sid", metadata={"whole": "envelope"})
    known = replace(seen, person_key="identity", display_name="Name", documents=({}, {"email": "from attributes"}))
    by_key = room.diff(0, known, replace(seen, peer_id="b", person_key="identity", display_name="Name")).after.visits

    assert (by_key["sid"].person_key, by_key["sid"].display_name) == ("from attributes", "Name")
    assert by_key["b"].person_key == "identity"


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ({"n": "x" * (8192 - 8)}, True),
        ({"n": "x" * (8192 - 7)}, False),
        ({"n": "é" * 4092}, True),
        ({"n": "é" * 4093}, False),
        ("x" * 8190, True),
        ("x" * 8191, False),
        ([0] * 4095, True),
        ([0] * 4096, False),
        (json.dumps({"n": "x" * 9000}), False),
        (json.dumps({"n": "é" * 3000}, ensure_ascii=True), True),
    ],
)
def test_metadata_is_truncated_above_8_kib(value: Json, *, fits: bool) -> None:
    assert (cut_metadata(read_metadata(value)) == {"_truncated": True}) is not fits
