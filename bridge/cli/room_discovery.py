"""`bridge rooms discover`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from bridge.admin.listing import document
from bridge.admin.rooms import tracked_ids
from bridge.cli.database import missing_file, open_database
from bridge.cli.options import ConfigOption, JsonOption
from bridge.cli.output import Column, print_json_array, print_message, print_table
from bridge.cli.settings import find_source, load_settings
from bridge.config import Settings
from bridge.config.words import quoted
from bridge.db.engine import Database
from bridge.errors import BridgeError, UsageError
from bridge.events.types import matches
from bridge.events.wording import count_of
from bridge.polling.rooms import discover_rooms
from bridge.rules.live_rooms import LiveRooms
from bridge.rules.presence import Failure
from bridge.runtime import Runtime, system_runtime
from bridge.sources.kinds import open_source
from bridge.sources.protocol import ListingSource, SourceSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRoom:
    """A live room; `tracked` says whether it is tracked now, `new` whether it was not before."""

    source: str
    room_id: str
    peer_count: int | None
    tracked: bool
    new: bool


def discover(
    source: Annotated[str | None, typer.Option(metavar="NAME", help="Ask only this source.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what is live: track nothing.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Ask the sources which of their rooms are live, and track those that `discover_rooms` matches."""
    settings = load_settings(config)
    accounts = [find_source(settings, source)] if source is not None else list(settings.sources)
    if not accounts:
        raise UsageError("there is no source: add [sources.main] with its api_key to the configuration")
    runtime = system_runtime()
    asked = [(account, asyncio.run(_ask(account, runtime))) for account in accounts]
    lists = [(account, found) for account, found in asked if isinstance(found, LiveRooms)]
    rooms = _take(settings, lists, runtime, dry_run=dry_run)
    if as_json:
        print_json_array(document(room) for room in rooms)
    else:
        _print(rooms, dry_run=dry_run)
    failures = [f"source {account.name}: {found}" for account, found in asked if isinstance(found, str)]
    for account, found in lists:
        for note in found.notes:
            print_message(f"warning: source {account.name}: {note}")
    if failures:
        raise BridgeError("; ".join(failures))


async def _ask(account: SourceSettings, runtime: Runtime) -> LiveRooms | str:
    """The live rooms, or why they cannot be listed."""
    source = open_source(account, runtime.now)
    try:
        if not isinstance(source, ListingSource):
            return f'sources of kind "{account.kind}" cannot list their live rooms'
        found = await source.fetch_live_rooms()
    finally:
        await source.aclose()
    return f"{found.kind.value}: {found.detail}" if isinstance(found, Failure) else found


def _take(
    settings: Settings, lists: Sequence[tuple[SourceSettings, LiveRooms]], runtime: Runtime, *, dry_run: bool
) -> list[LiveRoom]:
    """Track what is live and wanted; the result is in the order of the lists."""
    if dry_run and missing_file(settings) is not None:
        return [room for account, found in lists for room in _rooms(account, found, ())]
    with open_database(settings, create=not dry_run) as database:
        return [room for one in lists for room in _take_list(database, *one, runtime, dry_run=dry_run)]


def _take_list(
    database: Database, account: SourceSettings, found: LiveRooms, runtime: Runtime, *, dry_run: bool
) -> list[LiveRoom]:
    rooms = _rooms(account, found, database.read_now(tracked_ids, account.name, tuple(found.peer_counts)))
    new = {room.room_id: room.peer_count for room in rooms if room.new}
    if new and not dry_run:
        database.write_now(discover_rooms, account.name, new, runtime.now())
    return rooms


def _rooms(account: SourceSettings, found: LiveRooms, tracked: Iterable[str]) -> list[LiveRoom]:
    known = set(tracked)
    return [
        LiveRoom(
            source=account.name,
            room_id=room_id,
            peer_count=count,
            tracked=(is_wanted := room_id in known or matches(room_id, account.discover_rooms)),
            new=is_wanted and room_id not in known,
        )
        for room_id, count in sorted(found.peer_counts.items())
    ]


def _print(rooms: Sequence[LiveRoom], *, dry_run: bool) -> None:
    new = "would be" if dry_run else "from now on"
    print_table(
        (Column(title="ROOM"), Column(title="SOURCE"), Column(title="PEERS", right=True), Column(title="TRACKED")),
        [(room.room_id, room.source, room.peer_count, _tracked(room, new)) for room in rooms],
        empty="no room is live",
    )
    added = [room for room in rooms if room.new]
    if added and not dry_run:
        print_message(f"{count_of(len(added), 'room')} added: a running service polls them at once")


def _tracked(room: LiveRoom, new: str) -> str:
    if room.new:
        return new
    return "already" if room.tracked else f"no: {quoted('discover_rooms')} does not match it"
