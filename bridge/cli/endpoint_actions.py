"""`bridge endpoints test`, `enable`, `disable` and `rotate`: what is done to a subscriber that exists."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Annotated

import typer

from bridge.admin.endpoints import ShownEndpoint, list_endpoints, show_endpoint
from bridge.cli.endpoints import NameArgument, app, print_secret, say_what_to_hand_over
from bridge.cli.options import ConfigOption, JsonOption, load_settings, open_database
from bridge.cli.output import count_of, print_json, print_line, say, span
from bridge.config import Settings
from bridge.config.durations import parse_duration
from bridge.config.words import did_you_mean, one_of, quoted
from bridge.db.encryption import SecretCipher
from bridge.delivery.claim import OwedEvent, Target, target_of
from bridge.delivery.endpoint_state import disable_endpoint, enable_endpoint, rotate_secret
from bridge.delivery.sender import deliver
from bridge.errors import UsageError
from bridge.events.bodies import RoomName, encode
from bridge.events.formats import Format
from bridge.events.samples import SAMPLED, draft_sample
from bridge.events.types import EventType
from bridge.rules.delivery import Outcome, PostResult
from bridge.service import endpoint_context, open_webhook_client, system_runtime

RESPONSE_SHOWN = 200


@app.command("test")
def send_test(
    name: NameArgument,
    wanted: Annotated[
        str, typer.Option("--type", metavar="TYPE", help="The type that the test imitates.")
    ] = EventType.PEER_JOINED.value,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Send a signed sample (header `bridge-test: true`) and print the response. Nothing is stored."""
    settings = load_settings(config)
    sample = _sampled(wanted)
    with open_database(settings) as database:
        now, cipher = system_runtime().now(), SecretCipher(settings.encryption_keys)
        target = database.read_now(target_of, name, now=now, cipher=cipher)
    event = _make_event(sample)
    result = asyncio.run(_send(settings, target, event))
    if as_json:
        print_json(
            {
                "event_id": event.public_id,
                "type": event.type,
                "outcome": result.outcome.value,
                "status": result.status,
                "cause": result.cause,
                "detail": result.detail,
                "duration_seconds": result.duration.total_seconds(),
                "response": result.response.decode("utf-8", "replace"),
            }
        )
    else:
        _print_outcome(target, event, result)
    if result.outcome is not Outcome.DELIVERED:
        raise typer.Exit(1)


@app.command()
def enable(name: NameArgument, config: ConfigOption = None) -> None:
    """Deliver to a disabled endpoint again: its backlog is due at once, in order."""
    settings = load_settings(config)
    with open_database(settings) as database:
        was_disabled = database.write_now(enable_endpoint, name, system_runtime().now())
        shown = next(one for one in database.read_now(list_endpoints) if name in (one.name, one.id))
    if not was_disabled:
        say(f"endpoint {quoted(name)} was not disabled; what it is owed is due now")
    else:
        say(f"endpoint {quoted(name)} is enabled: {count_of(shown.owed_events, 'event')} owed, due now")


@app.command()
def disable(name: NameArgument, config: ConfigOption = None) -> None:
    """Deliver nothing to an endpoint until it is enabled; its backlog is kept."""
    settings = load_settings(config)
    with open_database(settings) as database:
        was_active = database.write_now(disable_endpoint, name)
    say(
        f"endpoint {quoted(name)} is disabled: what it misses waits for `bridge endpoints enable`"
        if was_active
        else f"endpoint {quoted(name)} was disabled already"
    )


@app.command()
def rotate(
    name: NameArgument,
    grace: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN",
            help='How long the old secret signs beside the new one, like "24h"; default: [delivery] rotation_grace.',
        ),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Make a new secret and print it, once; for a while the old one signs beside it."""
    settings = load_settings(config)
    given = None if grace is None else _grace(grace)
    context = endpoint_context(settings, system_runtime())
    with open_database(settings) as database:
        fresh = database.write_now(rotate_secret, name, context, given)
        shown = database.read_now(show_endpoint, name, now=context.now, cipher=context.cipher)
    print_secret(shown, fresh, as_json=as_json)
    say(
        f"endpoint {quoted(name)} has a new secret; {_old_one(shown, context.rotation_grace if given is None else given)}"
    )
    say_what_to_hand_over(shown)


def _old_one(endpoint: ShownEndpoint, grace: timedelta) -> str:
    if endpoint.style == Format.HUDDLE01:
        return "style huddle01 has room for one signature only, so the old one is worth nothing from now on"
    if not grace:
        return "no old one signs any more"
    older = len(endpoint.secrets) - 2
    theirs = f"; so do {older} from before it, until their own grace is over" if older > 0 else ""
    return f"the old one signs beside it for {span(grace)}{theirs}"


def _grace(text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as problem:
        raise UsageError(f"--grace {quoted(text)}: {problem}") from None


def _sampled(text: str) -> EventType:
    sampled = {wanted.value: wanted for wanted in SAMPLED}
    if text not in sampled:
        known = did_you_mean(text, sampled) or f"; there is {one_of(sampled)}"
        raise UsageError(f"--type: there is no sample of {quoted(text)}{known}")
    return sampled[text]


def _make_event(wanted: EventType) -> OwedEvent:
    """A sample outside every log: its sequence is 0."""
    runtime = system_runtime()
    event_id = runtime.new_id("evt")
    about_room = wanted.value.startswith(("peer.", "room."))
    room = RoomName(source="main", room_id="test-room", room_name="Test room") if about_room else RoomName()
    body = encode(draft_sample(wanted, runtime.now(), runtime.new_id), room, event_id=event_id, sequence=0)
    return OwedEvent(key=0, public_id=event_id, sequence=0, type=wanted.value, body=body, passes_to=0)


async def _send(settings: Settings, target: Target, event: OwedEvent) -> PostResult:
    runtime = system_runtime()
    limit = target.timeout or settings.delivery.policy.timeout
    async with open_webhook_client(settings, runtime) as client:
        return await deliver(client, target, event, at=runtime.now(), limit=limit, marks={"bridge-test": "true"})


def _print_outcome(target: Target, event: OwedEvent, result: PostResult) -> None:
    milliseconds = result.duration / timedelta(milliseconds=1)
    answered = f"answered {result.status}" if result.status is not None else f"no response ({result.cause})"
    print_line(
        f"{event.type} {event.public_id} to {target.name}: {result.outcome.value}, {answered}, {milliseconds:.0f} ms"
    )
    if result.outcome is not Outcome.DELIVERED and result.detail:
        print_line(f"  {result.detail}")
    response = result.response.decode("utf-8", "replace").strip()
    if response:
        print_line(f"  it said: {response[:RESPONSE_SHOWN]}")
