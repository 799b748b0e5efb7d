"""The chain that makes a room's log tamper-evident: each event's hash covers its body and the hash before it."""

from __future__ import annotations

import hashlib

GENESIS = bytes(32)
"""The hash before a room's first event."""


def link(previous: bytes, body: bytes) -> bytes:
    """SHA-256 over the previous hash (32 bytes) and the canonical body, which carries the event's id and sequence."""
    return hashlib.sha256(previous + body).digest()
