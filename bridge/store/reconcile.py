"""Brings what the configuration owns into the database, at start and at reload."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection

from bridge.store.database import take_turns
from bridge.store.endpoints import Desk, EndpointSpec, reconcile_endpoints
from bridge.store.rooms import RoomSpec, forget_sources, reconcile_rooms, reconcile_sources
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
    by the names that they have now.
    """
    take_turns(connection, RECONCILING)
    named = tuple(sources)
    reconcile_sources(connection, named)
    forget_sources(connection, named)
    reconcile_rooms(connection, rooms, desk.now, desk.new_id)
    reconcile_endpoints(connection, endpoints, desk)
    reseal(connection, desk.vault, desk.now)
