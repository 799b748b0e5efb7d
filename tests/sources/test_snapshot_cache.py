from __future__ import annotations

from bridge.rules.presence import Peer, Snapshot
from bridge.sources.snapshot_cache import SnapshotCache


def snapshot(fingerprint: bytes) -> Snapshot:
    return Snapshot(peers=(Peer(peer_id="a"),), fingerprint=fingerprint)


def test_a_room_is_recalled_only_by_the_answer_that_it_was_read_from() -> None:
    known, first = SnapshotCache(100), snapshot(b"1")
    known.remember("room", first, 10)
    assert known.recall("room", b"1") is first
    assert known.recall("room", b"2") is None
    assert known.recall("other", b"1") is None
    known.remember("room", snapshot(b"2"), 10)
    assert known.recall("room", b"1") is None


def test_a_room_that_is_forgotten_makes_room_for_another() -> None:
    known = SnapshotCache(100)
    known.remember("one", snapshot(b"1"), 60)
    known.remember("two", snapshot(b"2"), 60)
    assert known.recall("two", b"2") is None
    known.forget("one")
    known.forget("one")
    assert known.recall("one", b"1") is None
    known.remember("two", snapshot(b"2"), 60)
    assert known.recall("two", b"2") is not None


def test_an_answer_that_grows_is_counted_anew() -> None:
    known = SnapshotCache(100)
    for size in (60, 100, 101, 40, 60):
        known.remember("room", snapshot(b"%d" % size), size)
        assert (known.recall("room", b"%d" % size) is not None) is (size <= 100)
    known.remember("other", snapshot(b"o"), 40)
    assert known.recall("other", b"o") is not None


def test_rooms_asked_in_turn_do_not_push_each_other_out() -> None:
    known = SnapshotCache(100)
    hits = []
    for _ in range(10):
        for number in range(15):
            room, fingerprint = f"room-{number}", b"%d" % number
            found = known.recall(room, fingerprint)
            hits.append(found is not None)
            if found is None:
                known.remember(room, snapshot(fingerprint), 10)
    assert sum(hits[15:]) == 9 * 10


def test_rooms_that_nobody_asks_for_any_more_make_room_in_the_end() -> None:
    known = SnapshotCache(100)
    for number in range(10):
        known.remember(f"gone-{number}", snapshot(b"g"), 10)
    for _ in range(30):
        if known.recall("new", b"n") is None:
            known.remember("new", snapshot(b"n"), 10)
    assert known.recall("new", b"n") is not None
    assert known.recall("gone-0", b"g") is None
