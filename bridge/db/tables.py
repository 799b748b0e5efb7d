"""The tables of the database.

Integer keys inside, public ids (`evt_`, `vis_`, `ses_`, `ep_`) outside. Every time is UTC. A row that can be claimed
(`sources` for a probe, `rooms`, `cursors`, `redeliveries`, `jobs`) has a token that names its worker: every later write
checks the token (fencing), and the claims of a dead worker are freed (`liveness`). Due times are independent of claims.
The indexes are in `indexes`.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time. SQLite keeps it as sortable text without an offset, PostgreSQL as `timestamptz`."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


BigKey = BigInteger().with_variant(Integer, "sqlite")
"""SQLite generates keys only for INTEGER, which has 64 bits there."""

HOOK = "hook"
"""`endpoints.origin` of REST hooks, which their subscriber adds and removes."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

sources = Table(
    "sources",
    metadata,
    Column("name", Text, primary_key=True),
    Column("condition", Text, nullable=False, server_default="ok"),
    Column("since", UtcDateTime),
    Column("paused_until", UtcDateTime),
    Column("failure_score", Integer, nullable=False, server_default="0"),
    Column("pauses", Integer, nullable=False, server_default="0"),
    Column("claim_token", Text),  # of the probe under way
    Column("next_request_at", UtcDateTime),  # when `requests_per_second` allows the next request
)

rooms = Table(
    "rooms",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("source", Text),
    Column("upstream_id", Text),
    Column("name", Text),
    Column("origin", Text, nullable=False),
    Column("interval_seconds", Float),
    Column("leave_after_missed", Integer),
    Column("enabled", Boolean, nullable=False),
    Column("tracked", Boolean, nullable=False),
    Column("added_at", UtcDateTime, nullable=False),
    Column("tracked_since", UtcDateTime),
    Column("next_poll_at", UtcDateTime),
    Column("claim_token", Text),
    Column("polled_at", UtcDateTime),
    Column("complete_at", UtcDateTime),
    Column("fingerprint", LargeBinary),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("last_failure", Text),
    Column("session_key", BigKey),
    Column("last_sequence", BigInteger, nullable=False, server_default="0"),
    Column("chain_head", LargeBinary, nullable=False),
    Column("listed", Boolean, nullable=False, server_default=false()),  # on the source's last list of live rooms
    Column("listed_count", Integer),  # the number of peers there, if the list has it
    Column("live_until", UtcDateTime),  # when the room was no longer on the list
    Column("expected", Text),  # what the next poll should find if a poke is true
    UniqueConstraint("source", "upstream_id"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("room_key", ForeignKey("rooms.id"), nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("empty_reason", Text),
    Column("visit_count", Integer, nullable=False),
    Column("unique_peers", Integer, nullable=False),
    Column("peak_peer_count", Integer, nullable=False),
    Column("record_tries", Integer, nullable=False, server_default="0"),  # requests to its source for its record
    Column("record_due_at", UtcDateTime),  # the next time; null: not tried yet, or the record is whole or given up
    Column("record_outcome", Text),
    Column("reconciled_sequence", BigInteger),  # of the last session.reconciled
)

visits = Table(
    "visits",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("room_key", ForeignKey("rooms.id"), nullable=False),
    Column("session_key", ForeignKey("sessions.id"), nullable=False),
    Column("peer_id", Text, nullable=False),
    Column("person_key", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("joined_at", UtcDateTime, nullable=False),
    Column("joined_at_source", Text, nullable=False),
    Column("joined_after", UtcDateTime),  # the last complete snapshot before it; null: tracking began with it
    Column("join_time", UtcDateTime),
    Column("reported_join_time", UtcDateTime),
    Column("last_seen_at", UtcDateTime, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("initial", Boolean, nullable=False),
    Column("missed", Integer, nullable=False, server_default="0"),
    Column("missing_since", UtcDateTime),
    Column("missing_reason", Text),
    Column("left_at", UtcDateTime),
    Column("left_at_source", Text),
    Column("leave_reason", Text),
)

events = Table(
    "events",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("room_key", ForeignKey("rooms.id"), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("type", Text, nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False),
    Column("body", LargeBinary),  # null: erased, and the salt with it
    Column("salt", LargeBinary),
    Column("commitment", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("audience", Integer),  # see bridge.events.subscription
    Column("visit_id", Text),  # public id of the visit that it is about, if it is about one
    UniqueConstraint("room_key", "sequence"),
)

anchors = Table(
    "anchors",
    metadata,
    Column("room_key", ForeignKey("rooms.id"), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)
"""The last event of each room that retention has deleted: the chain goes on from its hash."""

endpoints = Table(
    "endpoints",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False, unique=True),
    Column("origin", Text, nullable=False),  # config, manual, or HOOK
    Column("created_at", UtcDateTime, nullable=False),
    Column("url", Text, nullable=False),
    Column("events", JSON, nullable=False),
    Column("rooms", JSON, nullable=False),
    Column("style", Text, nullable=False),
    Column("signature", Text, nullable=False),
    Column("headers", Text, nullable=False),
    Column("rate_per_second", Float, nullable=False),
    Column("max_concurrency", Integer, nullable=False),
    Column("timeout_seconds", Float),
    Column("state", Text, nullable=False),
    Column("state_reason", Text),
    Column("failures_in_row", Integer, nullable=False, server_default="0"),
    Column("failing_since", UtcDateTime),
    Column("last_success_at", UtcDateTime),
    Column("circuit", Text, nullable=False, server_default="closed"),
    Column("probes", Integer, nullable=False, server_default="0"),
    Column("paused_until", UtcDateTime),
    Column("redeliveries_paused_until", UtcDateTime),
    Column("next_delivery_at", UtcDateTime),  # when `rate_per_second` allows the next attempt
    Column("rotated_at", UtcDateTime),
    Column("snapshots_after", Integer),  # key of the last room whose room.snapshot was appended; null: none is wanted
    sqlite_autoincrement=True,  # a key is never used again: `events.audience` may be that of a removed endpoint
)

endpoint_secrets = Table(
    "endpoint_secrets",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("endpoint_key", ForeignKey("endpoints.id", ondelete="CASCADE"), nullable=False),
    Column("ciphertext", Text, nullable=False),
    Column("generated", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
)

cursors = Table(
    "cursors",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("endpoint_key", ForeignKey("endpoints.id", ondelete="CASCADE"), nullable=False),
    Column("room_key", ForeignKey("rooms.id"), nullable=False),
    Column("acked", BigInteger, nullable=False),
    Column("head", BigInteger, nullable=False),
    Column("next_attempt_at", UtcDateTime, nullable=False),
    Column("claim_token", Text),
    Column("failed_attempts", Integer, nullable=False, server_default="0"),
    Column("rejections", Integer, nullable=False, server_default="0"),
    Column("last_failed_at", UtcDateTime),
    UniqueConstraint("endpoint_key", "room_key"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("endpoint_key", ForeignKey("endpoints.id", ondelete="CASCADE"), nullable=False),
    Column("event_key", ForeignKey("events.id"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("duration_seconds", Float, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("status", Integer),
    Column("cause", Text),
    Column("detail", Text, nullable=False),
    Column("response", Text, nullable=False),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("endpoint_key", ForeignKey("endpoints.id", ondelete="CASCADE"), nullable=False),
    Column("event_key", ForeignKey("events.id"), nullable=False),
    Column("parked_at", UtcDateTime, nullable=False),
    Column("reason", Text, nullable=False),
    Column("tries", Integer, nullable=False),
    UniqueConstraint("endpoint_key", "event_key"),
)

redeliveries = Table(
    "redeliveries",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("endpoint_key", ForeignKey("endpoints.id", ondelete="CASCADE"), nullable=False),
    Column("event_key", ForeignKey("events.id"), nullable=False),
    Column("requested_at", UtcDateTime, nullable=False),
    Column("next_attempt_at", UtcDateTime, nullable=False),
    Column("claim_token", Text),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("state", Text, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("name", Text, primary_key=True),
    Column("next_run_at", UtcDateTime, nullable=False),
    Column("claim_token", Text),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("seen_at", UtcDateTime, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("name", Text, primary_key=True),
    Column("digest", LargeBinary, nullable=False, unique=True),  # SHA-256 of the token
    Column("scopes", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)
