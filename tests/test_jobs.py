"""How often periodic work is looked for."""

from __future__ import annotations

import pytest

from bridge.config.durations import parse_duration
from bridge.jobs import checkpoint_check


@pytest.mark.parametrize(
    ("every", "expected"),
    [("0s", "10s"), ("1ms", "1s"), ("1s", "1s"), ("4s", "2s"), ("10s", "5s"), ("30s", "10s"), ("1h", "10s")],
)
def test_a_checkpoint_is_looked_for_twice_in_its_interval_but_neither_too_often_nor_too_rarely(
    every: str, expected: str
) -> None:
    assert checkpoint_check(parse_duration(every)) == parse_duration(expected)
