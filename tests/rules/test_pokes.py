"""The result that a poll should have if a poke is true."""

from __future__ import annotations

import pytest

from bridge.rules.pokes import Expected
from tests.harness.builders import seen

JOINED, LEFT, EMPTY = Expected(peer_id="p", present=True), Expected(peer_id="p"), Expected(peer_id=None)


@pytest.mark.parametrize(
    ("expected", "peers", "agrees"),
    [
        (JOINED, ["p", "q"], True),
        (JOINED, ["q"], False),
        (LEFT, ["q"], True),
        (LEFT, ["p"], False),
        (EMPTY, [], True),
        (EMPTY, ["q"], False),
    ],
)
def test_a_poll_agrees_with_a_message_or_contradicts_it(expected: Expected, peers: list[str], *, agrees: bool) -> None:
    assert expected.agrees_with(seen(*peers)) is agrees


@pytest.mark.parametrize("expected", [JOINED, LEFT, EMPTY, Expected(peer_id="+-", present=True)])
def test_it_is_stored_as_text(expected: Expected) -> None:
    assert Expected.parse(str(expected)) == expected
