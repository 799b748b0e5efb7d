"""Live rooms: the list of a source, and the changes that follow from it. Pure.

The list finds rooms and makes them due; it never ends a visit, because it may be late or wrong. Only a complete list
shows that a room is no longer live.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRooms:
    """The live rooms of a source by id, each with its number of peers if the list has it; `notes` are for the log."""

    peer_counts: Mapping[str, int | None]
    complete: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRoom:
    """A stored room: whether it was on the last list, and with which number of peers."""

    key: int
    room_id: str
    tracked: bool
    listed: bool
    listed_count: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListChanges:
    """Changes by a list: rooms to track from now on, and the keys of rooms to poll at once.

    `listed` are those that are new on the list, or have another number of peers; `unlisted` are no longer on it.
    """

    new: tuple[str, ...]
    listed: Mapping[int, int | None]
    unlisted: tuple[int, ...]


def compare_lists(live: LiveRooms, known: Iterable[KnownRoom], *, is_wanted: Callable[[str], bool]) -> ListChanges:
    """Compare a list with the rooms that it names, and those that the last list named.

    Args:
        live: the list.
        known: the stored rooms, tracked or not.
        is_wanted: whether a room that is not tracked should be.
    """
    rooms = {room.room_id: room for room in known}
    new = [
        room_id
        for room_id in live.peer_counts
        if (room_id not in rooms or not rooms[room_id].tracked) and is_wanted(room_id)
    ]
    tracked = [room for room in rooms.values() if room.tracked]
    return ListChanges(
        new=tuple(new),
        listed={
            room.key: live.peer_counts[room.room_id]
            for room in tracked
            if room.room_id in live.peer_counts
            and (not room.listed or room.listed_count != live.peer_counts[room.room_id])
        },
        unlisted=tuple(
            room.key for room in tracked if room.listed and live.complete and room.room_id not in live.peer_counts
        ),
    )


def poll_interval(interval: timedelta, idle_interval: timedelta | None, *, is_live: bool) -> timedelta:
    """The interval of a room. `idle_interval` is that of rooms that are not live; None without discovery."""
    return interval if is_live or idle_interval is None else max(interval, idle_interval)
