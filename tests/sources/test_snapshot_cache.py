from __future__ import annotations

from bridge.rules.presence import Peer, Snapshot
from bridge.sources.snapshot_cache import SnapshotCache


def remember(cache: SnapshotCache, room: str, digest: bytes, size: int) -> Snapshot:
    snapshot = Snapshot(peers=(Peer(peer_id="a"),), fingerprint=b"the same peers")
    cache.remember(room, digest, snapshot, size)
    return snapshot


def test_a_snapshot_is_recalled_only_by_the_digest_of_its_response() -> None:
    cache = SnapshotCache(100)
    first = remember(cache, "room", b"1", 10)
    assert cache.recall("room", b"1") is first
    assert cache.recall("room", b"2") is None
    assert cache.recall("other", b"1") is None
    remember(cache, "room", b"2", 10)
    assert cache.recall("room", b"1") is None


def test_a_forgotten_snapshot_frees_its_size() -> None:
    cache = SnapshotCache(100)
    remember(cache, "one", b"1", 60)
    remember(cache, "two", b"2", 60)
    assert cache.recall("two", b"2") is None
    cache.forget("one")
    cache.forget("one")
    assert cache.recall("one", b"1") is None
    remember(cache, "two", b"2", 60)
    assert cache.recall("two", b"2") is not None


def test_a_new_snapshot_of_a_room_counts_with_its_own_size() -> None:
    cache = SnapshotCache(100)
    for size in (60, 100, 101, 40, 60):
        remember(cache, "room", b"%d" % size, size)
        assert (cache.recall("room", b"%d" % size) is not None) is (size <= 100)
    remember(cache, "other", b"o", 40)
    assert cache.recall("other", b"o") is not None


def test_rooms_polled_in_turn_do_not_evict_each_other() -> None:
    cache = SnapshotCache(100)
    hits = []
    for _ in range(10):
        for number in range(15):
            room, digest = f"room-{number}", b"%d" % number
            found = cache.recall(room, digest)
            hits.append(found is not None)
            if found is None:
                remember(cache, room, digest, 10)
    assert sum(hits[15:]) == 9 * 10


def test_rooms_that_are_no_longer_polled_are_evicted() -> None:
    cache = SnapshotCache(100)
    for number in range(10):
        remember(cache, f"gone-{number}", b"g", 10)
    for _ in range(30):
        if cache.recall("new", b"n") is None:
            remember(cache, "new", b"n", 10)
    assert cache.recall("new", b"n") is not None
    assert cache.recall("gone-0", b"g") is None
