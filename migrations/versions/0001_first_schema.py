"""The first schema."""

import sqlalchemy as sa
from alembic import op

MOMENT = sa.DateTime(timezone=True)
BIG_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "endpoints",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("public_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", sa.JSON(), nullable=False),
        sa.Column("rooms", sa.JSON(), nullable=False),
        sa.Column("style", sa.Text(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.Column("headers", sa.Text(), nullable=False),
        sa.Column("rate_per_second", sa.Float(), nullable=False),
        sa.Column("max_concurrency", sa.Integer(), nullable=False),
        sa.Column("timeout_seconds", sa.Float(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("state_reason", sa.Text(), nullable=True),
        sa.Column("failures_in_row", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failing_since", MOMENT, nullable=True),
        sa.Column("last_success_at", MOMENT, nullable=True),
        sa.Column("circuit", sa.Text(), server_default="closed", nullable=False),
        sa.Column("probes", sa.Integer(), server_default="0", nullable=False),
        sa.Column("paused_until", MOMENT, nullable=True),
        sa.Column("redeliveries_paused_until", MOMENT, nullable=True),
        sa.Column("next_delivery_at", MOMENT, nullable=True),
        sa.Column("rotated_at", MOMENT, nullable=True),
        sa.Column("snapshots_after", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_endpoints")),
        sa.UniqueConstraint("name", name=op.f("uq_endpoints_name")),
        sa.UniqueConstraint("public_id", name=op.f("uq_endpoints_public_id")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "jobs",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("next_run_at", MOMENT, nullable=False),
        sa.Column("claim_token", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_jobs")),
    )
    op.create_table(
        "tokens",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_tokens")),
        sa.UniqueConstraint("digest", name=op.f("uq_tokens_digest")),
    )
    op.create_table(
        "rooms",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("upstream_id", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("interval_seconds", sa.Float(), nullable=True),
        sa.Column("leave_after_missed", sa.Integer(), nullable=True),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("tracked", sa.Boolean(), nullable=False),
        sa.Column("added_at", MOMENT, nullable=False),
        sa.Column("tracked_since", MOMENT, nullable=True),
        sa.Column("next_poll_at", MOMENT, nullable=True),
        sa.Column("claim_token", sa.Text(), nullable=True),
        sa.Column("polled_at", MOMENT, nullable=True),
        sa.Column("complete_at", MOMENT, nullable=True),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=True),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_failure", sa.Text(), nullable=True),
        sa.Column("session_key", sa.Integer(), nullable=True),
        sa.Column("last_sequence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("chain_head", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rooms")),
        sa.UniqueConstraint("source", "upstream_id", name=op.f("uq_rooms_source_upstream_id")),
    )
    op.create_index(
        "ix_rooms_claimed",
        "rooms",
        ["claim_token"],
        unique=False,
        sqlite_where=sa.text("claim_token IS NOT NULL"),
        postgresql_where=sa.text("claim_token IS NOT NULL"),
    )
    op.create_index("ix_rooms_due", "rooms", ["source", "next_poll_at"], unique=False)
    op.create_index(
        "ix_rooms_failing",
        "rooms",
        ["source"],
        unique=False,
        sqlite_where=sa.text("failures > 0"),
        postgresql_where=sa.text("failures > 0"),
    )
    op.create_index("ix_rooms_upstream_id", "rooms", ["upstream_id"], unique=False)
    op.create_index(
        "ix_rooms_occupied",
        "rooms",
        ["source", "upstream_id"],
        unique=False,
        sqlite_where=sa.text("session_key IS NOT NULL"),
        postgresql_where=sa.text("session_key IS NOT NULL"),
    )
    op.create_table(
        "sources",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("condition", sa.Text(), server_default="ok", nullable=False),
        sa.Column("since", MOMENT, nullable=True),
        sa.Column("paused_until", MOMENT, nullable=True),
        sa.Column("failure_score", sa.Integer(), server_default="0", nullable=False),
        sa.Column("pauses", sa.Integer(), server_default="0", nullable=False),
        sa.Column("claim_token", sa.Text(), nullable=True),
        sa.Column("next_request_at", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_sources")),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("seen_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_table(
        "anchors",
        sa.Column("room_key", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["room_key"], ["rooms.id"], name=op.f("fk_anchors_room_key")),
        sa.PrimaryKeyConstraint("room_key", name=op.f("pk_anchors")),
    )
    op.create_table(
        "cursors",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("endpoint_key", sa.Integer(), nullable=False),
        sa.Column("room_key", sa.Integer(), nullable=False),
        sa.Column("acked", sa.BigInteger(), nullable=False),
        sa.Column("head", sa.BigInteger(), nullable=False),
        sa.Column("next_attempt_at", MOMENT, nullable=False),
        sa.Column("claim_token", sa.Text(), nullable=True),
        sa.Column("failed_attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("rejections", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_failed_at", MOMENT, nullable=True),
        sa.ForeignKeyConstraint(
            ["endpoint_key"], ["endpoints.id"], name=op.f("fk_cursors_endpoint_key"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["room_key"], ["rooms.id"], name=op.f("fk_cursors_room_key")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cursors")),
        sa.UniqueConstraint("endpoint_key", "room_key", name=op.f("uq_cursors_endpoint_key_room_key")),
    )
    op.create_index(
        "ix_cursors_claimed",
        "cursors",
        ["endpoint_key"],
        unique=False,
        sqlite_where=sa.text("claim_token IS NOT NULL"),
        postgresql_where=sa.text("claim_token IS NOT NULL"),
    )
    op.create_index(
        "ix_cursors_owed",
        "cursors",
        ["endpoint_key", "next_attempt_at", "room_key"],
        unique=False,
        sqlite_where=sa.text("acked < head"),
        postgresql_where=sa.text("acked < head"),
    )
    op.create_table(
        "endpoint_secrets",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("endpoint_key", sa.Integer(), nullable=False),
        sa.Column("ciphertext", sa.Text(), nullable=False),
        sa.Column("generated", sa.Boolean(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=True),
        sa.ForeignKeyConstraint(
            ["endpoint_key"], ["endpoints.id"], name=op.f("fk_endpoint_secrets_endpoint_key"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_endpoint_secrets")),
    )
    op.create_index("ix_endpoint_secrets_endpoint", "endpoint_secrets", ["endpoint_key"], unique=False)
    op.create_table(
        "events",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("public_id", sa.Text(), nullable=False),
        sa.Column("room_key", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("recorded_at", MOMENT, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("salt", sa.LargeBinary(), nullable=True),
        sa.Column("commitment", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("audience", sa.Integer(), nullable=True),
        sa.Column("visit_id", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["room_key"], ["rooms.id"], name=op.f("fk_events_room_key")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sa.UniqueConstraint("public_id", name=op.f("uq_events_public_id")),
        sa.UniqueConstraint("room_key", "sequence", name=op.f("uq_events_room_key_sequence")),
    )
    op.create_index(
        "ix_events_erased",
        "events",
        ["recorded_at"],
        unique=False,
        sqlite_where=sa.text("body IS NULL"),
        postgresql_where=sa.text("body IS NULL"),
    )
    op.create_index("ix_events_recorded", "events", ["recorded_at"], unique=False)
    op.create_index("ix_events_type", "events", ["type", "id"], unique=False)
    op.create_index(
        "ix_events_visit",
        "events",
        ["visit_id"],
        unique=False,
        sqlite_where=sa.text("visit_id IS NOT NULL"),
        postgresql_where=sa.text("visit_id IS NOT NULL"),
    )
    if op.get_bind().dialect.name == "postgresql":
        # Wakes the streams of other processes (bridge.db.notifications). A statement of its own in the transaction that
        # appends events would be one more wait for the database.
        op.execute(
            "CREATE FUNCTION notify_bridge_events() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN NOTIFY bridge_events; RETURN NULL; END'"
        )
        op.execute(
            "CREATE TRIGGER events_appended AFTER INSERT ON events"
            " FOR EACH STATEMENT EXECUTE FUNCTION notify_bridge_events()"
        )
    op.create_table(
        "sessions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("public_id", sa.Text(), nullable=False),
        sa.Column("room_key", sa.Integer(), nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.Column("empty_reason", sa.Text(), nullable=True),
        sa.Column("visit_count", sa.Integer(), nullable=False),
        sa.Column("unique_peers", sa.Integer(), nullable=False),
        sa.Column("peak_peer_count", sa.Integer(), nullable=False),
        sa.Column("record_tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("record_due_at", MOMENT, nullable=True),
        sa.Column("record_outcome", sa.Text(), nullable=True),
        sa.Column("reconciled_sequence", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["room_key"], ["rooms.id"], name=op.f("fk_sessions_room_key")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
        sa.UniqueConstraint("public_id", name=op.f("uq_sessions_public_id")),
    )
    op.create_index(
        "ix_sessions_record_due",
        "sessions",
        ["record_due_at"],
        unique=False,
        sqlite_where=sa.text("record_due_at IS NOT NULL"),
        postgresql_where=sa.text("record_due_at IS NOT NULL"),
    )
    op.create_index("ix_sessions_room", "sessions", ["room_key", "started_at"], unique=False)
    op.create_index("ix_sessions_ended", "sessions", ["ended_at"], unique=False)
    op.create_index("ix_sessions_started", "sessions", ["started_at", "id"], unique=False)
    op.create_index(
        "ix_sessions_unasked",
        "sessions",
        ["ended_at"],
        unique=False,
        sqlite_where=sa.text("record_tries = 0 AND ended_at IS NOT NULL"),
        postgresql_where=sa.text("record_tries = 0 AND ended_at IS NOT NULL"),
    )
    op.create_table(
        "attempts",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("endpoint_key", sa.Integer(), nullable=False),
        sa.Column("event_key", BIG_KEY, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("duration_seconds", sa.Float(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("cause", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("response", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["endpoint_key"], ["endpoints.id"], name=op.f("fk_attempts_endpoint_key"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["event_key"], ["events.id"], name=op.f("fk_attempts_event_key")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
    )
    op.create_index("ix_attempts_endpoint", "attempts", ["endpoint_key", "started_at"], unique=False)
    op.create_index("ix_attempts_event", "attempts", ["event_key"], unique=False)
    op.create_index(
        "ix_attempts_failed",
        "attempts",
        ["started_at"],
        unique=False,
        sqlite_where=sa.text("outcome != 'delivered'"),
        postgresql_where=sa.text("outcome != 'delivered'"),
    )
    op.create_index("ix_attempts_started", "attempts", ["started_at"], unique=False)
    op.create_table(
        "dead_letters",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("endpoint_key", sa.Integer(), nullable=False),
        sa.Column("event_key", BIG_KEY, nullable=False),
        sa.Column("parked_at", MOMENT, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["endpoint_key"], ["endpoints.id"], name=op.f("fk_dead_letters_endpoint_key"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["event_key"], ["events.id"], name=op.f("fk_dead_letters_event_key")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dead_letters")),
        sa.UniqueConstraint("endpoint_key", "event_key", name=op.f("uq_dead_letters_endpoint_key_event_key")),
    )
    op.create_index("ix_dead_letters_event", "dead_letters", ["event_key"], unique=False)
    op.create_table(
        "redeliveries",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("endpoint_key", sa.Integer(), nullable=False),
        sa.Column("event_key", BIG_KEY, nullable=False),
        sa.Column("requested_at", MOMENT, nullable=False),
        sa.Column("next_attempt_at", MOMENT, nullable=False),
        sa.Column("claim_token", sa.Text(), nullable=True),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["endpoint_key"], ["endpoints.id"], name=op.f("fk_redeliveries_endpoint_key"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["event_key"], ["events.id"], name=op.f("fk_redeliveries_event_key")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_redeliveries")),
    )
    op.create_index(
        "ix_redeliveries_claimed",
        "redeliveries",
        ["endpoint_key"],
        unique=False,
        sqlite_where=sa.text("claim_token IS NOT NULL"),
        postgresql_where=sa.text("claim_token IS NOT NULL"),
    )
    op.create_index(
        "ix_redeliveries_due",
        "redeliveries",
        ["endpoint_key", "next_attempt_at"],
        unique=False,
        sqlite_where=sa.text("state = 'owed'"),
        postgresql_where=sa.text("state = 'owed'"),
    )
    op.create_index("ix_redeliveries_requested", "redeliveries", ["requested_at"], unique=False)
    op.create_index(
        "ix_redeliveries_turn",
        "redeliveries",
        ["endpoint_key", "event_key"],
        unique=False,
        sqlite_where=sa.text("state = 'owed'"),
        postgresql_where=sa.text("state = 'owed'"),
    )
    op.create_table(
        "visits",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("public_id", sa.Text(), nullable=False),
        sa.Column("room_key", sa.Integer(), nullable=False),
        sa.Column("session_key", sa.Integer(), nullable=False),
        sa.Column("peer_id", sa.Text(), nullable=False),
        sa.Column("person_key", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("joined_at", MOMENT, nullable=False),
        sa.Column("joined_at_source", sa.Text(), nullable=False),
        sa.Column("joined_after", MOMENT, nullable=True),
        sa.Column("join_time", MOMENT, nullable=True),
        sa.Column("reported_join_time", MOMENT, nullable=True),
        sa.Column("last_seen_at", MOMENT, nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("initial", sa.Boolean(), nullable=False),
        sa.Column("missed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("missing_since", MOMENT, nullable=True),
        sa.Column("missing_reason", sa.Text(), nullable=True),
        sa.Column("left_at", MOMENT, nullable=True),
        sa.Column("left_at_source", sa.Text(), nullable=True),
        sa.Column("leave_reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["room_key"], ["rooms.id"], name=op.f("fk_visits_room_key")),
        sa.ForeignKeyConstraint(["session_key"], ["sessions.id"], name=op.f("fk_visits_session_key")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_visits")),
        sa.UniqueConstraint("public_id", name=op.f("uq_visits_public_id")),
    )
    op.create_index("ix_visits_person", "visits", ["person_key"], unique=False)
    op.create_index("ix_visits_session", "visits", ["session_key", "peer_id"], unique=False)
    op.create_index(
        "ux_visits_open",
        "visits",
        ["room_key", "peer_id"],
        unique=True,
        sqlite_where=sa.text("left_at IS NULL"),
        postgresql_where=sa.text("left_at IS NULL"),
    )
