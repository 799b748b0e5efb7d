"""Secrets: the three ways to give one, never two at once, and no value in any message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bridge.config import load
from bridge.errors import ConfigurationError
from tests.config.conftest import LoadText, ProblemsIn

WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
HIDDEN = "s3cr3t"
EVERYWHERE = """\
[database]
url{0}
[sources.main]
api_key{1}
[[endpoints]]
name = "crm"
url = "https://crm.example.com/"
secret{2}
"""
VALUES = ("sqlite:///other.db", "the-key", WHSEC)


def found_in(load_text: LoadText, text: str, env: dict[str, str]) -> tuple[str | None, ...]:
    settings = load_text(text, env)
    return settings.database.url, settings.sources[0].api_key, settings.endpoints[0].secret


def test_a_secret_may_be_in_the_configuration_file(load_text: LoadText) -> None:
    text = EVERYWHERE.format(*(f' = "{value}"' for value in VALUES))
    assert found_in(load_text, text, {}) == VALUES


def test_a_secret_may_be_in_a_variable(load_text: LoadText) -> None:
    text = EVERYWHERE.format(*(f' = "env:SECRET_{index}"' for index in range(3)))
    assert found_in(load_text, text, {f"SECRET_{index}": value for index, value in enumerate(VALUES)}) == VALUES


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_secret_may_be_in_a_file_of_its_own(load_text: LoadText, tmp_path: Path, ending: str) -> None:
    for index, value in enumerate(VALUES):
        (tmp_path / f"secret-{index}").write_text(value + ending, newline="")
    text = EVERYWHERE.format(*(f"_file = {json.dumps(str(tmp_path / f'secret-{index}'))}" for index in range(3)))
    assert found_in(load_text, text, {}) == VALUES


def test_a_file_is_found_from_the_current_directory(
    load_text: LoadText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("from-the-file\n")
    monkeypatch.chdir(tmp_path)
    assert load_text('[sources.main]\napi_key_file = "key"\n').sources[0].api_key == "from-the-file"


def test_the_content_of_a_file_is_never_a_reference(load_text: LoadText, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("env:HOME")
    text = f"[sources.main]\napi_key_file = {json.dumps(str(tmp_path / 'key'))}\n"
    assert load_text(text, {"HOME": "x"}).sources[0].api_key == "env:HOME"


def test_header_values_may_be_in_variables(load_text: LoadText) -> None:
    endpoint = '[[endpoints]]\nname = "a"\nurl = "https://a.example.com/"\n'
    headers = 'headers = { X-Auth = "env:X", X-Kind = "plain", X-Kind_file = "not a file" }\n'
    found = load_text(endpoint + headers, {"X": "Bearer s3cr3t"}).endpoints[0].headers
    assert found == {"X-Auth": "Bearer s3cr3t", "X-Kind": "plain", "X-Kind_file": "not a file"}


def test_two_at_once_is_an_error(problems_in: ProblemsIn) -> None:
    (problem,) = problems_in('[sources.main]\napi_key = "k"\napi_key_file = "f"\n')
    assert str(problem) == "line 2: sources.main.api_key: is given twice, as api_key and as api_key_file: keep one"


def test_two_at_once_in_the_environment_is_an_error(problems_in: ProblemsIn) -> None:
    env = {"BRIDGE__SOURCES__MAIN__API_KEY": "k", "BRIDGE__SOURCES__MAIN__API_KEY_FILE": "f"}
    (problem,) = problems_in("", env)
    assert problem.message.startswith("is given twice, as api_key and as api_key_file: keep one")


def test_a_higher_layer_replaces_either_spelling(load_text: LoadText, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-the-file")
    file = str(tmp_path / "key")
    in_env = load_text('[sources.main]\napi_key = "k"\n', {"BRIDGE__SOURCES__MAIN__API_KEY_FILE": file})
    in_flag = load_text('[sources.main]\napi_key_file = "gone"\n', overrides={"sources.main.api_key": "flag"})
    assert (in_env.sources[0].api_key, in_flag.sources[0].api_key) == ("from-the-file", "flag")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ('api_key = "env:NOT_SET"', "environment variable NOT_SET is not set: export it before starting the bridge"),
        ('api_key = "env:EMPTY"', "environment variable EMPTY is empty: give it a value"),
        ('api_key = "env:"', '"env:" must be followed by the name of an environment variable'),
        ('api_key = "env:s3cr3t-not-a-name"', '"env:" must be followed by the name of an environment variable'),
        ('api_key = ""', "is empty"),
        ("api_key = 5", "must be a text in quotes"),
        ("", 'is missing: write api_key = "…", api_key = "env:NAME" or api_key_file = "…"'),
    ],
)
def test_a_secret_that_cannot_be_found_is_explained(problems_in: ProblemsIn, written: str, message: str) -> None:
    (problem,) = problems_in(f"[sources.main]\n{written}\n", {"EMPTY": ""})
    assert (problem.key, problem.message) == ("sources.main.api_key", message)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("api_key_file = 5", "must be the name of a file, in quotes"),
        ('api_key_file = "no\\u0000name"', 'cannot read the file "no\\x00name": not a file name'),
        ('api_key_file = "/no/such/file"', 'cannot read the file "/no/such/file": No such file or directory'),
        ('api_key_file = "/"', 'cannot read the file "/": Is a directory'),
    ],
)
def test_a_secret_file_that_cannot_be_read_is_explained(problems_in: ProblemsIn, written: str, message: str) -> None:
    (problem,) = problems_in(f"[sources.main]\n{written}\n")
    assert (problem.key, problem.message, problem.line) == ("sources.main.api_key_file", message, 2)


@pytest.mark.parametrize(("content", "reason"), [(b"\xff\xfe", "is not UTF-8 text"), (b"\n", "is empty")])
def test_a_secret_file_without_a_secret_is_explained(
    problems_in: ProblemsIn, tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "key").write_bytes(content)
    (problem,) = problems_in(f"[sources.main]\napi_key_file = {json.dumps(str(tmp_path / 'key'))}\n")
    assert problem.message == f'the file "{tmp_path / "key"}" {reason}'


def test_no_message_shows_a_secret(problems_in: ProblemsIn) -> None:
    text = """\
[database]
url = "mysql://user:s3cr3t@host/name"
[sources.main]
api_key = "s3cr3t two words"
[[endpoints]]
name = "a"
url = "https://user:s3cr3t@a.example.com/"
secret = "whsec_s3cr3t"
headers = { X-Auth = "s3cr3t\\n" }
[[endpoints]]
name = "b"
url = "//s3cr3t"
secret = "s3cr3t"
[[endpoints]]
name = "c"
url = "https://[s3cr3t]/"
secret = "env:LONG"
[web]
tokens = [{ name = "x", token = "s3cr3t two words", scopes = [] }]
"""
    env = {
        "LONG": "whsk_" + HIDDEN * 40,
        "BRIDGE__SOURCES__OTHER": '{"api_key": "s3cr3t',
        "BRIDGE__SORCES__OTHER__API_KEY": HIDDEN,
        "BRIDGE_ENCRYPTION_KEY": f"{HIDDEN},,",
    }
    problems = problems_in(text, env, {"sources.third": {"api_key": [HIDDEN]}, "web.token": HIDDEN})
    assert {problem.key for problem in problems} == {
        "database.url",
        "sources.main.api_key",
        "sources.other",
        "sources.third.api_key",
        "sorces",
        "BRIDGE_ENCRYPTION_KEY",
        "endpoints[0].url",
        "endpoints[0].secret",
        "endpoints[0].headers.X-Auth",
        "endpoints[1].url",
        "endpoints[1].secret",
        "endpoints[2].url",
        "endpoints[2].secret",
        "web.token",
        "web.tokens[0].token",
        "web.tokens[0].scopes",
    }
    assert HIDDEN not in str(ConfigurationError("bridge.toml", problems))
    assert HIDDEN not in repr(problems)


def test_no_repr_shows_a_secret(load_text: LoadText) -> None:
    secrets = ("postgresql://user:s3cr3t@host:5432/name?sslpassword=s3cr3t", HIDDEN, f"whsec_{HIDDEN * 10}")
    text = EVERYWHERE.format(*(f' = "{value}"' for value in secrets)) + 'headers = { X = "s3cr3t" }\n'
    settings = load_text(text, {"BRIDGE_ENCRYPTION_KEY": HIDDEN})
    assert HIDDEN not in repr(settings)
    assert HIDDEN not in repr((settings.sources, settings.endpoints))
    assert settings.database.shown_url == "postgresql://user:***@host:5432/name?sslpassword=***"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///bridge.db", "sqlite:///bridge.db"),
        ("postgresql://host/name", "postgresql://host/name"),
        ("postgresql://user@host/name", "postgresql://user@host/name"),
        ("postgres://user:p%40ss:w%2Frd@[::1]:5432/name", "postgres://user:***@[::1]:5432/name"),
        ("postgresql://postgres:@/name?host=/tmp/x", "postgresql://postgres:@/name?host=/tmp/x"),
    ],
)
def test_a_database_is_shown_without_its_password(url: str, shown: str) -> None:
    assert load(None, {"BRIDGE__DATABASE__URL": url}).database.shown_url == shown


@pytest.mark.parametrize(
    ("written", "keys"),
    [("new", ("new",)), ("new,old, older", ("new", "old", "older"))],
)
def test_the_first_encryption_key_is_the_current_one(tmp_path: Path, written: str, keys: tuple[str, ...]) -> None:
    (tmp_path / "keys").write_text(written + "\n")
    assert load(None, {"BRIDGE_ENCRYPTION_KEY": written}).encryption_keys == keys
    assert load(None, {"BRIDGE_ENCRYPTION_KEY_FILE": str(tmp_path / "keys")}).encryption_keys == keys


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"BRIDGE_ENCRYPTION_KEY": ""}, "has an empty key: separate keys with single commas"),
        ({"BRIDGE_ENCRYPTION_KEY": "a,,b"}, "has an empty key: separate keys with single commas"),
        ({"BRIDGE_ENCRYPTION_KEY_FILE": "/no/such"}, 'cannot read the file "/no/such": No such file'),
        ({"BRIDGE_ENCRYPTION_KEY": "a", "BRIDGE_ENCRYPTION_KEY_FILE": "b"}, "is given twice"),
    ],
)
def test_an_encryption_key_that_cannot_be_found_is_explained(env: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"BRIDGE_ENCRYPTION_KEY: {message}"):
        load(None, env)
