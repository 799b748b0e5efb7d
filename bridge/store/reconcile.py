"""Brings what the configuration owns into the database, at start and at reload."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, select

from bridge.errors import BridgeError
from bridge.store.database import take_time, take_turns
from bridge.store.endpoints import Desk, EndpointSpec, hold_endpoints, reconcile_endpoints
from bridge.store.rooms import (
    RoomSpec,
    forget_sources,
    hold_changing_rooms,
    reconcile_rooms,
    reconcile_sources,
)
from bridge.store.sealing import reseal
from bridge.store.tables import endpoints as endpoints_table
from bridge.store.tables import rooms as rooms_table

RECONCILING = 2


def reconcile(
    connection: Connection,
    *,
    sources: Iterable[str],
    rooms: Sequence[RoomSpec],
    endpoints: Sequence[EndpointSpec],
    desk: Desk,
    may_empty: bool = True,
) -> None:
    """Make sources, rooms and endpoints what the file says, all or nothing; several processes may start at once.

    Rooms come first: an endpoint that is new and wants to know who is in a room is told of those that are watched now,
    by the names that they have now. What will change is locked before anything is changed, in the order in which
    everybody locks: rooms, sources, endpoints, cursors.

    Raises:
        BridgeError: nothing is named, a configuration once named something, and that may not be given up (`may_empty`).
    """
    take_time(connection)
    take_turns(connection, RECONCILING)
    if not (rooms or endpoints or may_empty):
        _refuse_to_empty(connection)
    named = tuple(sources)
    changes = hold_changing_rooms(connection, rooms)
    reconcile_sources(connection, named)
    forget_sources(connection, named)
    hold_endpoints(connection)
    reconcile_rooms(connection, rooms, changes, desk.now, desk.new_id)
    reconcile_endpoints(connection, endpoints, desk)
    reseal(connection, desk.vault, desk.now)


def _refuse_to_empty(connection: Connection) -> None:
    tracked = select(rooms_table.c.id).where(rooms_table.c.origin == "config", rooms_table.c.tracked).limit(1)
    told = select(endpoints_table.c.id).where(endpoints_table.c.origin == "config").limit(1)
    if connection.execute(tracked).first() is not None or connection.execute(told).first() is not None:
        raise BridgeError(
            "the database has rooms and endpoints of a configuration file, and there is none here: name it with "
            "--config, or BRIDGE_CONFIG; to give them up, start once with a file that names none"
        )
