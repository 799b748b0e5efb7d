"""REST hooks: endpoints that an automation platform adds and removes.

They are delivered to like every endpoint, in style `flat`. A URL that responds 410 unsubscribes: T4 removes the hook
(`bridge.delivery.record`).
"""

from __future__ import annotations

import glob
from dataclasses import dataclass, field

from sqlalchemy import Connection, delete, select

from bridge.db.encryption import check_keys
from bridge.db.engine import allow_long_transaction
from bridge.db.tables import HOOK, endpoints
from bridge.delivery.endpoints import EndpointSpec, insert_endpoint
from bridge.delivery.secrets import EndpointContext
from bridge.errors import ConflictError
from bridge.events.formats import Format


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedHook:
    """A new hook; the secret signs its deliveries."""

    id: str
    name: str
    url: str
    events: tuple[str, ...]
    room_id: str | None
    secret: str = field(repr=False)


def add_hook(
    connection: Connection, url: str, events: tuple[str, ...], room_id: str | None, context: EndpointContext
) -> AddedHook:
    """Add a hook for events of every room, or of one; the same URL may have several.

    Raises:
        BridgeError: secrets of other endpoints are encrypted with a key that is not given.
    """
    check_keys(connection, context.cipher)
    rooms = ("*",) if room_id is None else (glob.escape(room_id),)
    spec = EndpointSpec(name=context.new_id("hook"), url=url, events=events, rooms=rooms, style=Format.FLAT.value)
    public_id, secret = insert_endpoint(connection, spec, HOOK, context)
    return AddedHook(id=public_id, name=spec.name, url=url, events=events, room_id=room_id, secret=secret)


def remove_hook(connection: Connection, hook_id: str) -> None:
    """Remove a hook with its backlog, if it is still there.

    Raises:
        ConflictError: the id is that of another endpoint.
    """
    allow_long_transaction(connection)
    found = select(endpoints.c.id, endpoints.c.origin).where(endpoints.c.public_id == hook_id)
    row = connection.execute(found).one_or_none()
    if row is not None and row.origin != HOOK:
        raise ConflictError(f"endpoint {hook_id!r} is not a REST hook: remove it with DELETE /endpoints")
    if row is not None:
        connection.execute(delete(endpoints).where(endpoints.c.id == row.id))
