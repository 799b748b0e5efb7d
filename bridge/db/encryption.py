"""Encryption at rest: what is ciphertext here stands in no database column in clear, where a key is set.

Fernet (AES-128-CBC with HMAC-SHA256, from `cryptography`). The first key seals; all of them open, which is how a key
is rotated: list the new one first and the old one behind it.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from bridge.errors import BridgeError

_ENCRYPTED = "ciphertext:"
_CLEAR = "clear:"


class SecretCipher:
    """Seals and opens texts; without a key it only marks them as being in clear."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        """Any text is a key: what is used is its SHA-256, so a long random text is a good one."""
        fernets = [Fernet(urlsafe_b64encode(sha256(key.encode()).digest())) for key in keys]
        self._first = fernets[0] if fernets else None
        self._fernet = MultiFernet(fernets) if fernets else None

    @property
    def encrypts(self) -> bool:
        """Whether a key is set."""
        return self._fernet is not None

    def encrypt(self, text: str) -> str:
        """The text as it may be stored."""
        if self._fernet is None:
            return _CLEAR + text
        return _ENCRYPTED + self._fernet.encrypt(text.encode()).decode()

    def open(self, stored: str) -> str:
        """The text again.

        Raises:
            BridgeError: it was ciphertext with a key that is not listed any more.
        """
        if stored.startswith(_CLEAR):
            return stored.removeprefix(_CLEAR)
        missing = BridgeError(
            "a stored secret cannot be opened: it was ciphertext with a key that BRIDGE_ENCRYPTION_KEY does not list; "
            "add the old key behind the new one, separated by a comma"
        )
        if self._fernet is None:
            raise missing
        try:
            return self._fernet.decrypt(stored.removeprefix(_ENCRYPTED)).decode()
        except InvalidToken:
            raise missing from None

    def reencrypt(self, stored: str) -> str | None:
        """The text ciphertext with the first key; None if it is already, or if no key is set.

        Raises:
            BridgeError: it was ciphertext with a key that is not listed any more.
        """
        if self._is_current(stored):
            return None
        return self.encrypt(self.open(stored))

    def _is_current(self, stored: str) -> bool:
        if self._first is None or stored.startswith(_CLEAR):
            return self._first is None and stored.startswith(_CLEAR)
        try:
            self._first.decrypt(stored.removeprefix(_ENCRYPTED))
        except InvalidToken:
            return False
        return True
