from __future__ import annotations

from pathlib import Path

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tests.cli.conftest import Cli
from tests.harness.receiver import Delivery, Receiver, Response
from tests.harness.simulator import SimulatorClient

ROOM, OTHER = "abc-defg-hij", "xyz-xyzx-xyz"


@pytest.fixture
def had(
    tmp_path: Path,
    database_url: str,
    simulator: SimulatorClient,
    receiver: Receiver,
    capsys: pytest.CaptureFixture[str],
) -> Cli:
    """`crm` got two joins in each of two rooms and refused one of Bert's; `erp` got everything."""
    cli = Cli(tmp_path, simulator.url, capsys, database_url=database_url)
    cli("migrate")
    endpoints = [receiver.endpoint("crm", events=["peer.*"]), receiver.endpoint("erp")]
    cli.configure(rooms=[ROOM, OTHER], endpoints=endpoints, delivery={"refused_schedule": []})
    cli.take_up()
    receiver.script(
        Response(
            status=400,
            when=lambda one: (
                one.path == "/crm" and (one.room, one.event["data"].get("peer_id")) == (ROOM, f"bert-of-{ROOM}")
            ),
        )
    )
    for room in (ROOM, OTHER):
        simulator.join(room, f"anna-of-{room}")
        simulator.join(room, f"bert-of-{room}")
        cli("poll", room)
    cli.deliver()
    receiver.script()
    return cli


def replay(cli: Cli, receiver: Receiver, *arguments: str, code: int = 0) -> list[str]:
    """Return the ids that a replay delivers, in order."""
    before = len(receiver.deliveries)
    cli("deliveries", "replay", *arguments, code=code)
    cli.deliver()
    return [one.event_id for one in receiver.deliveries[before:]]


def is_signed_by(secret: str, delivery: Delivery) -> bool:
    try:
        Webhook(secret).verify(delivery.body, delivery.headers)
    except WebhookVerificationError:
        return False
    return True


def ids(cli: Cli, *filters: str) -> list[str]:
    return [event["id"] for event in reversed(cli.events(*filters))]


def test_one_event_is_sent_again_with_the_same_bytes_and_the_header(had: Cli, receiver: Receiver) -> None:
    first = next(one for one in receiver.accepted if one.path == "/crm")
    count = len(receiver.deliveries)
    done = had("deliveries", "replay", first.event_id, "--endpoint", "crm")
    assert "1 event will be sent again" in done.out
    had.deliver()
    (repeated,) = receiver.deliveries[count:]
    assert (repeated.path, repeated.event_id, repeated.body) == (first.path, first.event_id, first.body)
    assert repeated.headers["bridge-replay"] == "true"
    assert "bridge-replay" not in first.headers
    assert repeated.unverified is None
    attempts = had("deliveries", "list", "--event", first.event_id, "--endpoint", "crm", "--json").json()
    assert [(one["kind"], one["outcome"]) for one in attempts] == [("redelivery", "delivered"), ("live", "delivered")]


def test_several_events_are_sent_in_the_order_of_the_log(had: Cli, receiver: Receiver) -> None:
    wanted = ids(had, "--room", ROOM)
    assert replay(had, receiver, wanted[2], wanted[0], "--endpoint", "crm") == [wanted[0], wanted[2]]


def test_a_range_has_the_events_that_the_endpoint_wants(had: Cli, receiver: Receiver) -> None:
    assert replay(had, receiver, "--endpoint", "crm", "--since", "1h") == ids(had, "--type", "peer.*")
    assert replay(had, receiver, "--endpoint", "erp", "--since", "1h") == ids(had)
    assert replay(had, receiver, "--endpoint", "crm", "--until", "1h") == []


def test_a_range_includes_its_beginning_and_excludes_its_end(had: Cli, receiver: Receiver) -> None:
    events = ids(had)
    recorded = [had("deliveries", "show", event, "--json").json()["recorded_at"] for event in events]
    boundary = recorded[-1]
    assert recorded[0] < boundary
    after = [event for event, at in zip(events, recorded, strict=True) if at >= boundary]
    before = [event for event, at in zip(events, recorded, strict=True) if at < boundary]
    assert replay(had, receiver, "--endpoint", "erp", "--until", boundary) == before
    assert replay(had, receiver, "--endpoint", "erp", "--since", boundary) == after


def test_failed_replays_only_dead_letters(had: Cli, receiver: Receiver) -> None:
    (dead,) = had("deliveries", "list", "--dead", "--json").json()
    assert replay(had, receiver, "--endpoint", "crm", "--failed") == [dead["event_id"]]
    assert had("deliveries", "list", "--dead", "--json").json() == []
    assert replay(had, receiver, "--endpoint", "crm", "--failed") == []


def test_a_dead_letter_that_is_refused_again_stays_a_dead_letter(had: Cli, receiver: Receiver) -> None:
    receiver.script(Response(status=422))
    assert len(replay(had, receiver, "--endpoint", "crm", "--failed")) == 1
    assert len(had("deliveries", "list", "--dead", "--json").json()) == 1
    had.deliver()
    assert replay(had, receiver, "--endpoint", "crm", "--failed", "--since", "1h"), "a person may ask for it again"


def test_a_dry_run_only_counts(had: Cli, receiver: Receiver) -> None:
    events = ids(had)
    for arguments, count in [
        (("--since", "1h"), 4),
        (("--failed",), 1),
        (("--until", "1h"), 0),
        ((events[0], events[1]), 2),
    ]:
        done = had("deliveries", "replay", *arguments, "--endpoint", "crm", "--dry-run", "--json").json()
        assert done == {"endpoint": "crm", "events": count, "dry_run": True}
    assert (
        "4 events would be sent again"
        in had("deliveries", "replay", "--endpoint", "crm", "--since", "1h", "--dry-run").out
    )
    before = len(receiver.deliveries)
    had.deliver()
    assert len(receiver.deliveries) == before


def test_a_disabled_endpoint_gets_replays_and_nothing_else(
    had: Cli, receiver: Receiver, simulator: SimulatorClient
) -> None:
    had("endpoints", "disable", "crm")
    simulator.join(ROOM, "cleo")
    had("poll", ROOM)
    had("endpoints", "disable", "erp")
    single = ids(had, "--type", "peer.*")[0]
    assert replay(had, receiver, single, "--endpoint", "crm") == [single]
    states = {one["name"]: (one["state"], one["owed_events"]) for one in had("endpoints", "list", "--json").json()}
    assert states == {"crm": ("disabled", 1), "erp": ("disabled", 1)}


def test_an_event_that_is_requested_twice_is_sent_once(had: Cli, receiver: Receiver) -> None:
    event = ids(had)[0]
    had("deliveries", "replay", event, "--endpoint", "crm")
    done = had("deliveries", "replay", event, "--endpoint", "crm", "--json").json()
    assert done["events"] == 0
    before = len(receiver.deliveries)
    had.deliver()
    assert len(receiver.deliveries) == before + 1


def test_the_current_secret_signs(had: Cli, receiver: Receiver) -> None:
    had("endpoints", "add", "late", f"{receiver.url}/late")
    old = had("endpoints", "show", "late", "--reveal", "--json").json()["secrets"][0]["secret"]
    fresh = had("endpoints", "rotate", "late", "--grace", "0s").out.strip()
    replay(had, receiver, ids(had)[0], "--endpoint", "late")
    last = receiver.deliveries[-1]
    assert last.path == "/late"
    assert is_signed_by(fresh, last)
    assert not is_signed_by(old, last)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--endpoint", "crm"),
        ("evt_x", "--endpoint", "crm", "--since", "1h"),
        ("evt_x", "--endpoint", "crm", "--failed"),
        ("--endpoint", "crm", "--since", "whenever"),
        ("--endpoint", "crm", "--since", "1h", "--until", "2h"),
        ("evt_x",),
    ],
)
def test_an_endpoint_and_either_events_or_a_range_are_required(arguments: tuple[str, ...], had: Cli) -> None:
    had.refuses("deliveries", "replay", *arguments, code=2)


def test_unknown_names_request_nothing(had: Cli, receiver: Receiver) -> None:
    known = ids(had)[0]
    before = len(receiver.deliveries)
    assert "'evt_nope'" in had.refuses("deliveries", "replay", known, "evt_nope", "--endpoint", "crm", code=1)
    assert "'evt_nope'" in had.refuses("deliveries", "replay", "evt_nope", "--endpoint", "crm", "--dry-run", code=1)
    assert "'nobody'" in had.refuses("deliveries", "replay", known, "--endpoint", "nobody", code=1)
    had.deliver()
    assert len(receiver.deliveries) == before
