"""The oldest of the clocks that are at hand: what is deleted by age must not depend on one clock that is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import Connection, func, select, type_coerce

from bridge.db.engine import Database
from bridge.db.tables import UtcDateTime
from bridge.sources.protocol import CheckableSource


def database_now(connection: Connection) -> datetime:
    """The time by the database's clock; SQLite has that of this machine."""
    return connection.execute(select(type_coerce(func.current_timestamp(), UtcDateTime))).scalar_one()


async def oldest_clock(database: Database, sources: Iterable[CheckableSource], now: datetime) -> datetime:
    """The oldest of the process's time `now`, the database's, and that of the sources that respond.

    Raises:
        DatabaseError: the database failed.
    """
    checked = await asyncio.gather(*(source.check_up() for source in sources))
    dated = [one.dated_at for one in checked if one.dated_at is not None]
    return min([now, await database.read(database_now), *dated])
