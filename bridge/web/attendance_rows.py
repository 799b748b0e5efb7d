"""Rows of attendance, for the OpenAPI document: the columns of each view are in `bridge.rules.attendance`."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel


class OfSession(BaseModel):
    """Beginning of the rows that are about one session."""

    room_id: str
    room_name: str | None
    session_id: str
    session_started_at: datetime
    session_ended_at: datetime | None
    person_key: str
    display_name: str


class VisitRow(OfSession):
    """A visit; one under way has no `left_at`, and counts to `last_seen_at`."""

    peer_id: str
    visit_id: str
    joined_at: datetime
    joined_at_source: str
    left_at: datetime | None
    left_at_source: str | None
    last_seen_at: datetime
    duration_seconds: float
    uncertainty_seconds: float
    leave_reason: str | None
    still_present: bool
    timezone: str


class PersonRow(OfSession):
    """A person in one session; `total_seconds` is the union of their visits."""

    first_joined_at: datetime
    last_left_at: datetime | None
    visits: int
    total_seconds: float
    total_hms: str
    percent_of_session: float
    uncertainty_seconds: float
    still_present: bool
    times_source: str
    timezone: str


class TotalRow(BaseModel):
    """A person over all selected sessions."""

    person_key: str
    display_name: str
    sessions: int
    visits: int
    first_joined_at: datetime
    last_left_at: datetime | None
    total_seconds: float
    total_hms: str
    timezone: str
