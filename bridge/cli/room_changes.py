"""`bridge rooms add` and `remove`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from bridge.admin.listing import document
from bridge.admin.rooms import (
    origin_of,
    show_room,
)
from bridge.cli.database import open_database
from bridge.cli.options import ConfigOption, JsonOption, RoomArgument, SourceOption
from bridge.cli.output import (
    print_json,
    print_message,
)
from bridge.cli.settings import load_settings, name_of
from bridge.cli.validate import check_room
from bridge.config import Settings
from bridge.config.words import quoted
from bridge.errors import UsageError
from bridge.events.bodies import draft
from bridge.polling.rooms import add_room, apply_shorter_intervals, find_room, remove_room
from bridge.rules.presence import Change
from bridge.runtime import system_runtime


def add(
    room: RoomArgument,
    source: Annotated[
        str | None, typer.Option("--source", metavar="NAME", help="Source of the room; required if there are several.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Name of the room in events.")] = None,
    interval: Annotated[
        str | None, typer.Option("--interval", metavar="SPAN", help='Poll interval, like "5s".')
    ] = None,
    leave_after_missed: Annotated[
        int | None,
        typer.Option("--leave-after-missed", metavar="N", help="Snapshots without a peer before it has left."),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Track a room, or change the settings of one that was added before."""
    settings = load_settings(config)
    table = {"id": room, "source": source, "name": name, "interval": interval, "leave_after_missed": leave_after_missed}
    spec = check_room(table, [account.name for account in settings.sources])
    runtime = system_runtime()
    with open_database(settings, create=True) as database:
        origin = database.read_now(origin_of, room, spec.source)
        _refuse_configured(settings, room, spec.source, origin, config)
        is_new = database.write_now(add_room, spec, runtime.now(), runtime.new_id)
        database.write_now(apply_shorter_intervals, settings.polling, runtime.now())
        if as_json:
            print_json(document(database.read_now(show_room, room, spec.source)))
    print_message(
        f"{room} is tracked: a running service polls it at once"
        if is_new
        else f"{room} was tracked already: its settings are changed"
    )


def remove(room: RoomArgument, source: SourceOption = None, config: ConfigOption = None) -> None:
    """Stop tracking a room. Its peers leave with the reason `unwatched`; its log stays."""
    settings = load_settings(config)
    runtime = system_runtime()
    with open_database(settings) as database:
        origin = database.read_now(origin_of, room, source)
        _refuse_configured(settings, room, source, origin, config)
        name = database.read_now(find_room, room, source).source
        changes = database.write_now(remove_room, room, name, runtime.now(), runtime.new_id)
    print_message(f"{room} is no longer tracked; {_events_written(changes, runtime.now())}")
    account = next((one for one in settings.sources if one.name == name), None)
    if account is not None and account.discovers(room):
        print_message("it is tracked again when it is live: to leave it out, change discover_rooms of its source")


def _refuse_configured(
    settings: Settings, room: str, source: str | None, origin: str | None, config: Path | None
) -> None:
    """Refuse to change a room of the configuration: the change would not last."""
    if any(spec.upstream_id == room and source in (None, spec.source) for spec in settings.rooms):
        raise UsageError(
            f"room {quoted(room)} is in {name_of(config)}: change or remove it there, and reload the service (SIGHUP)"
        )
    if origin == "config":
        raise UsageError(
            f"room {quoted(room)} was in the configuration and is no longer: reload the service (SIGHUP) or start it, "
            "and the room is removed"
        )


def _events_written(changes: Iterable[Change], now: datetime) -> str:
    written = Counter(draft(change, now).type.value for change in changes)
    if not written:
        return "the room was empty, so no event was written"
    return "events written: " + ", ".join(f"{count} {kind}" for kind, count in written.items())
