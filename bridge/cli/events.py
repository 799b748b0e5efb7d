"""`bridge events list`: the event log, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, tzinfo
from typing import Annotated, Any

import typer

from bridge.admin.events import EventFilter, LoggedEvent, list_events
from bridge.cli.database import open_database
from bridge.cli.inputs import event_globs, parse_period
from bridge.cli.listings import print_listing
from bridge.cli.options import (
    DEFAULT_LIMIT,
    ConfigOption,
    JsonOption,
    LimitOption,
    RoomFilter,
    SinceFilter,
    TypeFilter,
    UntilFilter,
)
from bridge.cli.output import Column, short_time
from bridge.cli.settings import load_settings
from bridge.events.summaries import log_name, summarize
from bridge.runtime import system_runtime


def list_logged(
    room: RoomFilter = None,
    types: TypeFilter = None,
    since: SinceFilter = None,
    until: UntilFilter = None,
    limit: LimitOption = DEFAULT_LIMIT,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Only events older than this one.")] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List events, newest first."""
    settings = load_settings(config)
    now, zone = system_runtime().now(), settings.bridge.timezone
    wanted = replace(event_filter(room, types, since, until, now, zone), before=after)
    with open_database(settings) as database:
        print_listing(
            lambda page: database.read_now(list_events, wanted, page),
            _COLUMNS,
            lambda event: _cells(event, now, zone),
            limit=limit,
            as_json=as_json,
            empty="there is no such event in the log",
            as_document=_facts,
        )


_COLUMNS = (
    Column(title="RECORDED"),
    Column(title="TYPE"),
    Column(title="ROOM"),
    Column(title="SEQ", right=True),
    Column(title="SUMMARY"),
    Column(title="ID", wide=True),
)


def event_filter(
    room: str | None, types: list[str] | None, since: str | None, until: str | None, now: datetime, zone: tzinfo
) -> EventFilter:
    """Return the filter that the options describe."""
    period = parse_period(since, until, now=now, zone=zone)
    return EventFilter(room=room, types=event_globs(types), since=period.since, until=period.until)


def _facts(event: LoggedEvent) -> dict[str, Any]:
    return event.facts


def _cells(event: LoggedEvent, now: datetime, zone: tzinfo) -> Sequence[object]:
    kind, data = event.facts["type"], event.facts["data"]
    recorded = short_time(event.recorded_at, now, zone)
    return recorded, kind, log_name(data["room_id"]), data["sequence"], summarize(kind, data), event.id
