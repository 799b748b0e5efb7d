from __future__ import annotations

import hashlib

import pytest

from bridge.rules.chain import GENESIS, ChainHead, commit, link, merkle_root


def test_a_link_is_sha256_over_the_hash_before_the_sequence_and_the_commitment() -> None:
    commitment = hashlib.sha256(b"salt" + b"{}").digest()
    assert commit(b"salt", b"{}") == commitment
    assert link(GENESIS, 258, commitment) == hashlib.sha256(bytes(38) + b"\1\2" + commitment).digest()


def tree_hash(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, as it is written there."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\1" + tree_hash(leaves[:split]) + tree_hash(leaves[split:])).digest()


@pytest.mark.parametrize("count", range(20))
def test_the_root_is_that_of_rfc_6962(count: int) -> None:
    heads = [ChainHead(source="main", room_id=f"r{n}", sequence=n + 1, hash=bytes([n]) * 32) for n in range(count)]
    own = ChainHead(source=None, room_id=None, sequence=3, hash=b"o" * 32)
    empty = ChainHead(source="main", room_id="empty", sequence=0, hash=GENESIS)
    leaves = [f"main\0r{n}\0{n + 1}\0{(bytes([n]) * 32).hex()}".encode() for n in range(count)]

    assert merkle_root([*heads, own, empty]) == tree_hash(sorted([*leaves, f"\0\0{3}\0".encode() + b"6f" * 32]))
    assert merkle_root([empty]) == hashlib.sha256().digest()
