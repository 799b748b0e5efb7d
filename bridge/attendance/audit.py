"""The heads of all chains, and checkpoints of them: the state of every log in one hash, to be kept elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TextIO

from sqlalchemy import Connection, select

from bridge.db.event_log import append_system_events
from bridge.db.tables import events, rooms
from bridge.errors import UsageError
from bridge.events.bodies import draft_checkpoint, rfc3339
from bridge.events.types import EventType
from bridge.rules.chain import GENESIS, ChainHead, merkle_root

LARGEST_SEQUENCE: Final = 2**63 - 1
"""A database has no larger integer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """The heads of the logs that have events, by source and room."""

    at: datetime
    merkle_root: bytes
    event_count: int
    heads: tuple[ChainHead, ...]

    @property
    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "at": rfc3339(self.at),
            "merkle_root": self.merkle_root.hex(),
            "events": self.event_count,
            "rooms": [
                {"source": one.source, "room_id": one.room_id, "sequence": one.sequence, "hash": one.hash.hex()}
                for one in self.heads
            ],
        }


def read_heads(connection: Connection, now: datetime) -> Heads:
    """Read the heads of all logs."""
    columns = (rooms.c.source, rooms.c.upstream_id, rooms.c.last_sequence, rooms.c.chain_head)
    heads = [
        ChainHead(source=row.source, room_id=row.upstream_id, sequence=row.last_sequence, hash=bytes(row.chain_head))
        for row in connection.execute(select(*columns).where(rooms.c.last_sequence > 0))
    ]
    heads.sort(key=lambda head: (head.source or "", head.room_id or ""))
    return Heads(
        at=now,
        merkle_root=merkle_root(heads),
        event_count=sum(head.sequence for head in heads),
        heads=tuple(heads),
    )


def append_checkpoint(connection: Connection, now: datetime, new_id: Callable[[str], str]) -> Heads:
    """Append an `audit.checkpoint` to the bridge's own log; returns the heads just before it."""
    found = read_heads(connection, now)
    checkpoint = draft_checkpoint(
        merkle_root=found.merkle_root, room_count=len(found.heads), event_count=found.event_count, at=now
    )
    append_system_events(connection, [checkpoint], now, new_id)
    return found


def open_checkpoint_file(path: str | Path) -> TextIO:
    """Open a file to which checkpoints are appended.

    Raises:
        OSError: it cannot be written to.
    """
    return Path(path).open("a", encoding="utf-8")


def write_checkpoint(file: TextIO, heads: Heads) -> None:
    """Append one line of JSON, and wait until it is on the disk."""
    file.write(json.dumps(heads.document, separators=(",", ":"), ensure_ascii=False) + "\n")
    file.flush()
    os.fsync(file.fileno())


def has_grown(connection: Connection) -> bool:
    """Whether anything was written since the last checkpoint."""
    newest = connection.execute(select(events.c.type).order_by(events.c.id.desc()).limit(1)).scalar()
    return newest is not None and newest != EventType.AUDIT_CHECKPOINT


def read_receipts(lines: Iterable[str], name: str) -> Iterator[ChainHead]:
    """Yield the heads in a file of checkpoints, or of hashes that a receiver kept from `bridge-chain`.

    Raises:
        UsageError: a line is neither, or the root of a checkpoint is not that of its rooms.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            receipts = [_receipt(one) for one in found.get("rooms", [found])]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise UsageError(
                f"{name}, line {number}: must be a checkpoint, or a JSON object with source, room_id, sequence and hash"
            ) from None
        if "rooms" in found and merkle_root(receipts).hex() != found.get("merkle_root"):
            raise UsageError(f"{name}, line {number}: merkle_root is not that of its rooms: the file was changed")
        yield from receipts


def _receipt(found: dict[str, Any]) -> ChainHead:
    source, room_id, sequence = found["source"], found["room_id"], found["sequence"]
    if not (isinstance(source, str | None) and isinstance(room_id, str | None) and type(sequence) is int):
        raise ValueError("types")
    names, digest = f"{source}{room_id}".encode(), bytes.fromhex(found["hash"])  # no UTF-8 is a ValueError
    if b"\0" in names or not 0 < sequence <= LARGEST_SEQUENCE or len(digest) != len(GENESIS):
        raise ValueError("values")
    return ChainHead(source=source, room_id=room_id, sequence=sequence, hash=digest)
