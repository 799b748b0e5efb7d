"""Many cursors at once: a place is an endpoint and a room, and either database must find a list of them by index.

SQLite reads the whole table for a list of pairs that is written out, but not for one that comes from a query. So the
condition is another one for each database, and so is the parameter `places`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, func, select, tuple_

from bridge.db.tables import cursors

Place = tuple[int, int]
"""The key of an endpoint, the key of a room."""

_PAIR = tuple_(cursors.c.endpoint_key, cursors.c.room_key)
_LISTED = func.json_each(bindparam("places")).table_valued("value")
_AT_PLACES: dict[str, ColumnElement[bool]] = {
    "postgresql": _PAIR.in_(bindparam("places", expanding=True)),
    "sqlite": _PAIR.in_(select(func.json_extract(_LISTED.c.value, "$[0]"), func.json_extract(_LISTED.c.value, "$[1]"))),
}


class ByPlaces:
    """A statement about the cursors at some places; `build` makes it from the condition that chooses them."""

    def __init__(self, build: Callable[[ColumnElement[bool]], Select[Any]]) -> None:
        self._statements = {dialect: build(condition) for dialect, condition in _AT_PLACES.items()}

    def rows(self, connection: Connection, places: Sequence[Place], **parameters: object) -> Any:  # noqa: ANN401 - a result of rows
        """Execute it."""
        dialect = connection.dialect.name
        listed: object = json.dumps(places) if dialect == "sqlite" else list(places)
        return connection.execute(self._statements[dialect], {"places": listed, **parameters})
