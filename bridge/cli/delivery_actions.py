"""`bridge deliveries replay` and `skip`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from bridge.cli.database import open_database
from bridge.cli.inputs import parse_period
from bridge.cli.options import ConfigOption, JsonOption, SinceFilter, UntilFilter
from bridge.cli.output import print_json, print_line, print_message
from bridge.cli.settings import load_settings
from bridge.config.words import quoted
from bridge.db.engine import Database
from bridge.delivery.endpoints import find_endpoint
from bridge.delivery.replay import Range, count_wanted, find_events, find_range, request_events, request_some
from bridge.delivery.skip import skip_event
from bridge.errors import UsageError
from bridge.events.wording import count_of
from bridge.runtime import system_runtime

EndpointOption = Annotated[str, typer.Option("--endpoint", metavar="NAME", help="Name or id of the endpoint.")]


def replay(
    endpoint: EndpointOption,
    events: Annotated[list[str] | None, typer.Argument(metavar="EVENT…", help="Event ids.")] = None,
    since: SinceFilter = None,
    until: UntilFilter = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only dead letters.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count the events.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Send events again, by id or by period. They keep their ids and bodies, and have the header `bridge-replay`."""
    settings = load_settings(config)
    now = system_runtime().now()
    period = parse_period(since, until, now=now, zone=settings.bridge.timezone)
    wanted = Range(since=period.since, until=period.until, only_failed=failed)
    if bool(events) == (wanted != Range()):
        raise UsageError("give event ids or a range (--since, --until, --failed), not both")
    with open_database(settings) as database:
        key = database.read_now(find_endpoint, endpoint).id
        count = _request(database, key, events or (), wanted, dry_run=dry_run)
    if as_json:
        print_json({"endpoint": endpoint, "events": count, "dry_run": dry_run})
        return
    will = "would be sent again" if dry_run else "will be sent again by the running service"
    print_line(f"{count_of(count, 'event')} {will} to {quoted(endpoint)}")


def skip(
    event: Annotated[str, typer.Argument(metavar="EVENT", help="Event id.")],
    endpoint: EndpointOption,
    config: ConfigOption = None,
) -> None:
    """Give up an event for an endpoint. It becomes a dead letter, and the later events of its room are delivered."""
    settings = load_settings(config)
    with open_database(settings) as database:
        database.write_now(skip_event, endpoint, event, system_runtime().now())
    print_message(f"{event} is a dead letter of {quoted(endpoint)}; `bridge deliveries replay` sends it after all")


def _request(database: Database, key: int, events: Sequence[str], wanted: Range, *, dry_run: bool) -> int:
    now = system_runtime().now()
    if events and dry_run:
        return len(database.read_now(find_events, events))
    if events:
        return database.write_now(request_events, key, events, now)
    found = database.read_now(find_range, key, wanted)
    if dry_run:
        return database.read_now(count_wanted, found)
    added, after = 0, 0
    while True:
        progress = database.write_now(request_some, found, after, now)
        added += progress.added
        if progress.after is None:
            return added
        after = progress.after
