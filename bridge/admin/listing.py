"""What read-only listings share: the names of a record's fields are the keys of the CLI's JSON and of the HTTP API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, select

from bridge.db.tables import rooms
from bridge.errors import NotFoundError
from bridge.events.bodies import rfc3339

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which part of a listing, newest first: at most `limit`, older than the one with the id `after`."""

    limit: int
    after: str | None = None


def document(record: DataclassInstance) -> dict[str, Any]:
    """A record as JSON has it: times in RFC 3339 (UTC, milliseconds), everything else as it is."""
    return {field.name: _plain(getattr(record, field.name)) for field in fields(record)}


def keys_of_room(connection: Connection, room_id: str) -> list[int]:
    """The keys of all rooms of that id, in any source, tracked or not: their logs stay.

    Raises:
        NotFoundError: there has never been one.
    """
    keys = connection.execute(select(rooms.c.id).where(rooms.c.upstream_id == room_id)).scalars().all()
    if not keys:
        raise NotFoundError(f"no room {room_id!r} is known: see `bridge rooms list`")
    return list(keys)


def _plain(value: object) -> Any:  # noqa: ANN401 - whatever JSON has
    if isinstance(value, datetime):
        return rfc3339(value)
    if is_dataclass(value) and not isinstance(value, type):
        return document(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
