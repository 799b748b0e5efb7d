"""The chain that makes a room's log tamper-evident, and the tree over all chains: every hash of the bridge.

An event's hash covers a commitment to its body, and not the body itself: a body can be erased, with its salt, and the
chain still verifies. The tree is that of RFC 6962, section 2.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

GENESIS = bytes(32)
"""The hash before a room's first event."""
SALT_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainHead:
    """The newest event of a room's log; source and room are None for the bridge's own log."""

    source: str | None
    room_id: str | None
    sequence: int
    hash: bytes


def new_salt(new_id: Callable[[str], str]) -> bytes:
    """A salt for one event; `new_id("salt")` has at least as many random bits."""
    return hashlib.blake2b(new_id("salt").encode(), digest_size=SALT_BYTES).digest()


def commit(salt: bytes, body: bytes) -> bytes:
    """The commitment to a body (of style `standard`): SHA-256 over salt and body."""
    return hashlib.sha256(salt + body).digest()


def link(previous: bytes, sequence: int, commitment: bytes) -> bytes:
    """The hash of an event: SHA-256 over the previous hash, the sequence (8 bytes, big endian) and the commitment."""
    return hashlib.sha256(previous + sequence.to_bytes(8, "big") + commitment).digest()


def merkle_root(heads: Iterable[ChainHead]) -> bytes:
    """RFC 6962's tree hash over the heads of all logs that have events; of none, SHA-256 of nothing."""
    leaves = sorted(_leaf(head) for head in heads if head.sequence)
    if not leaves:
        return hashlib.sha256().digest()
    level = [hashlib.sha256(b"\0" + leaf).digest() for leaf in leaves]
    while len(level) > 1:  # joining neighbours level by level gives RFC 6962's split at a power of two
        pairs = zip(level[::2], level[1::2], strict=False)
        odd = level[-1:] if len(level) % 2 else []
        level = [hashlib.sha256(b"\1" + left + right).digest() for left, right in pairs] + odd
    return level[0]


def _leaf(head: ChainHead) -> bytes:
    return "\0".join((head.source or "", head.room_id or "", str(head.sequence), head.hash.hex())).encode()
