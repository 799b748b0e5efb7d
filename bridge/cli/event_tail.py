"""`bridge events tail`: the event log as it grows."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from datetime import tzinfo
from typing import Annotated

import typer

from bridge.admin.events import EventFilter, LoggedEvent, list_events, new_events, newest_key
from bridge.admin.listing import Page
from bridge.cli.database import open_database
from bridge.cli.events import event_filter
from bridge.cli.options import (
    ConfigOption,
    RoomFilter,
    SinceFilter,
    TypeFilter,
    UntilFilter,
)
from bridge.cli.output import print_json, print_line
from bridge.cli.settings import load_settings
from bridge.db.engine import Database
from bridge.events.summaries import log_name, summarize
from bridge.runtime import system_runtime

TAIL_SECONDS = 0.3
"""The pause between two reads of `tail`."""
READ_AGAIN = 30
"""The number of reads after which a transaction must have committed for its events to be seen."""
READ_AGAIN_AT_START = 1_000
"""The same for the first read, as a number of events."""
BATCH = 500
FEW, MANY = 10, 10_000


def tail(
    room: RoomFilter = None,
    types: TypeFilter = None,
    since: SinceFilter = None,
    until: UntilFilter = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            min=0,
            max=MANY,
            metavar="N",
            help=f"Past events to print first (default {FEW}; {MANY} with --since).",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document per line.")] = False,
    config: ConfigOption = None,
) -> None:
    """Print the last events, then new ones as they are written, until Ctrl-C or `--until`."""
    settings = load_settings(config)
    now, zone = system_runtime().now(), settings.bridge.timezone
    wanted = event_filter(room, types, since, until, now, zone)
    if limit is None:
        limit = FEW if wanted.since is None else MANY
    try:
        with open_database(settings) as database:
            log_tail = _Tail(database, wanted)
            fresh = log_tail.start(limit)
            while True:
                for event in fresh:
                    _print_event(event, zone, as_json=as_json)
                is_over = wanted.until is not None and system_runtime().now() >= wanted.until
                if len(fresh) < BATCH and not is_over:
                    time.sleep(TAIL_SECONDS)
                fresh = log_tail.read()
                if is_over and not fresh:
                    return
    except KeyboardInterrupt:
        return


class _Tail:
    """Follows the log; keys that may still be filled are read again, and events in `_known` are left out."""

    def __init__(self, database: Database, wanted: EventFilter) -> None:
        self._database = database
        self._wanted = wanted
        self._known: set[int] = set()
        self._ends: deque[int] = deque(maxlen=READ_AGAIN)
        """The newest key at each of the last reads."""

    def start(self, count: int) -> Sequence[LoggedEvent]:
        """Return the last `count` events, oldest first; everything before them is left out."""
        above = max(0, self._database.read_now(newest_key) - READ_AGAIN_AT_START)
        self._ends.append(above)
        present = self._database.read_now(
            new_events, self._wanted, above=above, known=(), limit=READ_AGAIN_AT_START + BATCH
        )
        shown = self._database.read_now(list_events, self._wanted, Page(limit=count)).items if count else []
        self._known = {event.key for event in (*present, *shown)}
        return shown[::-1]

    def read(self) -> Sequence[LoggedEvent]:
        """Return the events that were written since the last read."""
        end = self._database.read_now(newest_key)
        fresh = self._database.read_now(new_events, self._wanted, above=self._ends[0], known=self._known, limit=BATCH)
        self._ends.append(fresh[-1].key if len(fresh) == BATCH else max(end, self._ends[-1]))
        self._known = {key for key in (*self._known, *(event.key for event in fresh)) if key > self._ends[0]}
        return fresh


def _print_event(event: LoggedEvent, zone: tzinfo, *, as_json: bool) -> None:
    facts = event.facts
    if as_json:
        print_json(facts, compact=True)
        return
    kind, data = facts["type"], facts["data"]
    where, summary = f"{log_name(data['room_id'])} #{data['sequence']}", summarize(kind, data)
    print_line(f"{event.recorded_at.astimezone(zone):%H:%M:%S}  {kind:<13}  {where}  {summary}  {event.id}")
