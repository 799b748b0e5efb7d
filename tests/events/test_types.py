from __future__ import annotations

import pytest

from bridge.events.types import matches


@pytest.mark.parametrize(
    ("value", "globs", "wanted"),
    [
        ("peer.joined", ["peer.*"], True),
        ("peer.joined", ["room.*", "peer.joined"], True),
        ("peer.joined", [], False),
        ("peer.joined", ["Peer.*"], False),
        ("peer.joined", ["peer?joined"], True),
        ("room.empty", ["*.empty"], True),
        ("ABC-defg-hij", ["abc-*"], False),
        ("room[1]", ["room[1]"], True),
    ],
)
def test_globs_match_whole_names(value: str, globs: list[str], *, wanted: bool) -> None:
    assert matches(value, globs) is wanted
