"""Encryption at rest: secrets and headers of endpoints are stored encrypted where a key is set.

Fernet (AES-128-CBC with HMAC-SHA256, from `cryptography`). The first key encrypts and all of them decrypt; to change
the key, the new one is listed first and the old one behind it, and the next start encrypts everything with the new one.
Without a key, `cryptography` is not imported: listings do not wait for it.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING

from sqlalchemy import Connection, delete, select, update

from bridge.db.tables import endpoint_secrets, endpoints
from bridge.errors import BridgeError

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

_ENCRYPTED = "encrypted:"
_CLEAR = "clear:"


class SecretCipher:
    """Encrypts and decrypts texts; without a key it only marks them as clear text."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        """Any text is a key: its SHA-256 is used, so a long random text is a good one."""
        self._fernets = [_fernet(key) for key in keys]

    @property
    def has_key(self) -> bool:
        return bool(self._fernets)

    def encrypt(self, text: str) -> str:
        """The text as it is stored."""
        if not self._fernets:
            return _CLEAR + text
        return _ENCRYPTED + self._fernets[0].encrypt(text.encode()).decode()

    def decrypt(self, stored: str) -> str:
        """The text again.

        Raises:
            BridgeError: it was encrypted with a key that is not listed.
        """
        if stored.startswith(_CLEAR):
            return stored.removeprefix(_CLEAR)
        for fernet in self._fernets:
            if (text := _decrypt(fernet, stored)) is not None:
                return text
        raise BridgeError(
            "a stored secret cannot be decrypted: BRIDGE_ENCRYPTION_KEY does not list the key it was encrypted with; "
            "add the old key behind the new one, separated by a comma"
        )

    def reencrypt(self, stored: str) -> str | None:
        """The text encrypted with the first key; None if it is already, or if no key is set.

        Raises:
            BridgeError: it was encrypted with a key that is not listed.
        """
        return None if self._is_current(stored) else self.encrypt(self.decrypt(stored))

    def _is_current(self, stored: str) -> bool:
        if stored.startswith(_CLEAR):
            return not self._fernets
        return bool(self._fernets) and _decrypt(self._fernets[0], stored) is not None


def _fernet(key: str) -> Fernet:
    from cryptography.fernet import Fernet  # noqa: PLC0415 - see the head of this file

    return Fernet(urlsafe_b64encode(sha256(key.encode()).digest()))


def _decrypt(fernet: Fernet, stored: str) -> str | None:
    """The text; None if it was encrypted with another key."""
    from cryptography.fernet import InvalidToken  # noqa: PLC0415 - see the head of this file

    try:
        return fernet.decrypt(stored.removeprefix(_ENCRYPTED)).decode()
    except InvalidToken:
        return None


def reencrypt_all(connection: Connection, cipher: SecretCipher, now: datetime) -> None:
    """Encrypt everything with the first key; delete secrets whose grace is over.

    Texts that no key decrypts stay as they are: their endpoint is paused, and the right key may be added later.
    """
    delete_expired_secrets(connection, now)
    for table, column in ((endpoint_secrets, endpoint_secrets.c.ciphertext), (endpoints, endpoints.c.headers)):
        for key, stored in connection.execute(select(table.c.id, column)).all():
            try:
                fresh = cipher.reencrypt(stored)
            except BridgeError:
                continue
            if fresh is not None:
                connection.execute(update(table).where(table.c.id == key).values({column.name: fresh}))


def delete_expired_secrets(connection: Connection, now: datetime) -> int:
    """Delete secrets whose rotation grace is over; returns how many."""
    return connection.execute(delete(endpoint_secrets).where(endpoint_secrets.c.expires_at <= now)).rowcount


def check_keys(connection: Connection, cipher: SecretCipher) -> None:
    """Check that these keys are those of the running service, before something is encrypted that it cannot read.

    The service encrypts everything with its first key when it starts, so anything else means other keys.

    Raises:
        BridgeError: a stored secret cannot be decrypted with them, or is not encrypted with the first of them.
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
                f"the secret of endpoint {row.name!r} is not encrypted with the first of these keys: start the service "
                "with them first, so that it encrypts everything with that key"
            )
