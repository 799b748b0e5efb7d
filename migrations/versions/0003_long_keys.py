"""Keys of 64 bits where PostgreSQL takes a new one for each upsert: an upsert of a known row takes one too."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

COLUMNS = (
    ("sessions", "id"), ("visits", "id"), ("visits", "session_key"), ("rooms", "session_key"), ("cursors", "id"),
)  # fmt: skip


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":  # its integers have 64 bits, and it takes keys of new rows only
        return
    for table, column in COLUMNS:
        op.alter_column(table, column, type_=sa.BigInteger(), existing_type=sa.Integer())
        if column == "id":
            op.execute(f"ALTER SEQUENCE {table}_id_seq AS bigint")
