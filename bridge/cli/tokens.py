"""`bridge tokens add`, `list` and `remove`: tokens of the HTTP API that are not in the configuration."""

from __future__ import annotations

from typing import Annotated

import typer

from bridge.admin.tokens import TokenRecord, add_token, list_tokens, remove_token
from bridge.cli.database import open_database
from bridge.cli.listings import print_listing
from bridge.cli.options import DEFAULT_LIMIT, ConfigOption, JsonOption, LimitOption
from bridge.cli.output import Column, from_now, print_json, print_line, print_message
from bridge.cli.settings import load_settings, name_of
from bridge.compose import new_token
from bridge.config.checks import check_label
from bridge.config.words import quoted
from bridge.errors import ConflictError, UsageError
from bridge.rules.access import Scope, digest
from bridge.runtime import system_runtime

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the token.")]
ScopeOption = Annotated[
    list[Scope],
    typer.Option("--scope", metavar="SCOPE", help="read, hooks, write (with read and hooks), metrics or admin (all)."),
]


def add(name: NameArgument, scope: ScopeOption, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Make a token and print it once: only its hash is stored. `--scope` can be repeated."""
    settings, now = load_settings(config), system_runtime().now()
    try:
        check_label(name)
    except ValueError as problem:
        raise UsageError(f"NAME: {problem}") from None
    if any(table.name == name for table in settings.web.tokens):
        raise ConflictError(f"token {quoted(name)} is in {name_of(config)}: choose another name")
    token, scopes = new_token(), tuple(dict.fromkeys(scope))
    with open_database(settings, create=True) as database:
        record = TokenRecord(name=name, scopes=scopes, created_at=now)
        database.write_now(add_token, record, digest(token))
    if as_json:
        print_json({"name": name, "scopes": scopes, "token": token})
    else:
        print_line(token)
    print_message(f"token {quoted(name)} may {' and '.join(scopes)}; it is not shown again")


def list_made(limit: LimitOption = DEFAULT_LIMIT, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the tokens that were made with `bridge tokens add`."""
    settings, now = load_settings(config), system_runtime().now()
    with open_database(settings) as database:
        print_listing(
            lambda page: database.read_now(list_tokens, page),
            (Column(title="NAME"), Column(title="SCOPES"), Column(title="MADE")),
            lambda token: (token.name, ", ".join(token.scopes), from_now(token.created_at, now)),
            limit=limit,
            as_json=as_json,
            empty="there is no token: `bridge tokens add NAME --scope read` makes one",
        )
    if configured := [quoted(table.name) for table in settings.web.tokens]:
        print_message(f"also in {name_of(config)}: {', '.join(configured)}")


def remove(name: NameArgument, config: ConfigOption = None) -> None:
    """Delete a token. The next request with it is refused, by every process."""
    settings = load_settings(config)
    if any(table.name == name for table in settings.web.tokens):
        raise ConflictError(f"token {quoted(name)} is in {name_of(config)}: remove it there, and reload (SIGHUP)")
    with open_database(settings) as database:
        database.write_now(remove_token, name)
    print_message(f"token {quoted(name)} is removed")
