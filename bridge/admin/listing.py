"""Shared parts of the listings: pages, filters, and how a record becomes JSON.

The names of a record's fields are the keys of the CLI's JSON and of the HTTP API. A query labels its columns with
them, so that a record is `Record(**row._asdict())`. A page costs what it shows, however much there is: each listing has
an order for which there is an index, and a page begins behind the last item of the one before.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sqlalchemy import Column, ColumnElement, Connection, Select, Table, func, literal_column, select, tuple_

from bridge.db.tables import UtcDateTime, rooms
from bridge.errors import NotFoundError, PositionError
from bridge.events.bodies import rfc3339

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
Record = TypeVar("Record", bound="DataclassInstance")

COUNTED = 100_000
"""Number of rows that are counted beyond those shown: a huge table must not make a short listing slow."""
LARGEST_KEY = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Part of a listing: at most `limit` items after the position `after`, which is a `Listing.next`.

    An item that is added meanwhile neither repeats another one nor hides it. `count` asks for `Listing.more`;
    `newest_first` is the direction, None that of the listing.
    """

    limit: int
    after: str | None = None
    count: bool = False
    newest_first: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing(Generic[T]):
    """The items of one page; `next` is None on the last one.

    `more` is the number of further items, at most `COUNTED`; 0 unless the page asks for it.
    """

    items: Sequence[T]
    next: str | None = None
    more: int = 0


@dataclass(frozen=True, slots=True)
class Order:
    """The order of a listing, by columns that are unique together and, in this order, in an index."""

    columns: tuple[Column[Any], ...]
    newest_first: bool = True

    def by(self) -> list[ColumnElement[Any]]:
        return [column.desc() if self.newest_first else column.asc() for column in self.columns]

    def beyond(self, values: Sequence[Any]) -> ColumnElement[bool]:
        """The condition for rows after the one with these values."""
        key, position = tuple_(*self.columns), tuple_(*values)
        return key < position if self.newest_first else key > position


def fetch_page(
    connection: Connection, query: Select[Any], order: Order, page: Page, make: Callable[..., T]
) -> Listing[T]:
    """Return one page of the records that `make` makes of the rows of a query.

    Raises:
        PositionError: `page.after` is not the `next` of such a listing.
    """
    if page.newest_first is not None:
        order = replace(order, newest_first=page.newest_first)
    keys = [column.label(f"key_{index}") for index, column in enumerate(order.columns)]
    rest = query if page.after is None else query.where(order.beyond(_values(order, page.after)))
    rows = connection.execute(rest.add_columns(*keys).order_by(*order.by()).limit(page.limit + 1)).all()
    shown = rows[: page.limit]
    width = len(keys)
    items = [make(**dict(zip(row._fields[:-width], row[:-width], strict=True))) for row in shown]
    if len(rows) == len(shown):
        return Listing(items=items)
    last = shown[-1][-width:]
    more = _count(connection, query.where(order.beyond(last))) if page.count else 0
    return Listing(items=items, next=_position(last), more=more)


def page_of(items: Iterable[T], order: Order, key: Callable[[T], tuple[Any, ...]], page: Page) -> Listing[T]:
    """Return one page of items that are in memory; `key` returns the values of the columns of their order.

    Raises:
        PositionError: as in `fetch_page`.
    """
    newest_first = order.newest_first if page.newest_first is None else page.newest_first
    rest = sorted(items, key=key, reverse=newest_first)
    if page.after is not None:
        position = tuple(_values(order, page.after))
        rest = [item for item in rest if (key(item) < position if newest_first else key(item) > position)]
    shown = rest[: page.limit]
    if len(shown) == len(rest):
        return Listing(items=shown)
    return Listing(items=shown, next=_position(key(shown[-1])), more=len(rest) - len(shown))


def pages(read: Callable[[Page], Listing[T]], limit: int, at_once: int = 500) -> Iterator[Listing[T]]:
    """Yield the pages of a listing up to `limit` items, a few hundred at a time; the last one is counted."""
    left, after = limit, None
    while left > 0:
        page = read(Page(limit=min(left, at_once), after=after, count=left <= at_once))
        yield page
        left, after = left - len(page.items), page.next
        if after is None:
            return


def _count(connection: Connection, query: Select[Any]) -> int:
    rows = query.with_only_columns(literal_column("1"), maintain_column_froms=True).limit(COUNTED).subquery()
    return connection.execute(select(func.count()).select_from(rows)).scalar_one()


def _position(values: Sequence[Any]) -> str:
    texts = [value.isoformat() if isinstance(value, datetime) else value for value in values]
    return urlsafe_b64encode(json.dumps(texts).encode()).decode().rstrip("=")


def _values(order: Order, position: str) -> list[Any]:
    """Return the values of the columns at a position."""
    try:
        values = json.loads(urlsafe_b64decode(position + "=" * (-len(position) % 4)))
        return [_value(column, value) for column, value in zip(order.columns, values, strict=True)]
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise PositionError("is not a position in this listing: use the `next` of its last page") from None


def _value(column: Column[Any], value: object) -> object:
    match value:
        case str() if isinstance(column.type, UtcDateTime):
            return datetime.fromisoformat(value).astimezone(UTC)
        case str() if column.type.python_type is str and "\0" not in value:
            value.encode()  # not every text of JSON can be stored in a database
            return value
        case int() if column.type.python_type is int and 0 <= value < LARGEST_KEY:
            return value
        case _:
            raise ValueError("not a value of the column")


def columns_of(table: Table, record: type[DataclassInstance]) -> list[Column[Any]]:
    """Return the columns of a table that a record has a field for, except the surrogate key `id`."""
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


def keys_of_room(connection: Connection, room_id: str, source: str | None = None) -> list[int]:
    """Return the keys of all rooms with that id, of any source or of one, tracked or not: logs of removed rooms stay.

    Raises:
        NotFoundError: there has never been one.
    """
    found = select(rooms.c.id).where(rooms.c.upstream_id == room_id)
    keys = connection.execute(found if source is None else found.where(rooms.c.source == source)).scalars().all()
    if not keys:
        raise NotFoundError(f"no room has the id {room_id!r}", "see `bridge rooms list`")
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
