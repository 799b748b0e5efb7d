"""Statements that SQLAlchemy has compiled, shared by all databases of this process.

A cache of its own for each engine is right for a program, which has one database. Here every test opens its own, and
compiling the same statements again would be a quarter of the time of the tests that use one.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.util import LRUCache


def share_compiled_statements() -> None:
    """From now on, in this process; the programs that tests start are left as they are."""
    cache: LRUCache[Any, Any] = LRUCache(5000)
    for dialect in (SQLiteDialect_pysqlite, PGDialect_psycopg):  # part of the key: one server has one version
        dialect.__eq__ = lambda self, other: type(self) is type(other)  # type: ignore[method-assign]
        dialect.__hash__ = lambda self: hash(type(self))  # type: ignore[method-assign]
    Engine._compiled_cache = property(lambda _: cache, lambda *_: None)  # type: ignore[assignment]
