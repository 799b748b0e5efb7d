"""What an endpoint's secret and headers must look like (webhooks.md section 1: Standard Webhooks' key forms)."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from typing import Final

STYLES: Final = ("standard", "flat", "huddle01", "cloudevents")
SIGNATURES: Final = ("v1", "v1a")

_PREFIXES: Final = {"v1": "whsec_", "v1a": "whsk_"}
_SIZES: Final = {"v1": range(24, 65), "v1a": range(64, 65)}
_FORMS: Final = {
    "v1": "whsec_ and the base64 of 24 to 64 random bytes",
    "v1a": "whsk_ and the base64 of a 32-byte ed25519 seed with its 32-byte public key",
}
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_RESERVED: Final = frozenset(
    {
        *("host", "user-agent", "accept-encoding", "huddle01-signature"),
        *("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect", "proxy-connection"),
    }
)
_RESERVED_PREFIXES: Final = ("webhook-", "content-", "bridge-", "ce-")


def check_secret(secret: str, *, style: str, signature: str) -> None:
    """A secret must fit the signature it is used for; Huddle01's own signature takes any text.

    Raises:
        ValueError: with a sentence that never repeats the secret.
    """
    if style == "huddle01":
        return
    prefix = _PREFIXES[signature]
    if not secret.startswith(prefix):
        raise ValueError(f'must be {_FORMS[signature]}, as signature = "{signature}" wants it{_other(secret)}')
    try:
        key = b64decode(secret.removeprefix(prefix), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"is not valid base64 after {prefix}: it must be {_FORMS[signature]}") from None
    if len(key) not in _SIZES[signature]:
        raise ValueError(f"holds {len(key)} bytes: it must be {_FORMS[signature]}")


def check_header_name(name: str) -> None:
    """A header of an endpoint's own must be one that the bridge and HTTP leave free.

    Raises:
        ValueError: with a sentence for the operator.
    """
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError("is not a header name: letters, digits and -")
    if name.lower() in _RESERVED or name.lower().startswith(_RESERVED_PREFIXES):
        raise ValueError("is set by the bridge itself, and cannot be an endpoint's own")


def check_header_value(value: str) -> None:
    """What is sent as a header must not be able to start another one.

    Raises:
        ValueError: with a sentence that never repeats the value.
    """
    if not (value.isascii() and value.isprintable()) or value != value.strip():
        raise ValueError("contains a character that a header cannot have: a line break, or one outside ASCII")


def _other(secret: str) -> str:
    for signature, prefix in _PREFIXES.items():
        if secret.startswith(prefix):
            return f'; this one is for signature = "{signature}"'
    return ""
