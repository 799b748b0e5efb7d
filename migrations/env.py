"""Alembic's entry: migrations run on the connection, and in the transaction, of the caller of `bridge.db.migrate`."""

from alembic import context

import bridge.db.indexes  # noqa: F401 - belong to the metadata
from bridge.db.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_server_default=False,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
