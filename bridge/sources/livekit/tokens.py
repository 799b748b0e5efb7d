"""JSON Web Tokens (HS256, the API secret): those that LiveKit's API asks for, and the signature of its webhooks.

Tokens for the API expire, but have no start (`nbf`, `iat`): a server whose clock is behind would refuse them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import jwt
from jwt.warnings import InsecureKeyLengthWarning

LIFE: Final = timedelta(minutes=10)
RENEW_BEFORE: Final = timedelta(minutes=5)
"""The least life that a token has left when it is sent: more than clocks differ by."""
KEPT: Final = 10_000

_ALGORITHM: Final = "HS256"
_UNCHECKED: Final[Any] = dict.fromkeys(("verify_exp", "verify_nbf", "verify_iat", "verify_aud"), False)

warnings.filterwarnings("ignore", category=InsecureKeyLengthWarning)  # the secret of `livekit-server --dev` is short


class Tokens:
    """The tokens of one account; `clock` gives the time, with a time zone."""

    def __init__(self, api_key: str, api_secret: str, clock: Callable[[], datetime]) -> None:
        self._api_key = api_key
        self._api_secret = api_secret
        self._clock = clock
        self._kept: dict[str | None, tuple[datetime, str]] = {}

    def for_room(self, room_id: str) -> str:
        """A token that may administer one room, so that it may list its participants."""
        return self._take(room_id, {"roomAdmin": True, "room": room_id})

    def for_list(self) -> str:
        """A token that may list the rooms."""
        return self._take(None, {"roomList": True})

    def _take(self, purpose: str | None, grant: Mapping[str, Any]) -> str:
        now = self._clock()
        ends_at, token = self._kept.get(purpose, (now, ""))
        if not RENEW_BEFORE < ends_at - now <= LIFE:
            ends_at = now + LIFE
            token = sign(self._api_secret, {"iss": self._api_key, "exp": int(ends_at.timestamp()), "video": grant})
            if len(self._kept) >= KEPT:
                self._kept.clear()
            self._kept[purpose] = ends_at, token
        return token


def sign(secret: str, claims: Mapping[str, Any]) -> str:
    """A token of these claims."""
    return jwt.encode(dict(claims), secret, algorithm=_ALGORITHM)


def read_claims(token: str, secret: str, issuer: str) -> Mapping[str, Any]:
    """The claims of a token with a valid signature; its times are left to the caller, who has a clock.

    Raises:
        ValueError: it is no token, or is not by this key and secret.
    """
    try:
        claims: dict[str, Any] = jwt.decode(token, secret, algorithms=[_ALGORITHM], issuer=issuer, options=_UNCHECKED)
    except (jwt.InvalidTokenError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return claims
