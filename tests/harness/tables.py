"""The database as plain SQL sees it, beside the running program: to look at it, and to age what is in it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.pool import NullPool

from tests.harness.waiting import wait_until


def rows(database_url: str, statement: str, **values: object) -> list[Any]:
    """Return the rows of a SELECT."""
    with connected(database_url) as connection:
        return list(connection.execute(text(statement), values))


def change(database_url: str, statement: str, **values: object) -> int:
    """Execute an UPDATE or DELETE and return the number of its rows."""
    with connected(database_url) as connection:
        return connection.execute(text(statement), values).rowcount


def end_pauses(database_url: str, sources: Collection[str]) -> None:
    """Make the rooms of failing sources due now: a source that refuses the key would be polled once a minute."""
    for source in sources:
        change(database_url, "UPDATE sources SET paused_until = since WHERE name = :source", source=source)
        due = "UPDATE rooms SET next_poll_at = added_at WHERE source = :source AND claim_token IS NULL"
        wait_until(lambda: change(database_url, due, source=source), what=f"a room of {source} that is not claimed")  # noqa: B023 - called at once


def everything(database_url: str) -> str:
    """Return every value of every table, as a dump has them."""
    with connected(database_url) as connection:
        tables = inspect(connection).get_table_names()
        found = [connection.execute(text(f'SELECT * FROM "{table}"')).all() for table in tables]  # noqa: S608 - our own names
    values = [value for table in found for row in table for value in row]
    return "\n".join(bytes(value).decode("latin-1") if isinstance(value, bytes) else str(value) for value in values)


@contextmanager
def connected(database_url: str) -> Iterator[Connection]:
    """Open a connection of its own, with one transaction that commits when the block ends."""
    url = database_url.replace("postgresql://", "postgresql+psycopg://", 1)
    with create_engine(url, poolclass=NullPool).begin() as connection:
        yield connection
