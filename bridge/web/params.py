"""Query parameters that several topics have."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import Depends, Query

from bridge.config.moments import Period, parse_moment
from bridge.web.problems import invalid
from bridge.web.state import AppState, State

RoomFilter = Annotated[str | None, Query(description="Only of the room with this id.")]
SourceOfRoom = Annotated[str | None, Query(description="Source of the room, where several have a room of this id.")]
Since = Annotated[
    str | None,
    Query(
        description="Only from this time on: RFC 3339 (without an offset: in `bridge.timezone`), or a span before now.",
        examples=["2026-11-23T09:30:00Z"],
    ),
]
Until = Annotated[str | None, Query(description="Only before this time.", examples=["2026-11-23T10:30:00Z"])]


def moment(state: AppState, text: str | None, *location: str) -> datetime | None:
    """Return the time that a request names at a location, as in `moment(state, since, "query", "since")`.

    Raises:
        ProblemError: 422: it is none.
    """
    if text is None:
        return None
    try:
        return parse_moment(text, now=state.runtime.now(), zone=state.settings().bridge.timezone)
    except ValueError as problem:
        raise invalid(str(problem), *location) from None


def read_period(state: AppState, since: str | None, until: str | None, place: str) -> Period:
    """Return the times that a request names in its query or its body.

    Raises:
        ProblemError: 422: one is none, or they are the wrong way round.
    """
    period = Period(since=moment(state, since, place, "since"), until=moment(state, until, place, "until"))
    if period.since is not None and period.until is not None and period.until <= period.since:
        raise invalid("must be later than since", place, "until")
    return period


def _period(state: State, since: Since = None, until: Until = None) -> Period:
    return read_period(state, since, until, "query")


InPeriod = Annotated[Period, Depends(_period)]
"""A parameter of handlers: `since` and `until`."""
