from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bridge.rules.signing import parse_key, parse_secret, verify
from tests.cli.conftest import ROOM, Cli
from tests.harness.config import Table
from tests.harness.receiver import SECRET, Receiver, Response
from tests.harness.simulator import Simulator
from tests.harness.tables import everything

OTHER_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
HEADER = "Bearer hush-hush-0123456789"


@pytest.fixture
def served(cli: Cli, simulator: Simulator, endpoint: Table) -> Cli:
    """A room whose events `crm` gets."""
    cli.configure(rooms=[ROOM], endpoints=[endpoint], delivery={"retry_schedule": ["1h"], "refused_schedule": ["1h"]})
    cli.take_up()
    simulator.join(ROOM, "anna")
    return cli


def state(cli: Cli, name: str = "crm") -> tuple[str, str | None, int]:
    (one,) = (one for one in cli("endpoints", "list", "--json").json() if one["name"] == name)
    return one["state"], one["state_reason"], one["owed_events"]


# --- test


def test_a_sample_is_signed_and_marked_and_not_stored(served: Cli, receiver: Receiver) -> None:
    receiver.script(Response(status=202, body=b"thank you"))
    before = everything(served.database_url)
    done = served("endpoints", "test", "crm", "--json").json()
    (delivery,) = receiver.deliveries
    assert delivery.unverified is None
    assert delivery.headers["bridge-test"] == "true"
    assert "bridge-replay" not in delivery.headers
    assert (done["event_id"], done["type"]) == (delivery.event_id, delivery.event["type"])
    assert (done["outcome"], done["status"], done["response"], done["cause"]) == ("delivered", 202, "thank you", None)
    assert done["type"] == "peer.joined"
    assert everything(served.database_url) == before, "nothing is stored"


@pytest.mark.parametrize("kind", ["peer.left", "room.empty", "room.snapshot", "endpoint.disabled"])
def test_a_sample_has_the_chosen_type(kind: str, served: Cli, receiver: Receiver) -> None:
    served("endpoints", "test", "crm", "--type", kind)
    assert [one.event["type"] for one in receiver.deliveries] == [kind]


def test_a_sample_of_an_unknown_type_is_refused(served: Cli, receiver: Receiver) -> None:
    assert "peer.joined" in served.refuses("endpoints", "test", "crm", "--type", "peer.jioned", code=2)
    assert receiver.deliveries == ()


def test_a_sample_that_is_not_accepted_fails_with_the_reason(served: Cli, receiver: Receiver) -> None:
    receiver.script(Response(status=500, body=b"no \x1b[31mroom\x1b[0m left"))
    done = served("endpoints", "test", "crm", code=1)
    assert "retryable" in done.out
    assert "status 500" in done.out
    assert "room" in done.out
    assert "\x1b" not in done.out
    assert state(served) == ("active", None, 0), "a sample does not change the health"


def test_a_sample_is_not_sent_to_a_forbidden_address(cli: Cli, receiver: Receiver) -> None:
    cli("endpoints", "add", "crm", f"{receiver.url}/crm")
    cli.configure(delivery={"allow_private_networks": []})
    done = cli("endpoints", "test", "crm", "--json", code=1).json()
    assert (done["outcome"], done["cause"]) == ("blocked", "blocked")
    assert receiver.deliveries == ()


def test_a_disabled_endpoint_can_be_tested(served: Cli, receiver: Receiver) -> None:
    served("endpoints", "disable", "crm")
    served("endpoints", "test", "crm")
    assert len(receiver.accepted) == 1


@pytest.mark.parametrize(
    ("style", "kind"), [("flat", "application/json"), ("cloudevents", "application/cloudevents+json")]
)
def test_a_sample_has_the_style_of_its_endpoint(style: str, kind: str, cli: Cli, receiver: Receiver) -> None:
    cli("endpoints", "add", "styled", f"{receiver.url}/styled", "--style", style, "--secret", SECRET)
    cli("endpoints", "test", "styled")
    (delivery,) = receiver.deliveries
    assert delivery.headers["content-type"] == kind
    assert delivery.headers["bridge-test"] == "true"
    assert delivery.unverified is None


# --- enable, disable


def test_events_wait_for_a_disabled_endpoint(served: Cli, receiver: Receiver, simulator: Simulator) -> None:
    assert "is disabled" in served("endpoints", "disable", "crm").err
    assert "already" in served("endpoints", "disable", "crm").err
    served("poll", ROOM)
    simulator.join(ROOM, "bert")
    served("poll", ROOM)
    served.deliver()
    assert receiver.deliveries == ()
    assert state(served) == ("disabled", "operator", 3)
    assert "3 owed events due now" in served("endpoints", "enable", "crm").err
    served.deliver()
    assert [event["data"]["sequence"] for event in receiver.events()] == [1, 2, 3]
    assert state(served) == ("active", None, 0)
    assert "is active already" in served("endpoints", "enable", "crm").err


@pytest.mark.parametrize("action", ["test", "enable", "disable", "rotate"])
def test_an_unknown_endpoint_is_an_error(action: str, served: Cli) -> None:
    assert "no endpoint is named 'nobody'" in served.refuses("endpoints", action, "nobody", code=1)


# --- rotate


def test_a_new_secret_is_printed_once_and_both_sign_meanwhile(cli: Cli, receiver: Receiver) -> None:
    old = cli("endpoints", "add", "crm", f"{receiver.url}/crm").out.strip()
    done = cli("endpoints", "rotate", "crm", "--grace", "1h")
    fresh = done.out.removesuffix("\n")
    parse_secret(fresh)
    assert fresh != old
    assert fresh not in done.err
    assert old not in done.out + done.err
    cli("endpoints", "test", "crm")
    (delivery,) = receiver.deliveries
    assert delivery.is_signed_with(old)
    assert delivery.is_signed_with(fresh)
    assert not delivery.is_signed_with(OTHER_SECRET)
    shown = cli("endpoints", "show", "crm", "--json", "--reveal").json()
    assert [one["secret"] for one in shown["secrets"]] == [fresh, old]
    assert shown["secrets"][0]["expires_at"] is None
    assert shown["secrets"][1]["expires_at"] is not None
    hidden = cli("endpoints", "show", "crm").out
    assert "(until " in hidden
    assert fresh not in hidden
    assert old not in hidden
    assert fresh not in cli("endpoints", "list", "--json").out


def test_a_rotation_reports_the_end_of_the_old_secrets(cli: Cli) -> None:
    cli("endpoints", "add", "crm", "http://127.0.0.1:9/")
    reports = [cli("endpoints", "rotate", "crm", "--grace", grace).err for grace in ("2h", "1h", "0s")]
    assert "the old one keeps signing for 2h\n" in reports[0]
    assert "the old one keeps signing for 1h; older secrets (1) keep their own grace" in reports[1]
    assert "no old secret signs any more" in reports[2]


def test_a_rotation_as_json(cli: Cli, receiver: Receiver) -> None:
    added = cli("endpoints", "add", "crm", f"{receiver.url}/crm", "--json").json()
    rotated = cli("endpoints", "rotate", "crm", "--json").json()
    assert list(rotated) == ["id", "name", "secret", "public_key"]
    assert (rotated["id"], rotated["name"]) == (added["id"], "crm")
    assert rotated["secret"] != added["secret"]


@pytest.mark.parametrize("grace", ["-1h", "soon", ""])
def test_a_wrong_grace_is_refused(grace: str, cli: Cli, receiver: Receiver) -> None:
    cli("endpoints", "add", "crm", f"{receiver.url}/crm")
    assert "--grace" in cli.refuses("endpoints", "rotate", "crm", f"--grace={grace}", code=2)


def test_a_secret_of_the_configuration_is_rotated_there(served: Cli) -> None:
    message = served.refuses("endpoints", "rotate", "crm", code=2)
    assert "configuration" in message
    assert SECRET not in message


def test_a_secret_that_the_configuration_leaves_to_the_bridge_can_be_rotated(cli: Cli, receiver: Receiver) -> None:
    cli.configure(endpoints=[{"name": "crm", "url": f"{receiver.url}/crm"}])
    cli.take_up()
    fresh = cli("endpoints", "rotate", "crm").out.strip()
    cli.take_up()
    assert cli("endpoints", "show", "crm", "--reveal", "--json").json()["secrets"][0]["secret"] == fresh


def test_a_secret_that_was_given_to_a_command_cannot_be_rotated(cli: Cli) -> None:
    cli("endpoints", "add", "crm", "http://127.0.0.1:9/", "--secret", SECRET)
    message = cli.refuses("endpoints", "rotate", "crm", code=2)
    assert "configuration" not in message
    assert "reload" not in message
    assert SECRET not in message


def test_v1a_is_verified_with_the_public_key_that_is_shown(cli: Cli, receiver: Receiver) -> None:
    cli("endpoints", "add", "crm", f"{receiver.url}/crm", "--signature", "v1a")
    old = cli("endpoints", "show", "crm", "--json").json()["secrets"][0]["public_key"]
    assert cli("endpoints", "show", "crm").out.count(old) == 1
    rotated = cli("endpoints", "rotate", "crm")
    fresh = cli("endpoints", "show", "crm", "--json").json()["secrets"][0]["public_key"]
    assert fresh in rotated.err
    assert fresh != old
    cli("endpoints", "test", "crm")
    (delivery,) = receiver.deliveries
    for key in (old, fresh):
        assert key.startswith("whpk_")
        verify([parse_key(key)], headers=delivery.headers, body=delivery.body, now=datetime.now(UTC))


# --- what stays secret


FIRST, SECOND = "the first key; long and random", "a second key; as long"


@pytest.fixture
def encrypted(cli: Cli, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> str:
    """A generated secret and a header, stored while a key was set."""
    monkeypatch.setenv("BRIDGE_ENCRYPTION_KEY", FIRST)
    options = ["--header", f"Authorization={HEADER}"]
    return cli("endpoints", "add", "crm", f"{receiver.url}/crm", *options).out.strip()


@pytest.mark.parametrize("key", [SECOND, None])
def test_without_the_key_of_the_service_nothing_is_sent_and_no_secret_is_changed(
    key: str | None, encrypted: str, cli: Cli, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service could not decrypt a new secret, and the one that receivers know would expire."""
    before = everything(cli.database_url)
    monkeypatch.delenv("BRIDGE_ENCRYPTION_KEY")
    if key is not None:
        monkeypatch.setenv("BRIDGE_ENCRYPTION_KEY", key)
    for arguments in (("test", "crm"), ("rotate", "crm"), ("add", "other", "http://127.0.0.1:9/")):
        message = cli.refuses("endpoints", *arguments, code=1)
        assert "BRIDGE_ENCRYPTION_KEY" in message
        assert encrypted not in message
    assert receiver.deliveries == ()
    assert everything(cli.database_url) == before


def test_secrets_are_shown_only_with_reveal(encrypted: str, cli: Cli) -> None:
    for arguments in (("list",), ("list", "--json"), ("show", "crm"), ("show", "crm", "--json")):
        done = cli("endpoints", *arguments)
        assert encrypted not in done.out + done.err
        assert HEADER not in done.out + done.err
    for form in ((), ("--json",)):
        out = cli("endpoints", "show", "crm", "--reveal", *form).out
        assert encrypted in out
        assert HEADER in out


def test_an_endpoint_can_leave_the_style_huddle01(cli: Cli, simulator: Simulator, receiver: Receiver) -> None:
    """The former secret may be any text: it cannot sign beside the new one, and must not stop it."""
    before = receiver.endpoint("crm", style="huddle01", secret="any text that both sides know")
    cli.configure(rooms=[ROOM], endpoints=[before])
    cli.take_up()
    cli.configure(rooms=[ROOM], endpoints=[receiver.endpoint("crm")])
    cli.take_up()
    simulator.join(ROOM, "anna")
    cli("poll", ROOM)
    cli.deliver()
    assert [one.unverified for one in receiver.accepted] == [None, None]
