from __future__ import annotations

import hashlib

from bridge.rules.chain import GENESIS, link


def test_a_link_is_sha256_over_the_hash_before_and_the_body() -> None:
    assert link(GENESIS, b"{}") == hashlib.sha256(bytes(32) + b"{}").digest()
    assert link(link(GENESIS, b"1"), b"2") == hashlib.sha256(hashlib.sha256(bytes(32) + b"1").digest() + b"2").digest()
