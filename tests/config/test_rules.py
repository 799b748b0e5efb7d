"""Rules between tables."""

from __future__ import annotations

import pytest

from bridge.config.checks import ListenAddress
from tests.config.conftest import LoadText, ProblemsIn

ONE = '[sources.main]\napi_key = "k"\n'
TWO = ONE + '[sources.second]\napi_key = "k2"\n'
ENDPOINT = '[[endpoints]]\nname = "{0}"\nurl = "https://{0}.example.com/"\n'


def test_the_only_source_is_that_of_every_room(load_text: LoadText) -> None:
    assert load_text(ONE + '[[rooms]]\nid = "a"\n').rooms[0].source == "main"


def test_of_several_sources_a_room_must_name_one(problems_in: ProblemsIn) -> None:
    (problem,) = problems_in(TWO + '[[rooms]]\nid = "a"\n[[rooms]]\nid = "b"\nsource = "main"\n')
    assert str(problem) == 'line 5: rooms[0]: must name its source, for there are several: "main" or "second"'


@pytest.mark.parametrize(
    ("sources", "named", "message"),
    [
        (TWO, "mian", 'there is no source "mian"; did you mean "main"?'),
        (TWO, "zzz", 'there is no source "zzz"; there is "main" or "second"'),
        ("", "zzz", 'there is no source "zzz": add a [sources.…] table of this name'),
    ],
)
def test_a_room_names_a_source_that_exists(problems_in: ProblemsIn, sources: str, named: str, message: str) -> None:
    (problem,) = problems_in(f'{sources}[[rooms]]\nid = "a"\nsource = "{named}"\n')
    assert (problem.key, problem.message) == ("rooms[0].source", message)


def test_without_a_source_the_rooms_are_reported_once(problems_in: ProblemsIn) -> None:
    (problem,) = problems_in('[[rooms]]\nid = "a"\n[[rooms]]\nid = "b"\n')
    assert str(problem) == "line 1: rooms[0]: a room needs a source: add [sources.main] with its api_key"


def test_the_same_room_twice_is_an_error_even_when_one_names_the_source(problems_in: ProblemsIn) -> None:
    (problem,) = problems_in(ONE + '[[rooms]]\nid = "a"\n[[rooms]]\nid = "a"\nsource = "main"\n')
    assert str(problem) == "line 6: rooms[1].id: is the same room as rooms[0].id in line 4"


def test_two_sources_may_have_a_room_of_the_same_id(load_text: LoadText) -> None:
    rooms = "".join(f'[[rooms]]\nid = "a"\nsource = "{source}"\n' for source in ("main", "second"))
    assert [room.source for room in load_text(TWO + rooms).rooms] == ["main", "second"]


def test_endpoint_names_are_unique(problems_in: ProblemsIn) -> None:
    (problem,) = problems_in(ENDPOINT.format("crm") + ENDPOINT.format("crm"))
    assert str(problem) == "line 5: endpoints[1].name: is the same name as endpoints[0].name in line 2"


def test_a_repetition_from_the_environment_names_the_variable(problems_in: ProblemsIn) -> None:
    (problem,) = problems_in(ENDPOINT.format("a") + ENDPOINT.format("b"), {"BRIDGE__ENDPOINTS__1__NAME": "a"})
    origin = "(environment variable BRIDGE__ENDPOINTS__1__NAME)"
    assert str(problem) == f"endpoints[1].name: is the same name as endpoints[0].name in line 2 {origin}"


@pytest.mark.parametrize("listen", ["0.0.0.0:8080", "[::]:8080", "192.168.1.5:80", "bridge.example.com:80", "127.1:80"])
def test_an_address_that_other_machines_can_reach_is_refused(problems_in: ProblemsIn, listen: str) -> None:
    (problem,) = problems_in(f'[web]\nlisten = "{listen}"\n')
    assert (problem.key, problem.line) == ("web.listen", 2)
    assert problem.message.startswith("would let other machines in without a token: add one under [[web.tokens]]")


def test_with_a_token_any_address_is_accepted(load_text: LoadText) -> None:
    token = '[[web.tokens]]\nname = "ops"\ntoken = "env:T"\nscopes = ["read"]\n'
    settings = load_text(f'[web]\nlisten = "0.0.0.0:8080"\n{token}', {"T": "t0ken"})
    assert [token.token for token in settings.web.tokens] == ["t0ken"]


@pytest.mark.parametrize(("key", "other"), [("name", 'token = "b"'), ("token", 'name = "b"')])
def test_names_and_tokens_are_unique(problems_in: ProblemsIn, key: str, other: str) -> None:
    one = '[[web.tokens]]\nname = "a"\ntoken = "a"\nscopes = ["read"]\n'
    second = f'[[web.tokens]]\n{key} = "a"\n{other}\nscopes = ["read"]\n'
    (problem,) = problems_in(one + second)
    assert problem.key == f"web.tokens[1].{key}"
    assert problem.message.startswith(f"is the same {key} as web.tokens[0].{key}")


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:8080", "127.8.8.8:1", "localhost:0", "[::1]:8080", "[::ffff:127.0.0.1]:80"]
)
def test_an_address_that_only_this_machine_can_reach_is_accepted(load_text: LoadText, listen: str) -> None:
    address = load_text(f'[web]\nlisten = "{listen}"\n').web.listen
    assert address is not None
    assert address.is_loopback


def test_ten_thousand_mistakes_are_all_reported(problems_in: ProblemsIn) -> None:
    rooms = "".join(f'[[rooms]]\nid = "room-{number // 2}"\nsource = "mian"\n' for number in range(10_000))
    problems = problems_in(ONE + rooms)
    assert len(problems) == 15_000
    assert str(problems[-1]) == 'line 30002: rooms[9999].source: there is no source "mian"; did you mean "main"?'


def test_probes_need_an_address_of_their_own(load_text: LoadText, problems_in: ProblemsIn) -> None:
    (problem,) = problems_in('[web]\nlisten = "127.0.0.1:80"\n[probes]\nlisten = "127.0.0.1:80"\n')
    assert (
        str(problem) == "line 4: probes.listen: is the same address as web.listen in line 2, which has the probes too"
    )
    listen = load_text('[probes]\nlisten = "192.0.2.1:9100"\n').probes.listen
    assert listen == ListenAddress(host="192.0.2.1", port=9100)


def test_rules_hold_beside_mistakes_in_single_values(problems_in: ProblemsIn) -> None:
    text = (
        '[sources.main]\napi_kye = "k"\n[polling]\nintervall = "5s"\n[poling]\n'
        '[web]\nlisten = "0.0.0.0:80"\nrequests_per_second = "5"\n'
        '[[rooms]]\nid = "a"\nsource = "mian"\n[[rooms]]\nid = "b"\ninterval = "x"\n[[rooms]]\nid = "b"\n'
        + ENDPOINT.format("crm")
        + 'events = ["peer"]\n'
        + ENDPOINT.format("crm")
        + '[[endpoints]]\nname = "local"\nurl = "http://10.0.0.1/"\n[log]\nlevel = "loud"\n'
    )
    assert [problem.key for problem in problems_in(text)] == [
        *("sources.main.api_key", "sources.main.api_kye", "polling.intervall", "poling", "web.listen"),
        *("web.requests_per_second", "rooms[0].source"),
        *("rooms[1].interval", "rooms[2].id", "endpoints[0].events[0]", "endpoints[1].name", "endpoints[2].url"),
        "log.level",
    ]


@pytest.mark.parametrize(
    "text",
    [
        '[sorces.main]\napi_key = "k"\n[[rooms]]\nid = "a"\n',
        TWO + '[[rooms]]\nid = "a"\nsorce = "main"\n',
        TWO + '[[rooms]]\nid = "a"\nsource = 5\n',
        '[sources."my key"]\napi_key = "k"\n[[rooms]]\nid = "a"\n',
        '[web]\nlisten = "0.0.0.0:80"\ntokns = [{ name = "ops", token = "t", scopes = ["read"] }]\n',
        '[web]\nlisten = "0.0.0.0:80"\ntokens = [{ name = "ops", token = "t", scopes = ["raed"] }]\n',
        '[web]\nlisten = "nowhere"\n[probes]\nlisten = "127.0.0.1:8080"\n',
        '[delivery]\nallow_private_networks = ["10.0.0.0/x"]\n[[endpoints]]\nname = "a"\nurl = "http://10.0.0.1/"\n',
        '[[endpoints]]\nname = 5\nurl = 6\n[[endpoints]]\nname = 5\nurl = "x"\n',
        'rooms = 5\nendpoints = ["x", "x"]\nweb = 6\nsources = [7]\n',
    ],
)
def test_what_only_a_mistake_brings_about_is_no_mistake_of_its_own(problems_in: ProblemsIn, text: str) -> None:
    found = [problem.message for problem in problems_in(text)]
    assert not [message for message in found if "source:" in message or "the same" in message or "token:" in message]
    assert not [message for message in found if "must name its" in message or "public address" in message]
