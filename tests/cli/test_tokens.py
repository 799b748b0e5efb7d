"""`bridge tokens`: printed once, stored as a hash, listed and removed."""

from __future__ import annotations

from sqlalchemy import select

from bridge.admin.tokens import find_token
from bridge.db.tables import tokens
from bridge.rules.access import digest
from tests.cli.conftest import Cli


def test_a_token_is_printed_once_and_only_its_digest_is_stored(cli: Cli) -> None:
    token = cli("tokens", "add", "zapier", "--scope", "hooks", "--scope", "read", "--scope", "hooks").out.strip()
    other = cli("tokens", "add", "ops", "--scope", "write", "--json").json()

    database = cli.database()
    stored = database.read_now(lambda connection: connection.execute(select(tokens)).all())
    found = database.read_now(find_token, digest(token))
    database.close()
    assert found is not None
    assert (found.name, found.scopes) == ("zapier", ("hooks", "read"))
    assert not any(secret in repr(stored) for secret in (token, other["token"]))
    assert (other["name"], other["scopes"], other["token"] != token) == ("ops", ["write"], True)
    listed = cli("tokens", "list", "--json").json()
    assert [(one["name"], one["scopes"]) for one in listed] == [("ops", ["write"]), ("zapier", ["hooks", "read"])]
    assert token not in cli("tokens", "list").out


def test_a_name_is_given_once(cli: Cli) -> None:
    cli("tokens", "add", "ops", "--scope", "read")
    assert "already" in cli.refuses("tokens", "add", "ops", "--scope", "read", code=2)

    cli.configure(web={"tokens": [{"name": "file", "token": "t0ken", "scopes": ["read"]}]})
    assert "choose another name" in cli.refuses("tokens", "add", "file", "--scope", "read", code=2)
    assert "remove it there" in cli.refuses("tokens", "remove", "file", code=2)
    assert '"file"' in cli("tokens", "list").err


def test_a_removed_token_is_gone(cli: Cli) -> None:
    cli("tokens", "add", "ops", "--scope", "read")
    cli("tokens", "remove", "ops")

    assert cli("tokens", "list", "--json").json() == []
    assert "no token is named 'ops'" in cli.refuses("tokens", "remove", "ops", code=1)


def test_scopes_are_named_and_exist(cli: Cli) -> None:
    assert "--scope" in cli.refuses("tokens", "add", "ops", code=2)
    assert "--scope" in cli.refuses("tokens", "add", "ops", "--scope", "reed", code=2)
    assert "control characters" in cli.refuses("tokens", "add", "o\x1bps", "--scope", "read", code=2)
