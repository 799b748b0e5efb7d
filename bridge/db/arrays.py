"""Many rows in one statement on PostgreSQL: an array per column, so that its text does not depend on their number.

The text of an INSERT with many rows is parsed anew for every number of rows, by the driver and by the server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ARRAY, TableValuedAlias, bindparam, column, func
from sqlalchemy.types import TypeEngine


def unnested(types: Mapping[str, TypeEngine[Any]], name: str = "new") -> TableValuedAlias:
    """The rows of `as_arrays`, as a table with these columns."""
    arrays = [bindparam(key, type_=ARRAY(type_)) for key, type_ in types.items()]
    columns = [column(key, type_) for key, type_ in types.items()]
    return func.unnest(*arrays).table_valued(*columns, name=name).render_derived()


def as_arrays(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The values of rows that have the same keys, by column."""
    return {key: [row[key] for row in rows] for key in rows[0]}
