"""Leases for jobs that one process at a time may do; the lease of a crashed process runs out."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, or_

from bridge.db.event_log import upsert
from bridge.db.tables import leases


def take_lease(connection: Connection, name: str, token: str, now: datetime, until: datetime) -> bool:
    """Take or renew a lease; returns whether this process has it until `until`.

    A lease that ends later than that was taken while the job was done less often, and is taken over.
    """
    statement = upsert(connection)(leases).values(name=name, token=token, expires_at=until)
    statement = statement.on_conflict_do_update(
        index_elements=[leases.c.name],
        set_={"token": token, "expires_at": until},
        where=or_(leases.c.expires_at <= now, leases.c.expires_at > until, leases.c.token == token),
    )
    return bool(connection.execute(statement.returning(leases.c.name)).one_or_none())
