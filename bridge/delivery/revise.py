"""Changes of single settings of an endpoint by an operator; not of endpoints of the configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Row, select

from bridge.db.encryption import SecretCipher, check_keys
from bridge.db.tables import endpoints
from bridge.delivery.endpoints import (
    CONFIG,
    EndpointSpec,
    can_sign,
    change_settings,
    check_name_is_free,
    find_endpoint,
)
from bridge.delivery.secrets import EndpointContext, current_secret, replace_secret
from bridge.errors import ArgumentError, ConflictError


def revise_endpoint(
    connection: Connection, name: str, revise: Callable[[EndpointSpec], EndpointSpec], context: EndpointContext
) -> None:
    """Change an endpoint; the secret before a new one keeps signing for `rotation_grace`.

    Args:
        connection: Of a transaction.
        name: The endpoint's name or public id.
        revise: Returns the new settings for the current ones, whose `secret` is None: it stays.
        context: For what changes.

    Raises:
        NotFoundError: there is no such endpoint.
        ConflictError: it belongs to the configuration, or the new name is taken.
        ArgumentError: its secret does not suit the new settings.
        BridgeError: the encryption keys are not those of the service.
    """
    check_keys(connection, context.cipher)
    row = find_endpoint(connection, name)
    row = connection.execute(select(endpoints).where(endpoints.c.id == row.id).with_for_update()).one()
    if row.origin == CONFIG:
        raise ConflictError(f"endpoint {row.name!r} belongs to the configuration: change it there and reload")
    spec = revise(_spec_of(row, context.cipher))
    if spec.name != row.name:
        check_name_is_free(connection, spec.name)
    current = current_secret(connection, row.id, context)
    if spec.secret is None and not can_sign(current, spec):
        raise ArgumentError(
            "signature",
            f"the secret of endpoint {row.name!r} cannot sign with signature {spec.signature!r}: give a new one",
        )
    change_settings(connection, row, spec, context, origin=row.origin)
    if spec.secret not in (None, current):
        grace = context.rotation_grace
        replace_secret(connection, row.id, spec.secret, context, generated=False, grace=grace)


def _spec_of(row: Row[Any], cipher: SecretCipher) -> EndpointSpec:
    return EndpointSpec(
        name=row.name,
        url=row.url,
        events=tuple(row.events),
        rooms=tuple(row.rooms),
        style=row.style,
        signature=row.signature,
        headers=json.loads(cipher.decrypt(row.headers)),
        rate_per_second=row.rate_per_second,
        max_concurrency=row.max_concurrency,
        timeout=None if row.timeout_seconds is None else timedelta(seconds=row.timeout_seconds),
        enabled=row.state == "active",
    )
