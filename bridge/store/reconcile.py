"""Brings what the configuration owns into the database, at start and at reload."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection

from bridge.store.database import take_turns
from bridge.store.endpoints import Desk, EndpointSpec, hold_endpoints, reconcile_endpoints
from bridge.store.rooms import (
    RoomSpec,
    forget_sources,
    hold_changing_rooms,
    reconcile_rooms,
    reconcile_sources,
)
from bridge.store.sealing import reseal

RECONCILING = 2


def reconcile(
    connection: Connection,
    *,
    sources: Iterable[str],
    rooms: Sequence[RoomSpec],
    endpoints: Sequence[EndpointSpec],
    desk: Desk,
) -> None:
    """Make sources, rooms and endpoints what the file says, all or nothing; several processes may start at once.

    Rooms come first: an endpoint that is new and wants to know who is in a room is told of those that are watched now,
    by the names that they have now. What will change is locked before anything is changed, in the order in which
    everybody locks: rooms, sources, endpoints, cursors.
    """
    take_turns(connection, RECONCILING)
    named = tuple(sources)
    reconcile_sources(connection, named)
    changes = hold_changing_rooms(connection, rooms)
    forget_sources(connection, named)
    hold_endpoints(connection)
    reconcile_rooms(connection, rooms, changes, desk.now, desk.new_id)
    reconcile_endpoints(connection, endpoints, desk)
    reseal(connection, desk.vault, desk.now)
