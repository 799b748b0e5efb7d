"""Many cursors at once: a place is an endpoint and a room, and either database must find a list of them by index."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, func, select, tuple_

from bridge.store.tables import cursors

Place = tuple[int, int]
"""The key of an endpoint, the key of a room."""


def at_places(connection: Connection, places: Sequence[Place]) -> ColumnElement[bool]:
    """Whether a cursor stands at one of the places.

    SQLite reads the whole table for a list of pairs that is written out, but not for one that comes from a query.
    """
    pair = tuple_(cursors.c.endpoint_key, cursors.c.room_key)
    if connection.dialect.name == "postgresql":
        return pair.in_(list(places))
    listed = func.json_each(json.dumps(places)).table_valued("value")
    return pair.in_(
        select(func.json_extract(listed.c.value, "$[0]"), func.json_extract(listed.c.value, "$[1]")).select_from(listed)
    )
