"""The secrets that sign for an endpoint: the current one, and previous ones within their rotation grace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, insert, or_, select, update

from bridge.db.arrays import one_of
from bridge.db.encryption import SecretCipher
from bridge.db.tables import endpoint_secrets, endpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointContext:
    """The context of a change of endpoints; `new_secret` makes one for a signature (`v1` or `v1a`)."""

    now: datetime
    new_id: Callable[[str], str]
    new_secret: Callable[[str], str]
    cipher: SecretCipher = field(default_factory=SecretCipher)
    rotation_grace: timedelta = timedelta(hours=24)


class SigningSecret(NamedTuple):
    """A secret that signs until it expires; None for the current one."""

    ciphertext: str
    expires_at: datetime | None


def signing_secrets(
    connection: Connection, endpoint_keys: Sequence[int], now: datetime
) -> dict[int, list[SigningSecret]]:
    """The secrets that sign now, by endpoint; the current one first."""
    found: dict[int, list[SigningSecret]] = {}
    for row in connection.execute(_SIGNING, {"keys": endpoint_keys, "now": now}):
        found.setdefault(row.endpoint_key, []).append(SigningSecret(row.ciphertext, row.expires_at))
    return found


def decrypt_secrets(ciphertexts: Sequence[str], cipher: SecretCipher) -> tuple[str, ...]:
    """The secrets, each once: a secret may have been changed back within its grace.

    Raises:
        BridgeError: the key for one of them is not given.
    """
    return tuple(dict.fromkeys(cipher.decrypt(text) for text in ciphertexts))


def current_secret(connection: Connection, endpoint_key: int, context: EndpointContext) -> str:
    """The secret that signs first.

    Raises:
        BridgeError: the key for it is not given.
    """
    secrets = signing_secrets(connection, [endpoint_key], context.now)[endpoint_key]
    return decrypt_secrets([secrets[0].ciphertext], context.cipher)[0]


def is_secret_generated(connection: Connection, endpoint_key: int) -> bool:
    """Whether the bridge generated the endpoint's current secret."""
    current = (
        select(endpoint_secrets.c.generated)
        .where(endpoint_secrets.c.endpoint_key == endpoint_key, endpoint_secrets.c.expires_at.is_(None))
        .order_by(endpoint_secrets.c.id.desc())
        .limit(1)
    )
    return bool(connection.execute(current).scalar_one())


def insert_secret(
    connection: Connection, endpoint_key: int, secret: str, context: EndpointContext, *, generated: bool
) -> None:
    """Store a secret, encrypted."""
    connection.execute(
        insert(endpoint_secrets).values(
            endpoint_key=endpoint_key,
            ciphertext=context.cipher.encrypt(secret),
            generated=generated,
            created_at=context.now,
        )
    )


def replace_secret(
    connection: Connection,
    endpoint_key: int,
    secret: str,
    context: EndpointContext,
    *,
    generated: bool,
    grace: timedelta,
) -> None:
    """Make a secret the current one; the one before it keeps signing for `grace`.

    Others within their grace keep theirs. With a grace of zero all of them end, as after a leak.
    """
    of_endpoint = endpoint_secrets.c.endpoint_key == endpoint_key
    if grace <= timedelta():
        connection.execute(update(endpoint_secrets).where(of_endpoint).values(expires_at=context.now))
    else:
        current = (of_endpoint, endpoint_secrets.c.expires_at.is_(None))
        connection.execute(update(endpoint_secrets).where(*current).values(expires_at=context.now + grace))
    insert_secret(connection, endpoint_key, secret, context, generated=generated)
    connection.execute(update(endpoints).where(endpoints.c.id == endpoint_key).values(rotated_at=context.now))


def mark_generated(connection: Connection, endpoint_key: int) -> None:
    """Let the bridge rotate a secret that the configuration no longer names."""
    connection.execute(
        update(endpoint_secrets)
        .where(endpoint_secrets.c.endpoint_key == endpoint_key, endpoint_secrets.c.expires_at.is_(None))
        .values(generated=True)
    )


_SIGNING = (
    select(endpoint_secrets.c.endpoint_key, endpoint_secrets.c.ciphertext, endpoint_secrets.c.expires_at)
    .where(
        one_of(endpoint_secrets.c.endpoint_key, "keys"),
        or_(endpoint_secrets.c.expires_at.is_(None), endpoint_secrets.c.expires_at > bindparam("now")),
    )
    .order_by(endpoint_secrets.c.id.desc())
)
