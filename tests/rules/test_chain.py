from __future__ import annotations

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.rules.chain import GENESIS, link

BODIES = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=6)


def head(bodies: list[bytes]) -> bytes:
    last = GENESIS
    for body in bodies:
        last = link(last, body)
    return last


def test_a_link_is_sha256_over_the_hash_before_and_the_body() -> None:
    assert link(GENESIS, b"{}") == hashlib.sha256(bytes(32) + b"{}").digest()
    assert link(link(GENESIS, b"1"), b"2") == hashlib.sha256(hashlib.sha256(bytes(32) + b"1").digest() + b"2").digest()


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
