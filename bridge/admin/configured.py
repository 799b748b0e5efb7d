"""Brings the configuration's sources, rooms and endpoints into the database, at start and at reload."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import Connection, select

from bridge.db.encryption import reencrypt_all
from bridge.db.engine import CONFIGURATION_LOCK, advisory_lock, allow_long_transaction
from bridge.db.notifications import notify_due
from bridge.db.tables import endpoints as endpoints_table
from bridge.db.tables import rooms as rooms_table
from bridge.delivery.endpoints import EndpointSpec, configure_endpoints, lock_all_endpoints
from bridge.delivery.secrets import EndpointContext
from bridge.errors import BridgeError
from bridge.polling.discovery import configure_discovery
from bridge.polling.rooms import (
    RoomSpec,
    configure_rooms,
    ensure_sources,
    lock_changing_rooms,
    remove_other_sources,
)


def apply_configuration(
    connection: Connection,
    *,
    sources: Iterable[str],
    discovering: Collection[str] = (),
    rooms: Sequence[RoomSpec],
    endpoints: Sequence[EndpointSpec],
    context: EndpointContext,
    may_empty: bool = True,
) -> None:
    """Store the sources, rooms and endpoints of the configuration, all or nothing; one process at a time.

    Rooms that change are locked first, then endpoints: the order in which everything locks. Rooms are changed before
    endpoints, because a new endpoint may get snapshots of them.

    Raises:
        BridgeError: the configuration names nothing, an earlier one did, and `may_empty` is false.
    """
    allow_long_transaction(connection)
    advisory_lock(connection, CONFIGURATION_LOCK)
    if not (rooms or endpoints or may_empty):
        _refuse_to_empty(connection)
    configured = tuple(sources)
    added, changes = lock_changing_rooms(connection, rooms, configured)
    ensure_sources(connection, configured)
    remove_other_sources(connection, configured)
    lock_all_endpoints(connection)
    configure_rooms(connection, added, changes, context.now, context.new_id)
    configure_endpoints(connection, endpoints, context)
    configure_discovery(connection, discovering, context.now)
    reencrypt_all(connection, context.cipher, context.now)
    notify_due(connection)


def _refuse_to_empty(connection: Connection) -> None:
    tracked = select(rooms_table.c.id).where(rooms_table.c.origin == "config", rooms_table.c.tracked).limit(1)
    subscribed = select(endpoints_table.c.id).where(endpoints_table.c.origin == "config").limit(1)
    if connection.execute(tracked).first() is not None or connection.execute(subscribed).first() is not None:
        raise BridgeError(
            "the database has rooms or endpoints of a configuration file, and there is no file here: name it with "
            "--config or BRIDGE_CONFIG; to remove them, start once with a file that names none"
        )
