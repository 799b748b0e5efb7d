"""`bridge deliveries replay` and `skip`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from bridge.cli.database import open_database
from bridge.cli.inputs import parse_period
from bridge.cli.options import ConfigOption, JsonOption, SinceFilter, UntilFilter
from bridge.cli.output import print_json, print_line, print_message
from bridge.cli.settings import load_settings
from bridge.config.words import quoted
from bridge.delivery.endpoints import find_endpoint
from bridge.delivery.replay import Range, request_replay
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
    runtime = system_runtime()
    period = parse_period(since, until, now=runtime.now(), zone=settings.bridge.timezone)
    wanted = Range(since=period.since, until=period.until, only_failed=failed)
    if bool(events) == (wanted != Range()):
        raise UsageError("give event ids or a range (--since, --until, --failed), not both")
    with open_database(settings) as database:
        key = database.read_now(find_endpoint, endpoint).id
        replay_all = request_replay(database, key, events or wanted, runtime.now, dry_run=dry_run)
        count = asyncio.run(replay_all)
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
