from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.rules.chain import GENESIS, ChainHead, commit, link, merkle_root

BODIES = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=6)


def head(bodies: list[bytes]) -> bytes:
    last = GENESIS
    for sequence, body in enumerate(bodies, 1):
        last = link(last, sequence, commit(b"salt", body))
    return last


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


@settings(max_examples=100, deadline=None)
@given(BODIES, st.data())
def test_any_change_gives_another_head(bodies: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(bodies) - 1))
    changed = bodies.copy()
    match data.draw(st.sampled_from(["flip", "drop", "add"])):
        case "flip":
            changed[index] = bytes([changed[index][0] ^ 1]) + changed[index][1:]
        case "drop":
            del changed[index]
        case _:
            changed.insert(index, b"a body that no list contains: it is more than forty bytes")

    assert head(changed) != head(bodies)


def test_the_order_counts() -> None:
    assert head([b"1", b"2"]) != head([b"2", b"1"])
