from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from bridge.db.encryption import SecretCipher, reencrypt_all
from bridge.rules.signing import parse_key, parse_secret, verify
from tests.cli.conftest import Cli
from tests.harness.config import Table
from tests.harness.receiver import SECRET, Delivery, Receiver, Response
from tests.harness.simulator import SimulatorClient
from tests.harness.tables import everything

ROOM = "abc-defg-hij"
OTHER_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
HEADER = "Bearer hush-hush-0123456789"


@pytest.fixture
def served(cli: Cli, simulator: SimulatorClient, endpoint: Table) -> Cli:
    """A room whose events `crm` gets."""
    cli.configure(rooms=[ROOM], endpoints=[endpoint], delivery={"retry_schedule": ["1h"], "refused_schedule": ["1h"]})
    cli.take_up()
    simulator.join(ROOM, "anna")
    return cli


def is_accepted_by(secret: str, delivery: Delivery) -> bool:
    try:
        Webhook(secret).verify(delivery.body, delivery.headers)
    except WebhookVerificationError:
        return False
    return True


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


def test_a_sample_to_a_closed_port_fails(cli: Cli) -> None:
    cli("endpoints", "add", "void", "http://127.0.0.1:1/")
    done = cli("endpoints", "test", "void", "--json", code=1).json()
    assert (done["outcome"], done["status"], done["cause"]) == ("retryable", None, "connect")


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


def test_events_wait_for_a_disabled_endpoint(served: Cli, receiver: Receiver, simulator: SimulatorClient) -> None:
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


def test_an_endpoint_that_is_gone_gets_nothing_until_it_is_enabled(served: Cli, receiver: Receiver) -> None:
    receiver.script(Response(status=410))
    served("poll", ROOM)
    served.deliver()
    assert state(served) == ("disabled", "gone", 2)
    receiver.script()
    served.deliver()
    assert len(receiver.deliveries) == 1
    served("endpoints", "enable", "crm")
    served.deliver()
    assert [event["data"]["sequence"] for event in receiver.events()] == [1, 2]


def test_a_restart_or_reload_enables_nothing(served: Cli) -> None:
    served("endpoints", "disable", "crm")
    served.take_up()
    assert state(served)[:2] == ("disabled", "operator")


def test_enabling_ends_a_pause(served: Cli, receiver: Receiver) -> None:
    receiver.script(Response(status=503, headers={"Retry-After": "3600"}, times=1))
    served("poll", ROOM)
    served.deliver()
    served.deliver()
    assert len(receiver.deliveries) == 1
    served("endpoints", "enable", "crm")
    served.deliver()
    assert len(receiver.accepted) == 2


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
    assert is_accepted_by(old, delivery)
    assert is_accepted_by(fresh, delivery)
    assert not is_accepted_by(OTHER_SECRET, delivery)
    shown = cli("endpoints", "show", "crm", "--json", "--reveal").json()
    assert [one["secret"] for one in shown["secrets"]] == [fresh, old]
    assert shown["secrets"][0]["expires_at"] is None
    assert shown["secrets"][1]["expires_at"] is not None
    assert fresh not in cli("endpoints", "show", "crm").out
    assert fresh not in cli("endpoints", "list", "--json").out


def test_older_secrets_keep_their_grace(cli: Cli, receiver: Receiver) -> None:
    cli("endpoints", "add", "crm", f"{receiver.url}/crm")
    assert "older secrets" not in cli("endpoints", "rotate", "crm", "--grace", "2h").err
    again = cli("endpoints", "rotate", "crm", "--grace", "1h")

    assert "the old one keeps signing for 1h; older secrets (1) keep their own grace" in again.err
    assert len(cli("endpoints", "show", "crm", "--json").json()["secrets"]) == 3


def test_without_grace_no_old_secret_signs_any_more(cli: Cli, receiver: Receiver) -> None:
    old = cli("endpoints", "add", "crm", f"{receiver.url}/crm").out.strip()
    fresh = cli("endpoints", "rotate", "crm", "--grace", "0s", "--json").json()["secret"]
    cli("endpoints", "test", "crm")
    (delivery,) = receiver.deliveries
    assert is_accepted_by(fresh, delivery)
    assert not is_accepted_by(old, delivery)


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


def test_a_secret_of_the_configuration_is_rotated_there(served: Cli, receiver: Receiver) -> None:
    message = served.refuses("endpoints", "rotate", "crm", code=2)
    assert "configuration" in message
    assert SECRET not in message
    served.configure(rooms=[ROOM], endpoints=[receiver.endpoint("crm", secret=OTHER_SECRET)])
    served.take_up()
    served("endpoints", "test", "crm")
    (delivery,) = receiver.deliveries
    assert is_accepted_by(SECRET, delivery)
    assert is_accepted_by(OTHER_SECRET, delivery)


def test_a_secret_that_the_configuration_leaves_to_the_bridge_can_be_rotated(cli: Cli, receiver: Receiver) -> None:
    cli.configure(endpoints=[{"name": "crm", "url": f"{receiver.url}/crm"}])
    cli.take_up()
    fresh = cli("endpoints", "rotate", "crm").out.strip()
    cli.take_up()
    assert cli("endpoints", "show", "crm", "--reveal", "--json").json()["secrets"][0]["secret"] == fresh


def test_a_secret_that_left_the_configuration_can_be_rotated(cli: Cli, receiver: Receiver) -> None:
    cli.configure(endpoints=[{"name": "crm", "url": f"{receiver.url}/crm", "secret": SECRET}])
    cli.take_up()
    cli.configure(endpoints=[{"name": "crm", "url": f"{receiver.url}/crm"}])
    cli.take_up()
    fresh = cli("endpoints", "rotate", "crm").out.strip()
    assert fresh != SECRET


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


def stored_text(cli: Cli) -> str:
    files = [file.read_bytes().decode("latin-1") for file in cli.directory.glob("bridge.db*")]
    return "\n".join([everything(cli.database_url), *files])


def test_without_a_key_secrets_are_stored_in_clear(cli: Cli) -> None:
    """Proof that the test below looks in the right place."""
    secret = cli("endpoints", "add", "crm", "http://127.0.0.1:9/", "--header", f"X-Auth={HEADER}").out.strip()
    assert secret in stored_text(cli)
    assert HEADER in stored_text(cli)


def test_with_a_key_no_secret_is_in_the_database(encrypted: str, cli: Cli) -> None:
    fresh = cli("endpoints", "rotate", "crm").out.strip()
    stored = stored_text(cli)
    for secret in (encrypted, fresh, HEADER, FIRST):
        assert secret not in stored
        assert secret.removeprefix("whsec_") not in stored


def test_an_old_key_decrypts_when_it_is_listed_after_the_new_one(
    encrypted: str, cli: Cli, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRIDGE_ENCRYPTION_KEY", f"{SECOND},{FIRST}")
    assert "start the service with them first" in cli.refuses("endpoints", "rotate", "crm", code=1)
    with contextlib.closing(cli.database()) as database:  # as the service does when it starts
        database.write_now(reencrypt_all, SecretCipher([SECOND, FIRST]), datetime.now(UTC))
    fresh = cli("endpoints", "rotate", "crm").out.strip()
    cli("endpoints", "test", "crm")
    (delivery,) = receiver.deliveries
    assert is_accepted_by(encrypted, delivery)
    assert is_accepted_by(fresh, delivery)
    assert delivery.headers["authorization"] == HEADER


@pytest.mark.parametrize(("before", "now"), [(FIRST, f"{SECOND},{FIRST}"), (None, FIRST)])
def test_no_secret_is_stored_with_keys_that_the_service_has_not_started_with(
    before: str | None, now: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    if before is not None:
        monkeypatch.setenv("BRIDGE_ENCRYPTION_KEY", before)
    cli("endpoints", "add", "crm", "http://127.0.0.1:9/")
    stored = everything(cli.database_url)
    monkeypatch.setenv("BRIDGE_ENCRYPTION_KEY", now)

    for arguments in (("rotate", "crm"), ("add", "other", "http://127.0.0.1:9/")):
        message = cli.refuses("endpoints", *arguments, code=1)
        assert (
            "the secret of endpoint 'crm' is not encrypted with the first of these keys: start the service" in message
        )
    assert everything(cli.database_url) == stored


def test_secrets_that_a_receiver_repeats_are_neither_stored_nor_shown(
    encrypted: str, cli: Cli, simulator: SimulatorClient, receiver: Receiver
) -> None:
    credential = HEADER.removeprefix("Bearer ")
    receiver.script(Response(status=500, body=f"{encrypted} {HEADER} {credential}".encode()))
    cli("rooms", "add", ROOM)
    simulator.join(ROOM, "anna")
    cli("poll", ROOM)
    cli.deliver()

    shown = cli("endpoints", "test", "crm", code=1).out
    stored = stored_text(cli)

    assert "*** *** ***" in shown
    assert "*** *** ***" in stored
    assert [secret for secret in (encrypted, credential) if secret in shown + stored] == []


def test_a_key_can_be_in_a_file(encrypted: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    file = cli.directory / "key"
    file.write_text(f"{SECOND},{FIRST}\n")
    monkeypatch.delenv("BRIDGE_ENCRYPTION_KEY")
    monkeypatch.setenv("BRIDGE_ENCRYPTION_KEY_FILE", str(file))
    assert cli("endpoints", "show", "crm", "--reveal", "--json").json()["secrets"][0]["secret"] == encrypted


@pytest.mark.parametrize("key", [SECOND, None])
def test_without_the_old_key_nothing_is_sent(
    key: str | None, encrypted: str, cli: Cli, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BRIDGE_ENCRYPTION_KEY")
    if key is not None:
        monkeypatch.setenv("BRIDGE_ENCRYPTION_KEY", key)
    message = cli.refuses("endpoints", "test", "crm", code=1)
    assert "BRIDGE_ENCRYPTION_KEY" in message
    assert encrypted not in message
    assert receiver.deliveries == ()


@pytest.mark.parametrize("key", [SECOND, None])
def test_no_secret_is_changed_with_another_key_than_that_of_the_service(
    key: str | None, encrypted: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service could not decrypt the new secret, and the one that receivers know would expire."""
    monkeypatch.delenv("BRIDGE_ENCRYPTION_KEY")
    if key is not None:
        monkeypatch.setenv("BRIDGE_ENCRYPTION_KEY", key)
    for arguments in (("rotate", "crm"), ("add", "other", "http://127.0.0.1:9/")):
        assert "'crm'" in cli.refuses("endpoints", *arguments, code=1)
    monkeypatch.setenv("BRIDGE_ENCRYPTION_KEY", FIRST)
    (shown,) = cli("endpoints", "list", "--json").json()
    assert shown["name"] == "crm"
    assert [one["secret"] for one in cli("endpoints", "show", "crm", "--reveal", "--json").json()["secrets"]] == [
        encrypted
    ]


def test_secrets_are_shown_only_with_reveal(encrypted: str, cli: Cli) -> None:
    for arguments in (("list",), ("list", "--json"), ("show", "crm"), ("show", "crm", "--json")):
        done = cli("endpoints", *arguments)
        assert encrypted not in done.out + done.err
        assert HEADER not in done.out + done.err
    for form in ((), ("--json",)):
        out = cli("endpoints", "show", "crm", "--reveal", *form).out
        assert encrypted in out
        assert HEADER in out


def test_a_secret_can_be_given_without_being_shown_by_ps(
    cli: Cli, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRM_SECRET", SECRET)
    monkeypatch.setenv("CRM_AUTH", HEADER)
    file = cli.directory / "secret"
    file.write_text(SECRET + "\n")
    given = ["--secret", "env:CRM_SECRET", "--header", "Authorization=env:CRM_AUTH"]
    cli("endpoints", "add", "by-variable", f"{receiver.url}/a", *given)
    cli("endpoints", "add", "by-file", f"{receiver.url}/b", "--secret-file", str(file))
    for name in ("by-variable", "by-file"):
        cli("endpoints", "test", name)
    assert [one.unverified for one in receiver.deliveries] == [None, None]
    assert receiver.deliveries[0].headers["authorization"] == HEADER


def test_an_endpoint_can_leave_the_style_huddle01(cli: Cli, simulator: SimulatorClient, receiver: Receiver) -> None:
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
