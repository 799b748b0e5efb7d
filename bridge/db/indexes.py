"""The indexes of the tables.

Only migrations and tests need them here: to define a partial one, SQLAlchemy loads the dialects of both databases.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Index, text

from bridge.db.tables import (
    attempts,
    cursors,
    dead_letters,
    endpoint_secrets,
    events,
    redeliveries,
    rooms,
    sessions,
    visits,
)


def _partial(where: str, name: str, *columns: Column[Any], unique: bool = False) -> None:
    Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


Index("ix_rooms_due", rooms.c.source, rooms.c.next_poll_at)
_partial("claim_token IS NOT NULL", "ix_rooms_claimed", rooms.c.claim_token)
Index("ix_rooms_upstream_id", rooms.c.upstream_id)
_partial("failures > 0", "ix_rooms_failing", rooms.c.source)
_partial("session_key IS NOT NULL", "ix_rooms_occupied", rooms.c.source, rooms.c.upstream_id)
_partial("listed", "ix_rooms_listed", rooms.c.source)
Index("ix_sessions_ended", sessions.c.ended_at)
Index("ix_sessions_room", sessions.c.room_key, sessions.c.started_at)
Index("ix_sessions_started", sessions.c.started_at, sessions.c.id)
_partial("record_tries = 0 AND ended_at IS NOT NULL", "ix_sessions_unasked", sessions.c.ended_at)
_partial("record_due_at IS NOT NULL", "ix_sessions_record_due", sessions.c.record_due_at)
_partial("left_at IS NULL", "ux_visits_open", visits.c.room_key, visits.c.peer_id, unique=True)
Index("ix_visits_session", visits.c.session_key, visits.c.peer_id)
Index("ix_visits_person", visits.c.person_key)
Index("ix_events_recorded", events.c.recorded_at)
Index("ix_events_type", events.c.type, events.c.id)
_partial("body IS NULL", "ix_events_erased", events.c.recorded_at)
_partial("visit_id IS NOT NULL", "ix_events_visit", events.c.visit_id)
Index("ix_endpoint_secrets_endpoint", endpoint_secrets.c.endpoint_key)
_partial("acked < head", "ix_cursors_owed", cursors.c.endpoint_key, cursors.c.next_attempt_at, cursors.c.room_key)
_partial("claim_token IS NOT NULL", "ix_cursors_claimed", cursors.c.endpoint_key)
Index("ix_attempts_event", attempts.c.event_key)
Index("ix_attempts_endpoint", attempts.c.endpoint_key, attempts.c.started_at)
_partial("outcome != 'delivered'", "ix_attempts_failed", attempts.c.started_at)
Index("ix_dead_letters_event", dead_letters.c.event_key)
Index("ix_attempts_started", attempts.c.started_at)
Index("ix_redeliveries_requested", redeliveries.c.requested_at)
_partial("claim_token IS NOT NULL", "ix_redeliveries_claimed", redeliveries.c.endpoint_key)
_partial("state = 'owed'", "ix_redeliveries_due", redeliveries.c.endpoint_key, redeliveries.c.next_attempt_at)
_partial("state = 'owed'", "ix_redeliveries_turn", redeliveries.c.endpoint_key, redeliveries.c.event_key)
