"""Many values in one statement: on PostgreSQL as arrays, so that its text does not depend on their number.

A text with a parameter per value is parsed again for every number of values, by the driver and by the server, which
plans it again too; a statement that is executed once per row costs each of them a message. SQLite, which is in the
process, has no arrays: it takes a list of parameters, and executes a statement once per row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

from sqlalchemy import (
    ARRAY,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    CursorResult,
    Table,
    any_,
    bindparam,
    column,
    func,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from bridge.db.engine import upsert

Values = Mapping[str, Any]
"""The columns of new rows by name, to be used in expressions."""
Types = Mapping[str, TypeEngine[Any]]
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class ManyRows:
    """A statement; `build` makes it for a dialect, with a prefix for the names of its arrays."""

    build: Callable[[str, str], Any]

    def execute(self, connection: Connection, rows: Rows) -> CursorResult[Any]:
        """Execute it for rows that have the same keys."""
        dialect = connection.dialect.name
        return connection.execute(_statement(self, dialect), _arrays(rows) if dialect == "postgresql" else rows)

    def returning(self, *columns: Column[Any]) -> ManyRows:
        """The same, returning columns of the rows."""
        return ManyRows(lambda dialect, prefix: self.build(dialect, prefix).returning(*columns))


def execute_together(connection: Connection, writes: Iterable[tuple[ManyRows, Rows]]) -> None:
    """Execute those that have rows, on PostgreSQL as one statement: none must see or change what another one writes."""
    wanted = [(statement, rows) for statement, rows in writes if rows]
    if connection.dialect.name == "postgresql" and wanted:
        arrays: dict[str, list[Any]] = {}
        for number, (_, rows) in enumerate(wanted):
            arrays |= _arrays(rows, number)
        connection.execute(_together(*(statement for statement, _ in wanted)), arrays)
        return
    for statement, rows in wanted:
        statement.execute(connection, rows)


def update_many(build: Callable[[Values], Any], types: Types) -> ManyRows:
    """An UPDATE; `build` makes it of the new values, whose names and types are given."""
    return ManyRows(
        lambda dialect, prefix: build(_unnested(types, prefix).c if dialect == "postgresql" else _parameters(types))
    )


def insert_many(
    table: Table,
    values: Callable[[Values], Mapping[str, ColumnElement[Any]]],
    types: Types,
    *,
    key: Sequence[Column[Any]] = (),
    change: Callable[[Values], Mapping[str, ColumnElement[Any]]] | None = None,
) -> ManyRows:
    """An INSERT; `values` makes the columns of the new values, whose names and types are given.

    A row whose `key` is there already is changed: `change` makes its columns of those that were to be inserted.
    """

    def build(dialect: str, prefix: str) -> Any:  # noqa: ANN401 - the INSERT of a dialect
        statement = upsert(dialect)(table)
        if dialect == "postgresql":
            rows = _unnested(types, prefix)
            new = values(rows.c)
            statement = statement.from_select(list(new), select(*new.values()).select_from(rows))
        else:
            statement = statement.values(**values(_parameters(types)))
        if change is None:
            return statement
        return statement.on_conflict_do_update(index_elements=key, set_=change(statement.excluded))

    return ManyRows(build)


def one_of(column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    """Whether the column has one of the values of the parameter `name`: any number of them, without nulls."""
    array = ARRAY(column.type, dimensions=1)
    return _OneOf(column.in_(bindparam(name, expanding=True)), column == any_(bindparam(name, type_=array)))


class _OneOf(FunctionElement[bool]):
    """A condition in two forms: for SQLite, and for PostgreSQL."""

    inherit_cache = True
    type = Boolean()

    def self_group(self, against: Any = None) -> Self:  # noqa: ANN401, ARG002 - SQLAlchemy's signature
        """Itself: SQLAlchemy would compare it with 1 on SQLite, which uses no index then."""
        return self


@compiles(_OneOf)
def _compile_in(element: _OneOf, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401 - SQLAlchemy's signature
    form, _ = element.clauses
    return compiler.process(form, **options)


@compiles(_OneOf, "postgresql")
def _compile_any(element: _OneOf, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401 - SQLAlchemy's signature
    _, form = element.clauses
    return compiler.process(form, **options)


def types_of(table: Table, *names: str, **others: TypeEngine[Any]) -> Types:
    """The types of columns, and of further values."""
    return {name: table.c[name].type for name in names} | others


@cache
def _statement(many: ManyRows, dialect: str) -> Any:  # noqa: ANN401 - of any kind
    return many.build(dialect, _prefix(0))


@cache
def _together(*statements: ManyRows) -> Any:  # noqa: ANN401 - of any kind
    *others, last = (statement.build("postgresql", _prefix(number)) for number, statement in enumerate(statements))
    return last.add_cte(*(other.cte(f"written_{number}") for number, other in enumerate(others)))


def _parameters(types: Types) -> Values:
    return {name: bindparam(name, type_=type_) for name, type_ in types.items()}


def _unnested(types: Types, prefix: str) -> Any:  # noqa: ANN401 - a table-valued function
    """The rows of `_arrays`, as a table with these columns."""
    arrays = [bindparam(prefix + key, type_=ARRAY(type_, dimensions=1)) for key, type_ in types.items()]
    return func.unnest(*arrays).table_valued(*(column(*one) for one in types.items()), name="new").render_derived()


def _arrays(rows: Rows, number: int = 0) -> dict[str, list[Any]]:
    """The values of rows that have the same keys, by column."""
    return {_prefix(number) + key: [row[key] for row in rows] for key in rows[0]}


def _prefix(number: int) -> str:
    """Without one, SQLAlchemy would take a parameter with the name of a column for its new value."""
    return f"all_{number}_"
