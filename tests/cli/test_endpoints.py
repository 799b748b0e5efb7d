from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import ROOM, Cli
from tests.harness.config import Table
from tests.harness.receiver import SECRET
from tests.harness.simulator import Simulator

URL = "http://127.0.0.1:9/hook"
KEYS = {
    "id", "name", "url", "events", "rooms", "style", "signature", "origin", "created_at", "state", "state_reason",
    "circuit", "failures_in_row", "failing_since", "last_success_at", "paused_until", "owed_rooms", "owed_events",
    "dead_letters", "rate_per_second", "max_concurrency", "timeout_seconds",
}  # fmt: skip


def test_an_endpoint_is_listed_with_its_settings(cli: Cli) -> None:
    options = ["--events", "peer.*", "--events", "room.empty,room.occupied", "--rooms", "abc-*,xyz", "--style", "flat"]
    limits = ["--rate-per-second", "2.5", "--max-concurrency", "3", "--timeout", "1m", "--header", "X-Auth=hush=1"]
    cli("endpoints", "add", "crm", URL, *options, *limits)
    (listed,) = cli("endpoints", "list", "--json").json()
    assert listed.keys() == KEYS
    assert {key: listed[key] for key in KEYS - {"id", "created_at"}} == {
        "name": "crm",
        "url": URL,
        "events": ["peer.*", "room.empty", "room.occupied"],
        "rooms": ["abc-*", "xyz"],
        "style": "flat",
        "signature": "v1",
        "origin": "manual",
        "state": "active",
        "state_reason": None,
        "circuit": "closed",
        "failures_in_row": 0,
        "failing_since": None,
        "last_success_at": None,
        "paused_until": None,
        "owed_rooms": 0,
        "owed_events": 0,
        "dead_letters": 0,
        "rate_per_second": 2.5,
        "max_concurrency": 3,
        "timeout_seconds": 60.0,
    }
    assert cli("endpoints", "show", "crm", "--json").json()["headers"] == {"X-Auth": "…"}
    assert cli("endpoints", "show", "crm", "--json", "--reveal").json()["headers"] == {"X-Auth": "hush=1"}


def test_defaults_are_those_of_the_configuration(cli: Cli) -> None:
    cli.configure(endpoints=[{"name": "from-file", "url": URL}])
    cli.take_up()
    cli("endpoints", "add", "by-hand", URL)
    by_hand, from_file = cli("endpoints", "list", "--json").json()
    own = {"id", "name", "origin", "created_at"}
    assert {key: by_hand[key] for key in KEYS - own} == {key: from_file[key] for key in KEYS - own}
    assert by_hand["events"] == ["peer.joined", "peer.left", "room.empty"]


@pytest.mark.parametrize("how", ["--secret", "env", "--secret-file"])
def test_a_secret_can_be_given(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    monkeypatch.setenv("BRIDGE_CRM_SECRET", SECRET)
    given = {
        "--secret": ["--secret", SECRET],
        "env": ["--secret", "env:BRIDGE_CRM_SECRET"],
        "--secret-file": ["--secret-file", str(tmp_path / "secret")],
    }[how]
    done = cli("endpoints", "add", "crm", URL, *given)
    assert SECRET not in done.out + done.err
    (secret,) = cli("endpoints", "show", "crm", "--reveal", "--json").json()["secrets"]
    assert (secret["secret"], secret["generated"]) == (SECRET, False)
    assert cli("endpoints", "add", "other", URL, *given, "--json").json()["secret"] is None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("crm", "ftp://example.com"), "URL: the URL must begin with https:// or http://"),
        (("crm", "https://user:hush@example.com"), "URL: the URL contains a user name or password"),
        (("crm", "https://10.1.2.3/hook"), "URL: 10.1.2.3 is not a public address"),
        (("", URL), "NAME: must not be empty"),
        (("crm", URL, "--events", "peer.jonied"), '--events "peer.jonied": matches no event type; did you mean'),
        (("crm", URL, "--style", "flatt"), '--style: must be "standard", "flat", "huddle01" or "cloudevents"'),
        (("crm", URL, "--signature", "v2"), '--signature: must be "v1" or "v1a"'),
        (("crm", URL, "--secret", "whsec_dG9vIHNob3J0"), "--secret: after whsec_ there must be base64"),
        (("crm", URL, "--secret", "env:NOT_SET"), "--secret: environment variable NOT_SET is not set"),
        (("crm", URL, "--secret", ""), "--secret: is empty"),
        (("crm", URL, "--secret-file", "/nowhere"), '--secret-file: cannot read the file "/nowhere"'),
        (("crm", URL, "--secret", SECRET, "--secret-file", "x"), "--secret: is given twice"),
        (("crm", URL, "--rate-per-second", "-1"), "--rate-per-second: must be 0 (unlimited) or from"),
        (("crm", URL, "--max-concurrency", "0"), "--max-concurrency: must be at least 1"),
    ],
)
def test_a_wrong_endpoint_is_refused_as_in_the_configuration(
    cli: Cli, arguments: tuple[str, ...], complaint: str
) -> None:
    message = cli.refuses("endpoints", "add", *arguments, code=2)
    assert complaint in message
    assert not any(secret in message for secret in ("hush", SECRET, "dG9vIHNob3J0"))
    assert "command line" not in message
    assert not cli.database_file.exists()


def test_every_mistake_is_reported_at_once(cli: Cli) -> None:
    headers = ["X-Auth: hush", "A=hush", "A=hush", "webhook-id=hush", "B=hush\nb", "b=hush"]
    given = [argument for header in headers for argument in ("--header", header)]

    message = cli.refuses("endpoints", "add", "crm", URL, "--timeout", "0s", *given, code=2)

    assert sorted(line.removeprefix("bridge: ").partition(": ")[::2] for line in message.splitlines()) == [
        ("--header", "must be written NAME=VALUE"),
        ("--header A", "is given twice"),
        ("--header B", "must be printable ASCII without line breaks"),
        ("--header b", "is given twice"),
        ("--header webhook-id", "header 'webhook-id' is set by the bridge itself: choose another name"),
        ("--timeout", "must be longer than zero"),
    ]
    assert "hush" not in message


def test_a_name_with_a_forbidden_address_is_refused(cli: Cli) -> None:
    cli.configure(delivery={"allow_private_networks": []})
    message = cli.refuses("endpoints", "add", "crm", "https://localhost:9/hook", code=2)
    assert "URL: " in message
    assert "is not a public address (loopback)" in message


def test_a_name_that_does_not_resolve_is_only_a_warning(cli: Cli) -> None:
    unknown = f"https://{'x' * 64}.example/hook"  # no such name can exist: it is not even looked up
    done = cli("endpoints", "add", "crm", unknown)
    assert "warning: " in done.err
    assert "cannot be resolved" in done.err
    assert [listed["url"] for listed in cli("endpoints", "list", "--json").json()] == [unknown]


def test_the_environment_of_the_service_does_not_change_an_endpoint(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE__POLLING__INTERVAL", "3s")
    monkeypatch.setenv("BRIDGE__DELIVERY__TIMEOUT", "3s")
    cli("endpoints", "add", "crm", URL)
    assert [listed["timeout_seconds"] for listed in cli("endpoints", "list", "--json").json()] == [None]


def test_a_secret_of_style_huddle01_is_any_text_and_hidden_whole(cli: Cli) -> None:
    cli("endpoints", "add", "crm", URL, "--style", "huddle01", "--secret", "their api key")
    assert "their" not in cli("endpoints", "show", "crm").out
    (secret,) = cli("endpoints", "show", "crm", "--json").json()["secrets"]
    assert secret["secret"] == "…"


def test_a_name_is_unique(cli: Cli) -> None:
    cli("endpoints", "add", "crm", URL)
    assert "an endpoint named 'crm' exists" in cli.refuses("endpoints", "add", "crm", URL, code=2)


def test_an_endpoint_of_the_configuration_is_changed_there(cli: Cli, endpoint: Table) -> None:
    cli.configure(endpoints=[endpoint])
    assert f"is in {cli.config}" in cli.refuses("endpoints", "add", "crm", URL, code=2)
    cli.take_up()
    assert f"is in {cli.config}" in cli.refuses("endpoints", "remove", "crm", code=2)
    (listed,) = cli("endpoints", "list", "--json").json()
    assert f"is in {cli.config}" in cli.refuses("endpoints", "remove", listed["id"], code=2)
    assert listed["origin"] == "config"


def test_the_backlog_counts_what_is_wanted(cli: Cli, simulator: Simulator) -> None:
    for room in (ROOM, "xyz"):
        cli("rooms", "add", room)
        simulator.join(room, "anna")
        cli("poll", room)
    cli("endpoints", "add", "joins", URL, "--events", "peer.joined")
    cli("endpoints", "add", "all-of-xyz", URL, "--events", "*", "--rooms", "xyz")
    for room in (ROOM, "xyz"):
        simulator.join(room, "bert")
        cli("poll", room)
        simulator.end(room)
        cli("poll", room)
        simulator.join(room, "cleo")
        cli("poll", room)
    listed = {one["name"]: (one["owed_rooms"], one["owed_events"]) for one in cli("endpoints", "list", "--json").json()}
    assert listed == {"joins": (2, 4), "all-of-xyz": (1, 7)}  # the seventh is the first snapshot
    assert "4 events in 2 rooms" in cli("endpoints", "list").out


def test_removing_an_endpoint_names_its_backlog(tracked: Cli, simulator: Simulator) -> None:
    tracked("endpoints", "add", "crm", URL)
    simulator.join(ROOM, "anna")
    tracked("poll", ROOM)
    assert "1 owed event will not be sent" in tracked("endpoints", "remove", "crm").err
    assert tracked("endpoints", "list", "--json").json() == []
    assert len(tracked.events()) == 2
    for command in ("show", "remove"):
        assert "no endpoint is named 'crm'" in tracked.refuses("endpoints", command, "crm", code=1)
