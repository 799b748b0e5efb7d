"""`bridge deliveries replay`: send events again, because somebody asks for it."""

from __future__ import annotations

from typing import Annotated

import typer

from bridge.cli.deliveries import app
from bridge.cli.options import (
    ConfigOption,
    JsonOption,
    SinceFilter,
    UntilFilter,
    load_settings,
    open_database,
    parse_period,
)
from bridge.cli.output import count_of, print_json, print_line
from bridge.config.words import quoted
from bridge.db.engine import Database
from bridge.delivery.endpoints import find_endpoint
from bridge.delivery.replay import Range, count_wanted, find_events, find_range, request_events, request_some
from bridge.errors import UsageError
from bridge.service import system_runtime


@app.command()
def replay(
    endpoint: Annotated[str, typer.Option(metavar="NAME", help="Who gets them again.")],
    events: Annotated[list[str] | None, typer.Argument(metavar="EVENT…", help="Ids of single events.")] = None,
    since: SinceFilter = None,
    until: UntilFilter = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only dead letters.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Send events again: single ones, or those recorded in a period. Same ids, same bodies, `bridge-replay: true`."""
    settings = load_settings(config)
    now = system_runtime().now()
    period = parse_period(since, until, now=now, zone=settings.bridge.timezone)
    asked = Range(since=period.since, until=period.until, only_failed=failed)
    if bool(events) == (asked != Range()):
        raise UsageError("name events, or a range with --since, --until or --failed; not both, and not neither")
    with open_database(settings) as database:
        key = database.read_now(find_endpoint, endpoint).id
        count = _request(database, key, list(events or ()), asked, dry_run=dry_run)
    if as_json:
        print_json({"endpoint": endpoint, "events": count, "dry_run": dry_run})
        return
    what = "would be sent again" if dry_run else "will be sent again by the running sender"
    print_line(f"{count_of(count, 'event')} {what} to {quoted(endpoint)}")


def _request(database: Database, key: int, events: list[str], asked: Range, *, dry_run: bool) -> int:
    now = system_runtime().now()
    if events and dry_run:
        return len(database.read_now(find_events, events))
    if events:
        return database.write_now(request_events, key, events, now)
    wanted = database.read_now(find_range, key, asked)
    if dry_run:
        return database.read_now(count_wanted, wanted)
    added, after = 0, 0
    while True:
        progress = database.write_now(request_some, wanted, after, now)
        added += progress.added
        if progress.after is None:
            return added
        after = progress.after
