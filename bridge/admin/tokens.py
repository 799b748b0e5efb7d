"""Tokens of the HTTP API that were made by command; the database has only their digests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, exists, insert, select

from bridge.admin.listing import Listing, Order, Page, fetch_page
from bridge.db.tables import tokens
from bridge.errors import ConflictError, NotFoundError
from bridge.rules.access import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """A token; `name` identifies it in listings and in `GET /api/v1/me`."""

    name: str
    scopes: tuple[Scope, ...]
    created_at: datetime


def list_tokens(connection: Connection, page: Page) -> Listing[TokenRecord]:
    """Return the tokens by name."""
    return fetch_page(connection, select(*_RECORD), _BY_NAME, page, _record)


def add_token(connection: Connection, record: TokenRecord, digest: bytes) -> None:
    """Store a token.

    Raises:
        ConflictError: its name is taken.
    """
    if connection.execute(select(tokens.c.name).where(tokens.c.name == record.name)).first() is not None:
        raise ConflictError(f"there is a token named {record.name!r} already: choose another name, or remove that one")
    values = {"name": record.name, "scopes": list(record.scopes), "created_at": record.created_at}
    connection.execute(insert(tokens).values(**values, digest=digest))


def remove_token(connection: Connection, name: str) -> None:
    """Delete a token: the next request with it is refused, by every process.

    Raises:
        NotFoundError: there is none of that name.
    """
    if connection.execute(delete(tokens).where(tokens.c.name == name)).rowcount == 0:
        raise NotFoundError(f"no token is named {name!r}", "see `bridge tokens list`")


def find_token(connection: Connection, digest: bytes) -> TokenRecord | None:
    """Return the token with this digest."""
    row = connection.execute(select(*_RECORD).where(tokens.c.digest == digest)).one_or_none()
    return None if row is None else _record(**row._asdict())


def find_token_by_name(connection: Connection, name: str) -> tuple[TokenRecord, bytes] | None:
    """Return the token of that name, and its digest."""
    row = connection.execute(select(*_RECORD, tokens.c.digest).where(tokens.c.name == name)).one_or_none()
    return None if row is None else (_record(row.name, row.scopes, row.created_at), bytes(row.digest))


def has_tokens(connection: Connection) -> bool:
    """Return whether there is any token."""
    return bool(connection.execute(select(exists().select_from(tokens))).scalar_one())


def _record(name: str, scopes: list[str], created_at: datetime) -> TokenRecord:
    known = {scope.value: scope for scope in Scope}
    return TokenRecord(
        name=name, scopes=tuple(known[scope] for scope in scopes if scope in known), created_at=created_at
    )


_RECORD = (tokens.c.name, tokens.c.scopes, tokens.c.created_at)
_BY_NAME = Order((tokens.c.name,), newest_first=False)
