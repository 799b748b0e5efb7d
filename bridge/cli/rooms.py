"""`bridge rooms list` and `show`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Annotated

import typer

from bridge.admin.listing import Page, document
from bridge.admin.rooms import (
    CurrentSession,
    FailingSource,
    ListedRoom,
    PresentPeer,
    RoomState,
    ShownRoom,
    failing_sources,
    list_rooms,
    show_room,
)
from bridge.cli.database import open_database
from bridge.cli.listings import print_listing
from bridge.cli.options import DEFAULT_LIMIT, ConfigOption, JsonOption, LimitOption, RoomArgument, SourceOption
from bridge.cli.output import (
    Column,
    from_now,
    print_facts,
    print_json,
    print_line,
    print_message,
    print_table,
    short_time,
)
from bridge.cli.settings import find_source, load_settings
from bridge.config import Settings
from bridge.config.words import quoted
from bridge.events.wording import count_of, span
from bridge.runtime import system_runtime


def list_tracked(
    source: Annotated[str | None, typer.Option(metavar="NAME", help="Only rooms of this source.")] = None,
    state: Annotated[
        RoomState | None, typer.Option(metavar="STATE", help="Only rooms that are unknown, empty or occupied.")
    ] = None,
    limit: LimitOption = DEFAULT_LIMIT,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List tracked rooms with their state, their peers and their polls."""
    settings = load_settings(config)
    now = system_runtime().now()
    with open_database(settings) as database:
        if source is not None and not database.read_now(list_rooms, Page(limit=1), source=source).items:
            find_source(settings, source)
        shown = print_listing(
            lambda page: database.read_now(list_rooms, page, source=source, state=state),
            [
                Column(title="ROOM"),
                Column(title="NAME"),
                Column(title="SOURCE", wide=source is not None or len(settings.source_tables) == 1),
                Column(title="STATE"),
                Column(title="PEERS", right=True),
                Column(title="POLLED"),
                Column(title="NEXT POLL"),
                Column(title="FAILURES", right=True),
            ],
            lambda room: _cells(room, now),
            limit=limit,
            as_json=as_json,
            empty="no such room is tracked"
            if source or state
            else "no room is tracked: list rooms in the configuration and start the service, or use `bridge rooms add` "
            "or `bridge rooms discover`",
        )
        failing = database.read_now(failing_sources)
    if not as_json:
        _warn_of_sources(failing, now)
        _warn_of_missing_sources(shown, settings)


def show(
    room: RoomArgument, source: SourceOption = None, as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Show one room: settings, polls, current session, peers."""
    settings = load_settings(config)
    if source is not None:
        find_source(settings, source)
    with open_database(settings) as database:
        shown = database.read_now(show_room, room, source)
    if as_json:
        print_json(document(shown))
        return
    _print_room(shown, settings)
    _warn_of_missing_sources([shown], settings)


def _cells(room: ListedRoom, now: datetime) -> Sequence[object]:
    next_poll, polled = _next_poll(room, now), from_now(room.polled_at, now)
    return room.room_id, room.name, room.source, room.state, room.peer_count, polled, next_poll, room.failures


def _next_poll(room: ListedRoom, now: datetime) -> str:
    if room.next_poll_at is None:
        return "disabled"
    return "now" if room.next_poll_at <= now else str(from_now(room.next_poll_at, now))


def _warn_of_sources(failing: Iterable[FailingSource], now: datetime) -> None:
    for source in failing:
        since = f" for {span(now - source.since)}" if source.since is not None else ""
        print_message(
            f"warning: source {source.name} has been {source.condition}{since}: "
            "polling is reduced to one probe per pause until it recovers"
        )


def _warn_of_missing_sources(rooms: Iterable[ListedRoom], settings: Settings) -> None:
    configured = {account.name for account in settings.sources}
    missing = Counter(room.source for room in rooms if room.enabled and room.source not in configured)
    for source, count in missing.items():
        print_message(
            f"warning: source {quoted(source)} is not in the configuration, so {count_of(count, 'room')} shown here "
            "cannot be polled: add the source, or use `bridge rooms remove`"
        )


def _print_room(room: ShownRoom, settings: Settings) -> None:
    now = system_runtime().now()
    interval = settings.polling.interval
    if room.interval_seconds is not None:
        interval = timedelta(seconds=room.interval_seconds)
    missed = room.leave_after_missed or settings.polling.policy.leave_after_missed
    print_facts(
        {
            "room": room.room_id,
            "name": room.name,
            "source": f"{room.source} ({room.source_condition})",
            "origin": room.origin,
            "state": room.state,
            "peers": room.peer_count,
            "session": room.session_id,
            "session so far": None if room.session is None else _so_far(room.session, now),
            "interval": _interval(room, interval, settings),
            "leave after": count_of(missed, "missed snapshot"),
            "polled": from_now(room.polled_at, now),
            "next poll": _next_poll(room, now),
            "failures in a row": room.failures,
            "last failure": room.last_failure,
        }
    )
    if room.peers:
        print_line("")
        print_peers(room.peers, now, settings)


def _interval(room: ShownRoom, interval: timedelta, settings: Settings) -> str:
    idle = settings.polling.idle_interval
    if room.source in settings.polling.discovering and idle > interval:
        return f"{span(interval)}; {span(idle)} while it is not live"
    return span(interval)


def _so_far(session: CurrentSession, now: datetime) -> str:
    peers, visits = count_of(session.unique_peers, "peer"), count_of(session.visit_count, "visit")
    return f"{span(now - session.started_at)}, {peers} in {visits}, at most {session.peak_peer_count} at once"


def print_peers(peers: Sequence[PresentPeer], now: datetime, settings: Settings) -> None:
    """Print the peers of a room."""
    zone = settings.bridge.timezone
    print_table(
        (Column(title="NAME"), Column(title="SINCE"), Column(title="PEER"), Column(title="VISIT", wide=True)),
        [(peer.display_name, short_time(peer.joined_at, now, zone), peer.peer_id, peer.visit_id) for peer in peers],
        empty="the room is empty",
    )
