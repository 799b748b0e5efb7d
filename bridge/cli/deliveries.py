"""`bridge deliveries list` and `show`: attempts, dead letters, the delivery of one event."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Annotated

import typer

from bridge.admin.attempts import AttemptFilter, ListedAttempt, ListedDeadLetter, list_attempts, list_dead_letters
from bridge.admin.deliveries import DeliveryState, EventDelivery, show_deliveries
from bridge.admin.listing import document
from bridge.cli.database import open_database
from bridge.cli.inputs import parse_period
from bridge.cli.listings import print_listing
from bridge.cli.options import (
    DEFAULT_LIMIT,
    ConfigOption,
    JsonOption,
    LimitOption,
    RoomFilter,
    SinceFilter,
    UntilFilter,
)
from bridge.cli.output import Column, from_now, full_time, print_facts, print_json, print_line, short_time
from bridge.cli.settings import load_settings
from bridge.events.bodies import rfc3339
from bridge.events.summaries import log_name, summarize
from bridge.events.wording import count_of, span
from bridge.rules.delivery import Outcome
from bridge.runtime import system_runtime

RESPONSE_SHOWN = 200
"""Characters of a response that are printed; `--json` has all that was kept."""


def list_recorded(
    endpoint: Annotated[str | None, typer.Option(metavar="NAME", help="Only to this endpoint.")] = None,
    room: RoomFilter = None,
    event: Annotated[str | None, typer.Option(metavar="ID", help="Only of this event.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only attempts that did not deliver.")] = False,
    dead: Annotated[bool, typer.Option("--dead", help="List dead letters instead of attempts.")] = False,
    since: SinceFilter = None,
    until: UntilFilter = None,
    limit: LimitOption = DEFAULT_LIMIT,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List attempts, newest first. With `--dead`, list the events that were given up for an endpoint."""
    settings = load_settings(config)
    now, zone = system_runtime().now(), settings.bridge.timezone
    period = parse_period(since, until, now=now, zone=zone)
    wanted = AttemptFilter(
        endpoint=endpoint, room=room, event=event, failed=failed, since=period.since, until=period.until
    )
    with open_database(settings) as database:
        if dead:
            print_listing(
                lambda page: database.read_now(list_dead_letters, wanted, page),
                _DEAD_LETTER_COLUMNS,
                lambda letter: _dead_letter_cells(letter, now, zone),
                limit=limit,
                as_json=as_json,
                empty="there is no such dead letter",
            )
        else:
            print_listing(
                lambda page: database.read_now(list_attempts, wanted, page),
                _ATTEMPT_COLUMNS,
                lambda attempt: _attempt_cells(attempt, now, zone),
                limit=limit,
                as_json=as_json,
                empty="there is no such attempt on record",
            )


def show(
    event: Annotated[str, typer.Argument(metavar="EVENT", help="Event id.")],
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show the delivery of one event to each endpoint. It is acknowledged, owed, dead or passed over."""
    settings = load_settings(config)
    with open_database(settings) as database:
        shown = database.read_now(show_deliveries, event)
    facts, recorded_at = shown.event.facts, shown.event.recorded_at
    if as_json:
        deliveries = [document(one) for one in shown.deliveries]
        print_json({"event": facts, "recorded_at": rfc3339(recorded_at), "deliveries": deliveries})
        return
    now, zone = system_runtime().now(), settings.bridge.timezone
    data = facts["data"]
    print_facts(
        {
            "event": shown.event.id,
            "type": facts["type"],
            "room": f"{log_name(data['room_id'])} #{data['sequence']}",
            "summary": summarize(facts["type"], data),
            "recorded": full_time(recorded_at, zone),
        }
    )
    for delivery in shown.deliveries:
        print_line("")
        print_line(f"{delivery.endpoint}: {_describe(delivery, now)}")
        for attempt in delivery.attempts:
            _print_attempt(attempt, zone)


def _describe(delivery: EventDelivery, now: datetime) -> str:
    match delivery.state:
        case DeliveryState.ACKNOWLEDGED:
            return f"acknowledged ({count_of(len(delivery.attempts), 'attempt')})"
        case DeliveryState.OWED if delivery.endpoint_state != "active":
            return "owed; the endpoint is disabled"
        case DeliveryState.OWED if delivery.next_attempt_at is None:
            return "owed; it waits for the events before it"
        case DeliveryState.OWED:
            return f"owed; next attempt {from_now(max(now, delivery.next_attempt_at or now), now)}"
        case DeliveryState.DEAD:
            letter = delivery.dead_letter
            return "dead" if letter is None else f"dead ({letter.reason}), given up {from_now(letter.parked_at, now)}"
        case DeliveryState.PASSED_OVER:
            return "passed over: filtered out, addressed to others, or the endpoint is newer than the event"


def _print_attempt(attempt: ListedAttempt, zone: tzinfo) -> None:
    kind = "" if attempt.kind == "live" else f" ({attempt.kind})"
    detail = f": {attempt.detail}" if attempt.detail else ""
    print_line(f"  {full_time(attempt.started_at, zone)}  {_outcome(attempt)}{kind} in {_duration(attempt)}{detail}")
    if attempt.response and attempt.outcome != Outcome.DELIVERED:
        print_line(f"    response: {attempt.response[:RESPONSE_SHOWN]}")


def _outcome(attempt: ListedAttempt) -> str:
    """Return the outcome with the status or the cause: `delivered 200`, `retryable timeout`."""
    return f"{attempt.outcome} {attempt.status or attempt.cause or ''}".rstrip()


def _duration(attempt: ListedAttempt) -> str:
    return span(timedelta(seconds=attempt.duration_seconds))


_ATTEMPT_COLUMNS = (
    Column(title="STARTED"),
    Column(title="ENDPOINT"),
    Column(title="OUTCOME"),
    Column(title="EVENT"),
    Column(title="TYPE", wide=True),
    Column(title="ROOM", wide=True),
    Column(title="DURATION", wide=True),
    Column(title="DETAIL", wide=True),
)


def _attempt_cells(attempt: ListedAttempt, now: datetime, zone: tzinfo) -> Sequence[object]:
    started, room = short_time(attempt.started_at, now, zone), f"{log_name(attempt.room_id)} #{attempt.sequence}"
    return (
        *(started, attempt.endpoint, _outcome(attempt), attempt.event_id),
        *(attempt.type, room, _duration(attempt), attempt.detail),
    )


_DEAD_LETTER_COLUMNS = (
    Column(title="GIVEN UP"),
    Column(title="ENDPOINT"),
    Column(title="REASON"),
    Column(title="EVENT"),
    Column(title="TYPE", wide=True),
    Column(title="ROOM", wide=True),
)


def _dead_letter_cells(letter: ListedDeadLetter, now: datetime, zone: tzinfo) -> Sequence[object]:
    reason, room = (
        f"{letter.reason}, {count_of(letter.tries, 'attempt')}",
        f"{log_name(letter.room_id)} #{letter.sequence}",
    )
    return short_time(letter.parked_at, now, zone), letter.endpoint, reason, letter.event_id, letter.type, room
