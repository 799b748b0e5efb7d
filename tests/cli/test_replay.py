from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.harness.receiver import Receiver, Response
from tests.harness.simulator import Simulator

ROOM, OTHER = "abc-defg-hij", "xyz-xyzx-xyz"


@pytest.fixture
def had(
    tmp_path: Path,
    migrated_url: str,
    simulator: Simulator,
    receiver: Receiver,
    capsys: pytest.CaptureFixture[str],
) -> Cli:
    """`crm` got two joins in each of two rooms and refused one of Bert's; `erp` got everything."""
    cli = Cli(tmp_path, simulator.url, capsys, database_url=migrated_url)
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


def test_a_range_has_the_events_that_the_endpoint_wants(had: Cli, receiver: Receiver) -> None:
    assert replay(had, receiver, "--endpoint", "crm", "--since", "1h") == ids(had, "--type", "peer.*")
    assert replay(had, receiver, "--endpoint", "erp", "--since", "1h") == ids(had)
    assert replay(had, receiver, "--endpoint", "crm", "--until", "1h") == []


def test_failed_replays_only_dead_letters(had: Cli, receiver: Receiver) -> None:
    (dead,) = had("deliveries", "list", "--dead", "--json").json()
    assert replay(had, receiver, "--endpoint", "crm", "--failed") == [dead["event_id"]]
    assert had("deliveries", "list", "--dead", "--json").json() == []
    assert replay(had, receiver, "--endpoint", "crm", "--failed") == []


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
def test_an_endpoint_and_either_events_or_a_range_are_required(arguments: tuple[str, ...], cli: Cli) -> None:
    cli.take_up()
    cli.refuses("deliveries", "replay", *arguments, code=2)


def test_unknown_names_request_nothing(had: Cli, receiver: Receiver) -> None:
    known = ids(had)[0]
    before = len(receiver.deliveries)
    assert "'evt_nope'" in had.refuses("deliveries", "replay", known, "evt_nope", "--endpoint", "crm", code=1)
    assert "'evt_nope'" in had.refuses("deliveries", "replay", "evt_nope", "--endpoint", "crm", "--dry-run", code=1)
    assert "'nobody'" in had.refuses("deliveries", "replay", known, "--endpoint", "nobody", code=1)
    had.deliver()
    assert len(receiver.deliveries) == before
