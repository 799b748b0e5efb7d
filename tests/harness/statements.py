"""The SQL statements that a database executes; an executemany counts as one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from bridge.db.engine import Database


@contextmanager
def executed_statements(database: Database) -> Iterator[list[str]]:
    """The statements of the writing transactions within the block."""
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: Any) -> None:  # noqa: ANN401 - SQLAlchemy's signature
        statements.append(statement)

    event.listen(database._writing, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(database._writing, "before_cursor_execute", note)
