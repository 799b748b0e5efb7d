"""Huddle01's participants as peers.

An item that cannot be used is skipped and counted, never a reason to fail; whether the list is complete in spite of it
is decided in `responses.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bridge.rules.identity import storable
from bridge.rules.presence import ABSENT, Json, Peer
from bridge.sources.values import PEER_ID_LIMIT, distinct_peers, read_join_time, read_metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A parsed list of participants; `usable` counts items, of which several may be about one peer."""

    peers: tuple[Peer, ...]
    usable: int
    skipped: int
    exited: int


def read_listing(items: Sequence[Json]) -> Listing:
    """Read every item; of several about one peer, the one with the earliest joinTime counts."""
    peers: list[Peer] = []
    exited = 0
    for item in items:
        if not isinstance(item, dict) or (peer := _read_peer(item)) is None:
            continue
        peers.append(peer)
        if item.get("exitTime") is not None:
            exited += 1
    return Listing(peers=distinct_peers(peers), usable=len(peers), skipped=len(items) - len(peers), exited=exited)


def _read_peer(item: dict[str, Json]) -> Peer | None:
    peer_id = item.get("peerId")
    if not isinstance(peer_id, str) or not 0 < len(peer_id) <= PEER_ID_LIMIT:
        return None
    return Peer(
        peer_id=storable(peer_id),
        join_time=read_join_time(item.get("joinTime")),
        metadata=read_metadata(item["metadata"]) if "metadata" in item else ABSENT,
    )
