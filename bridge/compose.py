"""From settings to the objects that use them, for the service and for single commands."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from bridge import __version__
from bridge.config import Settings
from bridge.db.encryption import SecretCipher
from bridge.db.engine import Database
from bridge.delivery.secrets import EndpointContext
from bridge.delivery.snapshots import append_snapshots
from bridge.rules.signing import generate_secret, generate_signing_key
from bridge.runtime import Runtime

if TYPE_CHECKING:
    from bridge.delivery.client import WebhookClient


def new_secret(signature: str) -> str:
    """A new secret for signature `v1` or `v1a`."""
    random_bytes = secrets.token_bytes(32)
    return generate_signing_key(random_bytes) if signature == "v1a" else generate_secret(random_bytes)


def new_token() -> str:
    """A new token of the HTTP API, with 256 random bits."""
    return f"brt_{secrets.token_urlsafe(32)}"


def endpoint_context(settings: Settings, runtime: Runtime) -> EndpointContext:
    """The context for changes of endpoints."""
    return EndpointContext(
        now=runtime.now(),
        new_id=runtime.new_id,
        new_secret=new_secret,
        cipher=SecretCipher(settings.encryption_keys),
        rotation_grace=settings.delivery.policy.rotation_grace,
    )


def open_webhook_client(settings: Settings, runtime: Runtime) -> WebhookClient:
    """The client for deliveries, with its guard."""
    # httpx and aiohttp take as long to import as SQLAlchemy, and most commands deliver nothing.
    from bridge.delivery.client import WebhookClient  # noqa: PLC0415

    return WebhookClient(settings.delivery.egress, user_agent=f"presence-bridge/{__version__}", clock=runtime.now)


def append_all_snapshots(database: Database, runtime: Runtime) -> None:
    """Append the `room.snapshot` events that endpoints wait for, a few hundred rooms at a time.

    Raises:
        DatabaseError: the database failed; the next start, or the next endpoint added, continues.
    """
    while database.write_now(append_snapshots, runtime.now(), runtime.new_id):
        pass
