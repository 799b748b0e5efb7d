"""The database as somebody sees it who has only SQL, or a stolen copy. Imports nothing of the bridge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.pool import NullPool


def rows(database_url: str, statement: str, **values: object) -> list[Any]:
    """What a SELECT finds."""
    with _connected(database_url) as connection:
        return list(connection.execute(text(statement), values))


def change(database_url: str, statement: str, **values: object) -> int:
    """Carry out an UPDATE or DELETE; answers how many rows that were."""
    with _connected(database_url) as connection:
        return connection.execute(text(statement), values).rowcount


def everything(database_url: str) -> str:
    """Every value of every table, as a dump has them."""
    with _connected(database_url) as connection:
        tables = inspect(connection).get_table_names()
        found = [connection.execute(text(f'SELECT * FROM "{table}"')).all() for table in tables]  # noqa: S608 - our own names
    values = [value for table in found for row in table for value in row]
    return "\n".join(bytes(value).decode("latin-1") if isinstance(value, bytes) else str(value) for value in values)


@contextmanager
def _connected(database_url: str) -> Iterator[Connection]:
    url = database_url.replace("postgresql://", "postgresql+psycopg://", 1)
    with create_engine(url, poolclass=NullPool).begin() as connection:
        yield connection
