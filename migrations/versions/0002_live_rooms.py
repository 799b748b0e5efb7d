"""Live rooms: which rooms the list of a source names; what a poke lets the next poll expect."""

import sqlalchemy as sa
from alembic import op

MOMENT = sa.DateTime(timezone=True)

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rooms", sa.Column("listed", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("rooms", sa.Column("listed_count", sa.Integer(), nullable=True))
    op.add_column("rooms", sa.Column("live_until", MOMENT, nullable=True))
    op.add_column("rooms", sa.Column("expected", sa.Text(), nullable=True))
    op.create_index(
        "ix_rooms_listed",
        "rooms",
        ["source"],
        unique=False,
        sqlite_where=sa.text("listed"),
        postgresql_where=sa.text("listed"),
    )
