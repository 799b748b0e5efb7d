"""`bridge endpoints add` and `remove`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from bridge.admin.endpoints import show_endpoint
from bridge.cli.database import open_database
from bridge.cli.endpoint_view import (
    print_receiver_needs,
    print_secret,
)
from bridge.cli.inputs import split_list
from bridge.cli.options import ConfigOption, EndpointArgument, JsonOption
from bridge.cli.output import print_message
from bridge.cli.settings import load_settings, name_of
from bridge.cli.validate import check_endpoint
from bridge.compose import append_all_snapshots, endpoint_context
from bridge.config import Settings
from bridge.config.words import quoted
from bridge.db.encryption import SecretCipher
from bridge.delivery.connect import check_new_endpoint
from bridge.delivery.endpoints import add_endpoint, remove_endpoint
from bridge.errors import ForbiddenAddressError, UsageError
from bridge.events.wording import count_of
from bridge.runtime import system_runtime


def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Unique name of the endpoint.")],
    url: Annotated[str, typer.Argument(metavar="URL", help="Address to which deliveries are posted.")],
    events: Annotated[
        list[str] | None, typer.Option(metavar="GLOBS", help='Event types to deliver, like "peer.*"; repeatable.')
    ] = None,
    rooms: Annotated[
        list[str] | None, typer.Option(metavar="GLOBS", help="Ids of the rooms to deliver; repeatable.")
    ] = None,
    secret: Annotated[
        str | None,
        typer.Option(metavar="SECRET", help="whsec_… or env:NAME (arguments show in `ps`); default: a new one."),
    ] = None,
    secret_file: Annotated[str | None, typer.Option(metavar="FILE", help="File with the secret.")] = None,
    style: Annotated[
        str | None, typer.Option(metavar="STYLE", help="Body: standard, flat, huddle01 or cloudevents.")
    ] = None,
    signature: Annotated[str | None, typer.Option(metavar="SCHEME", help="Signature scheme: v1 or v1a.")] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Request header; the value may be env:NAME; repeatable."),
    ] = None,
    rate_per_second: Annotated[
        float | None, typer.Option(metavar="N", help="Deliveries per second; 0 = unlimited.")
    ] = None,
    max_concurrency: Annotated[int | None, typer.Option(metavar="N", help="Concurrent deliveries.")] = None,
    timeout: Annotated[str | None, typer.Option(metavar="SPAN", help='Time-out of an attempt, like "15s".')] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Add an endpoint. A secret that is made for it is printed once."""
    table = {
        "name": name,
        "url": url,
        "events": None if events is None else list(split_list(events)),
        "rooms": None if rooms is None else list(split_list(rooms)),
        "secret": secret,
        "secret_file": secret_file,
        "style": style,
        "signature": signature,
        "rate_per_second": rate_per_second,
        "max_concurrency": max_concurrency,
        "timeout": timeout,
    }
    _add(table, header or (), as_json=as_json, config=config)


def _add(table: Mapping[str, object], header_options: Sequence[str], *, as_json: bool, config: Path | None) -> None:
    settings = load_settings(config)
    headers, problems = _parse_headers(header_options)
    spec = check_endpoint({**table, "headers": headers}, settings.delivery.egress, problems)
    _refuse_configured(settings, spec.name, config)
    warning = _check_address(settings, spec.url)
    runtime = system_runtime()
    context = endpoint_context(settings, runtime)
    with open_database(settings, create=True) as database:
        made = database.write_now(add_endpoint, spec, context)
        append_all_snapshots(database, runtime)
        shown = database.read_now(show_endpoint, spec.name, now=context.now, cipher=context.cipher)
    print_secret(shown, made if spec.secret is None else None, as_json=as_json)
    print_message(f"endpoint {quoted(spec.name)} is added")
    if spec.secret is None:
        print_message("its secret is printed above; `bridge endpoints show --reveal` prints it again")
    print_receiver_needs(shown)
    if warning is not None:
        print_message(f"warning: {warning}")


def remove(name: EndpointArgument, config: ConfigOption = None) -> None:
    """Remove an endpoint with its backlog, attempts and dead letters. The log of events stays."""
    settings = load_settings(config)
    now, cipher = system_runtime().now(), SecretCipher(settings.encryption_keys)
    _refuse_configured(settings, name, config)
    with open_database(settings) as database:
        shown = database.read_now(show_endpoint, name, now=now, cipher=cipher)
        _refuse_configured(settings, shown.name, config)
        database.write_now(remove_endpoint, name)
    owed = f"; {count_of(shown.owed_events, 'owed event')} will not be sent" if shown.owed_events else ""
    print_message(f"endpoint {quoted(shown.name)} is removed{owed}")


def _parse_headers(given: Sequence[str]) -> tuple[dict[str, str] | None, list[str]]:
    """Return the headers of NAME=VALUE texts, and the problems; these do not repeat a value, which may be a secret."""
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
            f"endpoint {quoted(name)} is in {name_of(config)}: change or remove it there, and reload the service "
            "(SIGHUP)"
        )


def _check_address(settings: Settings, url: str) -> str | None:
    """Look up the address of a new endpoint; return a warning if it is not known now.

    Raises:
        UsageError: deliveries to it would be blocked.
    """
    try:
        return asyncio.run(check_new_endpoint(url, settings.delivery.egress))
    except ForbiddenAddressError as error:
        raise UsageError(f"URL: {error}") from None
