"""`bridge deliveries`: what was tried and what came of it, what was given up, and where one event stands."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Annotated

import typer

from bridge.admin.attempts import (
    AttemptFilter,
    ListedAttempt,
    ListedDeadLetter,
    list_attempts,
    list_dead_letters,
)
from bridge.admin.deliveries import DeliveryState, EventDelivery, show_deliveries
from bridge.admin.listing import Page, document
from bridge.cli.options import (
    ConfigOption,
    JsonOption,
    LimitOption,
    RoomFilter,
    SinceFilter,
    UntilFilter,
    load_settings,
    open_database,
    parse_period,
)
from bridge.cli.output import (
    Column,
    count_of,
    from_now,
    full_time,
    print_facts,
    print_json,
    print_line,
    print_table,
    short_time,
    span,
)
from bridge.cli.summaries import name_log, room_of, what_happened
from bridge.events.bodies import rfc3339
from bridge.rules.delivery import Outcome
from bridge.service import system_runtime

RESPONSE_SHOWN = 200
"""How many characters of an response people see; `--json` has all that is kept."""

app = typer.Typer(no_args_is_help=True, help="Attempts and dead letters.", rich_markup_mode=None)


@app.command("list")
def list_tried(
    endpoint: Annotated[str | None, typer.Option(metavar="NAME", help="Only to this endpoint.")] = None,
    room: RoomFilter = None,
    event: Annotated[str | None, typer.Option(metavar="ID", help="Only of this event.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only attempts that did not deliver.")] = False,
    dead: Annotated[bool, typer.Option("--dead", help="Dead letters in place of attempts.")] = False,
    since: SinceFilter = None,
    until: UntilFilter = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List attempts, newest first. With `--dead`: events that an endpoint refused for good."""
    settings = load_settings(config)
    now, zone = system_runtime().now(), settings.bridge.timezone
    period = parse_period(since, until, now=now, zone=zone)
    wanted = AttemptFilter(
        endpoint=endpoint, room=room, event=event, failed=failed, since=period.since, until=period.until
    )
    with open_database(settings) as database:
        if dead:
            _print_dead(database.read_now(list_dead_letters, wanted, limit=limit), now, zone, as_json=as_json)
        else:
            _print_tried(database.read_now(list_attempts, wanted, Page(limit=limit)), now, zone, as_json=as_json)


@app.command()
def show(
    event: Annotated[str, typer.Argument(metavar="EVENT", help="The event's id.")],
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show where one event stands at every endpoint: acknowledged, owed, dead or passed over."""
    settings = load_settings(config)
    with open_database(settings) as database:
        shown = database.read_now(show_deliveries, event)
    facts, recorded_at = shown.event.facts, shown.event.recorded_at
    if as_json:
        print_json(
            {
                "event": facts,
                "recorded_at": rfc3339(recorded_at),
                "deliveries": [document(one) for one in shown.deliveries],
            }
        )
        return
    now, zone = system_runtime().now(), settings.bridge.timezone
    data = facts["data"]
    print_facts(
        {
            "event": shown.event.id,
            "type": facts["type"],
            "room": f"{room_of(data)} #{data['sequence']}",
            "what": what_happened(facts["type"], data),
            "recorded": full_time(recorded_at, zone),
        }
    )
    for delivery in shown.deliveries:
        print_line("")
        print_line(f"{delivery.endpoint}: {_standing(delivery, now)}")
        for attempt in delivery.attempts:
            _print_attempt(attempt, zone)


def _standing(delivery: EventDelivery, now: datetime) -> str:
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
            return "dead" if letter is None else f"dead ({letter.reason}), parked {from_now(letter.parked_at, now)}"
        case DeliveryState.PASSED_OVER:
            return "passed over: it does not want it, or came later"


def _print_attempt(attempt: ListedAttempt, zone: tzinfo) -> None:
    took = span(timedelta(seconds=attempt.duration_seconds))
    kind = "" if attempt.kind == "live" else f" ({attempt.kind})"
    detail = f": {attempt.detail}" if attempt.detail else ""
    print_line(f"  {full_time(attempt.started_at, zone)}  {_outcome(attempt)}{kind} in {took}{detail}")
    if attempt.response and attempt.outcome != Outcome.DELIVERED:
        print_line(f"    answered: {attempt.response[:RESPONSE_SHOWN]}")


def _outcome(attempt: ListedAttempt) -> str:
    """`delivered 200`, `trouble timeout`: the outcome and what it was about."""
    return f"{attempt.outcome} {attempt.status or attempt.cause or ''}".rstrip()


def _print_tried(found: Sequence[ListedAttempt], now: datetime, zone: tzinfo, *, as_json: bool) -> None:
    if as_json:
        print_json([document(attempt) for attempt in found])
        return
    columns = ("began", "endpoint", "result", "event")
    print_table(
        [*(Column(title=title) for title in columns), *(Column(title=title, wide=True) for title in _WIDE_TITLES)],
        [
            (
                short_time(attempt.started_at, now, zone),
                attempt.endpoint,
                _outcome(attempt),
                attempt.event_id,
                attempt.type,
                f"{name_log(attempt.room_id)} #{attempt.sequence}",
                span(timedelta(seconds=attempt.duration_seconds)),
                attempt.detail,
            )
            for attempt in found
        ],
        empty="no such attempt is on record",
    )


_WIDE_TITLES = ("type", "room", "took", "detail")


def _print_dead(found: Sequence[ListedDeadLetter], now: datetime, zone: tzinfo, *, as_json: bool) -> None:
    if as_json:
        print_json([document(letter) for letter in found])
        return
    columns = ("parked", "endpoint", "reason", "event")
    print_table(
        [*(Column(title=title) for title in columns), *(Column(title=title, wide=True) for title in ("type", "room"))],
        [
            (
                short_time(letter.parked_at, now, zone),
                letter.endpoint,
                f"{letter.reason}, {count_of(letter.tries, 'attempt')}",
                letter.event_id,
                letter.type,
                f"{name_log(letter.room_id)} #{letter.sequence}",
            )
            for letter in found
        ],
        empty="there is no such dead letter",
    )
