"""The earliest time of the available clocks: deletion by age must not depend on a single wrong clock."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import Connection, func, select, type_coerce

from bridge.db.engine import Database
from bridge.db.tables import UtcDateTime
from bridge.sources.protocol import CheckableSource


def database_now(connection: Connection) -> datetime:
    """The time by the database's clock; for SQLite, that is this machine's clock."""
    return connection.execute(select(type_coerce(func.current_timestamp(), UtcDateTime))).scalar_one()


async def oldest_clock(database: Database, sources: Iterable[CheckableSource], now: datetime) -> datetime:
    """The earliest of the process's time `now`, the database's, and that of the sources that respond.

    Raises:
        DatabaseError: the database failed.
    """
    checked = await asyncio.gather(*(source.check_up() for source in sources))
    dated = [one.dated_at for one in checked if one.dated_at is not None]
    return min([now, await database.read(database_now), *dated])
