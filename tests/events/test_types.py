from __future__ import annotations

import pytest

from bridge.events.types import DEFAULT_TYPES, EventType, matches


def test_the_types_are_those_of_the_contract_that_are_emitted() -> None:
    assert {event_type.value for event_type in EventType} == {
        "peer.joined",
        "peer.left",
        "room.empty",
        "room.occupied",
        "peer.updated",
        "room.snapshot",
        "source.unavailable",
        "source.recovered",
        "endpoint.disabled",
        "endpoint.recovered",
        "session.reconciled",
        "audit.checkpoint",
        "person.erased",
    }


def test_three_types_are_delivered_by_default() -> None:
    assert set(DEFAULT_TYPES) == {"peer.joined", "peer.left", "room.empty"}


@pytest.mark.parametrize(
    ("value", "globs", "wanted"),
    [
        ("peer.joined", ["peer.*"], True),
        ("peer.joined", ["room.*", "peer.joined"], True),
        ("peer.joined", ["*"], True),
        ("peer.joined", [], False),
        ("peer.joined", ["peer"], False),
        ("peer.joined", ["Peer.*"], False),
        ("peer.joined", ["peer?joined"], True),
        ("room.empty", ["*.empty"], True),
        ("abc-defg-hij", ["abc-*"], True),
        ("ABC-defg-hij", ["abc-*"], False),
        ("room[1]", ["room[1]"], True),
        ("*", ["abc"], False),
    ],
)
def test_globs_match_whole_names(value: str, globs: list[str], wanted: bool) -> None:  # noqa: FBT001 - a table's column
    assert matches(value, globs) is wanted
