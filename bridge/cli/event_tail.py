"""`bridge events tail`: the event log as it grows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import tzinfo
from typing import Annotated

import typer

from bridge.admin.event_stream import keys_above
from bridge.admin.events import EventFilter, LoggedEvent, list_events, new_events
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
from bridge.db.final_keys import FinalKeys
from bridge.events.summaries import log_name, summarize
from bridge.runtime import system_runtime

TAIL_SECONDS = 0.3
"""The pause between two reads of `tail`."""
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
    """Follows the log as far as it is final; events from before the start are left out."""

    def __init__(self, database: Database, wanted: EventFilter) -> None:
        self._database = database
        self._wanted = wanted
        self._final = FinalKeys()
        self._position = 0
        self._known: frozenset[int] = frozenset()

    def start(self, count: int) -> Sequence[LoggedEvent]:
        """Return the last `count` events, oldest first; everything before them is left out."""
        self._position = self._database.look_now(self._final.look)
        present = self._database.look_now(keys_above, self._position)
        shown = self._database.read_now(list_events, self._wanted, Page(limit=count)).items if count else []
        self._known = present | {event.key for event in shown}
        return shown[::-1]

    def read(self) -> Sequence[LoggedEvent]:
        """Return the events that have become final since the last read."""
        last = self._database.look_now(self._final.look)
        while self._position < last:
            read = self._database.read_now(new_events, self._wanted, after=self._position, last=last, limit=BATCH)
            self._position = read[-1].key if len(read) == BATCH else last
            fresh = [event for event in read if event.key not in self._known]
            if fresh:
                return fresh
        return ()


def _print_event(event: LoggedEvent, zone: tzinfo, *, as_json: bool) -> None:
    facts = event.facts
    if as_json:
        print_json(facts, compact=True)
        return
    kind, data = facts["type"], facts["data"]
    where, summary = f"{log_name(data['room_id'])} #{data['sequence']}", summarize(kind, data)
    print_line(f"{event.recorded_at.astimezone(zone):%H:%M:%S}  {kind:<13}  {where}  {summary}  {event.id}")
