"""Shared parts of the listings: pages, filters, and how a record becomes JSON.

The names of a record's fields are the keys of the CLI's JSON and of the HTTP API. A query labels its columns with
them, so that a record is `Record(**row._mapping)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sqlalchemy import Column, ColumnElement, Connection, Row, Select, Table, func, select

from bridge.db.tables import rooms
from bridge.errors import NotFoundError
from bridge.events.bodies import rfc3339

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
Record = TypeVar("Record", bound="DataclassInstance")

COUNTED = 100_000
"""Number of rows that are counted beyond those shown: a huge table must not make a short listing slow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Part of a listing, newest first: at most `limit` items older than the one with the id `after`."""

    limit: int
    after: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing(Generic[T]):
    """The items of one page; `more` is the number of further ones, at most `COUNTED`."""

    items: Sequence[T]
    more: int = 0


def fetch_page(connection: Connection, query: Select[Any], limit: int) -> Listing[Row[Any]]:
    """Return the first rows of a query and the number of the others; a listing costs what it shows."""
    rows = connection.execute(query.limit(limit)).all()
    if len(rows) < limit:
        return Listing(items=rows)
    others = query.order_by(None).limit(limit + COUNTED).subquery()
    return Listing(items=rows, more=connection.execute(select(func.count()).select_from(others)).scalar_one() - limit)


def columns_of(table: Table, record: type[DataclassInstance]) -> list[Column[Any]]:
    """Return the columns of a table that a record has a field for, but for the surrogate key `id`."""
    names = {each.name for each in fields(record)} - {"id"}
    return [column for column in table.columns if column.name in names]


def copy_fields(record: type[Record], origin: object, **others: object) -> Record:
    """Return a record with the values of another object's attributes of the same names."""
    names = {each.name for each in fields(record)} - others.keys()
    return record(**{name: getattr(origin, name) for name in names}, **others)


def in_period(
    column: ColumnElement[datetime], since: datetime | None, until: datetime | None
) -> list[ColumnElement[bool]]:
    """Return the conditions for a time in [since, until); None leaves that end open."""
    conditions = [] if since is None else [column >= since]
    return conditions if until is None else [*conditions, column < until]


def document(record: DataclassInstance) -> dict[str, Any]:
    """Return a record as JSON: times in RFC 3339 (UTC, milliseconds), everything else unchanged."""
    return {field.name: _plain(getattr(record, field.name)) for field in fields(record)}


def keys_of_room(connection: Connection, room_id: str) -> list[int]:
    """Return the keys of all rooms with that id, of any source, tracked or not: the logs of removed rooms stay.

    Raises:
        NotFoundError: there has never been one.
    """
    keys = connection.execute(select(rooms.c.id).where(rooms.c.upstream_id == room_id)).scalars().all()
    if not keys:
        raise NotFoundError(f"no room has the id {room_id!r}: see `bridge rooms list`")
    return list(keys)


def _plain(value: object) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, datetime):
        return rfc3339(value)
    if is_dataclass(value) and not isinstance(value, type):
        return document(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
