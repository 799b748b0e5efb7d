"""`bridge events`: the log, newest first, or as it grows."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime, tzinfo
from typing import Annotated

import typer

from bridge.admin.events import EventFilter, LoggedEvent, list_events, new_events, newest_key
from bridge.admin.listing import Page
from bridge.cli.options import (
    ConfigOption,
    JsonOption,
    LimitOption,
    RoomFilter,
    SinceFilter,
    TypeFilter,
    UntilFilter,
    event_globs,
    load_settings,
    open_database,
    parse_period,
)
from bridge.cli.output import Column, print_json, print_line, print_table, short_time
from bridge.cli.summaries import room_of, what_happened
from bridge.db.engine import Database
from bridge.service import system_runtime

LOOK_SECONDS = 0.3
"""How often `tail` looks for news."""
LOOK_BACK = 30
"""How many looks a transaction may take to commit without being overlooked."""
FIRST_LOOK_BACK = 1_000
"""The same for the first read_health, in events."""
AT_A_TIME = 500
FEW, MOST = 10, 10_000

app = typer.Typer(no_args_is_help=True, help="The log of events.", rich_markup_mode=None)


@app.command("list")
def list_logged(
    room: RoomFilter = None,
    types: TypeFilter = None,
    since: SinceFilter = None,
    until: UntilFilter = None,
    limit: LimitOption = 50,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Only events older than this one.")] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List events, newest first. A narrow terminal leaves out their ids; `--json` has everything."""
    settings = load_settings(config)
    now, zone = system_runtime().now(), settings.bridge.timezone
    period = parse_period(since, until, now=now, zone=zone)
    wanted = EventFilter(room=room, types=event_globs(types), since=period.since, until=period.until)
    with open_database(settings) as database:
        found = database.read_now(list_events, wanted, Page(limit=limit, after=after))
    if as_json:
        print_json([event.facts for event in found])
    else:
        print_table(_COLUMNS, [_cells(event, now, zone) for event in found], empty="the log holds no such event")


@app.command()
def tail(
    room: RoomFilter = None,
    types: TypeFilter = None,
    since: SinceFilter = None,
    until: UntilFilter = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=0, max=MOST, metavar="N", help=f"How many old ones come first: 10, or with --since {MOST}."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document per line.")] = False,
    config: ConfigOption = None,
) -> None:
    """Follow the log until Ctrl-C, or up to `--until`. Old events come first, then new ones as they are written."""
    settings = load_settings(config)
    now, zone = system_runtime().now(), settings.bridge.timezone
    period = parse_period(since, until, now=now, zone=zone)
    wanted = EventFilter(room=room, types=event_globs(types), since=period.since, until=period.until)
    if limit is None:
        limit = FEW if period.since is None else MOST
    try:
        with open_database(settings) as database:
            log_tail = _Tail(database, wanted)
            fresh = log_tail.start(limit)
            while True:
                for event in fresh:
                    _print_event(event, zone, as_json=as_json)
                is_over = period.until is not None and system_runtime().now() >= period.until
                if len(fresh) < AT_A_TIME and not is_over:
                    time.sleep(LOOK_SECONDS)
                fresh = log_tail.read_health()
                if is_over and not fresh:
                    return
    except KeyboardInterrupt:
        return


class _Tail:
    """Follows the log. Keys above the read_health-back are read again, and those in `_known` passed over."""

    def __init__(self, database: Database, wanted: EventFilter) -> None:
        self._database = database
        self._wanted = wanted
        self._known: set[int] = set()
        self._ends: deque[int] = deque(maxlen=LOOK_BACK)
        """How far the log went at each of the last looks."""

    def start(self, count: int) -> Sequence[LoggedEvent]:
        """The newest events, oldest first; everything before them is passed over."""
        above = max(0, self._database.read_now(newest_key) - FIRST_LOOK_BACK)
        self._ends.append(above)
        there = self._database.read_now(
            new_events, self._wanted, above=above, known=(), limit=FIRST_LOOK_BACK + AT_A_TIME
        )
        shown = self._database.read_now(list_events, self._wanted, Page(limit=count)) if count else []
        self._known = {event.key for event in (*there, *shown)}
        return shown[::-1]

    def read_health(self) -> Sequence[LoggedEvent]:
        """What has come since the read_health before."""
        end = self._database.read_now(newest_key)
        fresh = self._database.read_now(
            new_events, self._wanted, above=self._ends[0], known=self._known, limit=AT_A_TIME
        )
        self._ends.append(fresh[-1].key if len(fresh) == AT_A_TIME else max(end, self._ends[-1]))
        self._known = {key for key in (*self._known, *(event.key for event in fresh)) if key > self._ends[0]}
        return fresh


_COLUMNS = (
    Column(title="recorded"),
    Column(title="type"),
    Column(title="room"),
    Column(title="#", right=True),
    Column(title="what"),
    Column(title="id", wide=True),
)


def _cells(event: LoggedEvent, now: datetime, zone: tzinfo) -> Sequence[object]:
    facts = event.facts
    data = facts["data"]
    recorded = short_time(event.recorded_at, now, zone)
    return recorded, facts["type"], room_of(data), data["sequence"], what_happened(facts["type"], data), event.id


def _print_event(event: LoggedEvent, zone: tzinfo, *, as_json: bool) -> None:
    if as_json:
        print_json(event.facts, compact=True)
        return
    facts = event.facts
    data = facts["data"]
    place = f"{room_of(data)} #{data['sequence']}"
    what = what_happened(facts["type"], data)
    print_line(f"{event.recorded_at.astimezone(zone):%H:%M:%S}  {facts['type']:<13}  {place}  {what}  {event.id}")
