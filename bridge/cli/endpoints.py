"""`bridge endpoints list` and `show`."""

from __future__ import annotations

from typing import Annotated

import typer

from bridge.admin.endpoints import EndpointState, list_endpoints, show_endpoint
from bridge.admin.listing import document
from bridge.cli.database import open_database
from bridge.cli.endpoint_view import (
    COLUMNS,
    endpoint_cells,
    print_endpoint,
)
from bridge.cli.listings import print_listing
from bridge.cli.options import DEFAULT_LIMIT, ConfigOption, EndpointArgument, JsonOption, LimitOption
from bridge.cli.output import print_json
from bridge.cli.settings import load_settings
from bridge.db.encryption import SecretCipher
from bridge.runtime import system_runtime


def list_subscribed(
    state: Annotated[
        EndpointState | None, typer.Option(metavar="STATE", help="Only endpoints that are active or disabled.")
    ] = None,
    limit: LimitOption = DEFAULT_LIMIT,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List endpoints with their state and backlog."""
    settings, now = load_settings(config), system_runtime().now()
    with open_database(settings) as database:
        print_listing(
            lambda page: database.read_now(list_endpoints, page, state=state),
            COLUMNS,
            lambda endpoint: endpoint_cells(endpoint, now),
            limit=limit,
            as_json=as_json,
            empty="there is no such endpoint"
            if state
            else "there is no endpoint: list endpoints in the configuration and start the service, "
            "or use `bridge endpoints add`",
        )


def show(
    name: EndpointArgument,
    reveal: Annotated[bool, typer.Option("--reveal", help="Print secrets and header values.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show one endpoint with its settings, health and backlog. `--reveal` adds its secrets."""
    settings = load_settings(config)
    now, cipher = system_runtime().now(), SecretCipher(settings.encryption_keys)
    with open_database(settings) as database:
        shown = database.read_now(show_endpoint, name, now=now, cipher=cipher, reveal=reveal)
    if as_json:
        print_json(document(shown))
    else:
        print_endpoint(shown, settings, now)
