"""Signing and verifying deliveries: every rule about secrets, signatures and reserved headers.

Standard Webhooks 1.0.0: the signed content is `id.timestamp.body`, the raw bytes sent, with the time in whole Unix
seconds. `v1` is HMAC-SHA256 (`whsec_`), `v1a` is ed25519 (`whsk_`, checked with `whpk_`). The `huddle01-signature`
header follows what `WebhookReceiver` of `@huddle01/server-sdk` accepts. Pure: random bytes and times are arguments.
`cryptography` is imported for `v1a` only: commands that sign nothing do not wait for it.
"""

from __future__ import annotations

import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from bridge.errors import UsageError, VerificationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: TC004 - a dataclass only names the type

TOLERANCE: Final = timedelta(minutes=5)
"""Largest difference between a delivery's timestamp and the receiver's clock."""

HMAC_KEY_BYTES: Final = range(24, 65)
SEED_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

RESERVED_HEADERS: Final = frozenset({
    "accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect", "host",
    "huddle01-signature", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    "user-agent",
})  # fmt: skip
RESERVED_PREFIXES: Final = ("webhook-", "bridge-", ":")

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")
_TIMESTAMP: Final = re.compile(r"[0-9]{1,15}")


class InvalidSecretError(UsageError, ValueError):
    """A secret or key cannot be used; the message never repeats it."""


class InvalidHeaderError(UsageError, ValueError):
    """A header that an endpoint may not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HmacSecret:
    """A parsed `whsec_` secret: signs and checks `v1`."""

    key: bytes = field(repr=False)

    def sign(self, content: bytes) -> str:
        """One signature, as in the header."""
        return "v1," + b64encode(hmac.digest(self.key, content, "sha256")).decode()

    def accepts(self, signature: str, content: bytes) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self.sign(content).encode(), signature.encode(errors="replace"))


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyKey:
    """A parsed `whpk_` public key: checks `v1a`."""

    public: bytes

    def __str__(self) -> str:
        return "whpk_" + b64encode(self.public).decode()

    def accepts(self, signature: str, content: bytes) -> bool:
        """Whether the signature is this key's over the content."""
        version, _, text = signature.partition(",")
        raw = _from_base64(text)
        if version != "v1a" or raw is None or len(raw) != SIGNATURE_BYTES:
            return False
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - see the head of this file
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415 - as above

        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(raw, content)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Ed25519Secret:
    """A parsed `whsk_` secret: signs `v1a`, and checks it with its public half."""

    private: Ed25519PrivateKey = field(repr=False, compare=False)
    public_key: VerifyKey

    def sign(self, content: bytes) -> str:
        """One signature, as in the header."""
        return "v1a," + b64encode(self.private.sign(content)).decode()

    def accepts(self, signature: str, content: bytes) -> bool:
        """Whether the signature is this secret's over the content."""
        return self.public_key.accepts(signature, content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Huddle01Secret:
    """The `apiKey` of the receiver's `WebhookReceiver`, in UTF-8: any text, not only a `whsec_` secret."""

    key: bytes = field(repr=False)

    def sign(self, event_id: str, timestamp_ms: int, canonical: bytes) -> str:
        """The value of `huddle01-signature`.

        Args:
            event_id: the body's `id`.
            timestamp_ms: epoch milliseconds of this attempt.
            canonical: the body exactly as JavaScript's `JSON.stringify(JSON.parse(body))` would write it.
        """
        content = f"{event_id}.{timestamp_ms}.".encode() + canonical
        return f"t={timestamp_ms},sha256={hmac.digest(self.key, content, 'sha256').hex()}"


Secret = HmacSecret | Ed25519Secret
Key = HmacSecret | Ed25519Secret | VerifyKey


def parse_key(text: str) -> Key:
    """Anything that a signature can be checked with: `whsec_`, `whsk_` or `whpk_`.

    Raises:
        InvalidSecretError: it is none of them, or not of the right length.
    """
    prefix, _, encoded = text.partition("_")
    raw = _from_base64(encoded)
    match prefix:
        case "whsec":
            return _hmac_secret(raw)
        case "whsk":
            return _ed25519_secret(raw)
        case "whpk":
            return _verify_key(raw)
        case _:
            raise InvalidSecretError("the secret must start with whsec_ (v1), whsk_ (v1a) or whpk_ (to verify v1a)")


def parse_secret(text: str) -> Secret:
    """A secret to sign with: `whsec_` for `v1`, `whsk_` for `v1a`.

    Raises:
        InvalidSecretError: it is neither, or not of the right length.
    """
    match parse_key(text):
        case VerifyKey():
            raise InvalidSecretError("a whpk_ key can only verify: to sign, give the whsk_ secret that it belongs to")
        case secret:
            return secret


def generate_secret(random_bytes: bytes) -> str:
    """A `whsec_` secret of 24 to 64 random bytes (32 are plenty)."""
    return "whsec_" + b64encode(_hmac_secret(random_bytes).key).decode()


def generate_signing_key(random_bytes: bytes) -> str:
    """A `whsk_` secret made of 32 random bytes."""
    if len(random_bytes) != SEED_BYTES:
        raise InvalidSecretError(f"a whsk_ secret is made of {SEED_BYTES} random bytes, not of {len(random_bytes)}")
    public = _private_key(random_bytes).public_key().public_bytes_raw()
    return "whsk_" + b64encode(random_bytes + public).decode()


def sign(secrets: Sequence[Secret], *, webhook_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: one signature per secret (the current one first), separated by spaces.

    Args:
        secrets: the current secret and, while rotating, the previous one.
        webhook_id: the event's id, unchanged over attempts; without a full stop.
        timestamp: Unix seconds of this attempt.
        body: the bytes that are sent.

    Raises:
        ValueError: the id contains a full stop, so that the signed parts could be cut elsewhere.
    """
    if "." in webhook_id:
        raise ValueError(f"webhook-id {webhook_id!r} must not contain a full stop")
    content = f"{webhook_id}.{timestamp}.".encode() + body
    return " ".join([secret.sign(content) for secret in secrets])


def verify(
    keys: Sequence[Key], *, headers: Mapping[str, str], body: bytes, now: datetime, tolerance: timedelta = TOLERANCE
) -> str:
    """Check a delivery as a receiver does: any key that accepts any of the signatures is enough.

    Args:
        keys: what the receiver trusts; during a rotation, the previous one too.
        headers: of the request; names are compared without regard to case.
        body: the raw bytes received.
        now: the receiver's clock, with a time zone.
        tolerance: how far the timestamp may be off, either way.

    Returns:
        The `webhook-id`, to recognize a repeated delivery.

    Raises:
        VerificationError: a header is missing or malformed, the timestamp is too far off, or no signature matches.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    webhook_id, timestamp, signatures = (_required(lowered, part) for part in ("id", "timestamp", "signature"))
    _check_timestamp(timestamp, now, tolerance)
    content = f"{webhook_id}.{timestamp}.".encode(errors="replace") + body
    if not any(key.accepts(signature, content) for signature in signatures.split() for key in keys):
        raise VerificationError(
            f"no signature of {webhook_id} matches: compare the secret, and verify the raw body, not a re-written one"
        )
    return webhook_id


def forbidden_header(name: str) -> bool:
    """Whether an endpoint may not set this header itself: it would break the signature or the request."""
    lowered = name.strip().lower().replace("_", "-")  # WSGI and CGI do not distinguish them
    return lowered in RESERVED_HEADERS or lowered.startswith(RESERVED_PREFIXES)


def check_header(name: str, value: str) -> None:
    """Refuse a header that an endpoint may not have; the message never repeats the value, which may be a secret.

    Raises:
        InvalidHeaderError: the name is reserved or not a header name, or the value is not printable ASCII in one line.
    """
    if forbidden_header(name):
        raise InvalidHeaderError(f"header {name!r} is set by the bridge itself: choose another name")
    if not _TOKEN.fullmatch(name):
        raise InvalidHeaderError(f"{name!r} is not a header name: use letters, digits and hyphens")
    if not _FIELD_VALUE.fullmatch(value):
        raise InvalidHeaderError(f"the value of header {name!r} must be printable ASCII without line breaks")


def _required(headers: Mapping[str, str], part: str) -> str:
    value = headers.get(f"webhook-{part}", "").strip()
    if not value:
        raise VerificationError(f"the header webhook-{part} is missing: this is not a signed delivery")
    return value


def _check_timestamp(text: str, now: datetime, tolerance: timedelta) -> None:
    if not _TIMESTAMP.fullmatch(text):
        raise VerificationError("webhook-timestamp is not a number of Unix seconds")
    age = now.timestamp() - int(text)
    if abs(age) > tolerance.total_seconds():
        where, what = ("past", "a replayed request") if age > 0 else ("future", "a forged request")
        raise VerificationError(
            f"webhook-timestamp is {abs(age):.0f} s in the {where}, and {tolerance.total_seconds():.0f} s are allowed:"
            f" it is {what}, or one of the two clocks is wrong"
        )


def _hmac_secret(raw: bytes | None) -> HmacSecret:
    if raw is None or len(raw) not in HMAC_KEY_BYTES:
        raise InvalidSecretError(f"after whsec_ there must be base64 of 24 to 64 bytes, {_found(raw)}")
    return HmacSecret(key=raw)


def _ed25519_secret(raw: bytes | None) -> Ed25519Secret:
    if raw is None or len(raw) != 2 * SEED_BYTES:
        raise InvalidSecretError(f"after whsk_ there must be base64 of a 32-byte seed and its key, {_found(raw)}")
    private = _private_key(raw[:SEED_BYTES])
    if private.public_key().public_bytes_raw() != raw[SEED_BYTES:]:
        raise InvalidSecretError("the second half of the whsk_ secret is not the public key of the first half")
    return Ed25519Secret(private=private, public_key=VerifyKey(public=raw[SEED_BYTES:]))


def _private_key(seed: bytes) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - as above

    return Ed25519PrivateKey.from_private_bytes(seed)


def _verify_key(raw: bytes | None) -> VerifyKey:
    if raw is None or len(raw) != SEED_BYTES:
        raise InvalidSecretError(f"after whpk_ there must be base64 of a 32-byte public key, {_found(raw)}")
    return VerifyKey(public=raw)


def _found(raw: bytes | None) -> str:
    return "but it is not base64" if raw is None else f"not of {len(raw)}"


def _from_base64(text: str) -> bytes | None:
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return None
