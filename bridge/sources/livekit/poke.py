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
from bridge.rules.identity import storable
from bridge.rules.pokes import Expected
from bridge.rules.presence import Json
from bridge.rules.signing import TOLERANCE
from bridge.sources.livekit.participants import Ignored, field_of, is_ignored
from bridge.sources.livekit.tokens import read_claims
from bridge.sources.protocol import Poke, SourceSettings
from bridge.sources.untrusted_json import decode_json
from bridge.sources.values import PEER_ID_LIMIT, read_room_id

HEADER: Final = "authorization"
_PRESENT_AFTER: Final = {
    "participant_joined": True,
    "participant_left": False,
    "participant_connection_aborted": False,
}
"""Whether the participant is in the room after an event."""


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
    event = _read_event(body)
    ignored = Ignored(kinds=settings.ignore_kinds, hidden=settings.ignore_hidden)
    return Poke(
        room_id=_room_id(event), fingerprint=hashlib.sha256(signed).digest(), expected=_expected(event, ignored)
    )


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_event(body: bytes) -> dict[str, Json]:
    try:
        event = decode_json(body)
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}


def _room_id(event: Mapping[str, Json]) -> str | None:
    """The name of the room of any event that has one."""
    room = event.get("room")
    parts = [part for part in event.values() if isinstance(part, dict)]
    names = [room.get("name")] if isinstance(room, dict) else []
    names += [field_of(part, "room_name") for part in parts]
    return next((name for name in map(read_room_id, names) if name is not None), None)


def _expected(event: Mapping[str, Json], ignored: Ignored) -> Expected | None:
    kind, participant = event.get("event"), event.get("participant")
    if kind == "room_finished":
        return Expected(peer_id=None)
    if (
        not isinstance(kind, str)
        or kind not in _PRESENT_AFTER
        or not isinstance(participant, dict)
        or is_ignored(participant, ignored)
    ):
        return None
    sid = participant.get("sid")
    if not isinstance(sid, str) or not 0 < len(sid) <= PEER_ID_LIMIT:
        return None
    return Expected(peer_id=storable(sid), present=_PRESENT_AFTER[kind])
