"""Pokes of Huddle01: its own webhooks, as `WebhookReceiver` of `@huddle01/server-sdk` verifies them. Pure.

`huddle01-signature: t=TIMESTAMP,ALGORITHM=HEX` is an HMAC with the API key over `id.timestamp.body`, the body as
JavaScript's `JSON.stringify` writes it: that is the body as it came, or else the same compact JSON without escapes.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from bridge.errors import VerificationError
from bridge.rules.epoch import read_epoch
from bridge.rules.identity import storable
from bridge.rules.pokes import Expected
from bridge.rules.presence import Json
from bridge.rules.signing import TOLERANCE
from bridge.sources.protocol import Poke, SourceSettings
from bridge.sources.untrusted_json import decode_json, encode_json
from bridge.sources.values import PEER_ID_LIMIT, read_room_id

HEADER: Final = "huddle01-signature"
_SIGNATURE: Final = re.compile(r"t=([0-9]{1,15}),(sha256|sha512)=([0-9a-f]{64,128})")


def read_poke(settings: SourceSettings, headers: Mapping[str, str], body: bytes, now: datetime) -> Poke:
    """Verify a webhook, and return what it asks for.

    Raises:
        VerificationError: it was not signed with the API key of this source, or too long ago.
    """
    signature = _SIGNATURE.fullmatch(headers.get(HEADER, ""))
    if signature is None:
        raise VerificationError(f"the header {HEADER} must be t=TIMESTAMP,sha256=HEX")
    timestamp, algorithm, given = signature.groups()
    signed_at = read_epoch(int(timestamp))
    if signed_at is None or abs(now - signed_at) > TOLERANCE:
        raise VerificationError(f"{HEADER}: t is more than {TOLERANCE.seconds // 60} minutes off the clock here")
    try:
        document, canonical = (read := decode_json(body)), encode_json(read)
    except (ValueError, RecursionError):
        document, canonical = None, b""
    if not isinstance(document, dict) or not isinstance(document.get("id"), str | int):
        raise VerificationError("the body must be a JSON object with an id")
    start, key = f"{document['id']}.{timestamp}.".encode(), settings.api_key.encode()
    macs = (hmac.digest(key, start + text, algorithm).hex() for text in (body, canonical))
    if not any(hmac.compare_digest(mac, given) for mac in macs):
        raise VerificationError(f"{HEADER} is not by the API key of the source {settings.name!r}")
    found = document.get("payload")
    payload = found if isinstance(found, dict) else {}
    return Poke(
        room_id=read_room_id(payload.get("roomId")),
        fingerprint=bytes.fromhex(given),
        expected=_expected(document.get("event"), payload),
    )


def _expected(event: Json, payload: Mapping[str, Any]) -> Expected | None:
    peer_id = payload.get("id")
    match event:
        case "meeting:ended":
            return Expected(peer_id=None)
        case "peer:joined" | "peer:left" if isinstance(peer_id, str) and peer_id:
            return Expected(peer_id=storable(peer_id[:PEER_ID_LIMIT]), present=event == "peer:joined")
        case _:
            return None
