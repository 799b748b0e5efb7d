"""Many rows in one statement on PostgreSQL, with an array per column: its text does not depend on their number.

The text of an INSERT with many rows is parsed again for every number of rows, by the driver and by the server, and a
statement that is executed once per row costs each of them a message. SQLite, which is in the process, executes those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ARRAY,
    Column,
    ColumnElement,
    Connection,
    CursorResult,
    Table,
    bindparam,
    column,
    func,
    insert,
    select,
)
from sqlalchemy.types import TypeEngine

Values = Mapping[str, Any]
"""The columns of new rows by name, to be used in expressions."""
Types = Mapping[str, TypeEngine[Any]]


@dataclass(frozen=True, slots=True)
class ManyRows:
    """A statement in both forms."""

    each: Any
    arrays: Any

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> CursorResult[Any]:
        """Execute it for rows that have the same keys."""
        if connection.dialect.name == "postgresql":
            return connection.execute(self.arrays, as_arrays(rows))
        return connection.execute(self.each, rows)

    def returning(self, *columns: Column[Any]) -> ManyRows:
        """The same, returning columns of the rows."""
        return ManyRows(self.each.returning(*columns), self.arrays.returning(*columns))


def update_many(build: Callable[[Values], Any], types: Types) -> ManyRows:
    """An UPDATE; `build` makes it of the new values, whose names and types are given."""
    return ManyRows(build(_parameters(types)), build(unnested(types).c))


def insert_many(table: Table, values: Callable[[Values], Mapping[str, ColumnElement[Any]]], types: Types) -> ManyRows:
    """An INSERT; `values` makes the columns of the new values, whose names and types are given."""
    rows = unnested(types)
    new = values(rows.c)
    arrays = insert(table).from_select(list(new), select(*new.values()).select_from(rows))
    return ManyRows(insert(table).values(**values(_parameters(types))), arrays)


def types_of(table: Table, *names: str, **others: TypeEngine[Any]) -> Types:
    """The types of columns, and of further values."""
    return {name: table.c[name].type for name in names} | others


def unnested(types: Types) -> Any:  # noqa: ANN401 - a table-valued function
    """The rows of `as_arrays`, as a table with these columns."""
    arrays = [bindparam(_name(key), type_=ARRAY(type_)) for key, type_ in types.items()]
    return func.unnest(*arrays).table_valued(*(column(*one) for one in types.items()), name="new").render_derived()


def as_arrays(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The values of rows that have the same keys, by column."""
    return {_name(key): [row[key] for row in rows] for key in rows[0]}


def _parameters(types: Types) -> Values:
    return {name: bindparam(name, type_=type_) for name, type_ in types.items()}


def _name(key: str) -> str:
    """SQLAlchemy would take a parameter with the name of a column for its new value."""
    return f"all_{key}"
