"""`bridge rooms`: which rooms are tracked, how they are doing, who is there; tracking one more, or one less."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from bridge.admin.listing import document
from bridge.admin.rooms import (
    CurrentSession,
    ListedRoom,
    PresentPeer,
    ShownRoom,
    TroubledSource,
    list_rooms,
    origin_of,
    show_room,
    troubled_sources,
)
from bridge.cli.options import (
    ConfigOption,
    JsonOption,
    SourceOption,
    find_account,
    load_settings,
    name_of,
    open_database,
)
from bridge.cli.output import (
    Column,
    count_of,
    from_now,
    print_facts,
    print_json,
    print_line,
    print_table,
    say,
    short_time,
    span,
)
from bridge.cli.validate import check_room
from bridge.config import Settings
from bridge.config.words import quoted
from bridge.errors import UsageError
from bridge.events.bodies import draft
from bridge.polling.rooms import add_room, apply_shorter_intervals, remove_room
from bridge.rules.presence import Change
from bridge.service import system_runtime

app = typer.Typer(no_args_is_help=True, help="Tracked rooms.", rich_markup_mode=None)

RoomArgument = Annotated[str, typer.Argument(metavar="ROOM", help="The room's id.")]


@app.command("list")
def list_tracked(
    source: Annotated[str | None, typer.Option(metavar="NAME", help="Only rooms of this source.")] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List every tracked room, and how it is doing."""
    settings = load_settings(config)
    with open_database(settings) as database:
        rooms = database.read_now(list_rooms, source=source)
        troubled = database.read_now(troubled_sources)
    if source is not None and not rooms:
        find_account(settings, source)
    if as_json:
        print_json([document(room) for room in rooms])
        return
    now = system_runtime().now()
    print_table(
        _columns(rooms),
        [_cells(room, now) for room in rooms],
        empty="no room is tracked: list them in the configuration and start the service, or `bridge rooms add`",
    )
    _warn(troubled, now)
    _warn_of_orphans(rooms, settings)


@app.command()
def show(
    room: RoomArgument, source: SourceOption = None, as_json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Show one room: who is there, how polling goes."""
    settings = load_settings(config)
    if source is not None:
        find_account(settings, source)
    with open_database(settings) as database:
        shown = database.read_now(show_room, room, source)
    if as_json:
        print_json(document(shown))
        return
    _print_room(shown, settings)
    _warn_of_orphans([shown], settings)


@app.command()
def add(
    room: RoomArgument,
    source: Annotated[
        str | None, typer.Option("--source", metavar="NAME", help="Whose room it is; needed if there are several.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="What people call it.")] = None,
    interval: Annotated[
        str | None, typer.Option("--interval", metavar="SPAN", help='How often it is polled, like "5s".')
    ] = None,
    leave_after_missed: Annotated[
        int | None, typer.Option("--leave-after-missed", metavar="N", help="How many misses make a leave.")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Track a room from now on. Of one that was added before, the settings become these."""
    settings = load_settings(config)
    table = {"id": room, "source": source, "name": name, "interval": interval, "leave_after_missed": leave_after_missed}
    spec = check_room(table, [account.name for account in settings.sources])
    runtime = system_runtime()
    with open_database(settings, create=True) as database:
        origin = database.read_now(origin_of, room, spec.source)
        _refuse_owned(settings, room, spec.source, origin, config)
        is_new = database.write_now(add_room, spec, runtime.now(), runtime.new_id)
        database.write_now(apply_shorter_intervals, settings.polling.interval, runtime.now())
        if as_json:
            print_json(document(database.read_now(show_room, room, spec.source)))
    say(
        f"{room} is tracked: a running service polls it at once"
        if is_new
        else f"{room} was tracked already; its settings are the given ones now"
    )


@app.command()
def remove(room: RoomArgument, source: SourceOption = None, config: ConfigOption = None) -> None:
    """Stop tracking a room. Whoever is there leaves as "unwatched"; its log stays."""
    settings = load_settings(config)
    runtime = system_runtime()
    with open_database(settings) as database:
        _refuse_owned(settings, room, source, database.read_now(origin_of, room, source), config)
        changes = database.write_now(remove_room, room, source, runtime.now(), runtime.new_id)
    say(f"{room} is no longer tracked; {_told(changes, runtime.now())}")


def _columns(rooms: Sequence[ListedRoom]) -> Sequence[Column]:
    """On a narrow terminal, a source is worth its place only if there are others."""
    is_only_source = len({room.source for room in rooms}) == 1
    return (
        Column(title="room"),
        Column(title="name"),
        Column(title="source", wide=is_only_source),
        Column(title="state"),
        Column(title="peers", right=True),
        Column(title="polled"),
        Column(title="next poll"),
        Column(title="failures", right=True),
    )


def _cells(room: ListedRoom, now: datetime) -> Sequence[object]:
    next_poll = _next_poll(room, now)
    polled = from_now(room.polled_at, now)
    return room.room_id, room.name, room.source, room.state, room.peer_count, polled, next_poll, room.failures


def _next_poll(room: ListedRoom, now: datetime) -> str:
    if room.next_poll_at is None:
        return "disabled"
    return "now" if room.next_poll_at <= now else str(from_now(room.next_poll_at, now))


def _warn(troubled: Iterable[TroubledSource], now: datetime) -> None:
    for source in troubled:
        since = f" for {span(now - source.since)}" if source.since is not None else ""
        say(f"source {source.name} is {source.condition}{since}: its rooms are hardly polled until it recovers")


def _warn_of_orphans(rooms: Iterable[ListedRoom], settings: Settings) -> None:
    configured = {account.name for account in settings.sources}
    for room in rooms:
        if room.enabled and room.source not in configured:
            say(
                f"warning: nobody polls {room.room_id}, for its source {quoted(room.source)} is not in the "
                f"configuration: add the source, or `bridge rooms remove {room.room_id}`"
            )


def _print_room(room: ShownRoom, settings: Settings) -> None:
    now = system_runtime().now()
    interval = settings.polling.interval
    if room.interval_seconds is not None:
        interval = timedelta(seconds=room.interval_seconds)
    session = room.session
    print_facts(
        {
            "room": room.room_id,
            "name": room.name,
            "source": f"{room.source} ({room.source_condition})",
            "origin": room.origin,
            "state": room.state,
            "peers": room.peer_count,
            "session": room.session_id,
            "so far": None if session is None else _so_far(session, now),
            "interval": span(interval),
            "leave after": f"{room.leave_after_missed or settings.polling.policy.leave_after_missed} missed",
            "polled": from_now(room.polled_at, now),
            "next poll": _next_poll(room, now),
            "failures": room.failures,
            "last failure": room.last_failure,
        }
    )
    if room.peers:
        print_line("")
        print_peers(room.peers, now, settings)


def _so_far(session: CurrentSession, now: datetime) -> str:
    people, visits = count_of(session.unique_peers, "peer"), count_of(session.visit_count, "visit")
    return f"{span(now - session.started_at)}, {people} in {visits}, at most {session.peak_peer_count} at once"


def print_peers(peers: Sequence[PresentPeer], now: datetime, settings: Settings) -> None:
    """Print who is in a room."""
    print_table(
        (Column(title="who"), Column(title="since"), Column(title="peer"), Column(title="visit", wide=True)),
        [
            (peer.display_name, short_time(peer.joined_at, now, settings.bridge.timezone), peer.peer_id, peer.visit_id)
            for peer in peers
        ],
        empty="nobody is there",
    )


def _refuse_owned(settings: Settings, room: str, source: str | None, origin: str | None, config: Path | None) -> None:
    """The configuration's rooms are changed in the file: what is done behind its back would not last."""
    if any(spec.upstream_id == room and source in (None, spec.source) for spec in settings.rooms):
        raise UsageError(
            f"room {quoted(room)} stands in {name_of(config)}: change or remove it there, and reload the "
            "service (SIGHUP)"
        )
    if origin == "config":
        raise UsageError(
            f"room {quoted(room)} came from the configuration, which does not name it any more: reload the service "
            "(SIGHUP) or start it, and the room is gone"
        )


def _told(changes: Iterable[Change], now: datetime) -> str:
    told = Counter(draft(change, now).type.value for change in changes)
    if not told:
        return "nobody was there, so nothing was told"
    return "told: " + ", ".join(f"{count} {kind}" for kind, count in told.items())
