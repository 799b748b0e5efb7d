"""Pokes of LiveKit: its own webhooks, as the `webhook` package of its protocol verifies them. Pure.

`Authorization: TOKEN`, without `Bearer`: a JSON Web Token (HS256, the API secret) whose claim `sha256` is the digest of
the body in base64. The server makes one for each event, valid for 5 minutes.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Mapping
from datetime import datetime
from typing import Final, TypeGuard

from bridge.errors import VerificationError
from bridge.rules.signing import TOLERANCE
from bridge.sources.livekit.tokens import read_claims
from bridge.sources.protocol import Poke, SourceSettings
from bridge.sources.untrusted_json import decode_json

HEADER: Final = "authorization"
_ROOM_NAMES: Final = ("roomName", "room_name")


def read_poke(settings: SourceSettings, headers: Mapping[str, str], body: bytes, now: datetime) -> Poke:
    """Verify a webhook, and return what it asks for.

    Raises:
        VerificationError: it was not signed with the API secret of this source, or too long ago.
    """
    token = headers.get(HEADER, "")
    try:
        claims = read_claims(token, settings.api_secret, settings.api_key)
    except ValueError:
        source = f"the source {settings.name!r}"
        raise VerificationError(f"{HEADER} must be a token by key and secret of {source}, without Bearer") from None
    seconds = now.timestamp()
    ends, begins = claims.get("exp"), claims.get("nbf", seconds)
    if not _is_number(ends) or ends <= seconds:
        raise VerificationError(f"the token in {HEADER} has no exp, or has expired by the clock here")
    if not _is_number(begins) or abs(seconds - begins) > TOLERANCE.total_seconds():
        minutes = TOLERANCE.seconds // 60
        raise VerificationError(f"the token in {HEADER}: nbf is more than {minutes} minutes off the clock here")
    digest = b64encode(hashlib.sha256(body).digest()).decode("ascii")
    if not hmac.compare_digest(digest.encode(), str(claims.get("sha256")).encode(errors="replace")):
        raise VerificationError(f"the token in {HEADER} is not for this body: its sha256 is another one")
    signed = token.rpartition(".")[0].encode("ascii")
    return Poke(room_id=_room_id(body), fingerprint=hashlib.sha256(signed).digest())


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _room_id(body: bytes) -> str | None:
    """The name of the room of any event that has one."""
    try:
        event = decode_json(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    room = event.get("room")
    parts = [part for part in event.values() if isinstance(part, dict)]
    names = [room.get("name")] if isinstance(room, dict) else []
    names += [part.get(name) for part in parts for name in _ROOM_NAMES]
    return next((name for name in names if isinstance(name, str) and name and "\0" not in name), None)
