"""`bridge endpoints`: who is told, how they are doing, how much they are owed; one subscriber more, or one less."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from bridge.admin.endpoints import ShownEndpoint, list_endpoints, show_endpoint
from bridge.admin.listing import document
from bridge.cli.endpoint_view import print_endpoint, print_endpoints
from bridge.cli.options import (
    ConfigOption,
    JsonOption,
    load_settings,
    name_of,
    open_database,
    split_list,
)
from bridge.cli.output import (
    count_of,
    print_json,
    print_line,
    say,
)
from bridge.cli.validate import check_endpoint
from bridge.config import Settings
from bridge.config.words import quoted
from bridge.db.encryption import SecretCipher
from bridge.delivery.connect import UnresolvedNameError
from bridge.delivery.connect import check_endpoint as check_endpoint_url
from bridge.delivery.endpoints import add_endpoint, remove_endpoint
from bridge.errors import BridgeError, ForbiddenAddressError, UsageError
from bridge.service import append_all_snapshots, endpoint_context, system_runtime

DNS_PATIENCE = 5.0
"""Seconds that a name may take to be looked up before an endpoint is saved unseen."""

app = typer.Typer(no_args_is_help=True, help="Subscribers.", rich_markup_mode=None)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The endpoint's name or id.")]


@app.command("list")
def list_subscribed(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List every endpoint with its state and backlog."""
    settings = load_settings(config)
    with open_database(settings) as database:
        found = database.read_now(list_endpoints)
    if as_json:
        print_json([document(endpoint) for endpoint in found])
        return
    print_endpoints(found, system_runtime().now())


@app.command()
def show(
    name: NameArgument,
    reveal: Annotated[bool, typer.Option("--reveal", help="Print secrets and header values.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show one endpoint: settings, health, backlog. With `--reveal` also its secrets."""
    settings = load_settings(config)
    now, cipher = system_runtime().now(), SecretCipher(settings.encryption_keys)
    with open_database(settings) as database:
        shown = database.read_now(show_endpoint, name, now=now, cipher=cipher, reveal=reveal)
    if as_json:
        print_json(document(shown))
    else:
        print_endpoint(shown, settings, now)


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The handle used everywhere; unique.")],
    url: Annotated[str, typer.Argument(metavar="URL", help="Where deliveries are posted.")],
    events: Annotated[
        list[str] | None, typer.Option("--events", metavar="GLOBS", help='Wanted types, like "peer.*"; repeatable.')
    ] = None,
    rooms: Annotated[
        list[str] | None, typer.Option("--rooms", metavar="GLOBS", help="Wanted rooms, by id; repeatable.")
    ] = None,
    secret: Annotated[
        str | None,
        typer.Option(
            "--secret", metavar="SECRET", help="whsec_…; better env:NAME, for `ps` shows it. Default: a fresh one."
        ),
    ] = None,
    secret_file: Annotated[
        str | None, typer.Option("--secret-file", metavar="FILE", help="A file that holds the secret.")
    ] = None,
    style: Annotated[
        str | None, typer.Option("--style", metavar="STYLE", help="standard, flat, huddle01 or cloudevents.")
    ] = None,
    signature: Annotated[str | None, typer.Option("--signature", metavar="KIND", help="v1 or v1a.")] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", metavar="K=V", help="Sent along; V may be env:NAME; repeatable.")
    ] = None,
    rate_per_second: Annotated[
        float | None, typer.Option("--rate-per-second", metavar="N", help="At most so many; 0 = unlimited.")
    ] = None,
    max_concurrency: Annotated[
        int | None, typer.Option("--max-concurrency", metavar="N", help="At most so many at once.")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="SPAN", help='For an attempt, like "15s".')
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Add a subscriber. A secret that is made for it is printed, once."""
    settings = load_settings(config)
    headers, problems = _headers(header or ())
    spec = check_endpoint(
        {
            "name": name,
            "url": url,
            "events": None if events is None else list(split_list(events)),
            "rooms": None if rooms is None else list(split_list(rooms)),
            "secret": secret,
            "secret_file": secret_file,
            "style": style,
            "signature": signature,
            "headers": headers,
            "rate_per_second": rate_per_second,
            "max_concurrency": max_concurrency,
            "timeout": timeout,
        },
        settings.delivery.egress,
        problems,
    )
    _refuse_configured(settings, name, config)
    doubt = _doubt_about(settings, url)
    runtime = system_runtime()
    context = endpoint_context(settings, runtime)
    with open_database(settings, create=True) as database:
        made = database.write_now(add_endpoint, spec, context)
        append_all_snapshots(database, runtime)
        shown = database.read_now(show_endpoint, name, now=context.now, cipher=context.cipher)
    fresh = made if spec.secret is None else None
    print_secret(shown, fresh, as_json=as_json)
    _say_added(shown, is_fresh=fresh is not None)
    if doubt is not None:
        say(f"warning: {doubt}")


@app.command()
def remove(name: NameArgument, config: ConfigOption = None) -> None:
    """Forget a subscriber and its backlog. The log of events stays."""
    settings = load_settings(config)
    with open_database(settings) as database:
        known = [endpoint for endpoint in database.read_now(list_endpoints) if name in (endpoint.name, endpoint.id)]
        _refuse_configured(settings, known[0].name if known else name, config)
        database.write_now(remove_endpoint, name)
    owed = sum(endpoint.owed_events for endpoint in known)
    lost = f"; {count_of(owed, 'event')} that it was owed will not be sent" if owed else ""
    say(f"endpoint {quoted(name)} is removed{lost}")


def _headers(given: Sequence[str]) -> tuple[dict[str, str] | None, list[str]]:
    """The headers of `K=V` texts, and what is wrong with them; without V, which may be a secret."""
    headers: dict[str, str] = {}
    problems: list[str] = []
    for text in given:
        name, separator, value = text.partition("=")
        if not separator or not name.strip():
            problems.append("--header: must be written NAME=VALUE")
        elif name.lower() in {known.lower() for known in headers}:
            problems.append(f"--header {name}: is given twice")
        else:
            headers[name] = value
    return headers or None, problems


def _refuse_configured(settings: Settings, name: str, config: Path | None) -> None:
    if any(spec.name == name for spec in settings.endpoints):
        raise UsageError(
            f"endpoint {quoted(name)} stands in {name_of(config)}: change or remove it there, and reload the "
            "service (SIGHUP)"
        )


def _doubt_about(settings: Settings, url: str) -> str | None:
    """Look where deliveries would go, and say what is doubtful about it.

    A name that nobody knows yet may come to be; a forbidden address stays one.

    Raises:
        UsageError: a delivery would be blocked.
    """

    async def read_health() -> None:
        async with asyncio.timeout(DNS_PATIENCE):
            await check_endpoint_url(url, settings.delivery.egress)

    try:
        asyncio.run(read_health())
    except ForbiddenAddressError as error:
        raise UsageError(f"URL: {error}") from None
    except UnresolvedNameError as error:
        return f"{error}; deliveries wait until the name has an address"
    except TimeoutError:
        return "DNS does not response, so nobody has looked where the URL leads"
    return None


def _say_added(endpoint: ShownEndpoint, *, is_fresh: bool) -> None:
    say(f"endpoint {quoted(endpoint.name)} is added")
    if is_fresh:
        say("above is its secret; it is not shown again but by `bridge endpoints show --reveal`")
    say_what_to_hand_over(endpoint)


def print_secret(endpoint: ShownEndpoint, secret: str | None, *, as_json: bool) -> None:
    """Print a secret that was just made (None if it was given); as JSON, with what it belongs to.

    Raises:
        BridgeError: nobody can have read it, and doing it again would make another one.
    """
    public_key = endpoint.secrets[0].public_key
    try:
        if as_json:
            print_json({"id": endpoint.id, "name": endpoint.name, "secret": secret, "public_key": public_key})
        elif secret is not None:
            print_line(secret)
        sys.stdout.flush()
    except OSError as error:
        raise BridgeError(
            f"endpoint {quoted(endpoint.name)} has its new secret, but that could not be printed "
            f"({(error.strerror or str(error)).lower()}): see `bridge endpoints show {endpoint.name} --reveal`"
        ) from None


def say_what_to_hand_over(endpoint: ShownEndpoint) -> None:
    """Say what the receiver needs to check signatures: the secret itself only if both sides must have it."""
    public_key = endpoint.secrets[0].public_key
    if public_key is None:
        say("give the secret to the receiver")
    else:
        say(f"the secret stays here; give the receiver its public key: {public_key}")
