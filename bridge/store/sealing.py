"""Whether what is stored is sealed as the keys say now: what keeps a change of keys from leaving anything behind."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, delete, select, update

from bridge.errors import BridgeError
from bridge.store.tables import endpoint_secrets, endpoints
from bridge.store.vault import Vault


def reseal(connection: Connection, vault: Vault, now: datetime) -> None:
    """Seal with the first key whatever stands in clear or was sealed with another; forget secrets that have lapsed.

    What no key opens stays as it is: its endpoint is locked, and the right key may come back.
    """
    prune_secrets(connection, now)
    for table, column in ((endpoint_secrets, endpoint_secrets.c.sealed), (endpoints, endpoints.c.headers)):
        for key, stored in connection.execute(select(table.c.id, column)).all():
            try:
                fresh = vault.reseal(stored)
            except BridgeError:
                continue
            if fresh is not None:
                connection.execute(update(table).where(table.c.id == key).values({column.name: fresh}))


def prune_secrets(connection: Connection, now: datetime) -> int:
    """Forget secrets whose rotation grace is over; answers how many."""
    return connection.execute(delete(endpoint_secrets).where(endpoint_secrets.c.expires_at <= now)).rowcount


def check_keys(connection: Connection, vault: Vault) -> None:
    """Make sure that these are the keys of the running service, before something is sealed that it could not open.

    The service has sealed everything with its first key when it started: what is sealed otherwise tells of other keys.

    Raises:
        BridgeError: something that is stored cannot be opened with them, or would be sealed otherwise.
    """
    stored = select(endpoint_secrets.c.sealed, endpoints.c.name).join(endpoints).order_by(endpoint_secrets.c.id)
    for row in connection.execute(stored):
        try:
            is_stale = vault.reseal(row.sealed) is not None
        except BridgeError as error:
            remedy = f"give the service's keys, or remove endpoint {row.name!r} if its key is lost"
            raise BridgeError(f"endpoint {row.name!r}: {error}; {remedy}") from None
        if is_stale:
            raise BridgeError(
                f"the secret of endpoint {row.name!r} is not sealed with the first of these keys: start the service "
                "with them first; it seals everything anew, and could not open what is sealed before that"
            )
