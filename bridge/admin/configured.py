"""Brings what the configuration owns into the database, at start and at reload."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, select

from bridge.db.engine import advisory_lock, allow_long_transaction
from bridge.db.reencryption import reencrypt
from bridge.db.tables import endpoints as endpoints_table
from bridge.db.tables import rooms as rooms_table
from bridge.delivery.endpoints import EndpointContext, EndpointSpec, lock_endpoints, reconcile_endpoints
from bridge.errors import BridgeError
from bridge.polling.rooms import (
    RoomSpec,
    forget_sources,
    lock_changing_rooms,
    reconcile_rooms,
    reconcile_sources,
)

RECONCILING = 2


def reconcile(
    connection: Connection,
    *,
    sources: Iterable[str],
    rooms: Sequence[RoomSpec],
    endpoints: Sequence[EndpointSpec],
    context: EndpointContext,
    may_empty: bool = True,
) -> None:
    """Make sources, rooms and endpoints what the file says, all or nothing; several processes may start at once.

    Rooms come first: an endpoint that is new and wants to know who is in a room is told of those that are watched now,
    by the names that they have now. What will change is locked before anything is changed, in the order in which
    everybody locks: rooms, sources, endpoints, cursors.

    Raises:
        BridgeError: nothing is named, a configuration once named something, and that may not be given up (`may_empty`).
    """
    allow_long_transaction(connection)
    advisory_lock(connection, RECONCILING)
    if not (rooms or endpoints or may_empty):
        _refuse_to_empty(connection)
    named = tuple(sources)
    changes = lock_changing_rooms(connection, rooms)
    reconcile_sources(connection, named)
    forget_sources(connection, named)
    lock_endpoints(connection)
    reconcile_rooms(connection, rooms, changes, context.now, context.new_id)
    reconcile_endpoints(connection, endpoints, context)
    reencrypt(connection, context.cipher, context.now)


def _refuse_to_empty(connection: Connection) -> None:
    tracked = select(rooms_table.c.id).where(rooms_table.c.origin == "config", rooms_table.c.tracked).limit(1)
    told = select(endpoints_table.c.id).where(endpoints_table.c.origin == "config").limit(1)
    if connection.execute(tracked).first() is not None or connection.execute(told).first() is not None:
        raise BridgeError(
            "the database has rooms and endpoints of a configuration file, and there is none here: name it with "
            "--config, or BRIDGE_CONFIG; to give them up, start once with a file that names none"
        )
