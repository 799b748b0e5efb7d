"""Whether what is stored is ciphertext as the keys say now: what keeps a change of keys from leaving anything behind."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, delete, select, update

from bridge.db.encryption import SecretCipher
from bridge.db.tables import endpoint_secrets, endpoints
from bridge.errors import BridgeError


def reencrypt(connection: Connection, cipher: SecretCipher, now: datetime) -> None:
    """Seal with the first key whatever stands in clear or was ciphertext with another; forget secrets that have lapsed.

    What no key opens stays as it is: its endpoint is locked, and the right key may come back.
    """
    prune_secrets(connection, now)
    for table, column in ((endpoint_secrets, endpoint_secrets.c.ciphertext), (endpoints, endpoints.c.headers)):
        for key, stored in connection.execute(select(table.c.id, column)).all():
            try:
                fresh = cipher.reencrypt(stored)
            except BridgeError:
                continue
            if fresh is not None:
                connection.execute(update(table).where(table.c.id == key).values({column.name: fresh}))


def prune_secrets(connection: Connection, now: datetime) -> int:
    """Forget secrets whose rotation grace is over; answers how many."""
    return connection.execute(delete(endpoint_secrets).where(endpoint_secrets.c.expires_at <= now)).rowcount


def check_keys(connection: Connection, cipher: SecretCipher) -> None:
    """Make sure that these are the keys of the running service, before something is ciphertext that it could not open.

    The service has ciphertext everything with its first key when it started: what is ciphertext otherwise tells of other keys.

    Raises:
        BridgeError: something that is stored cannot be opened with them, or would be ciphertext otherwise.
    """
    stored = select(endpoint_secrets.c.ciphertext, endpoints.c.name).join(endpoints).order_by(endpoint_secrets.c.id)
    for row in connection.execute(stored):
        try:
            is_stale = cipher.reencrypt(row.ciphertext) is not None
        except BridgeError as error:
            remedy = f"give the service's keys, or remove endpoint {row.name!r} if its key is lost"
            raise BridgeError(f"endpoint {row.name!r}: {error}; {remedy}") from None
        if is_stale:
            raise BridgeError(
                f"the secret of endpoint {row.name!r} is not ciphertext with the first of these keys: start the service "
                "with them first; it seals everything anew, and could not open what is ciphertext before that"
            )
