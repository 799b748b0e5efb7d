"""Mistakes in single values: the key, the line, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.config import load
from bridge.config.keys import every_key
from bridge.config.models import Settings
from bridge.errors import ConfigurationError
from tests.config.conftest import LoadText, ProblemsIn

SOURCE = '[sources.main]\napi_key = "k"\n'
LIVEKIT = '[sources.meet]\nkind = "livekit"\napi_key = "k"\napi_secret = "s"\n'
MEET = LIVEKIT + 'base_url = "https://a"\n'
ROOM = SOURCE + '[[rooms]]\nid = "r"\n'
ENDPOINT = '[[endpoints]]\nname = "crm"\nurl = "https://crm.example.com/"\n'
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
WHSK = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
SCHEDULE = 'must be a duration, like "250ms", "10s", "5m", "2h", "5d" or a number of seconds'
BAD_SIZE = 'must be a size, like "500KiB", "16MiB" or a number of bytes'
BAD_RATE = "must be 0 (unlimited) or from 0.0003 (about once an hour) to 100,000"
BAD_DATABASE_URL = "is not a URL: check host and port, and percent-encode special characters"
BAD_KEY = "contains a character that a key cannot have: a space, a line break or one outside ASCII"
BAD_LISTEN = 'must be an address and a port, like "127.0.0.1:8080", or "" for off'
BAD_NETWORK = 'is not a network: write a CIDR, like "10.0.0.0/8" or "127.0.0.0/8"'
BAD_DATABASE = "must be sqlite:///file.db (relative to the current directory) or postgresql://user@host/name"
BAD_SOURCE_NAME = "a source's name is 1 to 64 letters, digits, _ and -"

TOKEN = '[[web.tokens]]\nname = "ops"\ntoken = "t"\n'
SECTIONS = ("bridge", "database", "sources", "polling", "rooms", "endpoints", "delivery", "web", "retention", "log")
SOME_KEYS = (*SECTIONS, *sorted({part.rstrip("[]") for key in every_key(Settings) for part in key.split(".")}))
SOME_VARIABLES = tuple(
    "BRIDGE__" + key.upper().replace("[]", "__0").replace(".", "__") for key in (*SECTIONS, *every_key(Settings))
)


@pytest.mark.parametrize(
    ("before", "line", "key", "message"),
    [
        ("[bridge]\n", "name = 5", "bridge.name", "must be a text in quotes"),
        ("[bridge]\n", 'name = ""', "bridge.name", "must not be empty"),
        ("[bridge]\n", 'name = " x"', "bridge.name", "must not begin or end with a space"),
        ("[bridge]\n", 'name = "a\\u001bb"', "bridge.name", "must not contain control characters"),
        ("[bridge]\n", 'timezone = "../../etc/passwd"', "bridge.timezone", "is not a time zone: use an IANA name"),
        ("[bridge]\n", 'timezone = "Europe/Berln"', "bridge.timezone", 'did you mean "Europe/Berlin"?'),
        ("[bridge]\n", "shutdown_grace = -1", "bridge.shutdown_grace", "must not be negative"),
        ("[database]\n", 'url = "mysql://host/name"', "database.url", BAD_DATABASE),
        ("[database]\n", 'url = "sqlite:///:memory:"', "database.url", "must name a file: a database in memory"),
        ("[database]\n", 'url = "sqlite:///"', "database.url", "must name a file: a database in memory would be empty"),
        ("[database]\n", 'url = "postgresql://host:x/name"', "database.url", BAD_DATABASE_URL),
        ("[database]\n", 'url = "postgresql://host/name?prepare_threshold=5"', "database.url", "can only be 0"),
        ("[database]\n", 'url = "postgresql://u:p@ss@host/name"', "database.url", "must be percent-encoded: %40 for @"),
        ("[database]\n", 'url = "sqlite:///x.db?mode=ro"', "database.url", "must be only the name of a file"),
        ("[database]\n", 'url = "sqlite:///a\\u0000b"', "database.url", "contains a control character"),
        (SOURCE, "max_concurrency = 9223372036854775808", "sources.main.max_concurrency", "must be at most 1,000,000"),
        ("", '[endpoints]\nname = "crm"', "endpoints", "write each as [[endpoints]], with two brackets"),
        ("[sources.main]\n", 'api_key = "two words"', "sources.main.api_key", BAD_KEY),
        (SOURCE, 'kind = "zoom"', "sources.main.kind", 'must be "huddle01" or "livekit"'),
        (SOURCE, 'kind = "livekitt"', "sources.main.kind", 'did you mean "livekit"?'),
        (SOURCE, 'api_secret = "s"', "sources.main.api_secret", 'has no meaning with kind = "huddle01": leave it out'),
        (SOURCE, "ignore_hidden = true", "sources.main.ignore_hidden", 'has no meaning with kind = "huddle01"'),
        (LIVEKIT, 'base_url = "wss://a/?x"', "sources.meet.base_url", "must end with the path: no ? and no #"),
        (LIVEKIT, 'base_url = ""', "sources.meet.base_url", 'is missing: write base_url = "https://…"'),
        (MEET, 'ignore_kinds = ["EGRESS"]', "sources.meet.ignore_kinds[0]", 'must be in lower case: "egress"'),
        (MEET, 'ignore_kinds = "egress"', "sources.meet.ignore_kinds", "must be a list"),
        (MEET, "ignore_hiden = true", "sources.meet.ignore_hiden", 'did you mean "ignore_hidden"?'),
        (SOURCE, 'base_url = "api.huddle01.com"', "sources.main.base_url", "must begin with https:// or http://"),
        (SOURCE, 'base_url = "https://a/?x=1"', "sources.main.base_url", "must end with the path: no ? and no #"),
        (SOURCE, "timeout = 0", "sources.main.timeout", "must be longer than zero"),
        (SOURCE, 'max_response_bytes = "16MB"', "sources.main.max_response_bytes", BAD_SIZE),
        (SOURCE, "max_concurrency = 0", "sources.main.max_concurrency", "must be at least 1"),
        (SOURCE, "requests_per_second = -1", "sources.main.requests_per_second", BAD_RATE),
        (SOURCE, "requests_per_second = inf", "sources.main.requests_per_second", "must be a finite number"),
        (SOURCE, 'requests_per_second = "5"', "sources.main.requests_per_second", "must be a number"),
        ("", '[sources."my key"]\napi_key = "k"', 'sources."my key"', BAD_SOURCE_NAME),
        ("", '["\\u001b[31m"]', '"\\x1b[31m"', "unknown key; the keys are bridge, database,"),
        ("[polling]\n", 'interval = "10 sec"', "polling.interval", SCHEDULE),
        ("[polling]\n", "leave_after_missed = 0", "polling.leave_after_missed", "must be at least 1"),
        ("[polling]\n", 'first_snapshot = "silence"', "polling.first_snapshot", 'must be "emit" or "baseline"'),
        ("", "polling = 5", "polling", "must be a table"),
        (SOURCE, '[rooms]\nid = "a"', "rooms", "must be a list"),
        (SOURCE, 'rooms = "a"', "sources.main.rooms", "unknown key"),
        (SOURCE, "[[rooms]]", "rooms[0].id", "is missing"),
        (SOURCE + "[[rooms]]\n", 'id = ""', "rooms[0].id", "must not be empty"),
        (SOURCE + "[[rooms]]\n", 'id = ".."', "rooms[0].id", "cannot be the id of a room"),
        (ROOM, 'interval = "0s"', "rooms[0].interval", "must be longer than zero"),
        (
            '[[endpoints]]\nname = "crm"\n',
            'url = "ftp://crm/"',
            "endpoints[0].url",
            "must begin with https:// or http://",
        ),
        (ENDPOINT, 'secret = "x"', "endpoints[0].secret", "must start with whsec_"),
        (ENDPOINT, 'style = "standrd"', "endpoints[0].style", 'or "cloudevents"; did you mean "standard"?'),
        (ENDPOINT, 'signature = "v2"', "endpoints[0].signature", 'must be "v1" or "v1a"'),
        (ENDPOINT, f'secret = "{WHSK}"', "endpoints[0].secret", 'this one is for "v1a"'),
        (ENDPOINT + 'signature = "v1a"\n', f'secret = "{WHSEC}"', "endpoints[0].secret", "must start with whsk_"),
        (ENDPOINT, "events = []", "endpoints[0].events", "must not be an empty list"),
        (ENDPOINT, 'events = ["peer.join"]', "endpoints[0].events[0]", 'no event type; did you mean "peer.joined"?'),
        (ENDPOINT, 'events = ["*", "peers.*"]', "endpoints[0].events[1]", 'no event type; did you mean "peer.*"?'),
        (ENDPOINT, 'events = ["audit.checkpoints"]', "endpoints[0].events[0]", 'did you mean "audit.checkpoint"?'),
        (SOURCE, "discover = 1", "sources.main.discover", "must be true or false"),
        (SOURCE, "discover_rooms = []", "sources.main.discover_rooms", "must not be an empty list"),
        (SOURCE, 'discover_forget = "0s"', "sources.main.discover_forget", "must be longer than zero"),
        ("[web]\n", 'public_url = "bridge.example.com"', "web.public_url", "must begin with https:// or http://"),
        ("[web]\n", 'hosts = ["https://b.example.com"]', "web.hosts[0]", "must be the name of a host alone"),
        ("[web]\n", 'cors_origins = ["*"]', "web.cors_origins[0]", "must be an origin: scheme, host and port alone"),
        ("[web]\n", 'trusted_proxies = ["proxy"]', "web.trusted_proxies[0]", "is not a network"),
        (TOKEN, 'scopes = ["reed"]', "web.tokens[0].scopes[0]", 'did you mean "read"?'),
        (TOKEN, "scopes = []", "web.tokens[0].scopes", "must not be an empty list"),
        (ENDPOINT, "rooms = []", "endpoints[0].rooms", "must not be an empty list"),
        (ENDPOINT, 'headers = { Host = "x" }', "endpoints[0].headers.Host", "is set by the bridge itself"),
        (ENDPOINT, 'headers = { X = "a\\r\\nY: b" }', "endpoints[0].headers.X", "must be printable ASCII without line"),
        (
            ENDPOINT,
            'headers = { X-A = "1", x-a = "2" }',
            "endpoints[0].headers.x-a",
            "is the same header as endpoints[0].headers.X-A",
        ),
        (ENDPOINT, "rate_per_second = -0.1", "endpoints[0].rate_per_second", BAD_RATE),
        ("[delivery]\n", "retry_schedule = []", "delivery.retry_schedule", "must not be an empty list"),
        ("[delivery]\n", 'retry_schedule = ["1s", "x"]', "delivery.retry_schedule[1]", SCHEDULE),
        ("[delivery]\n", "refused_schedule = [0]", "delivery.refused_schedule[0]", "must be longer than zero"),
        ("[delivery]\n", 'allow_private_networks = ["lan"]', "delivery.allow_private_networks[0]", BAD_NETWORK),
        (
            "[delivery]\n",
            'allow_private_networks = ["10.1.2.3/8"]',
            "delivery.allow_private_networks[0]",
            'has bits behind its prefix; did you mean "10.0.0.0/8"?',
        ),
        ("[web]\n", 'listen = "8080"', "web.listen", BAD_LISTEN),
        ("[web]\n", 'listen = ":8080"', "web.listen", 'has no address: write "127.0.0.1:8080"'),
        ("[web]\n", 'listen = "::1:8080"', "web.listen", 'must have its IPv6 address in brackets, like "[::1]:8080"'),
        (
            ENDPOINT + 'style = "huddle01"\n',
            'signature = "v1a"',
            "endpoints[0].signature",
            'no meaning with style = "huddle01"',
        ),
        ("[retention]\n", "attempts = 0", "retention.attempts", "must be longer than zero"),
        ("[log]\n", 'level = "INFO"', "log.level", 'or "error"; did you mean "info"?'),
        ("[log]\n", 'format = "text"', "log.format", 'must be "auto", "console" or "json"'),
    ],
)
def test_a_wrong_value_is_reported_with_its_key_and_line(
    problems_in: ProblemsIn, before: str, line: str, key: str, message: str
) -> None:
    (problem,) = problems_in(before + line + "\n")
    assert (problem.key, problem.line) == (key, before.count("\n") + 1)
    assert message in problem.message


@pytest.mark.parametrize(
    ("written", "key", "message"),
    [
        ("[poling]", "poling", 'unknown key; did you mean "polling"?'),
        ("[endpoint]", "endpoint", 'unknown key; did you mean "endpoints"?'),
        ("[polling]\nintervall = 5", "polling.intervall", 'unknown key; did you mean "interval"?'),
        (SOURCE + 'api_keyfile = "x"', "sources.main.api_keyfile", 'unknown key; did you mean "api_key_file"?'),
        (SOURCE + "Timeout = 5", "sources.main.Timeout", 'unknown key; did you mean "timeout"?'),
        (ENDPOINT + 'event = ["*"]', "endpoints[0].event", 'unknown key; did you mean "events"?'),
        ("interval = 5", "interval", "unknown key here; did you mean polling.interval or rooms[].interval?"),
        ("[log]\nsize = 5", "log.size", "unknown key; the keys of log are format, level"),
        ("colour = 5", "colour", "unknown key; the keys are bridge, database, sources, polling, identity, rooms,"),
    ],
)
def test_an_unknown_key_is_an_error_with_the_nearest_one(
    problems_in: ProblemsIn, written: str, key: str, message: str
) -> None:
    (problem,) = problems_in(written + "\n")
    assert problem.key == key
    assert problem.line == written.count("\n") + 1
    assert problem.message.startswith(message)


def test_every_problem_is_reported_at_once_in_the_order_of_the_file(problems_in: ProblemsIn) -> None:
    text = """\
[bridge]
nam = "x"
[[rooms]]
id = "r"
source = 1
[[endpoints]]
name = "a"
url = "ftp://x"
evnts = []
[[endpoints]]
name = "a"
[polling]
interval = 0
[sources.main]
api_key = "env:NOT_SET"
[web]
listen = "nowhere"
"""
    problems = problems_in(text, {"BRIDGE__LOG__LEVEL": "loud", "BRIDGE__WBE__LISTEN": ""})
    assert [(problem.line, problem.key) for problem in problems] == [
        (2, "bridge.nam"),
        (5, "rooms[0].source"),
        (8, "endpoints[0].url"),
        (9, "endpoints[0].evnts"),
        (10, "endpoints[1].url"),
        (11, "endpoints[1].name"),
        (13, "polling.interval"),
        (15, "sources.main.api_key"),
        (17, "web.listen"),
        (None, "log.level"),
        (None, "wbe"),
    ]


def test_every_wrong_header_of_an_endpoint_is_reported_at_once(problems_in: ProblemsIn) -> None:
    headers = ['Host = "x"', '"X Y" = "x"', 'X-A = "a\\nb"', "X-B = 1"]

    problems = problems_in(ENDPOINT + "[endpoints.headers]\n" + "\n".join(headers) + "\n")

    assert [(problem.line, problem.key.removeprefix("endpoints[0].headers.")) for problem in problems] == [
        (5, "Host"),
        (6, '"X Y"'),
        (7, "X-A"),
        (8, "X-B"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[bridge]\nname = Acme\n", 2, "not valid TOML: Invalid value at column 8"),
        ("[bridge]\nname\n", 2, "not valid TOML: Expected '=' after a key"),
        ("\n\n[bridge\n", 3, "not valid TOML: Expected ']' at the end of a table declaration"),
        ("[bridge]\r\nname = 1\r\nname = 2\r\n", 3, "not valid TOML: Cannot overwrite a value"),
        ('[bridge]\nname = "x', 2, "not valid TOML: Unterminated string at the end"),
        ("[bridge]\n[bridge]\n", 2, "not valid TOML: Cannot declare ('bridge',) twice"),
        ("x = " + "[" * 100_000, None, "is nested too deeply"),
    ],
)
def test_a_syntax_error_has_a_line(problems_in: ProblemsIn, text: str, line: int | None, message: str) -> None:
    (problem,) = problems_in(text)
    assert problem.line == line
    assert problem.message.startswith(message)


def test_a_file_that_is_not_text_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "bridge.toml"
    path.write_bytes(b"[bridge]\nname = '\xff'\n")
    with pytest.raises(ConfigurationError, match=r"bridge\.toml: line 2: is not UTF-8 text$"):
        load(path, {})


def test_a_folder_is_not_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be read: Is a directory$"):
        load(tmp_path, {})


@pytest.mark.parametrize("text", ["\ufeff[log]\nlevel = 'debug'\n", "[log]\r\nlevel = 'debug'\r\n"])
def test_a_file_from_another_system_is_read(load_text: LoadText, text: str) -> None:
    assert load_text(text).log.level == "debug"


VALUES = st.recursive(
    st.one_of(
        st.booleans(), st.integers(), st.floats(), st.text(), st.datetimes(), st.sampled_from(["env:A", "env:B"])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(SOME_KEYS) | st.text(), inner, max_size=3)
    ),
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(SOME_KEYS), VALUES), st.dictionaries(st.sampled_from(SOME_VARIABLES), st.text()))
def test_any_input_is_a_configuration_or_a_report(tree: dict[str, object], env: dict[str, str]) -> None:
    try:
        result = repr(load(None, {"A": "value", **env}, tree))
    except ConfigurationError as error:
        result = str(error)
    assert result.encode()


def test_an_endpoint_at_an_address_that_is_never_called_is_refused_with_its_line(
    problems_in: ProblemsIn, load_text: LoadText
) -> None:
    aimed_inside = ENDPOINT.replace("https://crm.example.com/", "https://10.1.2.3/")
    (problem,) = problems_in(aimed_inside)
    assert (problem.key, problem.line) == ("endpoints[0].url", 3)
    assert "10.1.2.3 is not a public address (private)" in problem.message
    load_text(aimed_inside + '[delivery]\nallow_private_networks = ["10.0.0.0/8"]\n')
