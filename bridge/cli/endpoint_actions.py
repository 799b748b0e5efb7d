"""`bridge endpoints test`, `enable`, `disable` and `rotate`."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Annotated

import typer

from bridge.admin.endpoints import ShownEndpoint, show_endpoint
from bridge.admin.listing import document
from bridge.cli.database import open_database
from bridge.cli.endpoint_view import print_receiver_needs, print_secret
from bridge.cli.inputs import parse_span
from bridge.cli.options import ConfigOption, EndpointArgument, JsonOption
from bridge.cli.output import print_json, print_line, print_message
from bridge.cli.settings import load_settings
from bridge.compose import endpoint_context, open_webhook_client
from bridge.config import Settings
from bridge.config.words import did_you_mean, one_of, quoted
from bridge.db.encryption import SecretCipher
from bridge.delivery.endpoints import disable_endpoint, enable_endpoint, rotate_secret
from bridge.delivery.samples import SentSample, send_sample
from bridge.delivery.targets import Target, load_target
from bridge.errors import UsageError
from bridge.events.formats import Format
from bridge.events.samples import SAMPLED
from bridge.events.types import EventType
from bridge.events.wording import count_of, span
from bridge.rules.delivery import Outcome
from bridge.runtime import system_runtime

RESPONSE_SHOWN = 200
"""Characters of the response that are printed; `--json` has all that was kept."""


def send_test(
    name: EndpointArgument,
    wanted: Annotated[
        str, typer.Option("--type", metavar="TYPE", help="Event type to imitate.")
    ] = EventType.PEER_JOINED.value,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Send a signed sample and print the response. It has the header `bridge-test: true`; nothing is stored."""
    settings = load_settings(config)
    kind = _sample_type(wanted)
    with open_database(settings) as database:
        now, cipher = system_runtime().now(), SecretCipher(settings.encryption_keys)
        target = database.read_now(load_target, name, now=now, cipher=cipher)
    sent = asyncio.run(_send(settings, target, kind))
    if as_json:
        print_json(document(sent))
    else:
        _print_result(target, sent)
    if sent.outcome != Outcome.DELIVERED:
        raise typer.Exit(1)


def enable(name: EndpointArgument, config: ConfigOption = None) -> None:
    """Deliver to an endpoint again. Its whole backlog is due at once, in order."""
    settings = load_settings(config)
    now, cipher = system_runtime().now(), SecretCipher(settings.encryption_keys)
    with open_database(settings) as database:
        was_disabled = database.write_now(enable_endpoint, name, now)
        shown = database.read_now(show_endpoint, name, now=now, cipher=cipher)
    state = "enabled" if was_disabled else "active already"
    print_message(f"endpoint {quoted(shown.name)} is {state}: {count_of(shown.owed_events, 'owed event')} due now")


def disable(name: EndpointArgument, config: ConfigOption = None) -> None:
    """Stop delivering to an endpoint. Its backlog is kept until it is enabled."""
    settings = load_settings(config)
    with open_database(settings) as database:
        was_active = database.write_now(disable_endpoint, name)
    print_message(
        f"endpoint {quoted(name)} is disabled; its events wait for `bridge endpoints enable`"
        if was_active
        else f"endpoint {quoted(name)} was disabled already"
    )


def rotate(
    name: EndpointArgument,
    grace: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN",
            help='How long the old secret keeps signing beside the new one, like "24h"; default: rotation_grace.',
        ),
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Make a new secret and print it once. The old one keeps signing beside it for a while."""
    settings = load_settings(config)
    context = endpoint_context(settings, system_runtime())
    length = context.rotation_grace if grace is None else parse_span("--grace", grace)
    with open_database(settings) as database:
        fresh = database.write_now(rotate_secret, name, context, length)
        shown = database.read_now(show_endpoint, name, now=context.now, cipher=context.cipher)
    print_secret(shown, fresh, as_json=as_json)
    print_message(f"endpoint {quoted(shown.name)} has a new secret; {_old_secrets(shown, length)}")
    print_receiver_needs(shown)


def _old_secrets(endpoint: ShownEndpoint, grace: timedelta) -> str:
    if endpoint.style == Format.HUDDLE01:
        return "the old one does not sign any more, because style huddle01 has one signature only"
    if not grace:
        return "no old secret signs any more"
    older = len(endpoint.secrets) - 2
    others = f"; older secrets ({older}) keep their own grace" if older > 0 else ""
    return f"the old one keeps signing for {span(grace)}{others}"


def _sample_type(text: str) -> EventType:
    sampled = {known.value: known for known in SAMPLED}
    if text not in sampled:
        hint = did_you_mean(text, sampled) or f"; there is {one_of(sampled)}"
        raise UsageError(f"--type: there is no sample of {quoted(text)}{hint}")
    return sampled[text]


async def _send(settings: Settings, target: Target, kind: EventType) -> SentSample:
    runtime = system_runtime()
    async with open_webhook_client(settings, runtime) as client:
        return await send_sample(client, target, kind, runtime, settings.delivery.policy.timeout)


def _print_result(target: Target, sent: SentSample) -> None:
    response = f"status {sent.status}" if sent.status is not None else f"no response ({sent.cause})"
    length = span(timedelta(seconds=sent.duration_seconds))
    print_line(f"{sent.type} {sent.event_id} to {target.name}: {sent.outcome}, {response}, {length}")
    if sent.outcome != Outcome.DELIVERED and sent.detail:
        print_line(f"  {sent.detail}")
    if body := sent.response.strip():
        print_line(f"  response: {body[:RESPONSE_SHOWN]}")
